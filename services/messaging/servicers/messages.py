"""guildhall.messaging.v1.MessageService: sending and reading."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from guildhall.messaging.v1 import message_service_pb2 as messages_pb
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import NotFound, Overloaded
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.messaging import messages, wire
from services.messaging.access import Access, Viewer
from services.messaging.bodies import BodyMac
from services.messaging.changes import Changes
from services.messaging.errors import TooManyStreams
from services.messaging.guest_sight import NOBODY, Sights
from services.messaging.hub import MOST_STREAMS_OF_USER
from services.messaging.ids import uuid_of
from services.messaging.outgoing import Outgoing
from services.messaging.peers import Membership
from services.messaging.publishing import Publication, new_send
from services.messaging.sends import Send, Stored
from services.messaging.servicers.message_changes import MessageChangeRpcs
from services.messaging.servicers.message_searches import MessageSearchRpcs


class MessageService(MessageChangeRpcs, MessageSearchRpcs, messages_rpc.MessageServiceServicer):
    """guildhall.messaging.v1.MessageService."""

    def __init__(
        self,
        database: Database,
        secret: SecretKey,
        *,
        access: Access,
        membership: Membership,
        sights: Sights,
        changes: Changes,
        outgoing: Outgoing,
        publications: set[Publication],
    ) -> None:
        """`publications` is kept as those that are open."""
        MessageChangeRpcs.__init__(self, database, secret, access=access, changes=changes, sights=sights)
        MessageSearchRpcs.__init__(self, database, secret, access=access, membership=membership, sights=sights)
        self._outgoing = outgoing
        self._body_mac = BodyMac(secret)
        self._publications = publications
        self._draining = False

    async def SendMessage(
        self, request: messages_pb.SendMessageRequest, context: Any
    ) -> messages_pb.SendMessageResponse:
        """Joins the batch that gathers; session, permission and storing are the batch's."""
        call = current_call()
        send = new_send(call, request, self._body_mac, deadline=call.deadline)
        stored = await self._outgoing.send(send)
        if not stored.was_there and send.extras is None:
            return messages_pb.SendMessageResponse(message=wire.sent(send, stored))
        return messages_pb.SendMessageResponse(message=await self._read_back(send, stored))

    async def _read_back(self, send: Send, stored: Stored) -> messages_pb.Message:
        """A message as it is now: one that had been sent before may have been edited since."""
        place = {"workspace_id": send.workspace_id, "conversation_id": send.conversation_id}
        page = await self._database.read(
            lambda tx: messages.read_one(tx, **place, user_id=send.user_id, message_id=stored.message_id)
        )
        if page is None or not page.rows:
            raise NotFound
        found = wire.message(page.rows[0], **place, since=send.since)
        if send.granted is not None:
            sender = Viewer(send.workspace_id, send.user_id, stored.sender_member_id, {})
            await self._sights.show(sender, [found], reactors=NOBODY)
        return found

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
        publication = Publication(call, self._outgoing, self._body_mac)
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
        workspace_id, conversation_id = uuid_of(request.workspace_id), uuid_of(request.conversation_id)
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
        rows = page.rows[:size]
        seen = [row for row in rows if reader.is_in_history(conversation_id, row.created_at)]
        place = {"workspace_id": workspace_id, "conversation_id": conversation_id}
        shown = [wire.shown(row, **place, since=reader.since(conversation_id)) for row in seen]
        await self._sights.show_messages(call, reader, conversation_id, shown)
        # Where a guest's history begins, their pages end.
        more = len(page.rows) > size and seen[-1:] == rows[-1:]
        return messages_pb.ListMessagesResponse(
            messages=shown, next_page_token=page_token(self._secret, scope, [rows[-1].seq]) if more else ""
        )
