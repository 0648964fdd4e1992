"""What the gateway refuses itself says why, as a service's refusal does, whatever the caller speaks."""

from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import httpx
import pytest
from google.rpc import code_pb2

from tests.suite.conftest import Running
from tests.support.edges import WITNESSED, Edge, Witness, channel_to, gateway_beside
from tests.support.json_calls import Verdict, grpc_verdict, json_verdict

DOMAIN = "guildhall.gateway"
MALFORMED = Verdict(code_pb2.INVALID_ARGUMENT, "MALFORMED_REQUEST", DOMAIN)
TOO_LARGE = Verdict(code_pb2.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE", DOMAIN)


@dataclass
class Narrow:
    """A gateway that lets one call at a time through to a service, and that service."""

    edge: Edge
    witness: Witness


@pytest.fixture(scope="module")
def narrow(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Narrow]:
    with Witness(running.settings) as witness:
        limits = {"max_unary_calls": 1}
        with gateway_beside(running.settings, tmp_path_factory.mktemp("edge"), limits, witness.extra) as edge:
            yield Narrow(edge, witness)


def look(channel: grpc.Channel, **options: object) -> Verdict:
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(WITNESSED)(b"", **{"timeout": 5, **options})
    return grpc_verdict(error.value)


@pytest.mark.parametrize(
    ("path", "headers", "verdict"),
    [
        ("/v1/users/me", {"x_user_id": "1"}, MALFORMED),
        ("/v1/users%2Fme", {}, MALFORMED),
        ("/v1/users/me?nothing=1", {}, MALFORMED),
        ("/v1/users/me", {"x-long": "x" * 17_000}, TOO_LARGE),
        ("/v1/users/me", {f"x-{number}": "1" for number in range(101)}, TOO_LARGE),
    ],
    ids=["underscore", "escaped slash", "unknown parameter", "long header", "many headers"],
)
def test_a_bad_request_is_told_why_in_json(
    running: Running, path: str, headers: dict[str, str], verdict: Verdict
) -> None:
    answer = httpx.get(f"http://{running.gateway}{path}", headers=headers, trust_env=False)

    assert json_verdict(answer) == verdict


@pytest.mark.parametrize(
    "headers",
    [(("x_user_id", "1"),), (("x-long", "x" * 17_000),), tuple((f"x-{number}", "1") for number in range(101))],
    ids=["underscore", "long header", "many headers"],
)
def test_a_bad_header_resets_a_stream_of_http2_before_anybody_reads_it(
    narrow: Narrow, headers: tuple[tuple[str, str], ...]
) -> None:
    before = len(narrow.witness.calls)
    with channel_to(narrow.edge.address) as channel:
        look(channel, metadata=headers)
        assert channel.unary_unary(WITNESSED)(b"", timeout=5) == b""

    assert len(narrow.witness.calls) == before + 1


def test_a_crowded_service_is_told_as_overload_and_is_had_again_after(narrow: Narrow) -> None:
    narrow.witness.waiting.clear()
    narrow.witness.released.clear()
    with channel_to(narrow.edge.address) as channel:
        first = channel.unary_unary(WITNESSED).future(b"", timeout=9)
        assert narrow.witness.waiting.wait(5)

        verdict = look(channel)

        narrow.witness.released.set()
        assert first.result(5) == b""
        assert channel.unary_unary(WITNESSED)(b"", timeout=5) == b""
    assert verdict == Verdict(code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", DOMAIN, retry_seconds=1)


def test_a_service_that_does_not_answer_in_time_is_told_as_that(narrow: Narrow) -> None:
    narrow.witness.released.clear()
    # Without grpc-timeout: a service that is sent one ends the call itself, at the same moment and without details.
    headers = {"content-type": "application/grpc-web+proto"}
    url = f"http://{narrow.edge.address}{WITNESSED}"
    answer = httpx.post(url, content=bytes(5), headers=headers, trust_env=False, timeout=9)
    narrow.witness.released.set()

    assert answer.headers["grpc-status"] == str(code_pb2.DEADLINE_EXCEEDED)
    assert "grpc-status-details-bin" in answer.headers


def test_a_service_that_is_away_is_told_as_unavailable(narrow: Narrow) -> None:
    narrow.witness.__exit__()

    with channel_to(narrow.edge.address) as channel:
        assert look(channel) == Verdict(code_pb2.UNAVAILABLE, "SERVICE_UNAVAILABLE", DOMAIN)
