"""Codes that let people into a group, so often, and no longer than their creator may invite."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import InvalidRequest, NotFound, PermissionDenied
from services.chassis.secret import SecretKey, token_hash
from services.membership import group_access, limits, openings
from services.membership.activities import Activity, record
from services.membership.capabilities import INVITE_MEMBERS, allows
from services.membership.group_access import Standing

CODE_LENGTH = 20

INVITE = """
    i.id, i.workspace_id, i.group_id, i.role, i.workspace_role, i.max_uses, i.uses, i.created_by_member_id, i.expire_at,
    i.revoked_at, i.created_at
"""
"""SQL: what wire_groups.group_invite reads."""
OPEN = """
    i.revoked_at IS NULL AND (i.expire_at IS NULL OR statement_timestamp() < i.expire_at)
    AND (i.max_uses IS NULL OR i.uses < i.max_uses)
"""
"""SQL: whether the invite `i` can be used, as far as its own row says."""
INSERT = text(f"""
    INSERT INTO group_invites AS i (
        id, workspace_id, group_id, scheme_id, role, workspace_role, code_hash, created_by_member_id, max_uses,
        expire_at
    )
    SELECT CAST(:id AS uuid), CAST(:workspace_id AS uuid), CAST(:group_id AS uuid), CAST(:scheme_id AS uuid),
        CAST(:role AS text), CAST(:workspace_role AS text), CAST(:code_hash AS bytea),
        CAST(:created_by_member_id AS uuid), CAST(:max_uses AS integer), CAST(:expire_at AS timestamptz)
    WHERE CAST(:expire_at AS timestamptz) IS NULL OR statement_timestamp() < CAST(:expire_at AS timestamptz)
    RETURNING {INVITE}
""")
GET = text(f"""
    SELECT {INVITE} FROM group_invites i
    WHERE i.workspace_id = :workspace_id AND i.group_id = :group_id AND i.id = :invite_id
""")
LIST = text(f"""
    SELECT {INVITE} FROM group_invites i
    WHERE i.workspace_id = :workspace_id AND i.group_id = :group_id
        AND (CAST(:before AS uuid) IS NULL OR i.id < CAST(:before AS uuid))
    ORDER BY i.id DESC LIMIT :size
""")
REVOKE = text("""
    UPDATE group_invites SET revoked_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND id = :invite_id AND revoked_at IS NULL
    RETURNING code_hash, workspace_role
""")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a new invite gives, how often, until when."""

    role: str
    """Empty for the scheme's lowest."""
    workspace_role: str | None
    max_uses: int | None
    expire_at: datetime | None


def code_of(secret: SecretKey, invite_id: str) -> str:
    """The code of an invite, 100 bits of it: derived, so that it can be shown again without being stored."""
    return base64.b32encode(secret.mac("group invite", invite_id.encode())).decode().lower()[:CODE_LENGTH]


def code_hash(code: str) -> bytes:
    """What is stored of a code; its case does not matter."""
    return token_hash(code.lower())


async def create(tx: AsyncConnection, secret: SecretKey, standing: Standing, terms: Terms) -> Row[Any]:
    """A new invite. The workspace is locked, and the creator may invite into the group.

    Errors: PermissionDenied for a workspace role without the right to invite there; InvalidRequest for the owning role,
    one that is none, and a time that is past; RankTooLow; LimitReached.
    """
    group, workspace_id = standing.group, standing.member.workspace_id
    if terms.workspace_role is not None and not allows(standing.member, INVITE_MEMBERS):
        raise PermissionDenied
    role = terms.role or list(await group_access.roles_of(tx, group.scheme_id))[-1]
    if role == group.owning_role:
        raise InvalidRequest(fields=[("role", "is the owning role, which no code gives")])
    await group_access.require_grantable(tx, standing, role)
    await limits.require(tx, "open_group_invites", workspace_id=workspace_id, scope_id=group.id)
    invite_id = str(uuid_utils.uuid7())
    hashed = code_hash(code_of(secret, invite_id))
    row = {
        "id": invite_id,
        "workspace_id": workspace_id,
        "group_id": group.id,
        "scheme_id": group.scheme_id,
        "role": role,
        "workspace_role": terms.workspace_role,
        "code_hash": hashed,
        "created_by_member_id": standing.member.id,
        "max_uses": terms.max_uses,
        "expire_at": terms.expire_at,
    }
    created = (await tx.execute(INSERT, row)).one_or_none()
    if created is None:
        raise InvalidRequest(fields=[("expire_time", "must be later than now")])
    if terms.workspace_role is not None:
        await openings.opened(tx, hashed, terms.expire_at)
    given = {"role": role, "workspace_role": terms.workspace_role or "", "max_uses": terms.max_uses or 0}
    metadata = {"group_id": group.id, "after": given}
    await record(tx, workspace_id, [Activity("group_invite.created", "group_invite", invite_id, metadata=metadata)])
    return created


async def list_page(
    tx: AsyncConnection, *, workspace_id: str, group_id: str, before: str | None, size: int
) -> Sequence[Row[Any]]:
    """A group's invites older than one, newest first."""
    page = {"workspace_id": workspace_id, "group_id": group_id, "before": before, "size": size}
    return (await tx.execute(LIST, page)).all()


async def giveable(tx: AsyncConnection, standing: Standing, rows: Sequence[Row[Any]]) -> set[str]:
    """The ids of the invites that somebody could have made: of others they are not told the code."""
    ranks = await group_access.roles_of(tx, standing.group.scheme_id)
    outsiders = allows(standing.member, INVITE_MEMBERS)
    return {
        str(row.id)
        for row in rows
        if ranks.get(row.role, standing.rank + 1) <= standing.rank and (outsiders or row.workspace_role is None)
    }


async def revoke(tx: AsyncConnection, standing: Standing, *, invite_id: str) -> Row[Any]:
    """Ends an invite; one that has ended stays as it is. The workspace is locked. Errors: NotFound."""
    workspace_id, group_id = standing.member.workspace_id, standing.group.id
    named = {"workspace_id": workspace_id, "group_id": group_id, "invite_id": invite_id}
    if (await tx.execute(GET, named)).one_or_none() is None:
        raise NotFound
    revoked = (await tx.execute(REVOKE, named)).one_or_none()
    if revoked is not None:
        if revoked.workspace_role is not None:
            await openings.closed(tx, [revoked.code_hash])
        metadata = {"group_id": group_id}
        await record(tx, workspace_id, [Activity("group_invite.revoked", "group_invite", invite_id, metadata=metadata)])
    return (await tx.execute(GET, named)).one()
