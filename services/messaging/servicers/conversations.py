"""guildhall.messaging.v1.ConversationService: making, reading and changing conversations."""

import functools
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration
from guildhall.messaging.v1 import conversation_service_pb2 as pb
from guildhall.messaging.v1 import conversation_service_pb2_grpc as rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import masks
from services.chassis.call import Call, current_call
from services.chassis.database import Database
from services.chassis.errors import InvalidRequest, NotFound, PermissionDenied
from services.chassis.idempotency import no_access_needed, once
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.messaging import conversation_changes, conversations, directs, group_conversations, wire
from services.messaging.access import MANAGE, Access, Viewer
from services.messaging.changes import Changes
from services.messaging.conversation_changes import Update
from services.messaging.guest_sight import Sights
from services.messaging.ids import uuid_of
from services.messaging.participants import require_open
from services.messaging.peers import Guests, Membership
from services.messaging.servicers.participants import ParticipantRpcs


class ConversationService(ParticipantRpcs, rpc.ConversationServiceServicer):
    """guildhall.messaging.v1.ConversationService.

    `on_sights` is told of workspaces where somebody sees more, `on_group` that a group is to be read.
    """

    def __init__(
        self,
        database: Database,
        secret: SecretKey,
        *,
        access: Access,
        membership: Membership,
        guests: Guests,
        sights: Sights,
        changes: Changes,
        on_sights: Callable[[str], None],
        on_group: Callable[[], None],
    ) -> None:
        self._database = database
        self._secret = secret
        self._access = access
        self._membership = membership
        self._guests = guests
        self._sights = sights
        self._changes = changes
        self._on_sights = on_sights
        self._on_group = on_group

    async def CreateChannel(self, request: pb.CreateChannelRequest, context: Any) -> pb.CreateChannelResponse:
        """Asks first; the channel and its first participant are one transaction."""
        workspace_id = uuid_of(request.workspace_id)
        creator = await self._access.require_creator(current_call(), workspace_id=workspace_id)
        retention_seconds = _retention_seconds(request, "retention")

        async def work(tx: AsyncConnection, _granted: None) -> pb.CreateChannelResponse:
            row = await conversations.create_channel(
                tx,
                creator=creator,
                name=request.name,
                topic=request.topic,
                visibility=wire.VISIBILITY_NAMES[request.visibility],
                retention_seconds=retention_seconds,
            )
            return pb.CreateChannelResponse(conversation=wire.conversation(row))

        answer = await once(
            self._database, self._secret, request, pb.CreateChannelResponse, access=no_access_needed, work=work
        )
        self._on_sights(workspace_id)
        return answer

    async def CreateGroupConversation(
        self, request: pb.CreateGroupConversationRequest, context: Any
    ) -> pb.CreateGroupConversationResponse:
        """The same for a group; its other people are written down after the answer."""
        workspace_id, group_id = uuid_of(request.workspace_id), uuid_of(request.group_id)
        creator = await self._access.require_group_manager(current_call(), workspace_id=workspace_id, group_id=group_id)
        retention_seconds = _retention_seconds(request, "retention")

        async def work(tx: AsyncConnection, _granted: None) -> pb.CreateGroupConversationResponse:
            row = await group_conversations.create(
                tx,
                creator=creator,
                group_id=group_id,
                name=request.name,
                topic=request.topic,
                retention_seconds=retention_seconds,
            )
            return pb.CreateGroupConversationResponse(conversation=wire.conversation(row))

        answer = await once(
            self._database,
            self._secret,
            request,
            pb.CreateGroupConversationResponse,
            access=no_access_needed,
            work=work,
        )
        self._on_group()
        self._on_sights(workspace_id)
        return answer

    async def OpenDirectConversation(
        self, request: pb.OpenDirectConversationRequest, context: Any
    ) -> pb.OpenDirectConversationResponse:
        """Who opens it may, and the others are there to be written to; a guest if they share a channel."""
        workspace_id = uuid_of(request.workspace_id)
        opener = await self._access.require_creator(current_call(), workspace_id=workspace_id)
        member_ids = {uuid_of(member_id) for member_id in request.member_ids} - {opener.member_id}
        if not member_ids:
            raise InvalidRequest(fields=[("member_ids", "must name somebody else")])
        others = await self._membership.find_members(member_ids, workspace_id=workspace_id)
        guest_id = directs.require_reachable(others, member_ids)
        channels = await self._guests.channels(workspace_id=workspace_id, member_id=guest_id) if guest_id else None

        async def work(tx: AsyncConnection, _granted: None) -> pb.OpenDirectConversationResponse:
            if channels is not None:
                await directs.require_shared(tx, opener, others=others, guest_id=guest_id, granted=channels.grants)
            row = await directs.open_one(tx, opener, others=others)
            return pb.OpenDirectConversationResponse(conversation=wire.conversation(row))

        answer = await once(
            self._database,
            self._secret,
            request,
            pb.OpenDirectConversationResponse,
            access=no_access_needed,
            work=work,
        )
        self._on_sights(workspace_id)
        return answer

    async def GetConversation(self, request: pb.GetConversationRequest, context: Any) -> pb.GetConversationResponse:
        """Reads, then asks, then answers."""
        call = current_call()
        named = {
            "workspace_id": uuid_of(request.workspace_id),
            "conversation_id": uuid_of(request.conversation_id),
        }
        row = await self._database.read(lambda tx: conversations.read_one(tx, **named, user_id=call.user_id))
        reader = await self._access.require_reader(call, **named)
        if reader.granted is not None:
            return pb.GetConversationResponse(conversation=await self._get_as_guest(call, reader, **named))
        if row is None or not conversations.is_seen(row, reader):
            raise NotFound
        return pb.GetConversationResponse(conversation=wire.conversation_for(row, reader))

    async def _get_as_guest(
        self, call: Call, reader: Viewer, *, workspace_id: str, conversation_id: str
    ) -> pb.Conversation:
        """Read again as the guest they are, and asked for again."""
        while True:
            row = await self._database.read(
                functools.partial(conversations.read_as_guest, viewer=reader, conversation_id=conversation_id)
            )
            again = await self._access.require_again(call, reader, conversation_id=conversation_id)
            if row is None:
                raise NotFound
            if again.granted == reader.granted:
                break
            # Their history may begin later by now.
            reader = again
        shown = wire.conversation_for(row, reader)
        await self._sights.show_conversations(reader, [shown])
        return shown

    async def ListConversations(
        self, request: pb.ListConversationsRequest, context: Any
    ) -> pb.ListConversationsResponse:
        """Reads as if the caller were a full member, then asks. A guest's list is read again, and asked for again."""
        call, workspace_id = current_call(), uuid_of(request.workspace_id)
        kind = wire.KIND_NAMES.get(request.kind)
        scope = (call.rpc, call.user_id, workspace_id, kind or "", str(request.archived), str(request.abandoned))
        key = page_key(self._secret, scope, request.page_token)
        size = page_size(request.page_size)
        page = {
            "workspace_id": workspace_id,
            "kind": kind,
            "archived": request.archived,
            "after": str(key[0]) if key else conversations.FIRST,
            "limit": size + 1,
        }
        if request.abandoned:
            # Before the reading too: going through all private channels is not for whoever asks.
            await self._require_overseer(call, workspace_id)
        read: Callable[..., Awaitable[Sequence[Row[Any]]]] = conversations.list_abandoned
        if not request.abandoned:
            read = functools.partial(conversations.list_as_member, user_id=call.user_id)
        rows = list(await self._database.read(functools.partial(read, **page)))
        group_ids = {row.conversation["group_id"] for row in rows} - {None}
        viewer = await self._access.require_viewer(call, workspace_id=workspace_id, group_ids=group_ids)
        if request.abandoned:
            await self._require_overseer(call, workspace_id)
            seen: Collection[str] = {row.conversation["id"] for row in rows}
        elif viewer.granted is not None:
            rows, seen = await self._list_as_guest(call, viewer, page)
        else:
            seen = {row.conversation["id"] for row in rows if conversations.is_seen(row, viewer)}
        has_more = len(rows) > size
        shown = [wire.conversation_for(row, viewer) for row in rows[:size] if row.conversation["id"] in seen]
        await self._sights.show_conversations(viewer, shown)
        last_id = rows[size - 1].conversation["id"] if has_more else ""
        return pb.ListConversationsResponse(
            conversations=shown, next_page_token=page_token(self._secret, scope, [last_id]) if has_more else ""
        )

    async def _require_overseer(self, call: Call, workspace_id: str) -> None:
        """Who manages the workspace's conversations, whoever made them. NOT_FOUND, PERMISSION_DENIED."""
        await self._access.require_viewer(call, workspace_id=workspace_id, group_ids=())
        if not await self._access.is_moderator(call, workspace_id=workspace_id, capability=MANAGE):
            raise PermissionDenied

    async def _list_as_guest(
        self, call: Call, viewer: Viewer, page: dict[str, Any]
    ) -> tuple[list[Row[Any]], Collection[str]]:
        """The rows read, and the ids of those that were still seen afterwards."""
        while True:
            rows = await self._database.read(functools.partial(conversations.list_as_guest, viewer=viewer, **page))
            again = await self._access.require_viewer(call, workspace_id=viewer.workspace_id, group_ids=())
            if again.member_id != viewer.member_id or again.granted is None:
                # Promoted meanwhile, they see another list than this one, which nobody has read yet.
                return list(rows), ()
            if again.granted == viewer.granted:
                kinds = {row.conversation["id"]: row.conversation["kind"] for row in rows}
                direct_ids = [key for key, kind in kinds.items() if kind == "direct"]
                return list(rows), kinds.keys() - set(direct_ids) | set(
                    await self._access.seen_among(again, direct_ids)
                )
            viewer = again

    async def UpdateConversation(
        self, request: pb.UpdateConversationRequest, context: Any
    ) -> pb.UpdateConversationResponse:
        """Under the conversation's lock; who sees more or less of it is told at once."""
        wanted = request.conversation
        paths = masks.paths(request.update_mask, allowed=("name", "topic", "visibility", "retention"))
        change = _update(wanted, paths)
        workspace_id, conversation_id = uuid_of(wanted.workspace_id), uuid_of(wanted.conversation_id)

        async def work(tx: AsyncConnection, viewer: Viewer, row: Row[Any]) -> pb.UpdateConversationResponse:
            conversation_changes.require_changeable(row, viewer)
            require_open(row)
            conversation_changes.require_etag(wanted.etag, row)
            changed = await conversation_changes.update(tx, row, change, paths=paths)
            return pb.UpdateConversationResponse(conversation=wire.conversation(changed))

        answer = await self._changes.make(
            request,
            pb.UpdateConversationResponse,
            workspace_id=workspace_id,
            conversation_id=conversation_id,
            permit=lambda: self._manager(workspace_id, conversation_id),
            work=work,
        )
        if "visibility" in paths:
            self._on_sights(workspace_id)
        return answer

    async def ArchiveConversation(
        self, request: pb.ArchiveConversationRequest, context: Any
    ) -> pb.ArchiveConversationResponse:
        """Both ways."""
        workspace_id, conversation_id = uuid_of(request.workspace_id), uuid_of(request.conversation_id)

        async def work(tx: AsyncConnection, viewer: Viewer, row: Row[Any]) -> pb.ArchiveConversationResponse:
            conversation_changes.require_changeable(row, viewer)
            conversation_changes.require_etag(request.etag, row)
            changed = await conversation_changes.archive(tx, row, archive=not request.unarchive)
            return pb.ArchiveConversationResponse(conversation=wire.conversation(changed))

        return await self._changes.make(
            request,
            pb.ArchiveConversationResponse,
            workspace_id=workspace_id,
            conversation_id=conversation_id,
            permit=lambda: self._manager(workspace_id, conversation_id),
            work=work,
        )

    async def BatchGetConversations(
        self, request: pb.BatchGetConversationsRequest, context: Any
    ) -> pb.BatchGetConversationsResponse:
        """One statement; guest answers for who asks."""
        rows = await self._database.read(
            lambda tx: conversations.get_channels(
                tx,
                workspace_id=request.workspace_id,
                member_id=request.member_id,
                ids=request.conversation_ids,
            )
        )
        return pb.BatchGetConversationsResponse(conversations=[wire.conversation(row) for row in rows])


def _retention_seconds(holder: Any, field: str) -> int | None:
    """Whole seconds; None if it is not set. Errors: InvalidRequest."""
    if not holder.HasField("retention"):
        return None
    retention: Duration = holder.retention
    if retention.nanos:
        raise InvalidRequest(fields=[(field, "must be whole seconds")])
    return retention.seconds


def _update(wanted: pb.Conversation, paths: frozenset[str]) -> Update:
    if "name" in paths and not wanted.name:
        raise InvalidRequest(fields=[("conversation.name", "must not be empty")])
    if "visibility" in paths and not wanted.visibility:
        raise InvalidRequest(fields=[("conversation.visibility", "must be public or private")])
    return Update(
        name=wanted.name if "name" in paths else None,
        topic=wanted.topic if "topic" in paths else None,
        visibility=wire.VISIBILITY_NAMES[wanted.visibility] if "visibility" in paths else None,
        sets_retention="retention" in paths,
        retention_seconds=_retention_seconds(wanted, "conversation.retention") if "retention" in paths else None,
    )
