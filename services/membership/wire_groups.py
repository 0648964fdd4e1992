"""Rows of groups, and of all that belongs to them, as messages."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.membership.v1 import group_ban_service_pb2 as bans
from guildhall.membership.v1 import group_invite_service_pb2 as invites
from guildhall.membership.v1 import group_member_service_pb2 as group_members
from guildhall.membership.v1 import group_service_pb2 as groups
from guildhall.membership.v1 import role_scheme_service_pb2 as schemes
from sqlalchemy import Row

from services.membership.wire import ROLES


def group(row: Row[Any]) -> groups.Group:
    """A group."""
    return groups.Group(
        group_id=str(row.id),
        workspace_id=str(row.workspace_id),
        parent_group_id=str(row.path[-2]) if len(row.path) > 1 else "",
        name=row.name,
        description=row.description,
        avatar_url=row.avatar_url,
        owner_member_id=_optional(row.owner_member_id),
        role_scheme_id=str(row.scheme_id),
        depth=len(row.path),
        etag=str(row.version),
        create_time=_timestamp(row.created_at),
        update_time=_timestamp(row.updated_at),
        archive_time=_timestamp(row.archived_at),
    )


def group_member(row: Row[Any], *, name: str = "") -> group_members.GroupMember:
    """A role in a group; peers are told no name."""
    return group_members.GroupMember(
        group_member_id=str(row.id),
        workspace_id=str(row.workspace_id),
        group_id=str(row.group_id),
        member_id=str(row.member_id),
        user_id=str(row.user_id),
        user_name=name,
        role=row.role,
        group_invite_id=_optional(row.group_invite_id),
        etag=str(row.version),
        create_time=_timestamp(row.created_at),
        update_time=_timestamp(row.updated_at),
    )


def effective_member(row: Row[Any], *, name: str) -> group_members.EffectiveMember:
    """Somebody with all their roles."""
    held = zip(row.group_ids, row.roles, strict=True)
    return group_members.EffectiveMember(
        member_id=str(row.member_id),
        user_id=str(row.user_id),
        user_name=name,
        roles=[group_members.HeldRole(group_id=str(group_id), role=role) for group_id, role in held],
        capabilities=sorted(row.capabilities),
    )


def group_invite(row: Row[Any], *, code: str) -> invites.GroupInvite:
    """A group invite; its code is derived, so it does not come from the row."""
    message = invites.GroupInvite(
        group_invite_id=str(row.id),
        workspace_id=str(row.workspace_id),
        group_id=str(row.group_id),
        code=code,
        role=row.role,
        uses=row.uses,
        created_by_member_id=_optional(row.created_by_member_id),
        expire_time=_timestamp(row.expire_at),
        revoke_time=_timestamp(row.revoked_at),
        create_time=_timestamp(row.created_at),
    )
    if row.workspace_role is not None:
        message.workspace_role = ROLES[row.workspace_role]
    if row.max_uses is not None:
        message.max_uses = row.max_uses
    return message


def preview(row: Row[Any]) -> invites.PreviewGroupInviteResponse:
    """What a code leads to."""
    return invites.PreviewGroupInviteResponse(
        workspace_name=row.workspace_name,
        group_name=row.group_name,
        avatar_url=row.avatar_url,
        role=row.role,
        open_to_outsiders=row.workspace_role is not None,
        expire_time=_timestamp(row.expire_at),
    )


def ban(row: Row[Any], *, name: str) -> bans.GroupBan:
    """A ban from a group."""
    return bans.GroupBan(
        ban_id=str(row.id),
        workspace_id=str(row.workspace_id),
        group_id=str(row.group_id),
        user_id=str(row.user_id),
        user_name=name,
        reason=row.reason,
        banned_by_member_id=_optional(row.banned_by_member_id),
        ban_time=_timestamp(row.created_at),
        expire_time=_timestamp(row.expire_at),
        was_member=row.was_member,
    )


def role_scheme(row: Row[Any], *, workspace_id: str) -> schemes.RoleScheme:
    """A scheme as the workspace sees it: the built-in ones are everybody's."""
    return schemes.RoleScheme(
        role_scheme_id=str(row.id),
        workspace_id=workspace_id,
        name=row.name,
        owning_role=row.owning_role,
        roles=[scheme_role(each) for each in row.roles],
        built_in=row.workspace_id is None,
        etag=str(row.version),
        create_time=_timestamp(row.created_at),
        update_time=_timestamp(row.updated_at),
    )


def scheme_role(role: Mapping[str, Any]) -> schemes.SchemeRole:
    """A role of a scheme."""
    return schemes.SchemeRole(role=role["role"], rank=role["rank"], capabilities=role["capabilities"])


def _optional(value: object) -> str:
    return "" if value is None else str(value)


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
