"""guildhall.messaging.v1.ConversationService."""

from typing import Any

from guildhall.messaging.v1 import conversation_service_pb2 as conversations_pb
from guildhall.messaging.v1 import conversation_service_pb2_grpc as conversations_rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import Call, current_call
from services.chassis.database import Database
from services.chassis.idempotency import no_access_needed, once
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.chassis.wakes import Wakes
from services.messaging import conversations, wire
from services.messaging.access import Access, Viewer
from services.messaging.hub import WOKEN_SIGHTS, Hub
from services.messaging.ids import uuid_of


class ConversationService(conversations_rpc.ConversationServiceServicer):
    """guildhall.messaging.v1.ConversationService."""

    def __init__(self, database: Database, secret: SecretKey, *, access: Access, hub: Hub, wakes: Wakes) -> None:
        self._database = database
        self._secret = secret
        self._access = access
        self._hub = hub
        self._wakes = wakes

    async def CreateChannel(
        self, request: conversations_pb.CreateChannelRequest, context: Any
    ) -> conversations_pb.CreateChannelResponse:
        """Asks first; the channel and its first participant are one transaction."""
        workspace_id = uuid_of(request.workspace_id)
        creator = await self._access.require_creator(current_call(), workspace_id=workspace_id)
        visibility = wire.VISIBILITY_NAMES[request.visibility]

        async def work(tx: AsyncConnection, _granted: None) -> conversations_pb.CreateChannelResponse:
            row = await conversations.create_channel(tx, creator=creator, name=request.name, visibility=visibility)
            return conversations_pb.CreateChannelResponse(conversation=wire.conversation(row))

        answer = await once(
            self._database,
            self._secret,
            request,
            conversations_pb.CreateChannelResponse,
            access=no_access_needed,
            work=work,
        )
        self._hub.wake_sights(workspace_id)
        self._wakes.publish(WOKEN_SIGHTS, workspace_id)
        return answer

    async def ListConversations(
        self, request: conversations_pb.ListConversationsRequest, context: Any
    ) -> conversations_pb.ListConversationsResponse:
        """Reads as if the caller were a full member, then asks. A guest's list is read again, and asked for again."""
        call, workspace_id = current_call(), uuid_of(request.workspace_id)
        scope = (call.rpc, call.user_id, workspace_id)
        key = page_key(self._secret, scope, request.page_token)
        after, size = str(key[0]) if key else conversations.FIRST, page_size(request.page_size)

        async def read(tx: AsyncConnection) -> Any:
            return await conversations.list_as_member(
                tx, workspace_id=workspace_id, user_id=call.user_id, after=after, limit=size + 1
            )

        rows: list[Row[Any]] = list(await self._database.read(read))
        viewer = await self._access.require_viewer(call, workspace_id=workspace_id)
        if viewer.granted is None:
            found = [row for row in rows if row.visibility == "public" or viewer.member_id in (row.member_ids or ())]
        else:
            rows, found = await self._list_as_guest(call, viewer, after=after, limit=size + 1)
        has_more = len(rows) > size
        last_id = rows[size - 1].id if has_more else ""
        return conversations_pb.ListConversationsResponse(
            conversations=[wire.conversation(row) for row in found if not has_more or row.id <= last_id],
            next_page_token=page_token(self._secret, scope, [last_id]) if has_more else "",
        )

    async def _list_as_guest(
        self, call: Call, viewer: Viewer, *, after: str, limit: int
    ) -> tuple[list[Row[Any]], list[Row[Any]]]:
        """The rows read, and those of them that were still granted afterwards."""
        rows = await self._database.read(
            lambda tx: conversations.list_as_guest(tx, viewer=viewer, after=after, limit=limit)
        )
        granted = (await self._access.require_viewer(call, workspace_id=viewer.workspace_id)).granted or frozenset()
        return list(rows), [row for row in rows if row.id in granted]

    async def BatchGetConversations(
        self, request: conversations_pb.BatchGetConversationsRequest, context: Any
    ) -> conversations_pb.BatchGetConversationsResponse:
        """One statement; guest answers for who asks."""
        rows = await self._database.read(
            lambda tx: conversations.get_visible(
                tx,
                workspace_id=request.workspace_id,
                member_id=request.member_id,
                ids=request.conversation_ids,
            )
        )
        return conversations_pb.BatchGetConversationsResponse(conversations=[wire.conversation(row) for row in rows])
