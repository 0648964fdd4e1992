"""guildhall.membership.v1.RoleSchemeService."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message
from guildhall.membership.v1 import role_scheme_service_pb2 as pb
from guildhall.membership.v1 import role_scheme_service_pb2_grpc as rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import masks
from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.idempotency import Repeatable, once
from services.chassis.secret import SecretKey
from services.membership import members, refusals, role_schemes, wire_groups
from services.membership.capabilities import MANAGE_ROLE_SCHEMES
from services.membership.guest_sight import Sight
from services.membership.peers import Identity
from services.membership.servicers.group_calls import one_spelling, read_page

Answer = TypeVar("Answer", bound=Message)


class RoleSchemeService(rpc.RoleSchemeServiceServicer):
    """What the roles in groups are."""

    def __init__(self, database: Database, secret: SecretKey, identity: Identity, sight: Sight) -> None:
        self._database = database
        self._secret = secret
        self._identity = identity
        self._sight = sight

    async def ListRoleSchemes(self, request: pb.ListRoleSchemesRequest, context: Any) -> pb.ListRoleSchemesResponse:
        """A page: the built-in ones come first."""
        user_id, workspace_id = current_call().user_id, one_spelling(request.workspace_id)

        async def read(tx: AsyncConnection, after: str | None, size: int) -> Sequence[Row[Any]]:
            return await role_schemes.list_page(tx, workspace_id=workspace_id, user_id=user_id, after=after, size=size)

        rows, token = await read_page(self._database, self._secret, request, read, lambda row: str(row.id))
        return pb.ListRoleSchemesResponse(
            role_schemes=[wire_groups.role_scheme(row, workspace_id=workspace_id) for row in rows],
            next_page_token=token,
        )

    async def GetRoleScheme(self, request: pb.GetRoleSchemeRequest, context: Any) -> pb.GetRoleSchemeResponse:
        """A scheme, for a full member."""
        user_id, workspace_id = current_call().user_id, one_spelling(request.workspace_id)
        row = await self._database.read(
            lambda tx: role_schemes.access_scheme(
                tx, workspace_id=workspace_id, scheme_id=request.role_scheme_id, user_id=user_id
            )
        )
        return pb.GetRoleSchemeResponse(role_scheme=wire_groups.role_scheme(row, workspace_id=workspace_id))

    async def CreateRoleScheme(self, request: pb.CreateRoleSchemeRequest, context: Any) -> pb.CreateRoleSchemeResponse:
        """By who manages the schemes."""
        design = role_schemes.require_design(request.name, request.owning_role, _roles(request.roles), where="")

        async def create(tx: AsyncConnection, actor: Row[Any]) -> pb.CreateRoleSchemeResponse:
            workspace_id = str(actor.workspace_id)
            row = await role_schemes.create(tx, workspace_id=workspace_id, design=design)
            return pb.CreateRoleSchemeResponse(role_scheme=wire_groups.role_scheme(row, workspace_id=workspace_id))

        return await self._change(
            request, pb.CreateRoleSchemeResponse, request.workspace_id, None, "role_scheme.created", create
        )

    async def UpdateRoleScheme(self, request: pb.UpdateRoleSchemeRequest, context: Any) -> pb.UpdateRoleSchemeResponse:
        """By who manages the schemes; not of the built-in ones."""
        paths = masks.paths(request.update_mask, allowed=("name", "owning_role", "roles"))
        scheme = request.role_scheme

        async def update(tx: AsyncConnection, actor: Row[Any]) -> pb.UpdateRoleSchemeResponse:
            workspace_id = str(actor.workspace_id)
            before = await role_schemes.find_own(
                tx, workspace_id=workspace_id, scheme_id=scheme.role_scheme_id, etag=scheme.etag
            )
            old = [(each["role"], each["rank"], each["capabilities"]) for each in before.roles]
            design = role_schemes.require_design(
                scheme.name if "name" in paths else before.name,
                scheme.owning_role if "owning_role" in paths else before.owning_role,
                _roles(scheme.roles) if "roles" in paths else old,
                where="role_scheme.",
            )
            row = await role_schemes.update(tx, before, design)
            return pb.UpdateRoleSchemeResponse(role_scheme=wire_groups.role_scheme(row, workspace_id=workspace_id))

        return await self._change(
            request,
            pb.UpdateRoleSchemeResponse,
            scheme.workspace_id,
            scheme.role_scheme_id,
            "role_scheme.updated",
            update,
        )

    async def DeleteRoleScheme(self, request: pb.DeleteRoleSchemeRequest, context: Any) -> pb.DeleteRoleSchemeResponse:
        """By who manages the schemes; not of the built-in ones."""

        async def delete(tx: AsyncConnection, actor: Row[Any]) -> pb.DeleteRoleSchemeResponse:
            row = await role_schemes.find_own(
                tx, workspace_id=str(actor.workspace_id), scheme_id=request.role_scheme_id, etag=request.etag
            )
            await role_schemes.delete(tx, row)
            return pb.DeleteRoleSchemeResponse()

        return await self._change(
            request,
            pb.DeleteRoleSchemeResponse,
            request.workspace_id,
            request.role_scheme_id,
            "role_scheme.deleted",
            delete,
        )

    async def _change(
        self,
        request: Repeatable,
        answer_class: type[Answer],
        workspace_id: str,
        scheme_id: str | None,
        action: str,
        work: Callable[[AsyncConnection, Row[Any]], Awaitable[Answer]],
    ) -> Answer:
        user_id = current_call().user_id

        async def access(tx: AsyncConnection) -> Row[Any]:
            return await members.access_workspace(
                tx, workspace_id=workspace_id, user_id=user_id, capability=MANAGE_ROLE_SCHEMES
            )

        call = once(self._database, self._secret, request, answer_class, access=access, work=work)
        call = refusals.told(self._database, self._sight, workspace_id, call)
        return await refusals.audited(
            self._database, action, workspace_id, call, target_type="role_scheme", target_id=scheme_id
        )


def _roles(roles: Sequence[pb.SchemeRole]) -> list[tuple[str, int, Sequence[str]]]:
    return [(each.role, each.rank, list(each.capabilities)) for each in roles]
