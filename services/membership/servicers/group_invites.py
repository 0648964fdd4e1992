"""guildhall.membership.v1.GroupInviteService."""

from collections.abc import Sequence
from typing import Any

from guildhall.membership.v1 import group_invite_service_pb2 as pb
from guildhall.membership.v1 import group_invite_service_pb2_grpc as rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.idempotency import once
from services.chassis.secret import SecretKey
from services.membership import group_access, group_invites, group_redemptions, members, refusals, wire, wire_groups
from services.membership.capabilities import INVITE_TO_GROUP
from services.membership.group_access import Standing
from services.membership.group_redemptions import Redemption
from services.membership.guest_sight import Sight
from services.membership.peers import Identity
from services.membership.servicers.group_calls import change_group, one_spelling, read_page


class GroupInviteService(rpc.GroupInviteServiceServicer):
    """Makes and redeems the codes of groups."""

    def __init__(self, database: Database, secret: SecretKey, identity: Identity, sight: Sight) -> None:
        self._database = database
        self._secret = secret
        self._identity = identity
        self._sight = sight

    async def CreateGroupInvite(
        self, request: pb.CreateGroupInviteRequest, context: Any
    ) -> pb.CreateGroupInviteResponse:
        """By who may invite into the group."""
        terms = _terms(request)

        async def create(tx: AsyncConnection, standing: Standing) -> pb.CreateGroupInviteResponse:
            row = await group_invites.create(tx, self._secret, standing, terms)
            return pb.CreateGroupInviteResponse(group_invite=self._wired(row))

        return await change_group(
            self._database,
            self._secret,
            request,
            pb.CreateGroupInviteResponse,
            group=request,
            action="group_invite.created",
            capability=INVITE_TO_GROUP,
            work=create,
            without_secret=_without_code,
        )

    async def ListGroupInvites(self, request: pb.ListGroupInvitesRequest, context: Any) -> pb.ListGroupInvitesResponse:
        """A page with the codes. It is read first, then asked whether the caller may: never newer than that."""
        user_id, group_id = current_call().user_id, one_spelling(request.group_id)
        own: set[str] = set()

        async def read(tx: AsyncConnection, before: str | None, size: int) -> Sequence[Row[Any]]:
            place = {"workspace_id": request.workspace_id, "group_id": group_id}
            rows = await group_invites.list_page(tx, **place, before=before, size=size)
            standing = await group_access.require_standing(tx, **place, user_id=user_id, capability=INVITE_TO_GROUP)
            own.update(await group_invites.giveable(tx, standing, rows))
            return rows

        rows, token = await read_page(self._database, self._secret, request, read, lambda row: str(row.id), group_id)
        wired = [self._wired(row) if str(row.id) in own else wire_groups.group_invite(row, code="") for row in rows]
        return pb.ListGroupInvitesResponse(group_invites=wired, next_page_token=token)

    async def RevokeGroupInvite(
        self, request: pb.RevokeGroupInviteRequest, context: Any
    ) -> pb.RevokeGroupInviteResponse:
        """By who may invite into the group, whoever made it."""

        async def revoke(tx: AsyncConnection, standing: Standing) -> pb.RevokeGroupInviteResponse:
            row = await group_invites.revoke(tx, standing, invite_id=request.group_invite_id)
            return pb.RevokeGroupInviteResponse(group_invite=self._wired(row))

        return await change_group(
            self._database,
            self._secret,
            request,
            pb.RevokeGroupInviteResponse,
            group=request,
            action="group_invite.revoked",
            capability=INVITE_TO_GROUP,
            work=revoke,
            without_secret=_without_code_once_revoked,
        )

    async def PreviewGroupInvite(
        self, request: pb.PreviewGroupInviteRequest, context: Any
    ) -> pb.PreviewGroupInviteResponse:
        """Says to anybody what a code leads to, as long as it can be used."""
        row = await self._database.read(lambda tx: group_redemptions.get_usable(tx, request.code))
        return wire_groups.preview(row)

    async def RedeemGroupInvite(
        self, request: pb.RedeemGroupInviteRequest, context: Any
    ) -> pb.RedeemGroupInviteResponse:
        """The caller becomes a member of the group, and of the workspace if need be, who was a guest once too."""
        user_id = current_call().user_id
        presenter, name = await self._identity.presenter(user_id)

        async def find(tx: AsyncConnection) -> tuple[Row[Any], Row[Any] | None]:
            found = await group_redemptions.find(tx, request.code)
            return found, await members.find_active(tx, workspace_id=str(found.workspace_id), user_id=user_id)

        found, stay = await self._database.read(find)
        # Asked before the workspace is locked.
        over = await self._sight.find_over(stay)

        async def access(tx: AsyncConnection) -> Redemption:
            return await group_redemptions.access_redemption(tx, presenter, found, code=request.code, over=over)

        async def redeem(tx: AsyncConnection, redemption: Redemption) -> pb.RedeemGroupInviteResponse:
            inside, member = await group_redemptions.redeem(tx, redemption, user_id=user_id)
            return pb.RedeemGroupInviteResponse(
                group_member=wire_groups.group_member(inside, name=name), member=wire.member(member, name=name)
            )

        call = once(self._database, self._secret, request, pb.RedeemGroupInviteResponse, access=access, work=redeem)
        return await refusals.audited(
            self._database,
            "group_invite.redeemed",
            str(found.workspace_id),
            call,
            target_type="group_invite",
            target_id=str(found.id),
        )

    def _wired(self, row: Row[Any]) -> pb.GroupInvite:
        return wire_groups.group_invite(row, code=group_invites.code_of(self._secret, str(row.id)))


def _terms(request: pb.CreateGroupInviteRequest) -> group_invites.Terms:
    expire_at = None
    if request.HasField("expire_time"):
        expire_at = wire.read_time(request.expire_time, field="expire_time")
    return group_invites.Terms(
        role=request.role,
        workspace_role=wire.ROLE_NAMES[request.workspace_role] if request.workspace_role else None,
        max_uses=request.max_uses if request.HasField("max_uses") else None,
        expire_at=expire_at,
    )


def _without_code(answer: pb.CreateGroupInviteResponse) -> pb.CreateGroupInviteResponse:
    kept = pb.CreateGroupInviteResponse()
    kept.CopyFrom(answer)
    kept.group_invite.ClearField("code")
    return kept


def _without_code_once_revoked(answer: pb.RevokeGroupInviteResponse) -> pb.RevokeGroupInviteResponse:
    kept = pb.RevokeGroupInviteResponse()
    kept.CopyFrom(answer)
    kept.group_invite.ClearField("code")
    return kept
