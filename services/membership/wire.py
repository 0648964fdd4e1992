"""Rows as messages."""

from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.membership.v1 import invitation_service_pb2 as invitations
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from sqlalchemy import Row

from services.membership.capabilities import allows

ROLES = {"viewer": members.ROLE_VIEWER, "member": members.ROLE_MEMBER, "admin": members.ROLE_ADMIN}
ROLE_NAMES = {number: name for name, number in ROLES.items()}
KINDS = {"full": members.MEMBER_KIND_FULL, "guest": members.MEMBER_KIND_GUEST}
STATES = {"pending": members.MEMBER_STATE_PENDING, "active": members.MEMBER_STATE_ACTIVE}


def workspace(row: Row[Any]) -> workspaces.Workspace:
    """A workspace; its etag is the number of changes it has had."""
    return workspaces.Workspace(
        workspace_id=str(row.id), name=row.name, etag=str(row.version), create_time=_timestamp(row.created_at)
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
        join_time=_timestamp(row.joined_at) if row.joined_at else None,
    )


def invitation(row: Row[Any]) -> invitations.Invitation:
    """An invitation, without its token: that goes by mail only."""
    return invitations.Invitation(
        invitation_id=str(row.id),
        workspace_id=str(row.workspace_id),
        email=row.email,
        role=ROLES[row.role],
        inviter_member_id=str(row.inviter_member_id),
        expire_time=_timestamp(row.expire_at),
        create_time=_timestamp(row.created_at),
    )


def verdict(row: Row[Any], capability: str) -> access.AccessVerdict:
    """The answer to a question, from where its subject stands. Of who is no member it says nothing."""
    if row.member_id is None:
        return access.AccessVerdict(reason=access.ACCESS_REASON_NOT_A_MEMBER, access_revision=row.access_revision)
    allowed = allows(row, capability)
    return access.AccessVerdict(
        allowed=allowed,
        reason=access.ACCESS_REASON_ROLE if allowed else access.ACCESS_REASON_ROLE_LACKS_CAPABILITY,
        member_id=str(row.member_id),
        user_id=str(row.user_id),
        role=ROLES[row.role],
        kind=KINDS[row.kind],
        access_revision=row.access_revision,
    )


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
