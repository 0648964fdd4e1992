"""How service accounts are kept to their workspaces: by the interceptors of every service, at doors made for this."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from guildhall.membership.v1 import member_service_pb2, workspace_service_pb2
from guildhall.messaging.v1 import conversation_service_pb2
from guildhall.options.v1 import access_pb2
from sqlalchemy.ext.asyncio import AsyncConnection

from deploy.stack import certificates
from services.chassis.call import current_call
from services.chassis.channel import open_channel
from services.chassis.contracts import Rpc
from services.chassis.database import Database
from services.chassis.errors import NotFound
from services.chassis.idempotency import no_access_needed, once
from services.chassis.interceptors import Interceptors
from services.chassis.peers import Identity
from services.chassis.secret import SecretKey
from services.chassis.sessions import Sessions
from services.chassis.telemetry import CallLog
from services.chassis.tls import server_credentials
from services.chassis.tokens import Verifier
from tests.service.test_identity_service_accounts import Office, bearer
from tests.support.suite import Suite, refused

SERVICE = "guildhall.doors.v1.DoorService"
HOUSE = str(uuid.uuid4())
"""The only workspace that there is behind the doors."""


class Doors:
    """RPCs that let service accounts in, as no service has them yet."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._secret = SecretKey(b"k" * 32)

    async def list_members(self, request: Any, context: Any) -> Any:
        """About a workspace."""
        if request.workspace_id.lower() != HOUSE:
            raise NotFound
        return member_service_pb2.ListMembersResponse()

    async def create_workspace(self, request: Any, context: Any) -> Any:
        """About none."""
        return workspace_service_pb2.CreateWorkspaceResponse()

    async def create_channel(self, request: Any, context: Any) -> Any:
        """Repeatable: the answer's id is new each time that the work is done."""

        async def work(_tx: AsyncConnection, _granted: None) -> Any:
            assert not current_call().user_id
            answer = conversation_service_pb2.CreateChannelResponse()
            answer.conversation.conversation_id = str(uuid.uuid4())
            return answer

        kind = conversation_service_pb2.CreateChannelResponse
        return await once(self._database, self._secret, request, kind, access=no_access_needed, work=work)


def unary(behavior: Any, request_class: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        behavior,
        request_deserializer=request_class.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )


@pytest.fixture(scope="module")
async def channel(suite: Suite) -> AsyncIterator[grpc.aio.Channel]:
    """To a server with the doors, with its own verifier and its own questions to identity."""
    settings = suite.settings("messaging")
    to_identity = open_channel(settings, "identity")
    identity = Identity(to_identity)
    interceptors = Interceptors(
        service="doors",
        verifier=Verifier(identity.public_keys),
        sessions=Sessions(identity.check_sessions),
        log=CallLog("doors", "error"),
    )
    database = Database(suite.settings("identity"))
    doors = Doors(database)
    access = access_pb2.Access(callers=[access_pb2.CALLER_BACKEND], scope="doors.use")
    handlers = {
        "ListMembers": unary(doors.list_members, member_service_pb2.ListMembersRequest),
        "CreateWorkspace": unary(doors.create_workspace, workspace_service_pb2.CreateWorkspaceRequest),
        "CreateChannel": unary(doors.create_channel, conversation_service_pb2.CreateChannelRequest),
    }
    wrapped = {
        method: interceptors.wrap(Rpc(f"/{SERVICE}/{method}", access, False, False, "", ""), handler)
        for method, handler in handlers.items()
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, wrapped),))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(settings))
    await server.start()
    files = certificates.files(suite.stack.settings.layout.certificates, "gateway")
    credentials = grpc.ssl_channel_credentials(
        files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )
    options = [("grpc.ssl_target_name_override", "messaging"), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as opened:
        yield opened
    await server.stop(None)
    await to_identity.close()
    await database.close()


@pytest.fixture(scope="module")
async def office(suite: Suite) -> Office:
    return await Office.open(suite)


def knock(channel: grpc.aio.Channel, token: str, method: str, request: Any, answer: Any) -> Any:
    call: Any = channel.unary_unary(
        f"/{SERVICE}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    return call(request, timeout=10, metadata=bearer(token))


def list_members(channel: grpc.aio.Channel, token: str, workspace_id: str) -> Any:
    request = member_service_pb2.ListMembersRequest(workspace_id=workspace_id)
    return knock(channel, token, "ListMembers", request, member_service_pb2.ListMembersResponse)


def create_workspace(channel: grpc.aio.Channel, token: str) -> Any:
    request = workspace_service_pb2.CreateWorkspaceRequest(name="x")
    return knock(channel, token, "CreateWorkspace", request, workspace_service_pb2.CreateWorkspaceResponse)


async def create_channel(channel: grpc.aio.Channel, token: str, request_id: str) -> str:
    request = conversation_service_pb2.CreateChannelRequest(
        workspace_id=HOUSE,
        name="news",
        visibility=conversation_service_pb2.VISIBILITY_PUBLIC,
        request_id=request_id,
    )
    response = conversation_service_pb2.CreateChannelResponse
    return str((await knock(channel, token, "CreateChannel", request, response)).conversation.conversation_id)


async def test_a_bound_account_finds_its_workspaces_and_no_others(office: Office, channel: grpc.aio.Channel) -> None:
    elsewhere = await office.token("doors.use", workspace_ids=[str(uuid.uuid4())])
    unbound = await office.token("doors.use")
    hidden = await refused(list_members(channel, elsewhere, HOUSE))
    unknown = await refused(list_members(channel, unbound, str(uuid.uuid4())))
    assert (hidden.code, hidden.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert hidden.raw == unknown.raw
    bound = await office.token("doors.use", workspace_ids=[str(uuid.uuid4()), HOUSE])
    for token in (bound, unbound):
        for workspace_id in (HOUSE, HOUSE.upper()):
            await list_members(channel, token, workspace_id)


async def test_a_bound_account_is_refused_where_nothing_is_about_a_workspace(
    office: Office, channel: grpc.aio.Channel
) -> None:
    bound = await office.token("doors.use", workspace_ids=[HOUSE])
    refusal = await refused(create_workspace(channel, bound))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
    await create_workspace(channel, await office.token("doors.use"))


async def test_the_scope_comes_before_the_workspace(office: Office, channel: grpc.aio.Channel) -> None:
    without = await office.token("doors.other", workspace_ids=[HOUSE])
    assert (await refused(list_members(channel, without, HOUSE))).reason == "CALLER_NOT_ALLOWED"


async def test_a_revoked_key_opens_no_door_from_the_next_call_on(office: Office, channel: grpc.aio.Channel) -> None:
    account = await office.account("doors.use")
    made = await office.create_key(account.service_account_id)
    token = await office.exchange(made.service_key)
    await create_workspace(channel, token)
    await office.revoke_key(account.service_account_id, made.key.key_id)
    refusal = await refused(create_workspace(channel, token))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "SESSION_ENDED")


async def test_a_service_account_repeats_its_own_calls_and_no_other_ones(
    office: Office, channel: grpc.aio.Channel
) -> None:
    one, other = [await office.token("doors.use") for _ in range(2)]
    request_id = str(uuid.uuid4())
    first = await create_channel(channel, one, request_id)
    assert await create_channel(channel, one, request_id) == first
    assert await create_channel(channel, other, request_id) != first
    assert await create_channel(channel, one, str(uuid.uuid4())) != first
