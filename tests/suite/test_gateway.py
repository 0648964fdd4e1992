"""The gateway of a real suite: gRPC, gRPC-Web, JSON, reflection; and what it does not let through."""

import base64
import json
import subprocess
import uuid
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2, status_pb2
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc as users_rpc
from guildhall.options.v1 import access_pb2

from services.chassis import contracts
from tests.suite.conftest import Running, Tools

PEER_RPCS = [rpc for rpc in contracts.rpcs().values() if rpc.lets_in(access_pb2.CALLER_PEER)]
USER_RPCS = [rpc for rpc in contracts.rpcs().values() if rpc.lets_in(access_pb2.CALLER_USER)]
ADA = "ada.gateway@example.com"


@pytest.fixture(scope="module")
def token(running: Running) -> str:
    return running.token(ADA)


@pytest.fixture(scope="module")
def channel(running: Running) -> Any:
    with grpc.insecure_channel(running.gateway, options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield channel


def grpcurl(tool: Tools, running: Running, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [tool("grpcurl"), "-plaintext", *arguments[:-1], running.gateway, *arguments[-1].split()]
    return subprocess.run(command, capture_output=True, text=True, timeout=20)


def test_grpcurl_lists_the_services_of_all_four_packages(running: Running, tool: Tools) -> None:
    done = grpcurl(tool, running, "list")
    assert done.returncode == 0, done.stderr
    listed = set(done.stdout.split())
    assert {service.full_name for service in contracts.services()} <= listed
    assert {name.split(".")[1] for name in listed} >= {"identity", "membership", "guest", "messaging"}


def test_grpcurl_calls_with_a_token_from_the_command_line(running: Running, tool: Tools, token: str) -> None:
    header = f"authorization: Bearer {token}"
    done = grpcurl(tool, running, "-H", header, "guildhall.identity.v1.UserService/GetUser")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["user"]["email"] == ADA


def test_buf_curl_lists_and_calls(running: Running, tool: Tools, token: str) -> None:
    common = ["curl", "--protocol", "grpc", "--http2-prior-knowledge"]
    base = f"http://{running.gateway}"
    listed = subprocess.run([tool("buf"), *common, "--list-methods", base], capture_output=True, text=True, timeout=20)
    assert "guildhall.messaging.v1.MessageService/SendMessage" in listed.stdout, listed.stderr
    url = f"{base}/guildhall.identity.v1.UserService/GetUser"
    command = [tool("buf"), *common, "-H", f"authorization: Bearer {token}", "-d", "{}", url]
    called = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert called.returncode == 0, called.stderr
    assert json.loads(called.stdout)["user"]["email"] == ADA


def test_json_calls_are_answered_and_refused_with_a_reason(running: Running, token: str) -> None:
    with httpx.Client(base_url=f"http://{running.gateway}", trust_env=False) as client:
        headers = {"authorization": f"Bearer {token}"}
        made = client.post("/v1/workspaces", json={"name": "By JSON"}, headers=headers)
        assert made.status_code == 200
        assert made.json()["workspace"]["name"] == "By JSON"
        bad = client.post("/v1/workspaces", json={"name": ""}, headers=headers)
        assert bad.status_code == 400
        assert "INVALID_REQUEST" in bad.text
        assert '"name"' in bad.text
        anonymous = client.post("/v1/workspaces", json={"name": "x"})
        assert anonymous.status_code == 401
        assert "UNAUTHENTICATED" in anonymous.text


def test_grpc_web_is_answered(running: Running, token: str) -> None:
    url = f"http://{running.gateway}/guildhall.identity.v1.UserService/GetUser"
    headers = {"content-type": "application/grpc-web+proto", "authorization": f"Bearer {token}"}
    with httpx.Client(trust_env=False) as client:
        answer = client.post(url, content=b"\0\0\0\0\0", headers=headers)
    size = int.from_bytes(answer.content[1:5], "big")
    assert users.GetUserResponse.FromString(answer.content[5 : 5 + size]).user.email == ADA


@pytest.mark.parametrize("rpc", PEER_RPCS, ids=lambda rpc: rpc.name)
def test_peer_rpcs_cannot_be_reached(rpc: contracts.Rpc, channel: grpc.Channel, token: str) -> None:
    call = channel.unary_unary(rpc.name)
    with pytest.raises(grpc.RpcError) as error:
        call(b"", timeout=5, metadata=(("authorization", f"Bearer {token}"),))
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("rpc", USER_RPCS, ids=lambda rpc: rpc.name)
def test_without_a_token_no_user_rpc_gets_past_the_edge(rpc: contracts.Rpc, channel: grpc.Channel) -> None:
    call = channel.unary_stream(rpc.name) if rpc.server_streaming else channel.unary_unary(rpc.name)
    with pytest.raises(grpc.RpcError) as error:
        list(call(b"", timeout=5)) if rpc.server_streaming else call(b"", timeout=5)
    assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
    info = error_details_pb2.ErrorInfo()
    details = dict(error.value.trailing_metadata())["grpc-status-details-bin"]
    assert any(detail.Unpack(info) for detail in status_pb2.Status.FromString(details).details)
    assert info.reason == "UNAUTHENTICATED"


def test_a_token_with_a_broken_signature_does_not_get_past_the_edge(channel: grpc.Channel, token: str) -> None:
    head, body, signature = token.split(".")
    broken = base64.urlsafe_b64encode(bytes(64)).decode().rstrip("=")
    stub = users_rpc.UserServiceStub(channel)
    with pytest.raises(grpc.RpcError) as error:
        stub.GetUser(users.GetUserRequest(), timeout=5, metadata=(("authorization", f"Bearer {head}.{body}.{broken}"),))
    assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
    good = (("authorization", f"Bearer {head}.{body}.{signature}"),)
    assert stub.GetUser(users.GetUserRequest(), timeout=5, metadata=good).user.email == ADA


def test_spoofed_identity_headers_change_nothing(channel: grpc.Channel) -> None:
    spoofed = (
        ("x-forwarded-client-cert", "By=identity;DNS=membership"),
        ("x-guildhall-user-id", str(uuid.uuid4())),
        ("x-guildhall-peer", "membership"),
        ("x-jwt-payload", "e30"),
    )
    with pytest.raises(grpc.RpcError) as error:
        users_rpc.UserServiceStub(channel).GetUser(users.GetUserRequest(), timeout=5, metadata=spoofed)
    assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_unknown_paths_are_not_found(running: Running) -> None:
    with httpx.Client(base_url=f"http://{running.gateway}", trust_env=False) as client:
        assert client.get("/nothing/here").status_code == 404
        assert client.get("/.well-known/jwks.json").json()["keys"][0]["kty"] == "OKP"


def test_the_tls_port_serves_the_same(running: Running) -> None:
    authority = running.settings.layout.certificates / "ca.pem"
    credentials = grpc.ssl_channel_credentials(authority.read_bytes())
    address = f"localhost:{running.settings.ports.gateway_tls}"
    with grpc.secure_channel(address, credentials, options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary("/guildhall.identity.v1.AuthService/GetJwks")
        assert auth.GetJwksResponse.FromString(call(b"", timeout=5)).keys


def test_malformed_bytes_through_the_gateway_are_an_invalid_argument(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary("/guildhall.identity.v1.AuthService/SignIn")(b"\xff\xff\xff", timeout=5)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "Traceback" not in (error.value.details() or "")
