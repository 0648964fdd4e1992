"""Nobody passes for somebody else: not by headers, not on the services' own ports, not through the gateway."""

import base64
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from guildhall.options.v1 import access_pb2

from deploy.envoy.listeners import IDENTITY_HEADER_PREFIXES, IDENTITY_HEADERS, PROXY_HEADERS
from deploy.stack import certificates
from deploy.stack.settings import HOST, SERVICES
from services.chassis import contracts
from tests.suite.conftest import Running
from tests.support.edges import WITNESSED, Edge, Witness, channel_to, gateway_beside, reason_of, status_of
from tests.support.json_calls import http_rule

PEER_RPCS = [rpc for rpc in contracts.rpcs().values() if rpc.lets_in(access_pb2.CALLER_PEER)]
USER_RPCS = [rpc for rpc in contracts.rpcs().values() if rpc.lets_in(access_pb2.CALLER_USER)]
SINK = "guildhall.events.v1.EventSink"
CERTIFICATES = (*SERVICES, "gateway")
NOBODY = "spoofed-by-somebody"
SPOOFED = [
    *IDENTITY_HEADERS,
    *PROXY_HEADERS,
    *(f"{prefix}{end}" for prefix in IDENTITY_HEADER_PREFIXES for end in ("user-id", "client-address", "peer", "x")),
    "x-envoy-external-address",
    "x-envoy-original-path",
    "x-envoy-internal",
]
REFUSED = {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}


@pytest.fixture(scope="module")
def witnessed(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Edge, Witness]]:
    with Witness(running.settings) as witness:
        with gateway_beside(running.settings, tmp_path_factory.mktemp("edge"), {}, witness.extra) as edge:
            yield edge, witness


@pytest.mark.parametrize("header", SPOOFED)
def test_what_an_outsider_says_of_their_identity_does_not_get_in_by_grpc(
    witnessed: tuple[Edge, Witness], header: str
) -> None:
    edge, witness = witnessed
    with channel_to(edge.address) as channel:
        channel.unary_unary(WITNESSED)(b"", timeout=5, metadata=((header, NOBODY), ("x-harmless", NOBODY)))

    got = witness.calls[-1]
    assert got["x-harmless"] == NOBODY
    assert [name for name, value in got.items() if NOBODY in value] == ["x-harmless"]
    assert got["x-guildhall-client-address"] == HOST


@pytest.mark.parametrize("header", SPOOFED)
def test_what_an_outsider_says_of_their_identity_does_not_get_in_by_grpc_web(
    witnessed: tuple[Edge, Witness], header: str
) -> None:
    edge, witness = witnessed
    headers = {"content-type": "application/grpc-web+proto", header.title(): NOBODY, "x-harmless": NOBODY}
    answer = httpx.post(f"http://{edge.address}{WITNESSED}", content=bytes(5), headers=headers, trust_env=False)

    got = witness.calls[-1]
    assert answer.status_code == 200
    assert [name for name, value in got.items() if NOBODY in value] == ["x-harmless"]
    assert got["x-guildhall-client-address"] == HOST


def test_a_trace_is_passed_on_and_the_request_id_is_the_gateways_own_and_told(
    witnessed: tuple[Edge, Witness],
) -> None:
    edge, witness = witnessed
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = (("traceparent", trace), ("tracestate", "vendor=1"), ("x-request-id", NOBODY))
    with channel_to(edge.address) as channel:
        _, call = channel.unary_unary(WITNESSED).with_call(b"", timeout=5, metadata=headers)

    got, told = witness.calls[-1], dict(call.initial_metadata())
    assert (got["traceparent"], got["tracestate"]) == (trace, "vendor=1")
    assert str(uuid.UUID(got["x-request-id"])) == told["x-request-id"]


def test_refusals_of_the_edge_tell_their_request_id_too(running: Running) -> None:
    answer = httpx.get(f"http://{running.gateway}/v1/users/me", trust_env=False)

    assert answer.status_code == 401
    assert uuid.UUID(answer.headers["x-request-id"])


def direct(running: Running, service: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    address = f"{HOST}:{running.settings.ports.service(service)}"
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    if credentials is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, credentials, [*options, ("grpc.ssl_target_name_override", service)])


def credentials_of(running: Running, name: str) -> grpc.ChannelCredentials:
    files = certificates.files(running.settings.layout.certificates, name)
    return grpc.ssl_channel_credentials(files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes())


def code_of(channel: grpc.Channel, rpc: str, seconds: float = 5) -> grpc.StatusCode:
    call = channel.unary_unary(rpc).future(b"", timeout=seconds)
    code: grpc.StatusCode = call.code()
    return code


@pytest.mark.parametrize("service", SERVICES)
def test_the_services_own_ports_open_only_to_a_certificate_of_the_suite(
    running: Running, service: str, tmp_path: Path
) -> None:
    ours = (running.settings.layout.certificates / "ca.pem").read_bytes()
    foreign = certificates.ensure(tmp_path, ("gateway",))["gateway"]
    stranger = grpc.ssl_channel_credentials(ours, foreign.key.read_bytes(), foreign.certificate.read_bytes())
    attempts = {
        "without TLS": None,
        "without a certificate": grpc.ssl_channel_credentials(ours),
        "with one of another authority": stranger,
        "with the one shown to the public": credentials_of(running, certificates.EDGE),
    }
    rpc = next(rpc.name for rpc in contracts.rpcs().values() if rpc.service.split(".")[1] == service)

    for how, credentials in attempts.items():
        with direct(running, service, credentials) as channel:
            assert code_of(channel, rpc) is grpc.StatusCode.UNAVAILABLE, how
    with direct(running, service, credentials_of(running, "gateway")) as channel:
        assert code_of(channel, rpc) is not grpc.StatusCode.UNAVAILABLE


def owners(rpc: contracts.Rpc) -> tuple[str, ...]:
    return SERVICES if rpc.service == SINK else (rpc.service.split(".")[1],)


@pytest.mark.parametrize("rpc", PEER_RPCS, ids=lambda rpc: rpc.name)
def test_a_peer_rpc_lets_in_the_certificates_on_its_list_and_no_other(running: Running, rpc: contracts.Rpc) -> None:
    assert "gateway" not in rpc.access.peers
    for owner in owners(rpc):
        for name in CERTIFICATES:
            with direct(running, owner, credentials_of(running, name)) as channel:
                code = code_of(channel, rpc.name)
            if name in rpc.access.peers:
                assert code not in REFUSED | {grpc.StatusCode.UNAVAILABLE}, f"{name} at {owner}"
            else:
                assert code in REFUSED, f"{name} at {owner}: {code}"


def test_a_services_certificate_stands_in_for_no_user(running: Running) -> None:
    unary = [rpc for rpc in USER_RPCS if not rpc.server_streaming and not rpc.client_streaming]
    for name in CERTIFICATES:
        for service in SERVICES:
            with direct(running, service, credentials_of(running, name)) as channel:
                for rpc in unary:
                    if rpc.service.split(".")[1] == service:
                        assert code_of(channel, rpc.name) is grpc.StatusCode.UNAUTHENTICATED, f"{name}: {rpc.name}"


@pytest.mark.parametrize("rpc", PEER_RPCS, ids=lambda rpc: rpc.name)
@pytest.mark.parametrize("kind", ["application/grpc-web+proto", "application/grpc-web-text", "application/json"])
def test_no_peer_rpc_is_reached_by_grpc_web_or_json(
    running: Running, a_token: str, rpc: contracts.Rpc, kind: str
) -> None:
    assert http_rule(rpc) is None
    body = {
        "application/grpc-web+proto": bytes(5),
        "application/grpc-web-text": base64.b64encode(bytes(5)),
        "application/json": b"{}",
    }[kind]
    headers = {"content-type": kind, "authorization": f"Bearer {a_token}"}
    answer = httpx.post(f"http://{running.gateway}{rpc.name}", content=body, headers=headers, trust_env=False)

    assert answer.headers.get("grpc-status") == "12" if "web" in kind else answer.status_code == 404
    assert "NO_SUCH_METHOD" in answer.text or answer.headers["grpc-message"] == "There is no such method."


@pytest.fixture(scope="module")
def a_token(running: Running) -> str:
    return running.token("ada.spoofing@example.com")


def test_no_peer_rpc_is_reached_by_grpc(running: Running, a_token: str) -> None:
    with channel_to(running.gateway) as channel:
        for rpc in PEER_RPCS:
            with pytest.raises(grpc.RpcError) as error:
                channel.unary_unary(rpc.name)(b"", timeout=5, metadata=(("authorization", f"Bearer {a_token}"),))
            assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED, rpc.name
            assert reason_of(status_of(error.value)) == "NO_SUCH_METHOD"
