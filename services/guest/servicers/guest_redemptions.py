"""guildhall.guest.v1.GuestInviteService: how a link makes a guest of somebody."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from guildhall.guest.v1 import guest_invite_service_pb2 as invite_pb
from guildhall.guest.v1 import guest_invite_service_pb2_grpc as invite_rpc
from guildhall.guest.v1 import guest_service_pb2 as pb
from guildhall.membership.v1 import member_service_pb2 as members
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.errors import IdempotencyMismatch, LimitReached, NotFound, PeerUnavailable
from services.chassis.frame import Frame
from services.chassis.idempotency import Repeatable, no_access_needed, once
from services.chassis.secret import token_hash
from services.guest import invites, redemptions, wire
from services.guest.access import Access
from services.guest.errors import AlreadyMember, GuestInviteForAnother, GuestInviteInvalid
from services.guest.peers import Identity, Membership, Messaging
from services.guest.sight import Losses
from services.guest.visibility import Visibility

REDEEM_TRIES = 3
CONFIRM_PAUSE_SECONDS = 0.1
CONFIRM_RESERVE_SECONDS = 0.3
"""What is left of the call's time when confirming is given up, so that the answer says why."""


class GuestRedemptionRpcs(invite_rpc.GuestInviteServiceServicer):
    """Redeems links. redemptions.py says why it takes several transactions."""

    def __init__(
        self,
        frame: Frame,
        *,
        identity: Identity,
        membership: Membership,
        messaging: Messaging,
        access: Access,
        losses: Losses,
        visibility: Visibility,
    ) -> None:
        self._frame = frame
        self._database = frame.database
        self._identity = identity
        self._membership = membership
        self._messaging = messaging
        self._access = access
        self._losses = losses
        self._visibility = visibility

    async def RedeemGuestInvite(
        self, request: invite_pb.RedeemGuestInviteRequest, context: Any
    ) -> invite_pb.RedeemGuestInviteResponse:
        """By any user, and confirmed before the answer."""
        for _ in range(REDEEM_TRIES):
            try:
                answer = await self._redeem(request)
            except redemptions.Superseded:
                continue
            # A repetition confirms as well: the first call may have died before it could. A guest whose member is
            # gone is undone; if they had ended before, this was the answer of an earlier stay, repeated.
            if await self._confirm(answer.guest) or not await self._undo(answer.guest, request):
                await self._losses.settle(answer.guest.workspace_id)
                await self._visibility.reduce(answer.guest)
                return answer
        raise PeerUnavailable

    async def _redeem(self, request: invite_pb.RedeemGuestInviteRequest) -> invite_pb.RedeemGuestInviteResponse:
        """The caller as the guest that they are, or have become; membership has not confirmed them yet."""
        invite = await self._database.read(lambda tx: invites.find(tx, token_hash=token_hash(request.token)))
        if invite is None:
            raise GuestInviteInvalid
        person = {"workspace_id": str(invite.workspace_id), "user_id": current_call().user_id}
        if await self._database.read(lambda tx: redemptions.find_live(tx, **person)):
            return await self._once(request, lambda tx: redemptions.get_live(tx, **person))
        if not invite.works or not await self._is_backed(invite):
            await self._database.transaction(lambda tx: redemptions.abandon_of_person(tx, **person))
            raise GuestInviteInvalid
        normalized_email = await self._identity.verified_email(person["user_id"])
        await self._require_presenter(invite, normalized_email)
        attempt = {"invite_id": str(invite.id), **person}
        redemption_id = await self._database.transaction(lambda tx: redemptions.begin(tx, **attempt))
        try:
            member_id = await self._add_member(redemption_id=redemption_id, normalized_email=normalized_email, **person)
            decided = {"redemption_id": redemption_id, "member_id": member_id, **attempt}
            answer = await self._once(request, lambda tx: redemptions.decide(tx, **decided))
        except (GuestInviteInvalid, AlreadyMember, LimitReached, IdempotencyMismatch):
            await self._abandon(redemption_id)
            raise
        if answer.guest.member_id != member_id:
            # The answer of an earlier stay was repeated, so this attempt decided nothing.
            await self._abandon(redemption_id)
        return answer

    async def _is_backed(self, invite: Row[Any]) -> bool:
        """Whether the link's creator may still invite guests, could sign in, and sees every channel of it."""
        workspace_id, member_id = str(invite.workspace_id), str(invite.created_by_member_id)
        creator, sees = await asyncio.gather(
            self._access.find_standing(workspace_id, member_id=member_id),
            self._messaging.sees_channels(
                list(map(str, invite.conversation_ids)), workspace_id=workspace_id, member_id=member_id
            ),
        )
        return creator is not None and creator.may_invite and sees

    async def _require_presenter(self, invite: Row[Any], normalized_email: str) -> None:
        """Refuses somebody for whom a bound link is not, before anything is spent.

        GUEST_INVITE_FOR_ANOTHER; GUEST_INVITE_INVALID once too many others have tried.
        """
        if not invites.is_bound_to_another(invite, normalized_email):
            return
        who = {"invite_id": str(invite.id), "user_id": current_call().user_id}
        if await self._database.transaction(lambda tx: invites.note_wrong_presenter(tx, **who)):
            raise GuestInviteForAnother
        raise GuestInviteInvalid

    async def _add_member(self, *, workspace_id: str, user_id: str, redemption_id: str, normalized_email: str) -> str:
        """The member id that the caller will have as a guest."""
        try:
            member = await self._membership.add_guest_member(
                workspace_id=workspace_id,
                user_id=user_id,
                redemption_id=redemption_id,
                normalized_email=normalized_email,
            )
        except NotFound:
            raise GuestInviteInvalid from None
        if member.kind != members.MEMBER_KIND_GUEST:
            raise AlreadyMember
        return member.member_id

    async def _once(
        self,
        request: invite_pb.RedeemGuestInviteRequest,
        decide: Callable[[AsyncConnection], Awaitable[Row[Any]]],
    ) -> invite_pb.RedeemGuestInviteResponse:
        async def work(tx: AsyncConnection, _granted: None) -> invite_pb.RedeemGuestInviteResponse:
            return invite_pb.RedeemGuestInviteResponse(guest=wire.guest(await decide(tx)))

        return await once(
            self._database,
            self._frame.secret,
            request,
            invite_pb.RedeemGuestInviteResponse,
            access=no_access_needed,
            work=work,
        )

    async def _confirm(self, guest: pb.Guest) -> bool:
        """Has membership let the guest in, within the call's time; False if the member is gone."""
        member = {"workspace_id": guest.workspace_id, "member_id": guest.member_id}
        while True:
            try:
                if not await self._membership.confirm_guest_member(**member):
                    return False
                await self._database.transaction(lambda tx: redemptions.confirmed(tx, **member))
                return True
            except PeerUnavailable:
                # The event confirms them in the end, but an answer now would promise what is not true yet.
                if current_call().remaining() < CONFIRM_RESERVE_SECONDS + CONFIRM_PAUSE_SECONDS:
                    raise
            await asyncio.sleep(CONFIRM_PAUSE_SECONDS)

    async def _undo(self, guest: pb.Guest, request: Repeatable) -> bool:
        async def undo(tx: AsyncConnection) -> bool:
            whose = {"workspace_id": guest.workspace_id, "member_id": guest.member_id}
            return await redemptions.undo(tx, **whose, request=request)

        return await self._database.transaction(undo)

    async def _abandon(self, redemption_id: str) -> None:
        await self._database.transaction(lambda tx: redemptions.abandon(tx, redemption_id=redemption_id))
