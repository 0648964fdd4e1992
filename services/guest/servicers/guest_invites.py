"""guildhall.guest.v1.GuestInviteService."""

import uuid
from datetime import timedelta
from typing import Any

from guildhall.guest.v1 import guest_invite_service_pb2 as pb
from guildhall.guest.v1 import guest_invite_service_pb2_grpc as rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.emails import normalize
from services.chassis.errors import InvalidRequest, NotFound, PermissionDenied
from services.chassis.idempotency import once
from services.chassis.secret import new_token, token_hash
from services.guest import activities, invites, limits, policies, wire
from services.guest.access import Standing
from services.guest.errors import GuestInviteInvalid
from services.guest.servicers.calls import Page
from services.guest.servicers.guest_redemptions import GuestRedemptionRpcs

INVITE_TTL = timedelta(days=7)


class GuestInviteService(GuestRedemptionRpcs, rpc.GuestInviteServiceServicer):
    """Makes, shows and ends links; what they make of people is in the other class."""

    async def CreateGuestInvite(
        self, request: pb.CreateGuestInviteRequest, context: Any
    ) -> pb.CreateGuestInviteResponse:
        """By whoever may invite guests, for channels that they see."""
        terms = _terms(request)
        inviter = await self._access.require_inviter(request.workspace_id)
        await self._require_sight(request.workspace_id, inviter, terms)

        async def access(tx: AsyncConnection) -> Row[Any]:
            return await policies.lock_to_add(tx, request.workspace_id)

        async def work(tx: AsyncConnection, policy: Row[Any]) -> pb.CreateGuestInviteResponse:
            if terms.guest_ttl > policy.maximum_stay:
                raise InvalidRequest(fields=[("guest_ttl", "must be at most the policy's maximum stay")])
            for limit in ("open_guest_invites", "guest_invites_a_day"):
                await limits.require(tx, limit, workspace_id=request.workspace_id)
            token = new_token("ghg")
            row = await invites.create(
                tx,
                workspace_id=request.workspace_id,
                token_hash=token_hash(token),
                member_id=inviter.member_id,
                terms=terms,
            )
            await activities.record(
                tx, "guest_invite.created", workspace_id=request.workspace_id, target_id=str(row.id)
            )
            return pb.CreateGuestInviteResponse(
                invite=wire.invite(row),
                token=token,
                url=f"{self._frame.settings.public_url.rstrip('/')}/join/{token}",
            )

        return await once(
            self._database,
            self._frame.secret,
            request,
            pb.CreateGuestInviteResponse,
            access=access,
            work=work,
            without_secret=_without_token,
        )

    async def ListGuestInvites(self, request: pb.ListGuestInvitesRequest, context: Any) -> pb.ListGuestInvitesResponse:
        """All to those who manage guests, their own to others who invite."""
        page = Page(self._frame.secret, request)

        async def read(standing: Standing) -> Any:
            creator_member_id = None if standing.manages else standing.member_id
            return await self._database.read(
                lambda tx: invites.list_page(
                    tx,
                    workspace_id=request.workspace_id,
                    creator_member_id=creator_member_id,
                    before=page.after,
                    size=page.size + 1,
                )
            )

        rows, token = page.cut(await self._access.read_as_inviter(request.workspace_id, read), "id")
        return pb.ListGuestInvitesResponse(invites=map(wire.invite, rows), next_page_token=token)

    async def RevokeGuestInvite(
        self, request: pb.RevokeGuestInviteRequest, context: Any
    ) -> pb.RevokeGuestInviteResponse:
        """By those who manage guests, and by the link's creator while they may invite."""
        named = {"workspace_id": request.workspace_id, "invite_id": request.invite_id}
        standing = await self._access.require_standing(request.workspace_id)
        if not (standing.manages or standing.may_invite):
            raise PermissionDenied

        async def access(tx: AsyncConnection) -> None:
            invite = await invites.lock(tx, **named)
            if invite is None or not standing.may_change(invite.created_by_member_id):
                raise NotFound

        async def work(tx: AsyncConnection, _granted: None) -> pb.RevokeGuestInviteResponse:
            row = await invites.revoke(tx, **named)
            await activities.record(
                tx, "guest_invite.revoked", workspace_id=request.workspace_id, target_id=str(row.id)
            )
            return pb.RevokeGuestInviteResponse(invite=wire.invite(row))

        return await once(
            self._database, self._frame.secret, request, pb.RevokeGuestInviteResponse, access=access, work=work
        )

    async def PreviewGuestInvite(
        self, request: pb.PreviewGuestInviteRequest, context: Any
    ) -> pb.PreviewGuestInviteResponse:
        """To anybody. The names are asked for before the creator's right is, so that they are not newer than that."""
        invite = await self._database.read(lambda tx: invites.find(tx, token_hash=token_hash(request.token)))
        if invite is None or not invite.works:
            raise GuestInviteInvalid
        inviter_id = str(invite.created_by_member_id)
        workspace = await self._membership.workspace(str(invite.workspace_id), member_ids=[inviter_id])
        user_id = workspace.user_ids.get(inviter_id, "")
        names = await self._identity.names([user_id] if user_id else [])
        if user_id not in names or not await self._is_backed(invite):
            raise GuestInviteInvalid
        return pb.PreviewGuestInviteResponse(workspace_name=workspace.name, inviter_name=names[user_id])

    async def _require_sight(self, workspace_id: str, inviter: Standing, terms: invites.Terms) -> None:
        """Nobody grants what they do not see."""
        if not await self._messaging.sees_channels(
            terms.conversation_ids, workspace_id=workspace_id, member_id=inviter.member_id
        ):
            raise NotFound


def _terms(request: pb.CreateGuestInviteRequest) -> invites.Terms:
    invite_ttl = INVITE_TTL
    if request.HasField("invite_ttl"):
        invite_ttl = wire.read_duration(request.invite_ttl, field="invite_ttl")
    return invites.Terms(
        conversation_ids=sorted({str(uuid.UUID(channel)) for channel in request.conversation_ids}),
        invite_ttl=invite_ttl,
        guest_ttl=wire.read_duration(request.guest_ttl, field="guest_ttl"),
        max_uses=request.max_uses,
        bound_email=normalize(request.email) if request.WhichOneof("binding") == "email" else None,
        bound_domain=_domain(request.domain) if request.WhichOneof("binding") == "domain" else None,
    )


def _domain(written: str) -> str:
    """A domain as it stands in normalised addresses. INVALID_REQUEST if none could end in it."""
    try:
        return normalize(f"x@{written}").partition("@")[2]
    except InvalidRequest as error:
        raise InvalidRequest(fields=[("domain", "is not the domain of an address")]) from error


def _without_token(answer: pb.CreateGuestInviteResponse) -> pb.CreateGuestInviteResponse:
    return pb.CreateGuestInviteResponse(invite=answer.invite, secret_omitted=True)
