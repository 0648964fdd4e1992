"""guildhall.messaging.v1.MessageService: one message, its edits and its deletion."""

from typing import Any

from guildhall.messaging.v1 import message_service_pb2 as pb
from guildhall.messaging.v1 import message_service_pb2_grpc as rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import NotFound, PermissionDenied
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.messaging import message_changes, messages, revisions, wire
from services.messaging.access import Access, Viewer
from services.messaging.changes import Changes
from services.messaging.guest_sight import Sights
from services.messaging.ids import uuid_of
from services.messaging.message_changes import Target


class MessageChangeRpcs(rpc.MessageServiceServicer):
    """The RPCs about one message that is there."""

    def __init__(
        self, database: Database, secret: SecretKey, *, access: Access, changes: Changes, sights: Sights
    ) -> None:
        self._database = database
        self._secret = secret
        self._access = access
        self._changes = changes
        self._sights = sights

    async def GetMessage(self, request: pb.GetMessageRequest, context: Any) -> pb.GetMessageResponse:
        """Reads, then asks, then answers."""
        call = current_call()
        place = {
            "workspace_id": uuid_of(request.workspace_id),
            "conversation_id": uuid_of(request.conversation_id),
        }
        message_id = uuid_of(request.message_id)
        page = await self._database.read(
            lambda tx: messages.read_one(tx, **place, user_id=call.user_id, message_id=message_id)
        )
        reader = await self._access.require_reader(call, **place)
        if page is None or not page.rows or not page.is_seen_by(reader):
            raise NotFound
        conversation_id = place["conversation_id"]
        if not reader.is_in_history(conversation_id, page.rows[0].created_at):
            raise NotFound
        shown = wire.shown(page.rows[0], **place, since=reader.since(conversation_id))
        await self._sights.show_messages(call, reader, conversation_id, [shown])
        return pb.GetMessageResponse(message=shown)

    async def EditMessage(self, request: pb.EditMessageRequest, context: Any) -> pb.EditMessageResponse:
        """The answer is read afterwards: what is kept under the request id must not outlive the message's content."""
        call, target = current_call(), _target(request)
        place = {"workspace_id": target.workspace_id, "conversation_id": target.conversation_id}

        reader: Viewer | None = None

        async def permit() -> Viewer:
            nonlocal reader
            reader = await self._access.require_writer(call, **place)
            return reader

        async def work(tx: AsyncConnection, editor: Viewer, locked: Row[Any]) -> pb.EditMessageResponse:
            await message_changes.edit(tx, editor=editor, locked=locked, target=target, request=request)
            return pb.EditMessageResponse()

        await self._changes.make(request, pb.EditMessageResponse, **place, permit=permit, work=work)
        page = await self._database.read(
            lambda tx: messages.read_one(tx, **place, user_id=call.user_id, message_id=target.message_id)
        )
        if page is None or not page.rows or reader is None:
            raise NotFound
        edited = wire.message(page.rows[0], **place, since=reader.since(target.conversation_id))
        await self._sights.show_messages(call, reader, target.conversation_id, [edited])
        return pb.EditMessageResponse(message=edited)

    async def DeleteMessage(self, request: pb.DeleteMessageRequest, context: Any) -> pb.DeleteMessageResponse:
        """In whatever state the conversation is: what somebody wrote is theirs to take back."""
        call, target = current_call(), _target(request)
        place = {"workspace_id": target.workspace_id, "conversation_id": target.conversation_id}

        async def work(tx: AsyncConnection, deleter: Viewer, _locked: Row[Any]) -> pb.DeleteMessageResponse:
            file_ids = await message_changes.delete(tx, deleter=deleter, target=target)
            page = await messages.read_one(tx, **place, user_id=call.user_id, message_id=target.message_id)
            if page is None or not page.rows:
                raise NotFound
            deleted = wire.message(page.rows[0], **place, since=deleter.since(target.conversation_id))
            return pb.DeleteMessageResponse(message=deleted, deleted_file_ids=file_ids)

        return await self._changes.make(
            request,
            pb.DeleteMessageResponse,
            **place,
            permit=lambda: self._access.require_deleter(call, **place),
            work=work,
        )

    async def ListMessageRevisions(
        self, request: pb.ListMessageRevisionsRequest, context: Any
    ) -> pb.ListMessageRevisionsResponse:
        """Reads, then asks who they are, then answers."""
        call = current_call()
        place = {
            "workspace_id": uuid_of(request.workspace_id),
            "conversation_id": uuid_of(request.conversation_id),
        }
        message_id, size = uuid_of(request.message_id), page_size(request.page_size)
        scope = (call.rpc, call.user_id, *place.values(), message_id)
        key = page_key(self._secret, scope, request.page_token)
        before = int(key[0]) if key else revisions.LAST
        page = await self._database.read(
            lambda tx: revisions.read_page(
                tx, **place, message_id=message_id, user_id=call.user_id, before=before, limit=size + 1
            )
        )
        reader = await self._access.require_deleter(call, **place)
        if page is None or not page.rows or not page.is_seen_by(reader):
            raise NotFound
        if not reader.is_in_history(place["conversation_id"], page.rows[0].sent_at):
            raise NotFound
        if page.rows[0].sender_member_id != reader.member_id and not reader.moderates:
            raise PermissionDenied
        rows = [row for row in page.rows if row.version is not None]
        return pb.ListMessageRevisionsResponse(
            revisions=[wire.revision(row) for row in rows[:size]],
            next_page_token=page_token(self._secret, scope, [rows[size - 1].version]) if len(rows) > size else "",
        )


def _target(request: pb.EditMessageRequest | pb.DeleteMessageRequest) -> Target:
    return Target(
        workspace_id=uuid_of(request.workspace_id),
        conversation_id=uuid_of(request.conversation_id),
        message_id=uuid_of(request.message_id),
        etag=request.etag,
    )
