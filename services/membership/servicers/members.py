"""guildhall.membership.v1.MemberService."""

from typing import Any
from uuid import UUID

from guildhall.membership.v1 import member_service_pb2 as pb
from guildhall.membership.v1 import member_service_pb2_grpc as rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import NotFound, PermissionDenied
from services.chassis.idempotency import once
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.membership import guest_members, members, removals, wire
from services.membership.capabilities import REMOVE_MEMBERS
from services.membership.peers import Identity


class MemberService(rpc.MemberServiceServicer):
    """The people of a workspace."""

    def __init__(self, database: Database, secret: SecretKey, identity: Identity) -> None:
        self._database = database
        self._secret = secret
        self._identity = identity

    async def ListMembers(self, request: pb.ListMembersRequest, context: Any) -> pb.ListMembersResponse:
        """A page for a member; membership and page are read in one statement, the names afterwards."""
        user_id = current_call().user_id
        workspace_id = str(UUID(request.workspace_id))
        scope = ("ListMembers", user_id, workspace_id)
        key = page_key(self._secret, scope, request.page_token)
        size = page_size(request.page_size)
        rows = await self._database.read(
            lambda tx: members.list_page(
                tx, workspace_id=workspace_id, user_id=user_id, after=str(key[0]) if key else None, size=size + 1
            )
        )
        page = rows[:size]
        names = await self._identity.names(str(row.user_id) for row in page)
        return pb.ListMembersResponse(
            members=[wire.member(row, name=names.get(str(row.user_id), "")) for row in page],
            next_page_token=page_token(self._secret, scope, [str(page[-1].id)]) if len(rows) > size else "",
        )

    async def RemoveMember(self, request: pb.RemoveMemberRequest, context: Any) -> pb.RemoveMemberResponse:
        """An admin ends somebody else's membership."""
        user_id = current_call().user_id

        async def access(tx: AsyncConnection) -> Row[Any]:
            return await members.access_workspace(
                tx, workspace_id=request.workspace_id, user_id=user_id, capability=REMOVE_MEMBERS
            )

        async def remove(tx: AsyncConnection, actor: Row[Any]) -> pb.RemoveMemberResponse:
            await removals.remove(tx, actor, member_id=request.member_id)
            return pb.RemoveMemberResponse()

        return await once(self._database, self._secret, request, pb.RemoveMemberResponse, access=access, work=remove)

    async def AddGuestMember(self, request: pb.AddGuestMemberRequest, context: Any) -> pb.AddGuestMemberResponse:
        """guest adds the person whose redemption it is deciding on: it must hold that person's own token."""
        user_id = str(UUID(request.user_id))
        if current_call().user_id != user_id:
            raise PermissionDenied("The token that was forwarded is not this person's.")
        row = await self._database.transaction(
            lambda tx: guest_members.add(
                tx, workspace_id=request.workspace_id, user_id=user_id, redemption_id=request.redemption_id
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
        if row is None:
            raise NotFound
        return pb.ConfirmGuestMemberResponse(member=wire.member(row))
