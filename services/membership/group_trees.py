"""Trees of groups: what is above and below a group, and moves with all that is below (ADR 7)."""

import base64
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound
from services.membership import group_access, groups
from services.membership.activities import Activity, record
from services.membership.capabilities import MANAGE_GROUP
from services.membership.errors import GroupCycle, GroupTooDeep, LastOwner, RankTooLow, SchemeMismatch
from services.membership.group_access import HIDING, SEEN, Group, Standing
from services.membership.groups import DEEPEST, GROUP, LAST, SUBTREE
from services.membership.holders import owned
from services.membership.revisions import raise_access_revision

LIST_ANCESTORS = text(f"""
    WITH own AS MATERIALIZED (SELECT g.path FROM {SEEN} AND g.id = :group_id)
    SELECT {GROUP}
    FROM own
    LEFT JOIN LATERAL (
        SELECT * FROM groups g
        WHERE g.workspace_id = :workspace_id AND g.id = ANY(CAST((SELECT path FROM own) AS uuid[]))
            AND g.id <> :group_id
    ) g ON true
    ORDER BY cardinality(g.path)
""")
# In the order in which a tree is drawn. The bounds are scalar subqueries: as a join, they would read the whole index.
LIST_DESCENDANTS = text(f"""
    WITH own AS MATERIALIZED (SELECT g.path FROM {SEEN} AND g.id = :group_id)
    SELECT {GROUP}, own.path AS own_path
    FROM own
    LEFT JOIN LATERAL (
        SELECT * FROM groups g
        WHERE g.workspace_id = :workspace_id AND g.path > (SELECT path FROM own) || CAST(:after AS uuid[])
            AND g.path < (SELECT path FROM own) || {LAST} AND NOT g.path && {HIDING}
        ORDER BY g.path LIMIT :size
    ) g ON true
    ORDER BY g.path
""")
DEEPEST_PATH = text(f"""
    SELECT max(cardinality(path)) FROM groups WHERE workspace_id = :workspace_id AND {SUBTREE}
""")
NEW_PATH = "CAST(:parent_path AS uuid[]) || g.path[CAST(:keep AS integer) : cardinality(g.path)]"
# Bans from above hold below from now on. A group without an owner before, its only one being suspended, may be moved.
FIND_UNOWNED = text(f"""
    SELECT g.id FROM groups g JOIN role_schemes s ON s.id = g.scheme_id
    WHERE g.workspace_id = :workspace_id AND {SUBTREE} AND g.archived_at IS NULL
        AND {owned("s.owning_role", path="g.path")} AND NOT {owned("s.owning_role", path=f"({NEW_PATH})")}
    LIMIT 1
""")
MOVE = text(f"""
    UPDATE groups
    SET path = CAST(:parent_path AS uuid[]) || path[CAST(:keep AS integer) : cardinality(path)],
        version = version + 1, updated_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND {SUBTREE}
    RETURNING id
""")


async def list_ancestors(tx: AsyncConnection, *, workspace_id: str, group_id: str, user_id: str) -> Sequence[Row[Any]]:
    """The groups above one, the topmost first. Errors: NotFound."""
    named = {"workspace_id": workspace_id, "group_id": group_id, "user_id": user_id}
    return _found((await tx.execute(LIST_ANCESTORS, named)).all())


async def list_descendants(
    tx: AsyncConnection, *, workspace_id: str, group_id: str, user_id: str, after: Sequence[str], size: int
) -> Sequence[Row[Any]]:
    """The groups below one that come after a path, which begins below the group. Errors: NotFound."""
    page = {"workspace_id": workspace_id, "group_id": group_id, "user_id": user_id}
    return _found((await tx.execute(LIST_DESCENDANTS, {**page, "after": list(after), "size": size})).all())


def _found(rows: Sequence[Row[Any]]) -> Sequence[Row[Any]]:
    """No row at all is a group that is not seen, one without an id an empty list."""
    if not rows:
        raise NotFound
    return [row for row in rows if row.id is not None]


def path_key(row: Row[Any]) -> str:
    """Where a page of descendants ended: the path below the group, short enough for a page token at any depth."""
    below = row.path[len(row.own_path) :]
    return base64.b64encode(b"".join(UUID(str(each)).bytes for each in below)).decode()


def read_path_key(key: str) -> list[str]:
    """The path in a key of path_key."""
    raw = base64.b64decode(key)
    return [str(UUID(bytes=raw[start : start + 16])) for start in range(0, len(raw), 16)]


async def require_may_take_out(tx: AsyncConnection, standing: Standing) -> None:
    """A move changes who owns a group and who is banned from it: for owners, with the right to manage above it."""
    group = standing.group
    if (await group_access.roles_of(tx, group.scheme_id))[group.owning_role] > standing.rank:
        raise RankTooLow
    if len(group.path) > 1:
        await group_access.require_standing(
            tx,
            workspace_id=standing.member.workspace_id,
            group_id=group.path[-2],
            user_id=standing.member.user_id,
            capability=MANAGE_GROUP,
        )


async def move(tx: AsyncConnection, standing: Standing, *, parent: Group | None) -> None:
    """Puts a group and all below it below `parent`, or at the top. Nothing happens if it is there.

    The workspace is locked, so that no two moves together make what neither makes alone.
    Errors: GroupCycle, GroupTooDeep, SchemeMismatch, LastOwner.
    """
    group, workspace_id = standing.group, standing.member.workspace_id
    parent_path = list(parent.path) if parent else []
    if parent_path == list(group.path[:-1]):
        return
    if group.id in parent_path:
        raise GroupCycle
    if parent is not None and parent.scheme_id != group.scheme_id:
        raise SchemeMismatch
    named: dict[str, Any] = {"workspace_id": workspace_id, "path": list(group.path)}
    deepest = int(await tx.scalar(DEEPEST_PATH, named) or 0)
    if deepest - len(group.path) + 1 + len(parent_path) > DEEPEST:
        raise GroupTooDeep
    named |= {"parent_path": parent_path, "keep": len(group.path)}
    if (await tx.execute(FIND_UNOWNED, named)).first() is not None:
        raise LastOwner
    moved = await tx.execute(MOVE, named)
    # Bans from above hold below: who is in them may be others from now on.
    await groups.tell_changed(tx, workspace_id, [str(group_id) for group_id in moved.scalars()])
    await raise_access_revision(tx, workspace_id, "group_moved")
    metadata = {
        "before": {"parent_group_id": group.path[-2] if len(group.path) > 1 else ""},
        "after": {"parent_group_id": parent.id if parent else ""},
    }
    await record(tx, workspace_id, [Activity("group.moved", "group", group.id, metadata=metadata)])
