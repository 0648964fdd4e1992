"""What stands between the wire and every handler, through real servers with mutual TLS."""

import re
import time
import uuid
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.identity.v1 import session_service_pb2 as sessions
from guildhall.identity.v1 import session_service_pb2_grpc as sessions_rpc
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc as users_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as members_rpc
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspaces_rpc
from guildhall.options.v1 import access_pb2

from deploy.stack import certificates
from deploy.stack.settings import SERVICES
from services.chassis import contracts, interceptors
from tests.support.accounts import service_account
from tests.support.identities import execute
from tests.support.suite import Person, Suite, answered, refused

PEER_RPCS = [rpc for rpc in contracts.rpcs().values() if rpc.lets_in(access_pb2.CALLER_PEER)]


def raw(suite: Suite, name: str, *, certificate: str = "gateway", service: str | None = None) -> Any:
    """An RPC by its name, with bytes for messages."""
    channel = suite.channel(service or name.split(".")[1], certificate=certificate)
    return channel.unary_unary(name, request_serializer=None, response_deserializer=None)


def signed(suite: Suite, person: Person, **changes: object) -> Person:
    """The person with a token signed by the suite's own key, its claims changed."""
    path = max(suite.stack.settings.layout.keys.glob("*.pem"))
    claims = jwt.decode(person.access_token, options={"verify_signature": False}) | changes
    token = jwt.encode(claims, path.read_bytes(), algorithm="EdDSA", headers={"kid": path.stem})
    return Person(**{**vars(person), "access_token": token})


@pytest.fixture(scope="module")
async def ada(suite: Suite) -> Person:
    return await suite.person("Ada")


@pytest.mark.parametrize("service", SERVICES)
async def test_a_port_without_a_client_certificate_refuses_the_connection(service: str, suite: Suite) -> None:
    authority = certificates.files(suite.stack.settings.layout.certificates, service).ca.read_bytes()
    address = f"127.0.0.1:{suite.stack.settings.ports.service(service)}"
    options = [("grpc.ssl_target_name_override", service), ("grpc.enable_http_proxy", 0)]
    credentials = grpc.ssl_channel_credentials(root_certificates=authority)
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        call = channel.unary_unary("/guildhall.identity.v1.AuthService/GetJwks")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(b"", timeout=3)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_certificate_of_another_authority_is_refused(suite: Suite, tmp_path: Any) -> None:
    stranger = certificates.ensure(tmp_path, ("gateway",))["gateway"]
    authority = certificates.files(suite.stack.settings.layout.certificates, "identity").ca.read_bytes()
    credentials = grpc.ssl_channel_credentials(authority, stranger.key.read_bytes(), stranger.certificate.read_bytes())
    address = f"127.0.0.1:{suite.stack.settings.ports.service('identity')}"
    options = [("grpc.ssl_target_name_override", "identity"), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary("/guildhall.identity.v1.AuthService/GetJwks")(b"", timeout=3)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE


def peers_to_try(rpc: contracts.Rpc) -> list[tuple[str, str]]:
    """(service whose port is called, certificate) for every certificate that is not on the RPC's list."""
    own = [rpc.service.split(".")[1]] if not rpc.service.startswith("guildhall.events.") else list(SERVICES)
    callers = ("gateway", *SERVICES)
    return [(service, caller) for service in own for caller in callers if caller not in rpc.access.peers]


@pytest.mark.parametrize("rpc", PEER_RPCS, ids=lambda rpc: rpc.name)
async def test_a_certificate_that_is_not_on_the_list_is_refused(rpc: contracts.Rpc, suite: Suite, ada: Person) -> None:
    cases = peers_to_try(rpc)
    assert ("gateway" in {caller for _, caller in cases}) is True
    for service, certificate in cases:
        call = raw(suite, rpc.name, certificate=certificate, service=service)
        refusal = await refused(call(b"", timeout=5, metadata=ada.metadata))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PEER_NOT_ALLOWED"), certificate


@pytest.mark.parametrize("rpc", PEER_RPCS, ids=lambda rpc: rpc.name)
async def test_a_certificate_on_the_list_gets_past_that_check(rpc: contracts.Rpc, suite: Suite) -> None:
    own = "identity" if rpc.service.startswith("guildhall.events.") else rpc.service.split(".")[1]
    for certificate in rpc.access.peers:
        # An empty request breaks every PEER request's rules, so this is where it must end.
        refusal = await refused(raw(suite, rpc.name, certificate=certificate, service=own)(b"", timeout=5))
        assert refusal.reason == "INVALID_REQUEST"


@pytest.mark.parametrize("rpc", [r for r in contracts.rpcs().values() if not r.server_streaming], ids=lambda r: r.name)
async def test_malformed_bytes_are_an_invalid_argument(rpc: contracts.Rpc, suite: Suite, ada: Person) -> None:
    peers = list(rpc.access.peers) or ["gateway"]
    own = "identity" if rpc.service.startswith("guildhall.events.") else rpc.service.split(".")[1]
    call = raw(suite, rpc.name, certificate=peers[0], service=own)
    caller = signed(suite, ada, scope=rpc.access.scope) if rpc.access.scope else ada
    refusal = await refused(call(b"\xff\xff\xff", timeout=5, metadata=caller.metadata))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")


async def test_every_field_that_breaks_a_rule_is_named(suite: Suite) -> None:
    stub = suite.stub(auth_rpc.AuthServiceStub)
    refusal = await refused(
        stub.SignUp(auth.SignUpRequest(email="nobody", password="short", request_id="x"), timeout=5)
    )
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
    assert set(refusal.fields) == {"email", "password", "name", "request_id"}


async def test_a_nul_character_is_refused_by_the_field_that_holds_it(suite: Suite, ada: Person) -> None:
    stub = suite.stub(workspaces_rpc.WorkspaceServiceStub)
    refusal = await refused(ada.call(stub.CreateWorkspace, workspaces.CreateWorkspaceRequest(name="a\0b")))
    assert set(refusal.fields) == {"name"}


async def test_without_a_token_a_user_rpc_is_refused_and_with_it_answered(suite: Suite, ada: Person) -> None:
    stub = suite.stub(users_rpc.UserServiceStub)
    refusal = await refused(stub.GetUser(users.GetUserRequest(), timeout=5))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert (await ada.call(stub.GetUser, users.GetUserRequest())).user.user_id == ada.user_id


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": int(time.time()) - 3600},
        {"iss": "somebody"},
        {"aud": "something"},
        {"iat": int(time.time()) + 3600},
    ],
    ids=["expired", "issuer", "audience", "not yet"],
)
async def test_a_token_with_a_wrong_claim_is_refused(changes: dict[str, Any], suite: Suite, ada: Person) -> None:
    stub = suite.stub(workspaces_rpc.WorkspaceServiceStub)
    wrong = signed(suite, ada, **changes)
    refusal = await refused(wrong.call(stub.CreateWorkspace, workspaces.CreateWorkspaceRequest(name="x")))
    assert refusal.reason == "UNAUTHENTICATED"
    await signed(suite, ada, jti=str(uuid.uuid4())).call(
        stub.CreateWorkspace, workspaces.CreateWorkspaceRequest(name="x")
    )


async def test_a_token_of_another_key_is_refused(suite: Suite, ada: Person) -> None:
    claims = jwt.decode(ada.access_token, options={"verify_signature": False})
    key_id = jwt.get_unverified_header(ada.access_token)["kid"]
    token = jwt.encode(claims, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers={"kid": key_id})
    forged = Person(**{**vars(ada), "access_token": token})
    stub = suite.stub(workspaces_rpc.WorkspaceServiceStub)
    refusal = await refused(forged.call(stub.CreateWorkspace, workspaces.CreateWorkspaceRequest(name="x")))
    assert refusal.reason == "UNAUTHENTICATED"


async def test_an_ended_session_is_refused_by_every_service_on_the_next_call(suite: Suite) -> None:
    person = await suite.person("Eve")
    stub = suite.stub(workspaces_rpc.WorkspaceServiceStub)
    await person.call(stub.CreateWorkspace, workspaces.CreateWorkspaceRequest(name="x"))
    await person.call(suite.stub(auth_rpc.AuthServiceStub).SignOut, auth.SignOutRequest())
    refusal = await refused(person.call(stub.CreateWorkspace, workspaces.CreateWorkspaceRequest(name="x")))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "SESSION_ENDED")


async def test_a_call_with_hardly_any_time_left_is_not_begun(suite: Suite) -> None:
    stub = suite.stub(auth_rpc.AuthServiceStub)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.GetJwks(auth.GetJwksRequest(), timeout=0.03)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_dead_identity_closes_every_user_rpc_within_its_deadline(suite: Suite) -> None:
    person = await suite.person("Kim")
    stub = suite.stub(workspaces_rpc.WorkspaceServiceStub)
    await person.call(stub.CreateWorkspace, workspaces.CreateWorkspaceRequest(name="before"))
    await suite.stop("identity")
    try:
        call = person.call(stub.CreateWorkspace, workspaces.CreateWorkspaceRequest(name="x"), timeout=4)
        refusal = await refused(call)
    finally:
        await suite.start("identity")
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "PEER_UNAVAILABLE")

    # The peer's channel comes back by itself, after a pause of a second at most.
    await answered(lambda: person.call(stub.CreateWorkspace, workspaces.CreateWorkspaceRequest(name="after")))


async def test_a_batch_of_sessions_is_answered_in_its_order(suite: Suite, ada: Person) -> None:
    stub = suite.stub(sessions_rpc.SessionServiceStub, certificate="messaging")
    request = sessions.CheckSessionsRequest(session_ids=[str(uuid.uuid4()), ada.session_id, str(uuid.uuid4())])
    assert list((await stub.CheckSessions(request, timeout=5)).alive) == [False, True, False]


ORDER = ["Errors", "Capacity", "Deadline", "Certificate", "Token", "Validation", "Bound workspace", "Session"]
LIFE_OF_AN_RPC = Path(__file__).parents[2] / "docs" / "life-of-an-rpc.md"


def test_the_document_gives_the_order_that_is_tested() -> None:
    section = LIFE_OF_AN_RPC.read_text(encoding="utf-8").partition("## 3. ")[2].partition("\n## ")[0]
    assert re.findall(r"^\d\. \*\*(.+?)\*\*", section, re.MULTILINE) == ORDER


async def test_of_several_reasons_to_refuse_a_call_the_first_in_the_order_is_told(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = Person(**{**vars(service_account(suite, "x")), "access_token": "forged"})

    async def reason(certificate: str, person: Person | None) -> str:
        """Of malformed bytes to a PEER RPC."""
        call = raw(suite, "/guildhall.identity.v1.SessionService/CheckSessions", certificate=certificate)
        return (await refused(call(b"\xff", timeout=5, metadata=person.metadata if person else ()))).reason

    with monkeypatch.context() as patched:
        patched.setattr(interceptors, "SHORTEST_SECONDS", 100)
        with monkeypatch.context() as full:
            full.setattr(interceptors, "MOST_UNARY", 0)
            told = [await reason("gateway", forged)]
        told.append(await reason("gateway", forged))
    told += [await reason(*caller) for caller in (("gateway", forged), ("messaging", forged), ("messaging", None))]
    assert told == ["OVERLOADED", "DEADLINE_EXCEEDED", "PEER_NOT_ALLOWED", "UNAUTHENTICATED", "MALFORMED_REQUEST"]


async def test_a_bound_account_is_told_of_fields_then_of_workspaces_and_last_of_its_key(suite: Suite) -> None:
    house, elsewhere = str(uuid.uuid4()), str(uuid.uuid4())
    account = service_account(suite, "membership.members", workspace_ids=[house])
    execute(suite, "UPDATE service_keys SET revoked_at = statement_timestamp() WHERE id = %s", account.session_id)
    stub = suite.stub(members_rpc.MemberServiceStub)

    async def reason(workspace_id: str, **fields: Any) -> str:
        request = members.AddMemberRequest(workspace_id=workspace_id, **fields)
        return (await refused(account.call(stub.AddMember, request))).reason

    whole: dict[str, Any] = {"user_id": str(uuid.uuid4()), "role": members.ROLE_MEMBER}
    assert await reason(elsewhere) == "INVALID_REQUEST"
    assert await reason(elsewhere, **whole) == "NOT_FOUND"
    assert await reason(house, **whole) == "SESSION_ENDED"
