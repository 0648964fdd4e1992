"""guildhall.guest.v1.GuestService."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from guildhall.guest.v1 import guest_service_pb2 as pb
from guildhall.guest.v1 import guest_service_pb2_grpc as rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.errors import NotFound
from services.chassis.frame import Frame
from services.guest import activities, departures, grants, guests, wire
from services.guest.access import Access
from services.guest.errors import GuestEnded, SponsorUnfit
from services.guest.peers import Identity, Membership, Messaging
from services.guest.servicers.calls import Changes
from services.guest.servicers.guest_policies import GuestPolicyRpcs
from services.guest.servicers.guest_reads import GuestReadRpcs
from services.guest.servicers.visible_members import VisibleMemberRpcs
from services.guest.visibility import Visibility

ROLES: Mapping[int, str] = MappingProxyType({pb.PROMOTED_ROLE_VIEWER: "viewer", pb.PROMOTED_ROLE_MEMBER: "member"})


class GuestService(GuestReadRpcs, GuestPolicyRpcs, VisibleMemberRpcs, rpc.GuestServiceServicer):
    """Changes guests; what is only shown, and the policy, are in the other classes."""

    def __init__(
        self,
        frame: Frame,
        *,
        identity: Identity,
        membership: Membership,
        messaging: Messaging,
        access: Access,
        changes: Changes,
        visibility: Visibility,
    ) -> None:
        GuestReadRpcs.__init__(self, frame, access=access, visibility=visibility)
        GuestPolicyRpcs.__init__(self, frame, access=access, changes=changes)
        VisibleMemberRpcs.__init__(self, frame, access=access, identity=identity, visibility=visibility)
        self._membership = membership
        self._messaging = messaging

    async def ExtendGuest(self, request: pb.ExtendGuestRequest, context: Any) -> pb.ExtendGuestResponse:
        """A later expiry, and a plan of its own for expiry and notices."""
        expire_at = wire.read_time(request.expire_time, field="expire_time")

        async def work(tx: AsyncConnection, before: Row[Any]) -> pb.ExtendGuestResponse:
            row = await guests.extend(tx, **_ids(request), expire_at=expire_at, etag=request.etag)
            await _record(tx, "guest.extended", before)
            return pb.ExtendGuestResponse(guest=wire.guest(row))

        return await self._changes.make(request, pb.ExtendGuestResponse, guest=request, work=work)

    async def GrantChannel(self, request: pb.GrantChannelRequest, context: Any) -> pb.GrantChannelResponse:
        """A channel that the caller sees; its times are those of the request."""
        expire_at, history_start_at = (_time(request, name) for name in ("expire_time", "history_start_time"))
        standing = await self._access.require_standing(request.workspace_id)
        sees = not standing.is_guest and await self._messaging.sees_channels(
            [request.conversation_id.lower()], workspace_id=request.workspace_id, member_id=standing.member_id
        )

        async def work(tx: AsyncConnection, before: Row[Any]) -> pb.GrantChannelResponse:
            if not sees:
                raise NotFound
            row = await grants.grant(
                tx,
                **_ids(request),
                conversation_id=request.conversation_id,
                expire_at=expire_at,
                history_start_at=history_start_at,
                etag=request.etag,
            )
            await _record(tx, "guest.channel_granted", before, conversation_id=request.conversation_id)
            return pb.GrantChannelResponse(guest=wire.guest(row))

        return await self._changes.make(request, pb.GrantChannelResponse, guest=request, work=work)

    async def RevokeChannel(self, request: pb.RevokeChannelRequest, context: Any) -> pb.RevokeChannelResponse:
        """Nothing newer of the channel reaches the guest after the answer."""

        async def work(tx: AsyncConnection, before: Row[Any]) -> pb.RevokeChannelResponse:
            row = await grants.revoke(tx, **_ids(request), conversation_id=request.conversation_id, etag=request.etag)
            await _record(tx, "guest.channel_revoked", before, conversation_id=request.conversation_id)
            return pb.RevokeChannelResponse(guest=wire.guest(row))

        return await self._changes.make(request, pb.RevokeChannelResponse, guest=request, work=work)

    async def RemoveGuest(self, request: pb.RemoveGuestRequest, context: Any) -> pb.RemoveGuestResponse:
        """guest decides; membership has ended the member before the answer, also before a repeated one."""
        actor_user_id = current_call().user_id

        async def work(tx: AsyncConnection, _before: Row[Any]) -> pb.RemoveGuestResponse:
            row = await departures.remove(tx, **_ids(request), actor_user_id=actor_user_id, etag=request.etag)
            return pb.RemoveGuestResponse(guest=wire.guest(row))

        answer = await self._changes.make(request, pb.RemoveGuestResponse, guest=request, work=work)
        await self._membership.remove_guest_member(**_ids(request), actor_user_id=actor_user_id)
        return answer

    async def PromoteGuest(self, request: pb.PromoteGuestRequest, context: Any) -> pb.PromoteGuestResponse:
        """guest decides; membership has made them a full member before the answer, also before a repeated one."""
        actor_user_id, role = current_call().user_id, ROLES[request.role]
        # Suspended, or not in force yet: they could not be made a full member, and would be no guest any more.
        is_active = await self._membership.is_active(**_ids(request))

        async def work(tx: AsyncConnection, _before: Row[Any]) -> pb.PromoteGuestResponse:
            if not is_active:
                raise GuestEnded
            row = await departures.promote(
                tx, **_ids(request), role=role, actor_user_id=actor_user_id, etag=request.etag
            )
            return pb.PromoteGuestResponse(guest=wire.guest(row))

        answer = await self._changes.make(
            request, pb.PromoteGuestResponse, guest=request, work=work, by_managers_only=True
        )
        await self._membership.make_full_member(**_ids(request), role=role, actor_user_id=actor_user_id)
        return answer

    async def TransferSponsor(self, request: pb.TransferSponsorRequest, context: Any) -> pb.TransferSponsorResponse:
        """The next sponsor must be able to do what one does."""
        sponsor_member_id = request.sponsor_member_id
        sponsor = await self._access.find_standing(request.workspace_id, member_id=sponsor_member_id)

        async def work(tx: AsyncConnection, before: Row[Any]) -> pb.TransferSponsorResponse:
            if sponsor is None or sponsor.is_guest or not sponsor.may_invite:
                raise SponsorUnfit
            row = await guests.hand_over(tx, **_ids(request), sponsor_member_id=sponsor_member_id, etag=request.etag)
            await _record(tx, "guest.sponsor_changed", before, sponsor_member_id=sponsor_member_id)
            return pb.TransferSponsorResponse(guest=wire.guest(row))

        return await self._changes.make(request, pb.TransferSponsorResponse, guest=request, work=work)


def _ids(request: Any) -> dict[str, str]:
    return {"workspace_id": request.workspace_id, "member_id": request.member_id}


def _time(request: pb.GrantChannelRequest, field: Any) -> datetime | None:
    return wire.read_time(getattr(request, field), field=field) if request.HasField(field) else None


async def _record(tx: AsyncConnection, action: str, guest: Row[Any], **metadata: str) -> None:
    await activities.record(
        tx, action, workspace_id=str(guest.workspace_id), target_user_id=str(guest.user_id), metadata=metadata
    )
