"""User groups as messages."""

from collections.abc import Iterable, Sequence
from typing import Any

from guildhall.membership.v1 import user_group_service_pb2 as pb
from sqlalchemy import Row

from services.membership.wire import timestamp


def user_group(row: Row[Any]) -> pb.UserGroup:
    """A user group; its etag is the number of changes it has had."""
    return pb.UserGroup(
        user_group_id=str(row.id),
        workspace_id=str(row.workspace_id),
        handle=row.handle,
        name=row.name,
        description=row.description,
        member_count=row.member_count,
        etag=str(row.version),
        create_time=timestamp(row.created_at),
        update_time=timestamp(row.updated_at),
    )


def expanded(handles: Sequence[str], rows: Iterable[Row[Any]]) -> list[pb.ExpandedHandle]:
    """Handle by handle, from rows with a member each."""
    answers = [pb.ExpandedHandle(handle=handle) for handle in handles]
    for row in rows:
        answer = answers[row.position - 1]
        answer.user_group_id = str(row.user_group_id or "")
        if row.member_id is not None:
            answer.members.add(member_id=str(row.member_id), user_id=str(row.user_id))
    return answers
