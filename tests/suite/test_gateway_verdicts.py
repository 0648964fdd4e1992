"""JSON and gRPC give the same verdict on the same input: the same code, for the same reason, about the same fields."""

import random
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import jwt
import pytest
from google.protobuf import field_mask_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.rpc import code_pb2
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.options.v1 import access_pb2

from services.chassis import contracts
from tests.suite.conftest import Running
from tests.support.edges import channel_to
from tests.support.json_calls import (
    Verdict,
    call_grpc,
    call_json,
    grpc_verdict,
    http_rule,
    json_verdict,
    path_variables,
)
from tests.support.reflected import Requests

GATEWAY = "guildhall.gateway"
RPCS = [rpc for rpc in contracts.rpcs().values() if http_rule(rpc) is not None]
ENDING = ("ChangePassword", "DeleteUser", "RevokeSessions", "SignOut")
"""RPCs whose first call, if it is let in, leaves the second nobody to be."""
ADA, BOB = "ada.verdicts@example.com", "bob.verdicts@example.com"
NOTHING = str(uuid.uuid4())
NEVER_ISSUED = {"id": (NOTHING,), "type": ("oauth",)}
LARGE = "x" * (1 << 20)


@dataclass
class Both:
    """Each call twice, the one as gRPC and the other as JSON."""

    channel: grpc.Channel
    client: httpx.Client
    token: str

    def call(self, rpc: contracts.Rpc, request: Message, token: str | None = None) -> Verdict:
        """The verdict, which must be the same."""
        used = self.token if token is None else token
        by_grpc = call_grpc(self.channel, rpc, request, used)
        by_json = call_json(self.client, rpc, request, used)
        assert by_json == by_grpc, f"{rpc.name}: gRPC says {by_grpc}, JSON {by_json}"
        return by_grpc


@pytest.fixture(scope="module")
def both(running: Running) -> Iterator[Both]:
    token = running.token(ADA)
    with channel_to(running.gateway) as channel:
        with httpx.Client(base_url=f"http://{running.gateway}", trust_env=False, timeout=10) as client:
            yield Both(channel, client, token)


@pytest.fixture(scope="module")
def expired(running: Running, both: Both) -> str:
    """A token that identity might have signed ten minutes ago."""
    header = jwt.get_unverified_header(both.token)
    claims = jwt.decode(both.token, options={"verify_signature": False})
    key = (running.settings.layout.keys / f"{header['kid']}.pem").read_bytes()
    past = {**claims, "iat": int(time.time()) - 900, "exp": int(time.time()) - 600}
    return jwt.encode(past, key, algorithm="EdDSA", headers={"kid": header["kid"]})


def some_request(rpc: contracts.Rpc) -> Message:
    """A valid request about things that were never issued."""
    # What is in the path cannot be left out.
    given = {name: NOTHING for name in path_variables(rpc) if name.endswith("_id")}
    found = Requests(NEVER_ISSUED, random.Random(rpc.name)).one(rpc, given)
    assert found is not None, f"no valid request was found for {rpc.name}"
    return found


def with_a_broken_id(request: Message) -> bool:
    """Give the first id that is there a value that is none; False if there is no id."""
    for field, value in request.ListFields():
        if field.message_type and not field.is_repeated and with_a_broken_id(value):
            return True
        if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated and field.name.endswith("_id"):
            setattr(request, field.name, "no-id")
            return True
    return False


def needs_token(rpc: contracts.Rpc) -> bool:
    return not rpc.lets_in(access_pb2.CALLER_OPEN)


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.name)
def test_every_rpc_refuses_bad_tokens_and_bad_fields_alike(rpc: contracts.Rpc, both: Both, expired: str) -> None:
    request = some_request(rpc)
    if needs_token(rpc):
        head, body, _ = both.token.split(".")
        for token in ("", "rubbish", f"{head}.{body}.{'A' * 86}", expired):
            verdict = both.call(rpc, request, token)
            assert verdict == Verdict(code_pb2.UNAUTHENTICATED, "UNAUTHENTICATED", GATEWAY)
    if with_a_broken_id(request):
        verdict = both.call(rpc, request)
        refused = (code_pb2.INVALID_ARGUMENT, code_pb2.PERMISSION_DENIED)  # back ends' RPCs look who calls first
        assert verdict.code in refused, verdict
        assert verdict.fields or verdict.code == code_pb2.PERMISSION_DENIED


@pytest.mark.parametrize("rpc", [rpc for rpc in RPCS if rpc.method not in ENDING], ids=lambda rpc: rpc.name)
def test_every_rpc_answers_alike_about_what_was_never_issued(rpc: contracts.Rpc, both: Both) -> None:
    verdict = both.call(rpc, some_request(rpc))

    assert verdict.code == code_pb2.OK or (verdict.reason and verdict.domain)
    assert verdict.code not in (code_pb2.INTERNAL, code_pb2.UNKNOWN, code_pb2.UNAVAILABLE)


def rpc_of(short: str) -> contracts.Rpc:
    package, rest = short.split(".")
    return contracts.rpcs()[f"/guildhall.{package}.v1.{rest}"]


def the_table(workspace_id: str, used: str) -> Mapping[str, tuple[str, Message, int, str]]:
    """What each refusal is of: RPC, request, code and reason."""
    create, update = "membership.WorkspaceService/CreateWorkspace", "membership.WorkspaceService/UpdateWorkspace"
    fields = field_mask_pb2.FieldMask(paths=["name"])
    stale = workspaces.Workspace(workspace_id=workspace_id, name="New", etag="stale")
    return {
        "valid": (create, workspaces.CreateWorkspaceRequest(name="A"), code_pb2.OK, ""),
        "key used for something else": (
            create,
            workspaces.CreateWorkspaceRequest(name="B", request_id=used),
            code_pb2.ALREADY_EXISTS,
            "IDEMPOTENCY_MISMATCH",
        ),
        "changed meanwhile": (
            update,
            workspaces.UpdateWorkspaceRequest(workspace=stale, update_mask=fields),
            code_pb2.ABORTED,
            "ETAG_MISMATCH",
        ),
        "empty name": (create, workspaces.CreateWorkspaceRequest(), code_pb2.INVALID_ARGUMENT, "INVALID_REQUEST"),
        "not an administrator": (
            "identity.UserService/ListUsers",
            users.ListUsersRequest(),
            code_pb2.PERMISSION_DENIED,
            "PERMISSION_DENIED",
        ),
        "never issued": (
            "membership.WorkspaceService/GetWorkspace",
            workspaces.GetWorkspaceRequest(workspace_id=str(uuid.uuid4())),
            code_pb2.NOT_FOUND,
            "NOT_FOUND",
        ),
        "wrong password": (
            "identity.AuthService/SignIn",
            auth.SignInRequest(email=BOB, password="not the password"),
            code_pb2.UNAUTHENTICATED,
            "",
        ),
        "too large": (
            create,
            workspaces.CreateWorkspaceRequest(name=LARGE),
            code_pb2.RESOURCE_EXHAUSTED,
            "REQUEST_TOO_LARGE",
        ),
        "much too large": (
            create,
            workspaces.CreateWorkspaceRequest(name=3 * LARGE),
            code_pb2.RESOURCE_EXHAUSTED,
            "REQUEST_TOO_LARGE",
        ),
    }


CASES = list(the_table("", ""))


@pytest.fixture(scope="module")
def table(both: Both) -> Mapping[str, tuple[str, Message, int, str]]:
    call = both.channel.unary_unary(
        rpc_of("membership.WorkspaceService/CreateWorkspace").name,
        workspaces.CreateWorkspaceRequest.SerializeToString,
        workspaces.CreateWorkspaceResponse.FromString,
    )
    metadata = (("authorization", f"Bearer {both.token}"),)
    used = str(uuid.uuid4())
    made = call(workspaces.CreateWorkspaceRequest(name="Mine", request_id=used), timeout=5, metadata=metadata)
    return the_table(made.workspace.workspace_id, used)


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_verdict_is_the_same(case: str, both: Both, table: Mapping[str, Any]) -> None:
    name, request, code, reason = table[case]
    verdict = both.call(rpc_of(name), request)

    assert verdict.code == code, verdict
    assert not reason or verdict.reason == reason
    assert (verdict.reason != "") == (code != code_pb2.OK)


def test_an_unknown_method_is_the_same(both: Both) -> None:
    with pytest.raises(grpc.RpcError) as error:
        both.channel.unary_unary("/guildhall.identity.v1.UserService/Nothing")(b"", timeout=5)

    by_json = json_verdict(both.client.post("/v1/nothing", json={}))
    assert grpc_verdict(error.value) == by_json == Verdict(code_pb2.UNIMPLEMENTED, "NO_SUCH_METHOD", GATEWAY)


@pytest.mark.parametrize(
    "name", [rpc.name for rpc in RPCS if rpc.method in ENDING and rpc.lets_in(access_pb2.CALLER_USER)]
)
def test_what_ends_a_session_refuses_the_next_call_alike(name: str, running: Running, both: Both) -> None:
    token = running.token(f"{name.rpartition('/')[2].lower()}.verdicts@example.com")
    rpc = contracts.rpcs()[name]
    request = auth.SignOutRequest()
    assert call_grpc(both.channel, rpc_of("identity.AuthService/SignOut"), request, token).code == code_pb2.OK

    verdict = both.call(rpc, some_request(rpc), token)

    assert (verdict.code, verdict.reason) == (code_pb2.UNAUTHENTICATED, "SESSION_ENDED")
