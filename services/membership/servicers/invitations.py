"""guildhall.membership.v1.InvitationService."""

from typing import Any

from guildhall.membership.v1 import invitation_service_pb2 as pb
from guildhall.membership.v1 import invitation_service_pb2_grpc as rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.idempotency import once
from services.chassis.secret import SecretKey
from services.membership import invitations, members, wire, workspaces
from services.membership.capabilities import INVITE_MEMBERS
from services.membership.peers import Identity


class InvitationService(rpc.InvitationServiceServicer):
    """Asks people in by e-mail."""

    def __init__(self, database: Database, secret: SecretKey, identity: Identity) -> None:
        self._database = database
        self._secret = secret
        self._identity = identity

    async def CreateInvitation(self, request: pb.CreateInvitationRequest, context: Any) -> pb.CreateInvitationResponse:
        """An admin invites an address. Whose it is is not asked: the answer must not tell who has an account."""
        user_id = current_call().user_id

        async def access(tx: AsyncConnection) -> Row[Any]:
            return await members.access_workspace(
                tx, workspace_id=request.workspace_id, user_id=user_id, capability=INVITE_MEMBERS
            )

        async def create(tx: AsyncConnection, inviter: Row[Any]) -> pb.CreateInvitationResponse:
            role = wire.ROLE_NAMES[request.role]
            row = await invitations.create(tx, self._secret, inviter, email=request.email, role=role)
            return pb.CreateInvitationResponse(invitation=wire.invitation(row))

        return await once(
            self._database, self._secret, request, pb.CreateInvitationResponse, access=access, work=create
        )

    async def AcceptInvitation(self, request: pb.AcceptInvitationRequest, context: Any) -> pb.AcceptInvitationResponse:
        """The owner of the address becomes a member."""
        user_id = current_call().user_id
        presenter, name = await self._identity.presenter(user_id)

        async def access(tx: AsyncConnection) -> invitations.Offer:
            return await invitations.access_offer(tx, presenter, token=request.token)

        async def accept(tx: AsyncConnection, offer: invitations.Offer) -> pb.AcceptInvitationResponse:
            row = await invitations.accept(tx, offer, user_id=user_id)
            workspace = await workspaces.get(tx, offer.workspace_id)
            return pb.AcceptInvitationResponse(workspace=wire.workspace(workspace), member=wire.member(row, name=name))

        return await once(
            self._database, self._secret, request, pb.AcceptInvitationResponse, access=access, work=accept
        )
