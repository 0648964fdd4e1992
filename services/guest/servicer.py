"""guest's RPCs, in the order of the protos."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from guildhall.guest.v1 import guest_access_service_pb2 as access_pb
from guildhall.guest.v1 import guest_access_service_pb2_grpc as access_rpc
from guildhall.guest.v1 import guest_invite_service_pb2 as invite_pb
from guildhall.guest.v1 import guest_invite_service_pb2_grpc as invite_rpc
from guildhall.guest.v1 import guest_service_pb2 as pb
from guildhall.guest.v1 import guest_service_pb2_grpc as rpc
from guildhall.membership.v1 import access_service_pb2 as membership_access
from guildhall.membership.v1 import member_service_pb2 as members
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import IdempotencyMismatch, LimitReached, NotFound, PeerUnavailable, PermissionDenied
from services.chassis.frame import Frame
from services.chassis.idempotency import Repeatable, no_access_needed, once
from services.chassis.secret import new_token, token_hash
from services.guest import guests, invites, redemptions, wire
from services.guest.errors import AlreadyMember, GuestInviteInvalid
from services.guest.peers import Identity, Membership, Messaging

INVITE_TTL = timedelta(days=7)
REDEEM_TRIES = 3
CONFIRM_PAUSE_SECONDS = 0.1
CONFIRM_RESERVE_SECONDS = 0.3
"""What is left of the call's time when confirming is given up, so that the answer says why."""


class GuestInviteServicer(invite_rpc.GuestInviteServiceServicer):
    """Makes and redeems links."""

    def __init__(self, frame: Frame, *, identity: Identity, membership: Membership, messaging: Messaging) -> None:
        self._frame = frame
        self._database = frame.database
        self._identity = identity
        self._membership = membership
        self._messaging = messaging

    async def CreateGuestInvite(
        self, request: invite_pb.CreateGuestInviteRequest, context: Any
    ) -> invite_pb.CreateGuestInviteResponse:
        """By whoever may invite guests, for channels that they see."""
        member_id = await self._access_inviter(request.workspace_id)
        conversation_ids = sorted({str(uuid.UUID(channel)) for channel in request.conversation_ids})
        seen = await self._messaging.sees_channels(
            conversation_ids, workspace_id=request.workspace_id, member_id=member_id
        )
        if not seen:
            raise NotFound
        invite_ttl, guest_ttl = INVITE_TTL, wire.read_duration(request.guest_ttl, field="guest_ttl")
        if request.HasField("invite_ttl"):
            invite_ttl = wire.read_duration(request.invite_ttl, field="invite_ttl")

        async def work(tx: AsyncConnection, _granted: None) -> invite_pb.CreateGuestInviteResponse:
            token = new_token("ghg")
            row = await invites.create(
                tx,
                workspace_id=request.workspace_id,
                token_hash=token_hash(token),
                member_id=member_id,
                conversation_ids=conversation_ids,
                invite_ttl=invite_ttl,
                guest_ttl=guest_ttl,
                max_uses=request.max_uses,
            )
            return invite_pb.CreateGuestInviteResponse(
                invite=wire.invite(row, conversation_ids=conversation_ids),
                token=token,
                url=f"{self._frame.settings.public_url.rstrip('/')}/join/{token}",
            )

        return await once(
            self._database,
            self._frame.secret,
            request,
            invite_pb.CreateGuestInviteResponse,
            access=no_access_needed,
            work=work,
            without_secret=_without_token,
        )

    async def RedeemGuestInvite(
        self, request: invite_pb.RedeemGuestInviteRequest, context: Any
    ) -> invite_pb.RedeemGuestInviteResponse:
        """By any user; in several transactions (redemptions.py says why), and confirmed before the answer."""
        for _ in range(REDEEM_TRIES):
            try:
                answer = await self._redeem(request)
            except redemptions.Superseded:
                continue
            # A repetition confirms as well: the first call may have died before it could. A guest whose member is
            # gone is undone; if they had ended before, this was the answer of an earlier stay, repeated.
            if await self._confirm(answer.guest) or not await self._undo(answer.guest, request):
                return answer
        raise PeerUnavailable

    async def _access_inviter(self, workspace_id: str) -> str:
        """The caller's member id. NOT_FOUND for strangers and ended guests, PERMISSION_DENIED for the others."""
        verdict = await self._membership.may_user(
            "guests.invite", workspace_id=workspace_id, user_id=current_call().user_id
        )
        if verdict.allowed:
            return verdict.member_id
        if verdict.reason == membership_access.ACCESS_REASON_NOT_A_MEMBER:
            raise NotFound
        if verdict.kind == members.MEMBER_KIND_GUEST:
            found = await self._database.read(
                lambda tx: guests.find_seeing(tx, workspace_id=workspace_id, member_id=verdict.member_id)
            )
            if found is None:
                raise NotFound
        raise PermissionDenied

    async def _redeem(self, request: invite_pb.RedeemGuestInviteRequest) -> invite_pb.RedeemGuestInviteResponse:
        """The caller as the guest that they are, or have become; membership has not confirmed them yet."""
        invite = await self._database.read(lambda tx: invites.find(tx, token_hash=token_hash(request.token)))
        if invite is None:
            raise GuestInviteInvalid
        person = {"workspace_id": str(invite.workspace_id), "user_id": current_call().user_id}
        if await self._database.read(lambda tx: redemptions.find_live(tx, **person)):
            return await self._once(request, lambda tx: redemptions.get_live(tx, **person))
        if not invite.works or not await self._is_backed(invite):
            raise GuestInviteInvalid
        attempt = {"invite_id": str(invite.id), **person}
        redemption_id = await self._database.transaction(lambda tx: redemptions.begin(tx, **attempt))
        try:
            member_id = await self._add_member(redemption_id=redemption_id, **person)
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
        """Whether the link's creator may still invite guests and sees every channel of it (semantics 9)."""
        creator = {"workspace_id": str(invite.workspace_id), "member_id": str(invite.created_by_member_id)}
        channels = list(map(str, invite.conversation_ids))
        return all(
            await asyncio.gather(
                self._membership.may_member("guests.invite", **creator),
                self._messaging.sees_channels(channels, **creator),
            )
        )

    async def _add_member(self, *, workspace_id: str, user_id: str, redemption_id: str) -> str:
        """The member id that the caller will have as a guest."""
        normalized_email = await self._identity.verified_email(user_id)
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
        while True:
            try:
                return await self._membership.confirm_guest_member(
                    workspace_id=guest.workspace_id, member_id=guest.member_id
                )
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


class GuestServicer(rpc.GuestServiceServicer):
    """Shows and manages guests."""

    def __init__(self, frame: Frame, *, membership: Membership) -> None:
        self._frame = frame
        self._database = frame.database
        self._membership = membership

    async def GetGuest(self, request: pb.GetGuestRequest, context: Any) -> pb.GetGuestResponse:
        """To those who manage guests, and to the guest."""
        row = await self._database.read(
            lambda tx: guests.find(tx, workspace_id=request.workspace_id, member_id=request.member_id)
        )
        # Asked after the row was read, so that nothing newer than the permission is shown.
        verdict = await self._may_manage(request.workspace_id)
        if row is None or not (verdict.allowed or verdict.member_id == str(row.member_id)):
            raise NotFound
        return pb.GetGuestResponse(guest=wire.guest(row))

    async def ExtendGuest(self, request: pb.ExtendGuestRequest, context: Any) -> pb.ExtendGuestResponse:
        """By those who manage guests."""
        expire_at = wire.read_time(request.expire_time, field="expire_time")
        guest = {"workspace_id": request.workspace_id, "member_id": request.member_id}
        verdict = await self._may_manage(request.workspace_id)

        async def access(tx: AsyncConnection) -> None:
            if verdict.allowed:
                if not await guests.lock(tx, **guest):
                    raise NotFound
                return
            row = await guests.find(tx, **guest)
            if row is None or str(row.member_id) != verdict.member_id:
                raise NotFound
            raise PermissionDenied

        async def work(tx: AsyncConnection, _granted: None) -> pb.ExtendGuestResponse:
            row = await guests.extend(tx, **guest, expire_at=expire_at, etag=request.etag)
            return pb.ExtendGuestResponse(guest=wire.guest(row))

        return await once(self._database, self._frame.secret, request, pb.ExtendGuestResponse, access=access, work=work)

    async def _may_manage(self, workspace_id: str) -> membership_access.AccessVerdict:
        user_id = current_call().user_id
        return await self._membership.may_user("guests.manage", workspace_id=workspace_id, user_id=user_id)


class GuestAccessServicer(access_rpc.GuestAccessServiceServicer):
    """Decides for the other services. Asks nobody."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def BatchCheckGuests(
        self, request: access_pb.BatchCheckGuestsRequest, context: Any
    ) -> access_pb.BatchCheckGuestsResponse:
        """By membership and messaging; one statement for the batch."""
        questions = [(q.workspace_id, q.member_id, q.conversation_id or None) for q in request.questions]
        rows = await self._database.read(lambda tx: guests.check(tx, questions))
        return access_pb.BatchCheckGuestsResponse(verdicts=map(wire.verdict, rows))

    async def ListGuestChannels(
        self, request: access_pb.ListGuestChannelsRequest, context: Any
    ) -> access_pb.ListGuestChannelsResponse:
        """By messaging; empty and ENDED for anybody who is no guest, or no longer."""
        row = await self._database.read(
            lambda tx: guests.find_seeing(tx, workspace_id=request.workspace_id, member_id=request.member_id)
        )
        if row is None:
            return access_pb.ListGuestChannelsResponse(state=pb.GUEST_STATE_ENDED)
        return access_pb.ListGuestChannelsResponse(
            conversation_ids=map(str, row.conversation_ids),
            state=wire.state(row.state),
            holds_for=wire.duration(row.holds_for),
        )


def _without_token(answer: invite_pb.CreateGuestInviteResponse) -> invite_pb.CreateGuestInviteResponse:
    return invite_pb.CreateGuestInviteResponse(invite=answer.invite, secret_omitted=True)
