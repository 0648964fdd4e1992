"""guildhall.membership.v1.WorkspaceService."""

from typing import Any

from guildhall.membership.v1 import workspace_service_pb2 as pb
from guildhall.membership.v1 import workspace_service_pb2_grpc as rpc
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.idempotency import no_access_needed, once
from services.chassis.secret import SecretKey
from services.membership import members, wire, workspaces
from services.membership.peers import Identity


class WorkspaceService(rpc.WorkspaceServiceServicer):
    """Anybody who is signed in may make a workspace."""

    def __init__(self, database: Database, secret: SecretKey, identity: Identity) -> None:
        self._database = database
        self._secret = secret
        self._identity = identity

    async def CreateWorkspace(self, request: pb.CreateWorkspaceRequest, context: Any) -> pb.CreateWorkspaceResponse:
        """Makes a workspace whose first member and admin is the caller."""
        user_id = current_call().user_id
        names = await self._identity.names([user_id])

        async def create(tx: AsyncConnection, _granted: None) -> pb.CreateWorkspaceResponse:
            workspace = await workspaces.create(tx, name=request.name, created_by=user_id)
            admin = await members.join(tx, workspace_id=str(workspace.id), user_id=user_id, role="admin")
            assert admin is not None, "a new workspace has no member that could be in the way"
            return pb.CreateWorkspaceResponse(
                workspace=wire.workspace(workspace), member=wire.member(admin, name=names.get(user_id, ""))
            )

        return await once(
            self._database, self._secret, request, pb.CreateWorkspaceResponse, access=no_access_needed, work=create
        )
