"""guildhall.membership.v1.GroupBanService."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from guildhall.membership.v1 import group_ban_service_pb2 as pb
from guildhall.membership.v1 import group_ban_service_pb2_grpc as rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.secret import SecretKey
from services.membership import group_access, group_bans, wire, wire_groups
from services.membership.capabilities import BAN_FROM_GROUP
from services.membership.group_access import Standing
from services.membership.peers import Identity
from services.membership.servicers.group_calls import change_group, one_spelling, read_page


class GroupBanService(rpc.GroupBanServiceServicer):
    """Keeps people out of a group and of everything below it."""

    def __init__(self, database: Database, secret: SecretKey, identity: Identity) -> None:
        self._database = database
        self._secret = secret
        self._identity = identity

    async def BanUser(self, request: pb.BanUserRequest, context: Any) -> pb.BanUserResponse:
        """Bans a person, whether there is such a one or not: identity is not asked."""
        user_id = str(UUID(request.user_id))
        expire_at = None
        if request.HasField("expire_time"):
            expire_at = wire.read_time(request.expire_time, field="expire_time")

        async def ban(tx: AsyncConnection, standing: Standing) -> pb.BanUserResponse:
            row = await group_bans.ban(tx, standing, user_id=user_id, reason=request.reason, expire_at=expire_at)
            return pb.BanUserResponse(ban=wire_groups.ban(row, name=""))

        answer = await change_group(
            self._database,
            self._secret,
            request,
            pb.BanUserResponse,
            group=request,
            action="group_member.banned",
            capability=BAN_FROM_GROUP,
            work=ban,
            target_user_id=user_id,
        )
        names = await self._identity.names([user_id] if answer.ban.was_member else [])
        answer.ban.user_name = names.get(user_id, "")
        return answer

    async def UnbanUser(self, request: pb.UnbanUserRequest, context: Any) -> pb.UnbanUserResponse:
        """Lifts a ban."""
        user_id = str(UUID(request.user_id))

        async def unban(tx: AsyncConnection, standing: Standing) -> pb.UnbanUserResponse:
            await group_bans.unban(tx, standing, user_id=user_id, reason=request.reason)
            return pb.UnbanUserResponse()

        return await change_group(
            self._database,
            self._secret,
            request,
            pb.UnbanUserResponse,
            group=request,
            action="group_member.unbanned",
            capability=BAN_FROM_GROUP,
            work=unban,
            target_user_id=user_id,
        )

    async def ListBans(self, request: pb.ListBansRequest, context: Any) -> pb.ListBansResponse:
        """A page of the bans that hold. It is read first, then asked whether the caller may: never newer than that."""
        user_id, group_id = current_call().user_id, one_spelling(request.group_id)

        async def read(tx: AsyncConnection, before: str | None, size: int) -> Sequence[Row[Any]]:
            place = {"workspace_id": request.workspace_id, "group_id": group_id}
            rows = await group_bans.list_page(tx, **place, before=before, size=size)
            await group_access.require_standing(tx, **place, user_id=user_id, capability=BAN_FROM_GROUP)
            return rows

        rows, token = await read_page(self._database, self._secret, request, read, lambda row: str(row.id), group_id)
        names = await self._identity.names(str(row.user_id) for row in rows if row.was_member)
        return pb.ListBansResponse(
            bans=[wire_groups.ban(row, name=names.get(str(row.user_id), "")) for row in rows], next_page_token=token
        )
