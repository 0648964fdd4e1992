"""Members: who belongs to a workspace, how a stay begins, and what changes during it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound, PermissionDenied
from services.membership import activities, continuity, handles, openings, workspaces
from services.membership.activities import Activity
from services.membership.capabilities import (
    BY_ROLE,
    INVITE_MEMBERS,
    RANKS,
    SUSPEND_MEMBERS,
    UPDATE_MEMBERS,
    allows,
    may_act_on,
    rank,
)
from services.membership.errors import GuestsExcluded, RankTooLow
from services.membership.revisions import raise_access_revision

COLUMNS = """
    m.id, m.workspace_id, m.user_id, m.role, m.kind, m.state, m.joined_at, m.title, m.version, m.updated_at,
    m.suspended_at, m.inviter_member_id, m.invitation_id, m.group_invite_id,
    (SELECT h.handle FROM handles h WHERE h.workspace_id = m.workspace_id AND h.member_id = m.id) AS handle
"""
"""Of `members m`: what wire.member shows."""
CALLER = "members caller JOIN workspaces home ON home.id = caller.workspace_id AND home.deleted_at IS NULL"
"""What a list or a read starts from: no row at all means that the caller is no member."""
ASKING = "caller.id AS caller_id, caller.role AS caller_role, caller.kind AS caller_kind"

ACTIVE_BY_USER = text(f"""
    SELECT {COLUMNS} FROM members m JOIN workspaces home ON home.id = m.workspace_id AND home.deleted_at IS NULL
    WHERE m.workspace_id = :workspace_id AND m.user_id = :user_id AND m.state = 'active'
""")
ACTIVE_BY_ID = text(f"""
    SELECT {COLUMNS} FROM members m JOIN workspaces home ON home.id = m.workspace_id AND home.deleted_at IS NULL
    WHERE m.workspace_id = :workspace_id AND m.id = :member_id AND m.state = 'active'
""")
# Suspended ones too: what they hold can still be changed, or ended.
BY_ID = text(f"""
    SELECT {COLUMNS} FROM members m
    WHERE m.workspace_id = :workspace_id AND m.id = :member_id AND m.state IN ('active', 'suspended')
""")
# A pending guest who becomes a full member keeps the row and its id: confirming the guest later finds it in force.
JOIN = text(f"""
    INSERT INTO members AS m (
        id, workspace_id, user_id, role, kind, state, invitation_id, group_invite_id, inviter_member_id, joined_at
    )
    VALUES (
        :id, :workspace_id, :user_id, :role, 'full', 'active', :invitation_id, :group_invite_id, :inviter_member_id,
        statement_timestamp()
    )
    ON CONFLICT (workspace_id, user_id) DO UPDATE
    SET role = excluded.role, kind = 'full', state = 'active', redemption_id = NULL,
        invitation_id = excluded.invitation_id, group_invite_id = excluded.group_invite_id,
        inviter_member_id = excluded.inviter_member_id, joined_at = statement_timestamp(),
        version = m.version + 1, updated_at = statement_timestamp()
    WHERE m.state = 'pending'
    RETURNING {COLUMNS}
""")
# From the caller outwards: no row at all means that the caller is no member, one row without an id that the page is
# empty. A guest's is: whom they may see is guest's to say.
LIST = text(f"""
    SELECT {ASKING}, listed.*
    FROM {CALLER}
    LEFT JOIN LATERAL (
        SELECT {COLUMNS} FROM members m
        WHERE m.workspace_id = caller.workspace_id AND m.state = :state
            AND m.id > CAST(:after AS uuid) AND caller.kind = 'full'
        ORDER BY m.id LIMIT :size
    ) listed ON true
    WHERE caller.workspace_id = :workspace_id AND caller.user_id = :user_id AND caller.state = 'active'
    ORDER BY listed.id
""")
GET = text(f"""
    SELECT {ASKING}, {COLUMNS}
    FROM {CALLER}
    JOIN members m ON m.workspace_id = caller.workspace_id AND m.id = :member_id
        AND m.state IN ('active', 'suspended')
    WHERE caller.workspace_id = :workspace_id AND caller.user_id = :user_id AND caller.state = 'active'
""")
LIST_NAMED = text(f"""
    SELECT {COLUMNS} FROM members m
    WHERE m.workspace_id = :workspace_id AND m.id = ANY(CAST(:member_ids AS uuid[])) AND m.state = 'active'
    ORDER BY m.id
""")
UPDATE = text(f"""
    UPDATE members m SET title = :title, version = m.version + 1, updated_at = statement_timestamp()
    WHERE m.workspace_id = :workspace_id AND m.id = :member_id
    RETURNING {COLUMNS}
""")
UPDATE_ROLE = text(f"""
    UPDATE members m SET role = :role, version = m.version + 1, updated_at = statement_timestamp()
    WHERE m.workspace_id = :workspace_id AND m.id = :member_id
    RETURNING {COLUMNS}
""")
FIRST = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks, in one of their stays."""

    id: str
    workspace_id: str
    kind: str


async def find_active(tx: AsyncConnection, *, workspace_id: str, user_id: str) -> Row[Any] | None:
    """A person's membership, if it is in force."""
    return (await tx.execute(ACTIVE_BY_USER, {"workspace_id": workspace_id, "user_id": user_id})).one_or_none()


async def access_workspace(tx: AsyncConnection, *, workspace_id: str, user_id: str, capability: str) -> Row[Any]:
    """The caller's membership, with the workspace locked: what it says stays true until the transaction ends.

    Errors: NotFound if they are not a member, PermissionDenied if they lack the capability.
    """
    if not await workspaces.lock_for_member(tx, workspace_id=workspace_id, user_id=user_id):
        raise NotFound
    actor = await find_active(tx, workspace_id=workspace_id, user_id=user_id)
    if actor is None:
        raise NotFound
    if not allows(actor, capability):
        raise PermissionDenied
    return actor


async def access_to_end(tx: AsyncConnection, *, workspace_id: str, user_id: str, capability: str) -> Row[Any] | None:
    """The same for what ends one's own access: None, not NotFound, so that a repeated call finds its stored answer."""
    try:
        return await access_workspace(tx, workspace_id=workspace_id, user_id=user_id, capability=capability)
    except NotFound:
        return None


async def find_target(tx: AsyncConnection, actor: Row[Any], *, member_id: str) -> Row[Any]:
    """A member, suspended or not, whom `actor` may act on. The workspace is locked.

    Errors: NotFound; RankTooLow for oneself and whoever is of higher rank.
    """
    named = {"workspace_id": actor.workspace_id, "member_id": member_id}
    target = (await tx.execute(BY_ID, named)).one_or_none()
    if target is None:
        raise NotFound
    if target.id == actor.id or not may_act_on(actor, target):
        raise RankTooLow
    return target


async def join(
    tx: AsyncConnection,
    *,
    workspace_id: str,
    user_id: str,
    role: str,
    invitation_id: str | None = None,
    group_invite_id: str | None = None,
    inviter_member_id: str | None = None,
) -> Row[Any] | None:
    """A new full member, with the handle they had last; None if the person is a member already.

    The workspace is locked, and joining.require_may_join asked.
    """
    row = {
        "id": str(uuid_utils.uuid7()),
        "workspace_id": workspace_id,
        "user_id": user_id,
        "role": role,
        "invitation_id": invitation_id,
        "group_invite_id": group_invite_id,
        "inviter_member_id": inviter_member_id,
    }
    joined = (await tx.execute(JOIN, row)).one_or_none()
    if joined is None or await handles.give_back(tx, joined) is None:
        return joined
    named = {"workspace_id": workspace_id, "member_id": joined.id}
    return (await tx.execute(ACTIVE_BY_ID, named)).one()


async def list_page(
    tx: AsyncConnection, *, workspace_id: str, user_id: str, state: str, after: str | None, size: int
) -> tuple[Asking, Sequence[Row[Any]]]:
    """Who asks, and those of the members who joined after a member id; for a guest nobody: list_named is theirs.

    Errors: NotFound; PermissionDenied for suspended ones, without the capability.
    """
    page = {
        "workspace_id": workspace_id,
        "user_id": user_id,
        "state": state,
        "after": after or FIRST,
        "size": size,
    }
    rows = (await tx.execute(LIST, page)).all()
    if not rows:
        raise NotFound
    if state == "suspended" and not _sees_suspended(rows[0]):
        raise PermissionDenied
    return asking(rows[0], workspace_id), [row for row in rows if row.id is not None]


async def list_named(tx: AsyncConnection, *, workspace_id: str, member_ids: Sequence[str]) -> Sequence[Row[Any]]:
    """The active ones of some members, by member id."""
    return (await tx.execute(LIST_NAMED, {"workspace_id": workspace_id, "member_ids": list(member_ids)})).all()


def asking(row: Row[Any], workspace_id: str) -> Asking:
    """Who asked for a row that has the columns ASKING."""
    return Asking(str(row.caller_id), workspace_id, row.caller_kind)


async def get(tx: AsyncConnection, *, workspace_id: str, user_id: str, member_id: str) -> Row[Any]:
    """A member of the caller's workspace: a suspended one by those who suspend. Errors: NotFound.

    Whether a guest sees them has still to be asked.
    """
    named = {"workspace_id": workspace_id, "user_id": user_id, "member_id": member_id}
    found = (await tx.execute(GET, named)).one_or_none()
    if found is None or (found.state == "suspended" and not _sees_suspended(found)):
        raise NotFound
    return found


def _sees_suspended(row: Row[Any]) -> bool:
    return row.caller_kind == "full" and SUSPEND_MEMBERS in BY_ROLE[row.caller_role]


async def update(
    tx: AsyncConnection, actor: Row[Any], *, member_id: str, etag: str, title: str | None, handle: str | None
) -> Row[Any]:
    """Changes what is not None; an empty handle is given up. The workspace is locked, `actor` is a member of it.

    Errors: NotFound, PermissionDenied, RankTooLow, EtagMismatch, HandleTaken, HandleReserved.
    """
    target = actor if str(UUID(member_id)) == str(actor.id) else await _find_other(tx, actor, member_id=member_id)
    if handle is not None and target.kind == "guest":
        raise PermissionDenied("Guests have no handles.")
    workspaces.require_etag(target, etag)
    workspace_id = str(target.workspace_id)
    holder = {"workspace_id": workspace_id, "member_id": str(target.id)}
    if handle:
        await handles.take(tx, **holder, handle=handle, user_id=str(target.user_id), field="member.handle")
    elif handle is not None:
        await handles.release(tx, **holder)
    changed = (await tx.execute(UPDATE, {**holder, "title": target.title if title is None else title})).one()
    told = {
        "before": {"handle": target.handle or "", "title": target.title},
        "after": {"handle": changed.handle or "", "title": changed.title},
    }
    updated = Activity("member.updated", "member", target_user_id=str(target.user_id), personal=told)
    await activities.record(tx, workspace_id, [updated])
    return changed


async def _find_other(tx: AsyncConnection, actor: Row[Any], *, member_id: str) -> Row[Any]:
    if actor.kind == "guest":
        raise NotFound
    seen = {"workspace_id": actor.workspace_id, "user_id": actor.user_id}
    await get(tx, **seen, member_id=member_id)
    if not allows(actor, UPDATE_MEMBERS):
        raise PermissionDenied
    return await find_target(tx, actor, member_id=member_id)


async def update_role(
    tx: AsyncConnection, actor: Row[Any], *, member_id: str, role: str, etag: str, reason: str
) -> Row[Any]:
    """Gives a full member another role. The workspace is locked, `actor` may change roles.

    Errors: NotFound, RankTooLow, GuestsExcluded, EtagMismatch, LastAdmin.
    """
    target = await find_target(tx, actor, member_id=member_id)
    if target.kind == "guest":
        raise GuestsExcluded
    if RANKS[role] > rank(actor):
        raise RankTooLow
    workspaces.require_etag(target, etag)
    if role == target.role:
        return target
    lowered = RANKS[role] < RANKS[target.role]
    if lowered:
        await continuity.require_another_admin(tx, target)
    workspace_id = str(target.workspace_id)
    named = {"workspace_id": workspace_id, "member_id": target.id, "role": role}
    changed = (await tx.execute(UPDATE_ROLE, named)).one()
    roles = {"before": {"role": target.role}, "after": {"role": role}}
    person = str(target.user_id)
    updated = Activity("member.role_updated", "member", target_user_id=person, metadata=roles, reason=reason)
    await activities.record(tx, workspace_id, [updated])
    if INVITE_MEMBERS in BY_ROLE[target.role] - BY_ROLE[role]:
        await openings.close_of_member(tx, workspace_id=workspace_id, member_id=str(target.id))
    if lowered:
        await raise_access_revision(tx, workspace_id, "member_role_lowered")
    return changed
