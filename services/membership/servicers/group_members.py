"""guildhall.membership.v1.GroupMemberService."""

from collections.abc import Sequence
from typing import Any

from guildhall.membership.v1 import group_member_service_pb2 as pb
from guildhall.membership.v1 import group_member_service_pb2_grpc as rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.secret import SecretKey
from services.membership import group_member_reads, group_members, wire_groups
from services.membership.capabilities import MANAGE_GROUP_MEMBERS
from services.membership.group_access import Standing
from services.membership.peers import Identity
from services.membership.servicers.group_calls import change_group, one_spelling, read_page
from services.membership.servicers.group_peers import GroupPeerRpcs


class GroupMemberService(GroupPeerRpcs, rpc.GroupMemberServiceServicer):
    """Who is in a group, as what."""

    def __init__(self, database: Database, secret: SecretKey, identity: Identity) -> None:
        self._database = database
        self._secret = secret
        self._identity = identity

    async def AddGroupMember(self, request: pb.AddGroupMemberRequest, context: Any) -> pb.AddGroupMemberResponse:
        """By who manages the group's members."""

        async def add(tx: AsyncConnection, standing: Standing) -> pb.AddGroupMemberResponse:
            row = await group_members.add(tx, standing, member_id=request.member_id, role=request.role)
            return pb.AddGroupMemberResponse(group_member=wire_groups.group_member(row))

        answer = await change_group(
            self._database,
            self._secret,
            request,
            pb.AddGroupMemberResponse,
            group=request,
            action="group_member.added",
            capability=MANAGE_GROUP_MEMBERS,
            work=add,
        )
        return pb.AddGroupMemberResponse(group_member=await self._named(answer.group_member))

    async def ListGroupMembers(self, request: pb.ListGroupMembersRequest, context: Any) -> pb.ListGroupMembersResponse:
        """A page of those in the group itself."""
        user_id, group_id = current_call().user_id, one_spelling(request.group_id)

        async def read(tx: AsyncConnection, after: str | None, size: int) -> Sequence[Row[Any]]:
            return await group_member_reads.list_page(
                tx, workspace_id=request.workspace_id, group_id=group_id, user_id=user_id, after=after, size=size
            )

        rows, token = await read_page(
            self._database, self._secret, request, read, lambda row: str(row.member_id), group_id
        )
        names = await self._identity.names(str(row.user_id) for row in rows)
        return pb.ListGroupMembersResponse(
            group_members=[wire_groups.group_member(row, name=names.get(str(row.user_id), "")) for row in rows],
            next_page_token=token,
        )

    async def ListUserMemberships(
        self, request: pb.ListUserMembershipsRequest, context: Any
    ) -> pb.ListUserMembershipsResponse:
        """A page of somebody's groups, as far as the caller sees them."""
        user_id = current_call().user_id
        subject_user_id = one_spelling(request.user_id) or user_id

        async def read(tx: AsyncConnection, after: str | None, size: int) -> Sequence[Row[Any]]:
            return await group_member_reads.list_of_person(
                tx,
                workspace_id=request.workspace_id,
                subject_user_id=subject_user_id,
                user_id=user_id,
                after=after,
                size=size,
            )

        rows, token = await read_page(
            self._database, self._secret, request, read, lambda row: str(row.group_id), subject_user_id
        )
        name = (await self._identity.names([subject_user_id])).get(subject_user_id, "")
        return pb.ListUserMembershipsResponse(
            group_members=[wire_groups.group_member(row, name=name) for row in rows], next_page_token=token
        )

    async def UpdateGroupMemberRole(
        self, request: pb.UpdateGroupMemberRoleRequest, context: Any
    ) -> pb.UpdateGroupMemberRoleResponse:
        """By who manages the group's members."""

        async def update(tx: AsyncConnection, standing: Standing) -> pb.UpdateGroupMemberRoleResponse:
            row = await group_members.update_role(
                tx,
                standing,
                member_id=request.member_id,
                role=request.role,
                etag=request.etag,
                reason=request.reason,
            )
            return pb.UpdateGroupMemberRoleResponse(group_member=wire_groups.group_member(row))

        answer = await change_group(
            self._database,
            self._secret,
            request,
            pb.UpdateGroupMemberRoleResponse,
            group=request,
            action="group_member.role_updated",
            capability=MANAGE_GROUP_MEMBERS,
            work=update,
        )
        return pb.UpdateGroupMemberRoleResponse(group_member=await self._named(answer.group_member))

    async def RemoveGroupMember(
        self, request: pb.RemoveGroupMemberRequest, context: Any
    ) -> pb.RemoveGroupMemberResponse:
        """By who manages the group's members."""

        async def remove(tx: AsyncConnection, standing: Standing) -> pb.RemoveGroupMemberResponse:
            await group_members.remove(tx, standing, member_id=request.member_id, reason=request.reason)
            return pb.RemoveGroupMemberResponse()

        return await change_group(
            self._database,
            self._secret,
            request,
            pb.RemoveGroupMemberResponse,
            group=request,
            action="group_member.removed",
            capability=MANAGE_GROUP_MEMBERS,
            work=remove,
        )

    async def LeaveGroup(self, request: pb.LeaveGroupRequest, context: Any) -> pb.LeaveGroupResponse:
        """Somebody gives their own role up."""

        async def leave(tx: AsyncConnection, standing: Standing) -> pb.LeaveGroupResponse:
            await group_members.leave(tx, standing)
            return pb.LeaveGroupResponse()

        return await change_group(
            self._database,
            self._secret,
            request,
            pb.LeaveGroupResponse,
            group=request,
            action="group_member.left",
            capability=None,
            work=leave,
        )

    async def ListEffectiveMembers(
        self, request: pb.ListEffectiveMembersRequest, context: Any
    ) -> pb.ListEffectiveMembersResponse:
        """A page of everybody whose roles hold in the group."""
        user_id, group_id = current_call().user_id, one_spelling(request.group_id)

        async def read(tx: AsyncConnection, after: str | None, size: int) -> Sequence[Row[Any]]:
            return await group_member_reads.list_effective(
                tx, workspace_id=request.workspace_id, group_id=group_id, user_id=user_id, after=after, size=size
            )

        rows, token = await read_page(
            self._database, self._secret, request, read, lambda row: str(row.member_id), group_id
        )
        names = await self._identity.names(str(row.user_id) for row in rows)
        return pb.ListEffectiveMembersResponse(
            effective_members=[wire_groups.effective_member(row, name=names.get(str(row.user_id), "")) for row in rows],
            next_page_token=token,
        )

    async def _named(self, group_member: pb.GroupMember) -> pb.GroupMember:
        """With the person's name, which is not kept with a stored answer."""
        group_member.user_name = (await self._identity.names([group_member.user_id])).get(group_member.user_id, "")
        return group_member
