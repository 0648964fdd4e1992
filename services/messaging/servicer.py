"""The three services of messaging: who, what, one transaction, reply."""

import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from guildhall.messaging.v1 import conversation_service_pb2 as conversations_pb
from guildhall.messaging.v1 import conversation_service_pb2_grpc as conversations_rpc
from guildhall.messaging.v1 import event_service_pb2 as events_pb
from guildhall.messaging.v1 import event_service_pb2_grpc as events_rpc
from guildhall.messaging.v1 import message_service_pb2 as messages_pb
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import Call, current_call
from services.chassis.database import Database
from services.chassis.errors import NotFound, Overloaded
from services.chassis.idempotency import no_access_needed, once
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.chassis.wakes import Wakes
from services.messaging import conversations, messages, wire
from services.messaging.access import Access, Viewer
from services.messaging.errors import TooManyStreams
from services.messaging.hub import MOST_STREAMS_OF_USER, Hub
from services.messaging.outgoing import Outgoing
from services.messaging.publishing import Publication, new_send

WOKEN_CONVERSATIONS = "messaging.conversations"
WOKEN_SIGHTS = "messaging.sights"
"""Valkey's channels between the replicas: a conversation with something new, a workspace where somebody sees more."""


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
        workspace_id = _id(request.workspace_id)
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
        call, workspace_id = current_call(), _id(request.workspace_id)
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


class MessageService(messages_rpc.MessageServiceServicer):
    """guildhall.messaging.v1.MessageService."""

    def __init__(self, database: Database, secret: SecretKey, *, access: Access, outgoing: Outgoing) -> None:
        self._database = database
        self._secret = secret
        self._access = access
        self._outgoing = outgoing
        self._publications: set[Publication] = set()
        self._draining = False

    async def SendMessage(
        self, request: messages_pb.SendMessageRequest, context: Any
    ) -> messages_pb.SendMessageResponse:
        """Joins the batch that gathers; session, permission and storing are the batch's."""
        call = current_call()
        send = new_send(call, request, deadline=call.deadline)
        stored = await self._outgoing.send(send)
        return messages_pb.SendMessageResponse(message=wire.sent(send, stored))

    async def PublishMessages(
        self, request_iterator: AsyncIterator[messages_pb.PublishMessagesRequest], context: Any
    ) -> AsyncGenerator[messages_pb.PublishMessagesResponse, None]:
        """The same, for a stream of messages."""
        if self._draining:
            # The gateway still sends some for seconds: nobody would tell them to end.
            raise Overloaded("This server is going away; come back.")
        call = current_call()
        if sum(each.user_id == call.user_id for each in self._publications) >= MOST_STREAMS_OF_USER:
            raise TooManyStreams
        publication = Publication(call, self._outgoing)
        self._publications.add(publication)
        try:
            async with contextlib.aclosing(publication.responses(request_iterator)) as responses:
                async for response in responses:
                    yield response
        finally:
            self._publications.discard(publication)

    def drain(self) -> None:
        """Ends the open publications as soon as what they have read is stored."""
        self._draining = True
        for publication in self._publications:
            publication.drain()

    async def ListMessages(
        self, request: messages_pb.ListMessagesRequest, context: Any
    ) -> messages_pb.ListMessagesResponse:
        """Reads, then asks, then answers: who lost access before the reading is refused."""
        call = current_call()
        workspace_id, conversation_id = _id(request.workspace_id), _id(request.conversation_id)
        scope = (call.rpc, call.user_id, workspace_id, conversation_id)
        key = page_key(self._secret, scope, request.page_token)
        size = page_size(request.page_size)
        page = await self._database.read(
            lambda tx: messages.read_page(
                tx,
                workspace_id=workspace_id,
                conversation_id=conversation_id,
                user_id=call.user_id,
                before=int(key[0]) if key else messages.LAST,
                limit=size + 1,
            )
        )
        reader = await self._access.require_reader(call, workspace_id=workspace_id, conversation_id=conversation_id)
        if page is None or not page.is_seen_by(reader):
            raise NotFound
        shown = page.rows[:size]
        more = len(page.rows) > size
        return messages_pb.ListMessagesResponse(
            messages=[wire.message(r, workspace_id=workspace_id, conversation_id=conversation_id) for r in shown],
            next_page_token=page_token(self._secret, scope, [shown[-1].seq]) if more else "",
        )


class EventService(events_rpc.EventServiceServicer):
    """guildhall.messaging.v1.EventService."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def Subscribe(self, request: events_pb.SubscribeRequest, context: Any) -> AsyncGenerator[Any, None]:
        """The hub delivers; this only writes: messages, or bytes of them that were serialised once for all."""
        resume = {_id(position.conversation_id): position.event_seq for position in request.positions}
        subscription = self._hub.subscribe(current_call(), workspace_id=_id(request.workspace_id), resume=resume)
        async with contextlib.aclosing(subscription) as responses:
            async for response in responses:
                yield response


def _id(value: str) -> str:
    """A UUID as PostgreSQL writes it: clients may send capitals."""
    return str(uuid.UUID(value))
