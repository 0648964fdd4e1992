"""guildhall.membership.v1.GroupMemberService: what messaging asks of it."""

from collections.abc import Sequence
from typing import Any

from guildhall.membership.v1 import group_member_service_pb2 as pb
from guildhall.membership.v1 import group_member_service_pb2_grpc as rpc
from sqlalchemy import Row

from services.chassis.database import Database
from services.chassis.errors import InvalidRequest
from services.membership import peer_reads, wire_groups


class GroupPeerRpcs(rpc.GroupMemberServiceServicer):
    """Who is in groups, for conversations that have a group's people as participants."""

    _database: Database

    async def BatchListGroupMembers(
        self, request: pb.BatchListGroupMembersRequest, context: Any
    ) -> pb.BatchListGroupMembersResponse:
        """Group by group; the more are asked for, the fewer members of each come at once."""
        if request.after_member_id and len(request.group_ids) > 1:
            raise InvalidRequest(fields=[("after_member_id", "is for one group at a time")])
        size = peer_reads.MOST // len(request.group_ids)
        rows = await self._database.read(
            lambda tx: peer_reads.list_group_members(
                tx,
                workspace_id=request.workspace_id,
                group_ids=request.group_ids,
                after=request.after_member_id,
                size=size + 1,
            )
        )
        groups = zip(request.group_ids, rows, strict=True)
        return pb.BatchListGroupMembersResponse(groups=[_group(group_id, found, size) for group_id, found in groups])


def _group(group_id: str, rows: Sequence[Row[Any]], size: int) -> pb.GroupMembers:
    listed = [row for row in rows if row.member_id is not None]
    return pb.GroupMembers(
        group_id=group_id,
        exists=rows[0].found_id is not None,
        group_members=[wire_groups.group_member(row) for row in listed[:size]],
        has_more=len(listed) > size,
    )
