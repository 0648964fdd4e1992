"""guildhall.messaging.v1.ConversationService: who takes part."""

from collections.abc import Callable
from typing import Any

from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.messaging.v1 import conversation_service_pb2 as pb
from guildhall.messaging.v1 import conversation_service_pb2_grpc as rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import NotFound, PermissionDenied
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.messaging import participants, wire
from services.messaging.access import Access, Viewer
from services.messaging.changes import Changes
from services.messaging.conversation_changes import require_changeable
from services.messaging.guest_sight import Sights
from services.messaging.ids import uuid_of
from services.messaging.participants import require_channel, require_open
from services.messaging.peers import Guests, Membership

LARGEST_PEER_PAGE = 1_000


class ParticipantRpcs(rpc.ConversationServiceServicer):
    """Joining, leaving, adding, removing, listing."""

    _database: Database
    _secret: SecretKey
    _access: Access
    _membership: Membership
    _guests: Guests
    _sights: Sights
    _changes: Changes
    _on_sights: Callable[[str], None]

    async def JoinConversation(self, request: pb.JoinConversationRequest, context: Any) -> pb.JoinConversationResponse:
        """By whoever sees it, and is no guest: what a guest sees is not for them to choose."""
        workspace_id, conversation_id = uuid_of(request.workspace_id), uuid_of(request.conversation_id)

        async def work(tx: AsyncConnection, viewer: Viewer, row: Row[Any]) -> pb.JoinConversationResponse:
            _require_full(viewer)
            require_channel(row)
            require_open(row)
            joined = await participants.add(tx, row, member_id=viewer.member_id, user_id=viewer.user_id)
            return pb.JoinConversationResponse(participant=wire.participant(joined))

        answer = await self._changes.make(
            request,
            pb.JoinConversationResponse,
            workspace_id=workspace_id,
            conversation_id=conversation_id,
            permit=lambda: self._reader(workspace_id, conversation_id),
            work=work,
        )
        self._on_sights(workspace_id)
        return answer

    async def LeaveConversation(
        self, request: pb.LeaveConversationRequest, context: Any
    ) -> pb.LeaveConversationResponse:
        """Who is gone already is as they wanted to be."""
        workspace_id, conversation_id = uuid_of(request.workspace_id), uuid_of(request.conversation_id)

        async def work(tx: AsyncConnection, viewer: Viewer, row: Row[Any]) -> pb.LeaveConversationResponse:
            if viewer.granted is not None:
                # What is granted is guest's to take back, and theirs to give up with their membership.
                raise PermissionDenied
            require_channel(row)
            await participants.remove(tx, row, member_id=viewer.member_id)
            return pb.LeaveConversationResponse()

        return await self._changes.make(
            request,
            pb.LeaveConversationResponse,
            workspace_id=workspace_id,
            conversation_id=conversation_id,
            permit=lambda: self._reader(workspace_id, conversation_id),
            work=work,
        )

    async def AddParticipant(self, request: pb.AddParticipantRequest, context: Any) -> pb.AddParticipantResponse:
        """Who is to be added is looked up each time the caller is asked about, before the transaction."""
        workspace_id, conversation_id = uuid_of(request.workspace_id), uuid_of(request.conversation_id)
        added: members.Member | None = None

        async def permit() -> Viewer:
            nonlocal added
            viewer = await self._manager(workspace_id, conversation_id)
            found = await self._membership.find_members([request.member_id], workspace_id=workspace_id)
            added = next((member for member in found if _can_take_part(member)), None)
            return viewer

        async def work(tx: AsyncConnection, viewer: Viewer, row: Row[Any]) -> pb.AddParticipantResponse:
            require_channel(row)
            takes_part = await participants.find(tx, row, member_id=viewer.member_id) is not None
            if not takes_part and not viewer.manages:
                raise PermissionDenied
            require_open(row)
            if added is None:
                raise NotFound
            joined = await participants.add(tx, row, member_id=added.member_id, user_id=added.user_id)
            return pb.AddParticipantResponse(participant=wire.participant(joined))

        answer = await self._changes.make(
            request,
            pb.AddParticipantResponse,
            workspace_id=workspace_id,
            conversation_id=conversation_id,
            permit=permit,
            work=work,
        )
        self._on_sights(workspace_id)
        return answer

    async def RemoveParticipant(
        self, request: pb.RemoveParticipantRequest, context: Any
    ) -> pb.RemoveParticipantResponse:
        """By whoever may change the channel."""
        workspace_id, conversation_id = uuid_of(request.workspace_id), uuid_of(request.conversation_id)

        async def work(tx: AsyncConnection, viewer: Viewer, row: Row[Any]) -> pb.RemoveParticipantResponse:
            require_channel(row)
            require_changeable(row, viewer)
            require_open(row)
            if not await participants.remove(tx, row, member_id=uuid_of(request.member_id)):
                raise NotFound
            return pb.RemoveParticipantResponse()

        return await self._changes.make(
            request,
            pb.RemoveParticipantResponse,
            workspace_id=workspace_id,
            conversation_id=conversation_id,
            permit=lambda: self._manager(workspace_id, conversation_id),
            work=work,
        )

    async def ListParticipants(self, request: pb.ListParticipantsRequest, context: Any) -> pb.ListParticipantsResponse:
        """Reads, then asks, then answers. A guest is told of the channel's guests as well, by whom they see."""
        call = current_call()
        named = {
            "workspace_id": uuid_of(request.workspace_id),
            "conversation_id": uuid_of(request.conversation_id),
        }
        scope = (call.rpc, call.user_id, *named.values())
        key = page_key(self._secret, scope, request.page_token)
        size = page_size(request.page_size)
        after = str(key[0]) if key else participants.FIRST
        rows = await self._database.read(
            lambda tx: participants.list_page(tx, **named, user_id=call.user_id, after=after, limit=size + 1)
        )
        reader = await self._access.require_reader(call, **named)
        if not rows or not _is_seen(rows[0], reader):
            raise NotFound
        listed = [wire.participant(row) for row in rows if row.member_id is not None]
        if reader.granted is not None and named["conversation_id"] in reader.granted:
            listed = await self._list_sharing(reader, named["conversation_id"], after, size + 1, listed)
            await self._access.require_again(call, reader, conversation_id=named["conversation_id"])
        more = len(listed) > size
        return pb.ListParticipantsResponse(
            participants=listed[:size],
            next_page_token=page_token(self._secret, scope, [listed[size - 1].member_id]) if more else "",
        )

    async def _list_sharing(
        self, reader: Viewer, conversation_id: str, after: str, size: int, listed: list[pb.Participant]
    ) -> list[pb.Participant]:
        """Whom a guest sees in a channel that is granted to them: page by page, guest's word for who is there."""
        seen = await self._guests.list_sharing(
            workspace_id=reader.workspace_id,
            member_id=reader.member_id,
            conversation_id=conversation_id,
            after=after,
            size=size,
        )
        known = {participant.member_id: participant for participant in listed}
        # Guests take no part in channels: there is no time since when they do.
        return [
            known.get(user.member_id, pb.Participant(member_id=user.member_id, user_id=user.user_id)) for user in seen
        ]

    async def ListCoParticipants(
        self, request: pb.ListCoParticipantsRequest, context: Any
    ) -> pb.ListCoParticipantsResponse:
        """One statement; guest answers for who asks."""
        size = request.page_size or LARGEST_PEER_PAGE
        rows = await self._database.read(
            lambda tx: participants.list_together(
                tx,
                workspace_id=request.workspace_id,
                conversation_ids=request.conversation_ids,
                among=request.member_ids,
                after=request.after_member_id,
                limit=size + 1,
            )
        )
        found = [pb.Participant(member_id=row.member_id, user_id=row.user_id) for row in rows[:size]]
        return pb.ListCoParticipantsResponse(participants=found, has_more=len(rows) > size)

    async def _reader(self, workspace_id: str, conversation_id: str) -> Viewer:
        return await self._access.require_reader(
            current_call(), workspace_id=workspace_id, conversation_id=conversation_id
        )

    async def _manager(self, workspace_id: str, conversation_id: str) -> Viewer:
        return await self._access.require_manager(
            current_call(), workspace_id=workspace_id, conversation_id=conversation_id
        )


def _require_full(viewer: Viewer) -> None:
    """PermissionDenied for guests, GuestLocked for locked ones."""
    if viewer.granted is not None:
        raise viewer.locked or PermissionDenied


def _can_take_part(member: members.Member) -> bool:
    return member.state == members.MEMBER_STATE_ACTIVE and member.kind == members.MEMBER_KIND_FULL


def _is_seen(row: Row[Any], reader: Viewer) -> bool:
    """A guest was found to see it when they were asked about; of a group's the reader was asked about the group."""
    return reader.granted is not None or row.visibility == "public" or reader.member_id in row.own_member_ids
