"""guildhall.membership.v1.UserGroupService."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from guildhall.membership.v1 import user_group_service_pb2 as pb
from guildhall.membership.v1 import user_group_service_pb2_grpc as rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import masks
from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import InvalidRequest
from services.chassis.idempotency import Answer, once
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.membership import handles, members, refusals, user_groups, wire_user_groups
from services.membership.capabilities import MANAGE_USER_GROUPS
from services.membership.guest_sight import Sight
from services.membership.peers import Identity


class UserGroupService(rpc.UserGroupServiceServicer):
    """Sets of people that are mentioned together."""

    def __init__(self, database: Database, secret: SecretKey, identity: Identity, sight: Sight) -> None:
        self._database = database
        self._secret = secret
        self._identity = identity
        self._sight = sight

    async def CreateUserGroup(self, request: pb.CreateUserGroupRequest, context: Any) -> pb.CreateUserGroupResponse:
        """An admin makes one, without members."""
        workspace_id = str(UUID(request.workspace_id))

        async def create(tx: AsyncConnection) -> pb.CreateUserGroupResponse:
            row = await user_groups.create(
                tx,
                workspace_id=workspace_id,
                handle=request.handle,
                name=request.name,
                description=request.description,
            )
            return pb.CreateUserGroupResponse(user_group=wire_user_groups.user_group(row))

        return await self._changed("user_group.created", workspace_id, request, pb.CreateUserGroupResponse, create)

    async def GetUserGroup(self, request: pb.GetUserGroupRequest, context: Any) -> pb.GetUserGroupResponse:
        """One of them with its members, for a full member."""
        user_id = current_call().user_id
        row = await self._database.read(
            lambda tx: user_groups.get(
                tx, workspace_id=request.workspace_id, user_id=user_id, user_group_id=request.user_group_id
            )
        )
        return pb.GetUserGroupResponse(
            user_group=wire_user_groups.user_group(row), member_ids=[str(each) for each in row.member_ids]
        )

    async def ListUserGroups(self, request: pb.ListUserGroupsRequest, context: Any) -> pb.ListUserGroupsResponse:
        """A page for a full member."""
        user_id = current_call().user_id
        workspace_id = str(UUID(request.workspace_id))
        member_id = str(UUID(request.member_id)) if request.member_id else ""
        scope = ("ListUserGroups", user_id, workspace_id, member_id)
        key = page_key(self._secret, scope, request.page_token)
        size = page_size(request.page_size)
        rows = await self._database.read(
            lambda tx: user_groups.list_page(
                tx,
                workspace_id=workspace_id,
                user_id=user_id,
                member_id=member_id or None,
                after=str(key[0]) if key else None,
                size=size + 1,
            )
        )
        page = rows[:size]
        return pb.ListUserGroupsResponse(
            user_groups=[wire_user_groups.user_group(row) for row in page],
            next_page_token=page_token(self._secret, scope, [str(page[-1].id)]) if len(rows) > size else "",
        )

    async def UpdateUserGroup(self, request: pb.UpdateUserGroupRequest, context: Any) -> pb.UpdateUserGroupResponse:
        """An admin changes what it is called."""
        wanted = request.user_group
        paths = masks.paths(request.update_mask, allowed=("handle", "name", "description"))
        changes: dict[str, str] = {path: getattr(wanted, path) for path in paths}
        empty = [path for path in ("handle", "name") if path in changes and not changes[path]]
        if empty:
            raise InvalidRequest(fields=[(f"user_group.{path}", "must not be empty") for path in empty])

        async def update(tx: AsyncConnection) -> pb.UpdateUserGroupResponse:
            present = await user_groups.find(
                tx, workspace_id=wanted.workspace_id, user_group_id=wanted.user_group_id, etag=wanted.etag
            )
            row = await user_groups.update(tx, present, changes)
            return pb.UpdateUserGroupResponse(user_group=wire_user_groups.user_group(row))

        return await self._changed(
            "user_group.updated",
            wanted.workspace_id,
            request,
            pb.UpdateUserGroupResponse,
            update,
            user_group_id=wanted.user_group_id,
        )

    async def DeleteUserGroup(self, request: pb.DeleteUserGroupRequest, context: Any) -> pb.DeleteUserGroupResponse:
        """An admin removes one."""

        async def delete(tx: AsyncConnection) -> pb.DeleteUserGroupResponse:
            await user_groups.delete(tx, await _find(tx, request, request.etag))
            return pb.DeleteUserGroupResponse()

        return await self._changed(
            "user_group.deleted",
            request.workspace_id,
            request,
            pb.DeleteUserGroupResponse,
            delete,
            user_group_id=request.user_group_id,
        )

    async def AddUserGroupMember(
        self, request: pb.AddUserGroupMemberRequest, context: Any
    ) -> pb.AddUserGroupMemberResponse:
        """An admin puts somebody into one."""

        async def add(tx: AsyncConnection) -> pb.AddUserGroupMemberResponse:
            row = await user_groups.add_member(tx, await _find(tx, request), member_id=request.member_id)
            return pb.AddUserGroupMemberResponse(user_group=wire_user_groups.user_group(row))

        return await self._changed(
            "user_group.member_added",
            request.workspace_id,
            request,
            pb.AddUserGroupMemberResponse,
            add,
            user_group_id=request.user_group_id,
        )

    async def RemoveUserGroupMember(
        self, request: pb.RemoveUserGroupMemberRequest, context: Any
    ) -> pb.RemoveUserGroupMemberResponse:
        """An admin takes somebody out of one."""

        async def remove(tx: AsyncConnection) -> pb.RemoveUserGroupMemberResponse:
            row = await user_groups.remove_member(tx, await _find(tx, request), member_id=request.member_id)
            return pb.RemoveUserGroupMemberResponse(user_group=wire_user_groups.user_group(row))

        return await self._changed(
            "user_group.member_removed",
            request.workspace_id,
            request,
            pb.RemoveUserGroupMemberResponse,
            remove,
            user_group_id=request.user_group_id,
        )

    async def SetUserGroupMembers(
        self, request: pb.SetUserGroupMembersRequest, context: Any
    ) -> pb.SetUserGroupMembersResponse:
        """An admin says who is in one."""

        async def set_members(tx: AsyncConnection) -> pb.SetUserGroupMembersResponse:
            present = await _find(tx, request, request.etag)
            row = await user_groups.set_members(tx, present, member_ids=request.member_ids)
            return pb.SetUserGroupMembersResponse(user_group=wire_user_groups.user_group(row))

        return await self._changed(
            "user_group.members_set",
            request.workspace_id,
            request,
            pb.SetUserGroupMembersResponse,
            set_members,
            user_group_id=request.user_group_id,
        )

    async def ExpandHandles(self, request: pb.ExpandHandlesRequest, context: Any) -> pb.ExpandHandlesResponse:
        """Whom handles stand for."""
        rows = await self._database.read(
            lambda tx: handles.expand(tx, workspace_id=request.workspace_id, handles=request.handles)
        )
        return pb.ExpandHandlesResponse(expanded=wire_user_groups.expanded(request.handles, rows))

    async def _changed(
        self,
        action: str,
        workspace_id: str,
        request: Any,
        answer_class: type[Answer],
        change: Callable[[AsyncConnection], Awaitable[Answer]],
        *,
        user_group_id: str | None = None,
    ) -> Answer:
        """What all changes have in common."""
        user_id = current_call().user_id

        async def access(tx: AsyncConnection) -> Row[Any]:
            return await members.access_workspace(
                tx, workspace_id=workspace_id, user_id=user_id, capability=MANAGE_USER_GROUPS
            )

        async def work(tx: AsyncConnection, _actor: Row[Any]) -> Answer:
            return await change(tx)

        call = once(self._database, self._secret, request, answer_class, access=access, work=work)
        call = refusals.told(self._database, self._sight, workspace_id, call)
        return await refusals.audited(
            self._database, action, workspace_id, call, target_type="user_group", target_id=user_group_id
        )


async def _find(tx: AsyncConnection, request: Any, etag: str = "") -> Row[Any]:
    return await user_groups.find(tx, workspace_id=request.workspace_id, user_group_id=request.user_group_id, etag=etag)
