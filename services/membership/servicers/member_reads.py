"""guildhall.membership.v1.MemberService: what is shown of members, to full members and to guests."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from guildhall.membership.v1 import member_service_pb2 as pb
from guildhall.membership.v1 import member_service_pb2_grpc as rpc
from sqlalchemy import Row

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.membership import members, wire
from services.membership.guest_sight import Sight
from services.membership.members import Asking
from services.membership.peers import Identity


class MemberReadRpcs(rpc.MemberServiceServicer):
    """Shows members. For guests the rows are read first, and guest is asked last whom of them they see."""

    def __init__(self, database: Database, secret: SecretKey, identity: Identity, sight: Sight) -> None:
        self._database = database
        self._secret = secret
        self._identity = identity
        self._sight = sight

    async def ListMembers(self, request: pb.ListMembersRequest, context: Any) -> pb.ListMembersResponse:
        """A page for a member; membership and page are read in one statement, the names afterwards."""
        user_id = current_call().user_id
        workspace_id = str(UUID(request.workspace_id))
        state = "suspended" if request.state == pb.MEMBER_STATE_SUSPENDED else "active"
        scope = ("ListMembers", user_id, workspace_id, state)
        key = page_key(self._secret, scope, request.page_token)
        after, size = str(key[0]) if key else None, page_size(request.page_size)
        caller, rows = await self._database.read(
            lambda tx: members.list_page(
                tx, workspace_id=workspace_id, user_id=user_id, state=state, after=after, size=size + 1
            )
        )
        if caller.kind == "guest":
            shown, last = await self._page_of_guest(caller, after=after or "", size=size)
        else:
            shown = await self._wired(rows[:size])
            last = shown[-1].member_id if len(rows) > size else ""
        return pb.ListMembersResponse(
            members=shown, next_page_token=page_token(self._secret, scope, [last]) if last else ""
        )

    async def GetMember(self, request: pb.GetMemberRequest, context: Any) -> pb.GetMemberResponse:
        """A member; for a guest, who is hidden is nobody."""
        user_id = current_call().user_id
        row = await self._database.read(
            lambda tx: members.get(tx, workspace_id=request.workspace_id, user_id=user_id, member_id=request.member_id)
        )
        (member,) = await self._wired([row])
        return pb.GetMemberResponse(
            member=await self._sight.one(members.asking(row, str(UUID(request.workspace_id))), member)
        )

    async def _page_of_guest(self, caller: Asking, *, after: str, size: int) -> tuple[list[pb.Member], str]:
        """A page, which may be short: guest knows the ids, membership who of them is active; and where the next begins.

        Who is seen is asked once more after the rows were read.
        """
        member_ids = await self._sight.page(caller, after=after, size=size + 1)
        rows = await self._database.read(
            lambda tx: members.list_named(tx, workspace_id=caller.workspace_id, member_ids=member_ids[:size])
        )
        shown = await self._sight.shown(caller, await self._wired(rows))
        return shown, member_ids[size - 1] if len(member_ids) > size else ""

    async def _wired(self, rows: Sequence[Row[Any]]) -> list[pb.Member]:
        names = await self._identity.names(str(row.user_id) for row in rows)
        return [wire.member(row, name=names.get(str(row.user_id), "")) for row in rows]
