"""guildhall.membership.v1.WorkspaceService."""

from itertools import compress
from typing import Any
from uuid import UUID

from guildhall.membership.v1 import workspace_service_pb2 as pb
from guildhall.membership.v1 import workspace_service_pb2_grpc as rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import masks
from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import InvalidRequest, NotFound, PermissionDenied
from services.chassis.idempotency import no_access_needed, once
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.membership import activities, daily_limits, members, refusals, wire, workspaces
from services.membership.activities import Activity
from services.membership.capabilities import DELETE_WORKSPACE, UPDATE_WORKSPACE
from services.membership.daily_limits import DailyLimits
from services.membership.guest_sight import Sight
from services.membership.members import Asking
from services.membership.peers import Identity


class WorkspaceService(rpc.WorkspaceServiceServicer):
    """Workspaces: made, changed and ended."""

    def __init__(
        self,
        database: Database,
        secret: SecretKey,
        identity: Identity,
        *,
        sight: Sight,
        creation: str,
        daily: DailyLimits,
    ) -> None:
        """`creation` says who may make workspaces: "everybody" or "administrators"."""
        self._database = database
        self._secret = secret
        self._identity = identity
        self._sight = sight
        self._daily = daily
        self._only_administrators_create = creation == "administrators"

    async def CreateWorkspace(self, request: pb.CreateWorkspaceRequest, context: Any) -> pb.CreateWorkspaceResponse:
        """Makes a workspace whose first member and admin is the caller."""
        user_id = current_call().user_id
        if self._only_administrators_create and not await self._is_administrator():
            raise PermissionDenied("Only system administrators make workspaces here.")
        names = await self._identity.names([user_id])

        async def create(tx: AsyncConnection, _granted: None) -> pb.CreateWorkspaceResponse:
            await daily_limits.use_workspace(tx, self._daily, user_id=user_id)
            workspace = await workspaces.create(tx, name=request.name, created_by=user_id)
            workspace_id = str(workspace.id)
            admin = await members.join(tx, workspace_id=workspace_id, user_id=user_id, role="admin")
            assert admin is not None, "a new workspace has no member that could be in the way"
            told = {"way": "created", "after": {"role": "admin"}}
            created = Activity(
                "workspace.created", "workspace", workspace_id, metadata={"after": {"name": request.name}}
            )
            joined = Activity("member.joined", "member", target_user_id=user_id, metadata=told)
            await activities.record(tx, workspace_id, [created, joined])
            return pb.CreateWorkspaceResponse(
                workspace=wire.workspace(workspace), member=wire.member(admin, name=names.get(user_id, ""))
            )

        return await once(
            self._database, self._secret, request, pb.CreateWorkspaceResponse, access=no_access_needed, work=create
        )

    async def GetWorkspace(self, request: pb.GetWorkspaceRequest, context: Any) -> pb.GetWorkspaceResponse:
        """The workspace, for a member of it."""
        user_id = current_call().user_id

        async def get(tx: AsyncConnection) -> tuple[Row[Any], Row[Any]]:
            # The workspace first: it is older than the membership, so not newer than its end.
            workspace = await workspaces.get(tx, request.workspace_id)
            member = await members.find_active(tx, workspace_id=request.workspace_id, user_id=user_id)
            if member is None:
                raise NotFound
            return workspace, member

        workspace, member = await self._database.read(get)
        names = await self._identity.names([user_id])
        own = await self._sight.one(member, wire.member(member, name=names.get(user_id, "")))
        return pb.GetWorkspaceResponse(workspace=wire.workspace(workspace), member=own)

    async def ListWorkspaces(self, request: pb.ListWorkspacesRequest, context: Any) -> pb.ListWorkspacesResponse:
        """The caller's own, or for system administrators those that nobody was left to run.

        A page is without those where the caller's time as a guest has ended.
        """
        user_id = current_call().user_id
        if request.only_archived and not await self._is_administrator():
            raise PermissionDenied("This list is for system administrators.")
        scope = ("ListWorkspaces", user_id, str(request.only_archived))
        key = page_key(self._secret, scope, request.page_token)
        after, size = str(key[0]) if key else None, page_size(request.page_size)
        if request.only_archived:
            rows = await self._database.read(lambda tx: workspaces.list_archived(tx, after=after, size=size + 1))
        else:
            rows = await self._database.read(
                lambda tx: workspaces.list_page(tx, user_id=user_id, after=after, size=size + 1)
            )
        page = rows[:size]
        shown = [] if request.only_archived else await self._sight.present([_stay(row) for row in page])
        return pb.ListWorkspacesResponse(
            workspaces=[wire.workspace(row) for row in (page if request.only_archived else compress(page, shown))],
            next_page_token=page_token(self._secret, scope, [str(page[-1].id)]) if len(rows) > size else "",
        )

    async def UpdateWorkspace(self, request: pb.UpdateWorkspaceRequest, context: Any) -> pb.UpdateWorkspaceResponse:
        """An admin renames it, or sets how long messages may be edited."""
        changes = _changes(request)
        user_id, workspace_id = current_call().user_id, str(UUID(request.workspace.workspace_id))

        async def access(tx: AsyncConnection) -> Row[Any]:
            return await members.access_workspace(
                tx, workspace_id=workspace_id, user_id=user_id, capability=UPDATE_WORKSPACE
            )

        async def update(tx: AsyncConnection, _actor: Row[Any]) -> pb.UpdateWorkspaceResponse:
            row = await workspaces.update(tx, workspace_id, changes=changes, etag=request.workspace.etag)
            return pb.UpdateWorkspaceResponse(workspace=wire.workspace(row))

        call = once(self._database, self._secret, request, pb.UpdateWorkspaceResponse, access=access, work=update)
        call = refusals.told(self._database, self._sight, workspace_id, call)
        return await refusals.audited(self._database, "workspace.updated", workspace_id, call)

    async def DeleteWorkspace(self, request: pb.DeleteWorkspaceRequest, context: Any) -> pb.DeleteWorkspaceResponse:
        """An admin ends it for everybody."""
        user_id, workspace_id = current_call().user_id, str(UUID(request.workspace_id))

        async def access(tx: AsyncConnection) -> Row[Any] | None:
            return await members.access_to_end(
                tx, workspace_id=workspace_id, user_id=user_id, capability=DELETE_WORKSPACE
            )

        async def delete(tx: AsyncConnection, actor: Row[Any] | None) -> pb.DeleteWorkspaceResponse:
            if actor is None:
                raise NotFound
            await workspaces.delete(tx, workspace_id, etag=request.etag)
            return pb.DeleteWorkspaceResponse()

        call = once(self._database, self._secret, request, pb.DeleteWorkspaceResponse, access=access, work=delete)
        call = refusals.told(self._database, self._sight, workspace_id, call)
        return await refusals.audited(self._database, "workspace.deleted", workspace_id, call)

    async def _is_administrator(self) -> bool:
        call = current_call()
        return await self._identity.is_administrator(call.user_id, session_id=call.session_id)


def _stay(row: Row[Any]) -> Asking:
    """The caller in a workspace of their list."""
    return Asking(str(row.member_id), str(row.id), row.kind)


def _changes(request: pb.UpdateWorkspaceRequest) -> dict[str, Any]:
    """What the mask names, as the database takes it. Errors: InvalidRequest."""
    workspace = request.workspace
    changes: dict[str, Any] = {}
    for path in masks.paths(request.update_mask, allowed=("name", "message_edit_window")):
        if path == "name":
            changes[path] = workspace.name
        elif workspace.HasField("message_edit_window"):
            changes[path] = wire.read_duration(workspace.message_edit_window, field=f"workspace.{path}")
        else:
            changes[path] = None
    if changes.get("name") == "":
        raise InvalidRequest(fields=[("workspace.name", "must not be empty")])
    return changes
