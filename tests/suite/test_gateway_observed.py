"""What the gateway tells of its calls, what it never tells, and that it learns of new keys by itself."""

import json
import time
from collections.abc import Callable, Iterator

import grpc
import httpx
import jwt
import pytest

from tests.suite.conftest import Running
from tests.support.edges import Edge, channel_to, gateway_beside

GET_USER = "/guildhall.identity.v1.UserService/GetUser"
METHOD = "guildhall.identity.v1.UserService.GetUser"


@pytest.fixture(scope="module")
def edge(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """A gateway of its own, so that nobody else's calls are counted; it asks for the keys often."""
    with gateway_beside(running.settings, tmp_path_factory.mktemp("edge"), {"jwks_cache_seconds": 1}) as found:
        yield found


@pytest.fixture(scope="module")
def token(running: Running) -> str:
    return running.token("ada.observed@example.com")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.1)


def call(channel: grpc.Channel, path: str, token: str = "") -> grpc.StatusCode:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    code: grpc.StatusCode = channel.unary_unary(path).future(b"", timeout=5, metadata=metadata).code()
    return code


def test_calls_are_counted_by_method_and_status_and_what_is_no_method_is_not(edge: Edge, token: str) -> None:
    with channel_to(edge.address) as channel:
        assert call(channel, GET_USER, token) is grpc.StatusCode.OK
        assert call(channel, GET_USER) is grpc.StatusCode.UNAUTHENTICATED
        for number in range(20):
            assert call(channel, f"/made.up.Service{number}/Method") is grpc.StatusCode.UNIMPLEMENTED

    counted = edge.statistics(r"cluster\.identity\.grpc\.")
    assert counted[f"cluster.identity.grpc.{METHOD}.0"] == 1
    assert counted[f"cluster.identity.grpc.{METHOD}.16"] == 1
    assert counted[f"cluster.identity.grpc.{METHOD}.total"] == 2
    assert edge.statistics("made") == {}


def test_a_call_is_found_in_the_log_by_its_id_and_holds_no_secret(edge: Edge, token: str) -> None:
    secret = "a-secret-of-a-path"
    with httpx.Client(base_url=f"http://{edge.address}", trust_env=False) as client:
        headers = {"authorization": f"Bearer {token}"}
        answer = client.get("/v1/users/me", headers=headers)
        client.post(f"/join/{secret}?access_token={secret}", headers=headers)
    told = answer.headers["x-request-id"]
    log = edge.settings.layout.logs / "envoy.log"
    wait_until(lambda: told in log.read_text() and "not-found" in log.read_text(), "the call is in the log")

    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    [mine] = [line for line in lines if line["request_id"] == told]
    assert mine["rpc"] == GET_USER
    assert mine["http_status"] == 200
    assert mine["client"] == "127.0.0.1"
    assert token not in log.read_text()
    assert secret not in log.read_text()


def test_a_new_signing_key_is_believed_without_a_restart_and_the_old_one_still(
    running: Running, edge: Edge, token: str
) -> None:
    done = running.guildhall("admin", "rotate-signing-key")
    assert done.returncode == 0, done.stderr
    key_id = done.stdout.strip()
    key = (running.settings.layout.keys / f"{key_id}.pem").read_bytes()
    claims = jwt.decode(token, options={"verify_signature": False})
    by_the_new_one = jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": key_id})

    with channel_to(edge.address) as channel:
        wait_until(lambda: call(channel, GET_USER, by_the_new_one) is grpc.StatusCode.OK, "the new key is believed")
        assert call(channel, GET_USER, token) is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("origin", "is_let_in"),
    [
        ("http://localhost:5173", True),
        ("http://localhost.example.com", False),
        ("https://localhost:5173", False),
        ("http://evil.example", False),
        ("null", False),
    ],
)
def test_only_named_origins_may_call_from_a_browser(edge: Edge, origin: str, is_let_in: bool) -> None:
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,traceparent,x-grpc-web",
    }
    answer = httpx.options(f"http://{edge.address}{GET_USER}", headers=asked, trust_env=False)

    assert answer.headers.get("access-control-allow-origin") == (origin if is_let_in else None)
    if is_let_in:
        assert "traceparent" in answer.headers["access-control-allow-headers"]
