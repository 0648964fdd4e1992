"""guildhall.membership.v1.GroupService."""

from collections.abc import Sequence
from typing import Any

from guildhall.membership.v1 import group_service_pb2 as pb
from guildhall.membership.v1 import group_service_pb2_grpc as rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import masks
from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import InvalidRequest, PermissionDenied
from services.chassis.idempotency import once
from services.chassis.secret import SecretKey
from services.membership import group_access, group_members, group_trees, groups, members, refusals, wire_groups
from services.membership.capabilities import CREATE_GROUPS, DELETE_GROUP, MANAGE_GROUP, allows
from services.membership.group_access import Group, Member, Standing
from services.membership.guest_sight import Sight
from services.membership.peers import Identity
from services.membership.servicers.group_calls import change_group, one_spelling, read_page


class GroupService(rpc.GroupServiceServicer):
    """Groups, and the tree that they form."""

    def __init__(self, database: Database, secret: SecretKey, identity: Identity, sight: Sight) -> None:
        self._database = database
        self._secret = secret
        self._identity = identity
        self._sight = sight

    async def CreateGroup(self, request: pb.CreateGroupRequest, context: Any) -> pb.CreateGroupResponse:
        """At the top by who may create groups, below a group by who manages that one."""
        user_id, workspace_id = current_call().user_id, request.workspace_id
        if request.parent_group_id and request.role_scheme_id:
            raise InvalidRequest(
                fields=[("role_scheme_id", "is that of the tree; only a group at the top has its own")]
            )

        async def access(tx: AsyncConnection) -> tuple[Member, Group | None]:
            if not request.parent_group_id:
                row = await members.access_workspace(
                    tx, workspace_id=workspace_id, user_id=user_id, capability=CREATE_GROUPS
                )
                return Member(str(row.id), str(row.workspace_id), str(row.user_id), row.role, row.kind), None
            standing = await group_access.access_group(
                tx,
                workspace_id=workspace_id,
                group_id=request.parent_group_id,
                user_id=user_id,
                capability=MANAGE_GROUP,
            )
            return standing.member, standing.group

        async def create(tx: AsyncConnection, place: tuple[Member, Group | None]) -> pb.CreateGroupResponse:
            creator, parent = place
            row = await groups.create(
                tx,
                creator,
                parent=parent,
                role_scheme_id=request.role_scheme_id or groups.COMMUNITY,
                name=request.name,
                description=request.description,
                avatar_url=request.avatar_url,
            )
            return pb.CreateGroupResponse(group=wire_groups.group(row))

        call = once(self._database, self._secret, request, pb.CreateGroupResponse, access=access, work=create)
        call = refusals.told(self._database, self._sight, workspace_id, call)
        return await refusals.audited(self._database, "group.created", workspace_id, call)

    async def GetGroup(self, request: pb.GetGroupRequest, context: Any) -> pb.GetGroupResponse:
        """A group, for who sees it."""
        user_id = current_call().user_id
        row = await self._database.read(
            lambda tx: groups.access_group_row(
                tx, workspace_id=request.workspace_id, group_id=request.group_id, user_id=user_id
            )
        )
        return pb.GetGroupResponse(group=wire_groups.group(row))

    async def ListGroups(self, request: pb.ListGroupsRequest, context: Any) -> pb.ListGroupsResponse:
        """A page of what is at the top, or right below a group."""
        user_id, parent_group_id = current_call().user_id, one_spelling(request.parent_group_id)

        async def read(tx: AsyncConnection, after: str | None, size: int) -> Sequence[Row[Any]]:
            return await groups.list_page(
                tx,
                workspace_id=request.workspace_id,
                parent_group_id=parent_group_id,
                user_id=user_id,
                after=after,
                size=size,
            )

        rows, token = await read_page(
            self._database, self._secret, request, read, lambda row: str(row.id), parent_group_id
        )
        return pb.ListGroupsResponse(groups=[wire_groups.group(row) for row in rows], next_page_token=token)

    async def UpdateGroup(self, request: pb.UpdateGroupRequest, context: Any) -> pb.UpdateGroupResponse:
        """Name, description, picture."""
        group = request.group
        paths = masks.paths(request.update_mask, allowed=("name", "description", "avatar_url"))
        if "name" in paths and not group.name:
            raise InvalidRequest(fields=[("group.name", "must not be empty")])

        async def update(tx: AsyncConnection, standing: Standing) -> pb.UpdateGroupResponse:
            groups.require_etag(group.etag, standing.group.version)
            row = await groups.update(tx, standing, changes={path: getattr(group, path) for path in sorted(paths)})
            return pb.UpdateGroupResponse(group=wire_groups.group(row))

        return await change_group(
            self._database,
            self._secret,
            request,
            pb.UpdateGroupResponse,
            group=group,
            action="group.updated",
            capability=MANAGE_GROUP,
            work=update,
        )

    async def MoveGroup(self, request: pb.MoveGroupRequest, context: Any) -> pb.MoveGroupResponse:
        """By who manages the group, and the one where it goes."""

        async def move(tx: AsyncConnection, standing: Standing) -> pb.MoveGroupResponse:
            groups.require_etag(request.etag, standing.group.version)
            await group_trees.require_may_take_out(tx, standing)
            parent = await _access_parent(tx, standing, request.parent_group_id)
            await group_trees.move(tx, standing, parent=parent)
            return pb.MoveGroupResponse(group=wire_groups.group(await _get(tx, standing)))

        return await change_group(
            self._database,
            self._secret,
            request,
            pb.MoveGroupResponse,
            group=request,
            action="group.moved",
            capability=MANAGE_GROUP,
            work=move,
        )

    async def DeleteGroup(self, request: pb.DeleteGroupRequest, context: Any) -> pb.DeleteGroupResponse:
        """Ends a group, with what is below it if that is asked for."""

        async def delete(tx: AsyncConnection, standing: Standing) -> pb.DeleteGroupResponse:
            groups.require_etag(request.etag, standing.group.version)
            await groups.delete(tx, standing, force=request.force)
            return pb.DeleteGroupResponse()

        return await change_group(
            self._database,
            self._secret,
            request,
            pb.DeleteGroupResponse,
            group=request,
            action="group.deleted",
            capability=DELETE_GROUP,
            work=delete,
        )

    async def ListAncestors(self, request: pb.ListAncestorsRequest, context: Any) -> pb.ListAncestorsResponse:
        """Who sees a group sees all above it: a ban from one of them would hide it too."""
        user_id = current_call().user_id
        rows = await self._database.read(
            lambda tx: group_trees.list_ancestors(
                tx, workspace_id=request.workspace_id, group_id=request.group_id, user_id=user_id
            )
        )
        return pb.ListAncestorsResponse(groups=[wire_groups.group(row) for row in rows])

    async def ListDescendants(self, request: pb.ListDescendantsRequest, context: Any) -> pb.ListDescendantsResponse:
        """A page of what is below a group, without what the caller is banned from."""
        user_id, group_id = current_call().user_id, one_spelling(request.group_id)

        async def read(tx: AsyncConnection, after: str | None, size: int) -> Sequence[Row[Any]]:
            return await group_trees.list_descendants(
                tx,
                workspace_id=request.workspace_id,
                group_id=group_id,
                user_id=user_id,
                after=group_trees.read_path_key(after or ""),
                size=size,
            )

        rows, token = await read_page(self._database, self._secret, request, read, group_trees.path_key, group_id)
        return pb.ListDescendantsResponse(groups=[wire_groups.group(row) for row in rows], next_page_token=token)

    async def TransferOwnership(
        self, request: pb.TransferOwnershipRequest, context: Any
    ) -> pb.TransferOwnershipResponse:
        """An owner makes another member of the group an owner, in their own place."""

        async def transfer(tx: AsyncConnection, standing: Standing) -> pb.TransferOwnershipResponse:
            groups.require_etag(request.etag, standing.group.version)
            await group_members.transfer_ownership(
                tx, standing, member_id=request.member_id, from_member_id=request.from_member_id
            )
            return pb.TransferOwnershipResponse(group=wire_groups.group(await _get(tx, standing)))

        return await change_group(
            self._database,
            self._secret,
            request,
            pb.TransferOwnershipResponse,
            group=request,
            action="group.ownership_transferred",
            capability=None,
            work=transfer,
        )


async def _access_parent(tx: AsyncConnection, standing: Standing, parent_group_id: str) -> Group | None:
    """Where a group goes; None is the top. Errors: NotFound, PermissionDenied."""
    if not parent_group_id:
        if not allows(standing.member, CREATE_GROUPS):
            raise PermissionDenied
        return None
    parent = await group_access.require_standing(
        tx,
        workspace_id=standing.member.workspace_id,
        group_id=parent_group_id,
        user_id=standing.member.user_id,
        capability=MANAGE_GROUP,
    )
    return parent.group


async def _get(tx: AsyncConnection, standing: Standing) -> Row[Any]:
    return await groups.get(tx, workspace_id=standing.member.workspace_id, group_id=standing.group.id)
