"""guildhall.membership.v1.InvitationService."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from guildhall.membership.v1 import invitation_service_pb2 as pb
from guildhall.membership.v1 import invitation_service_pb2_grpc as rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.idempotency import Answer, once
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.membership import (
    invitation_batches,
    invitation_reads,
    invitations,
    members,
    refusals,
    removals,
    wire,
    wire_invitations,
    workspaces,
)
from services.membership.capabilities import INVITE_MEMBERS
from services.membership.daily_limits import DailyLimits
from services.membership.guest_sight import Sight
from services.membership.invitation_batches import Wanted
from services.membership.peers import Identity
from services.membership.revisions import raise_access_revision


class InvitationService(rpc.InvitationServiceServicer):
    """Asks people in by e-mail."""

    def __init__(
        self, database: Database, secret: SecretKey, identity: Identity, *, sight: Sight, daily: DailyLimits
    ) -> None:
        self._database = database
        self._secret = secret
        self._identity = identity
        self._sight = sight
        self._daily = daily

    async def CreateInvitation(self, request: pb.CreateInvitationRequest, context: Any) -> pb.CreateInvitationResponse:
        """An admin invites an address. Whose it is is not asked: the answer must not tell who has an account."""

        async def create(tx: AsyncConnection, inviter: Row[Any]) -> pb.CreateInvitationResponse:
            wanted = Wanted(request.email, wire.ROLE_NAMES[request.role])
            row = await invitation_batches.create(tx, self._secret, inviter, wanted, daily=self._daily)
            return pb.CreateInvitationResponse(invitation=wire_invitations.invitation(row))

        return await self._as_inviter("invitation.created", request, pb.CreateInvitationResponse, create)

    async def BatchCreateInvitations(
        self, request: pb.BatchCreateInvitationsRequest, context: Any
    ) -> pb.BatchCreateInvitationsResponse:
        """An admin invites many addresses, under one lock."""

        async def create(tx: AsyncConnection, inviter: Row[Any]) -> pb.BatchCreateInvitationsResponse:
            wanted = [Wanted(item.email, wire.ROLE_NAMES[item.role]) for item in request.items]
            made = await invitation_batches.create_each(tx, self._secret, inviter, wanted, daily=self._daily)
            return pb.BatchCreateInvitationsResponse(results=[wire_invitations.result(each) for each in made])

        return await self._as_inviter("invitation.created", request, pb.BatchCreateInvitationsResponse, create)

    async def ListInvitations(self, request: pb.ListInvitationsRequest, context: Any) -> pb.ListInvitationsResponse:
        """A page for an admin; their right and the page are read in one statement."""
        user_id = current_call().user_id
        workspace_id = str(UUID(request.workspace_id))
        scope = ("ListInvitations", user_id, workspace_id, str(request.state))
        key = page_key(self._secret, scope, request.page_token)
        size = page_size(request.page_size)
        read = self._database.read(
            lambda tx: invitation_reads.list_page(
                tx,
                workspace_id=workspace_id,
                user_id=user_id,
                state=wire_invitations.STATE_NAMES.get(request.state),
                before=str(key[0]) if key else None,
                size=size + 1,
            )
        )
        rows = await refusals.told(self._database, self._sight, workspace_id, read)
        page = rows[:size]
        return pb.ListInvitationsResponse(
            invitations=[wire_invitations.invitation(row) for row in page],
            next_page_token=page_token(self._secret, scope, [str(page[-1].id)]) if len(rows) > size else "",
        )

    async def ResendInvitation(self, request: pb.ResendInvitationRequest, context: Any) -> pb.ResendInvitationResponse:
        """An admin has a new link mailed; the ones before no longer work."""

        async def resend(tx: AsyncConnection, sender: Row[Any]) -> pb.ResendInvitationResponse:
            row = await invitations.resend(
                tx, self._secret, sender, invitation_id=request.invitation_id, daily=self._daily
            )
            return pb.ResendInvitationResponse(invitation=wire_invitations.invitation(row))

        return await self._as_inviter(
            "invitation.resent", request, pb.ResendInvitationResponse, resend, invitation_id=request.invitation_id
        )

    async def RevokeInvitation(self, request: pb.RevokeInvitationRequest, context: Any) -> pb.RevokeInvitationResponse:
        """An admin ends an invitation."""

        async def revoke(tx: AsyncConnection, _actor: Row[Any]) -> pb.RevokeInvitationResponse:
            row = await invitations.revoke(tx, workspace_id=request.workspace_id, invitation_id=request.invitation_id)
            return pb.RevokeInvitationResponse(invitation=wire_invitations.invitation(row))

        return await self._as_inviter(
            "invitation.revoked", request, pb.RevokeInvitationResponse, revoke, invitation_id=request.invitation_id
        )

    async def PreviewInvitation(
        self, request: pb.PreviewInvitationRequest, context: Any
    ) -> pb.PreviewInvitationResponse:
        """Whoever holds the link is told what it leads to."""
        row = await self._database.read(lambda tx: invitations.preview(tx, token=request.token))
        return wire_invitations.preview(row)

    async def AcceptInvitation(self, request: pb.AcceptInvitationRequest, context: Any) -> pb.AcceptInvitationResponse:
        """The owner of the address becomes a member, who was a guest once too."""
        presenter, name = await self._identity.presenter(current_call().user_id)
        stay = await self._database.read(lambda tx: invitations.find_stay(tx, presenter, token=request.token))
        # Asked before the workspace is locked.
        over = await self._sight.find_over(stay)

        async def access(tx: AsyncConnection) -> invitations.Offer:
            return await invitations.access_offer(tx, presenter, token=request.token, over=over)

        async def accept(tx: AsyncConnection, offer: invitations.Offer) -> pb.AcceptInvitationResponse:
            ended = await removals.end_guest(tx, offer.ended) if offer.ended is not None else []
            row = await invitations.accept(tx, offer, presenter, ended=ended)
            if ended:
                await raise_access_revision(tx, str(row.workspace_id), "guest_removed")
            workspace = await workspaces.get(tx, str(row.workspace_id))
            return pb.AcceptInvitationResponse(workspace=wire.workspace(workspace), member=wire.member(row, name=name))

        return await once(
            self._database, self._secret, request, pb.AcceptInvitationResponse, access=access, work=accept
        )

    async def DeclineInvitation(
        self, request: pb.DeclineInvitationRequest, context: Any
    ) -> pb.DeclineInvitationResponse:
        """The owner of the address ends the invitation."""
        presenter, _name = await self._identity.presenter(current_call().user_id)

        async def access(tx: AsyncConnection) -> Row[Any]:
            return await invitations.access_decline(tx, presenter, token=request.token)

        async def decline(tx: AsyncConnection, invitation: Row[Any]) -> pb.DeclineInvitationResponse:
            await invitations.decline(tx, invitation)
            return pb.DeclineInvitationResponse()

        return await once(
            self._database, self._secret, request, pb.DeclineInvitationResponse, access=access, work=decline
        )

    async def _as_inviter(
        self,
        action: str,
        request: Any,
        answer_class: type[Answer],
        work: Callable[[AsyncConnection, Row[Any]], Awaitable[Answer]],
        *,
        invitation_id: str | None = None,
    ) -> Answer:
        """What all that takes the right to invite has in common."""
        user_id = current_call().user_id

        async def access(tx: AsyncConnection) -> Row[Any]:
            return await members.access_workspace(
                tx, workspace_id=request.workspace_id, user_id=user_id, capability=INVITE_MEMBERS
            )

        call = once(self._database, self._secret, request, answer_class, access=access, work=work)
        call = refusals.told(self._database, self._sight, request.workspace_id, call)
        return await refusals.audited(
            self._database,
            action,
            request.workspace_id,
            call,
            target_type="invitation",
            target_id=invitation_id,
        )
