"""guildhall.membership.v1.MemberService: what guest and messaging ask of it."""

from typing import Any
from uuid import UUID

from guildhall.membership.v1 import member_service_pb2 as pb
from guildhall.membership.v1 import member_service_pb2_grpc as rpc

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import PermissionDenied
from services.chassis.secret import SecretKey
from services.membership import guest_members, peer_reads, wire
from services.membership.activities import Origin
from services.membership.peers import Identity


class GuestMemberRpcs(rpc.MemberServiceServicer):
    """Guests' memberships, which are guest's to begin and to end; and members by id."""

    def __init__(self, database: Database, secret: SecretKey, identity: Identity) -> None:
        self._database = database
        self._secret = secret
        self._identity = identity

    async def AddGuestMember(self, request: pb.AddGuestMemberRequest, context: Any) -> pb.AddGuestMemberResponse:
        """guest adds the person whose redemption it is deciding on: it must hold that person's own token."""
        user_id = str(UUID(request.user_id))
        if current_call().user_id != user_id:
            raise PermissionDenied("The token that was forwarded is not this person's.")
        row = await self._database.transaction(
            lambda tx: guest_members.add(
                tx,
                workspace_id=request.workspace_id,
                user_id=user_id,
                redemption_id=request.redemption_id,
                normalized_email=request.normalized_email,
            )
        )
        return pb.AddGuestMemberResponse(member=wire.member(row))

    async def ConfirmGuestMember(
        self, request: pb.ConfirmGuestMemberRequest, context: Any
    ) -> pb.ConfirmGuestMemberResponse:
        """guest has decided: the pending member is in force."""
        row = await self._database.transaction(
            lambda tx: guest_members.confirm(tx, workspace_id=request.workspace_id, member_id=request.member_id)
        )
        return pb.ConfirmGuestMemberResponse(member=wire.member(row))

    async def RemoveGuestMember(
        self, request: pb.RemoveGuestMemberRequest, context: Any
    ) -> pb.RemoveGuestMemberResponse:
        """guest has ended somebody's access."""
        origin = Origin(request.actor_user_id, request_id=current_call().request_id)
        revision = await self._database.transaction(
            lambda tx: guest_members.remove(
                tx, workspace_id=request.workspace_id, member_id=request.member_id, origin=origin
            )
        )
        return pb.RemoveGuestMemberResponse(access_revision=revision)

    async def ChangeMemberKind(self, request: pb.ChangeMemberKindRequest, context: Any) -> pb.ChangeMemberKindResponse:
        """guest makes somebody a full member."""
        origin = Origin(request.actor_user_id, request_id=current_call().request_id)
        row, revision = await self._database.transaction(
            lambda tx: guest_members.promote(
                tx,
                workspace_id=request.workspace_id,
                member_id=request.member_id,
                role=wire.ROLE_NAMES[request.role],
                origin=origin,
            )
        )
        return pb.ChangeMemberKindResponse(member=wire.member(row), access_revision=revision)

    async def BatchGetMembers(self, request: pb.BatchGetMembersRequest, context: Any) -> pb.BatchGetMembersResponse:
        """Those that exist, by id."""
        workspace_name, rows = await self._database.read(
            lambda tx: peer_reads.get_members(tx, request.workspace_id, request.member_ids)
        )
        return pb.BatchGetMembersResponse(
            members=[wire.member(row) for row in rows],
            workspace_name=workspace_name,
            disabled_member_ids=[str(row.id) for row in rows if row.is_disabled],
        )
