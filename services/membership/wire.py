"""Rows as messages."""

import functools
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from sqlalchemy import Row

from services.chassis.errors import InvalidRequest
from services.membership import verdicts

ROLES = {"viewer": members.ROLE_VIEWER, "member": members.ROLE_MEMBER, "admin": members.ROLE_ADMIN}
ROLE_NAMES = {number: name for name, number in ROLES.items()}
KINDS = {"full": members.MEMBER_KIND_FULL, "guest": members.MEMBER_KIND_GUEST}
STATES = {
    "pending": members.MEMBER_STATE_PENDING,
    "active": members.MEMBER_STATE_ACTIVE,
    "suspended": members.MEMBER_STATE_SUSPENDED,
}


def workspace(row: Row[Any]) -> workspaces.Workspace:
    """A workspace; its etag is the number of changes it has had."""
    return workspaces.Workspace(
        workspace_id=str(row.id),
        name=row.name,
        etag=str(row.version),
        create_time=timestamp(row.created_at),
        update_time=timestamp(row.updated_at),
        archive_time=timestamp(row.archived_at) if row.archived_at else None,
        message_edit_window=duration(row.message_edit_window),
    )


def member(row: Row[Any], *, name: str = "") -> members.Member:
    """A member; peers are told no name."""
    return members.Member(
        member_id=str(row.id),
        workspace_id=str(row.workspace_id),
        user_id=str(row.user_id),
        name=name,
        role=ROLES[row.role],
        kind=KINDS[row.kind],
        state=STATES[row.state],
        join_time=timestamp(row.joined_at) if row.joined_at else None,
        handle=row.handle or "",
        title=row.title,
        etag=str(row.version),
        inviter_member_id=str(row.inviter_member_id or ""),
        invitation_id=str(row.invitation_id or ""),
        group_invite_id=str(row.group_invite_id or ""),
        suspend_time=timestamp(row.suspended_at) if row.suspended_at else None,
        update_time=timestamp(row.updated_at),
    )


def ban(row: Row[Any], *, name: str = "") -> members.MemberBan:
    """A ban, of a person or of an address."""
    return members.MemberBan(
        ban_id=str(row.id),
        workspace_id=str(row.workspace_id),
        user_id=str(row.user_id or ""),
        user_name=name,
        email=row.email or "",
        reason=row.reason,
        banned_by_member_id=str(row.banned_by_member_id or ""),
        ban_time=timestamp(row.created_at),
        expire_time=timestamp(row.expire_at) if row.expire_at else None,
        was_member=row.was_member,
    )


def verdict(row: Row[Any], capability: str, *, tells_suspension: bool = False) -> access.AccessVerdict:
    """The answer to a question, from where its subject stands. Of who is no member it says nothing."""
    reason = verdicts.reason_of(row, capability)
    if reason == access.ACCESS_REASON_SUSPENDED and not tells_suspension:
        reason = access.ACCESS_REASON_NOT_A_MEMBER
    if reason == access.ACCESS_REASON_NOT_A_MEMBER:
        return access.AccessVerdict(reason=reason, access_revision=row.access_revision)
    return access.AccessVerdict(
        allowed=reason in verdicts.ALLOWING,
        reason=reason,
        member_id=str(row.member_id),
        user_id=str(row.user_id),
        role=ROLES[row.role],
        kind=KINDS[row.kind],
        access_revision=row.access_revision,
        message_edit_window=duration(row.message_edit_window),
        in_group=bool(row.in_group),
    )


def timestamp(moment: datetime) -> Timestamp:
    """The database's time as the wire takes it."""
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def read_time(wired: Timestamp, *, field: str) -> datetime:
    """The wire's time as the database takes it. InvalidRequest if it is outside the years 1 to 9999."""
    try:
        return wired.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(fields=[(field, "must be a time of the years 1 to 9999")]) from None


# A batch of verdicts is mostly about one workspace.
@functools.lru_cache(maxsize=64)
def duration(span: timedelta | None) -> Duration | None:
    """The database's span as the wire takes it: to be copied, not changed."""
    if span is None:
        return None
    wired = Duration()
    wired.FromTimedelta(span)
    return wired


def read_duration(wired: Duration, *, field: str) -> timedelta:
    """The wire's span as the database takes it. InvalidRequest if its parts are not those of a positive span."""
    if not 0 <= wired.nanos < 1_000_000_000:
        raise InvalidRequest(fields=[(field, "must have nanos from 0 to 999999999")])
    return wired.ToTimedelta()
