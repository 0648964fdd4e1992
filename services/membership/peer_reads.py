"""What messaging and guest read in batches: members by id, and who is in groups."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.membership import members
from services.membership.group_access import HOLDS
from services.membership.holders import DISABLED

# From the workspace outwards: its name is there also if none of the members is.
GET_MEMBERS = text(f"""
    SELECT home.name AS workspace_name, {members.COLUMNS}, {DISABLED} AS is_disabled FROM workspaces home
    LEFT JOIN members m ON m.workspace_id = home.id AND m.id = ANY(CAST(:member_ids AS uuid[]))
        AND m.state IN ('active', 'suspended')
    WHERE home.id = :workspace_id AND home.deleted_at IS NULL
""")
# A row without a member for a group that nobody is in; without a group id of its own for one that does not exist.
LIST_GROUP_MEMBERS = text(f"""
    SELECT asked.position, g.id AS found_id, listed.*
    FROM unnest(CAST(:group_ids AS uuid[])) WITH ORDINALITY AS asked (group_id, position)
    LEFT JOIN groups g ON g.workspace_id = :workspace_id AND g.id = asked.group_id AND EXISTS (
        SELECT FROM workspaces home WHERE home.id = g.workspace_id AND home.deleted_at IS NULL
    )
    LEFT JOIN LATERAL (
        SELECT gm.id, gm.workspace_id, gm.group_id, gm.member_id, gm.role, gm.group_invite_id, gm.version,
            gm.created_at, gm.updated_at, m.user_id
        FROM group_members gm
        JOIN members m ON m.workspace_id = gm.workspace_id AND m.id = gm.member_id AND m.state = 'active'
        WHERE gm.workspace_id = :workspace_id AND gm.group_id = g.id AND gm.member_id > CAST(:after AS uuid)
            AND NOT EXISTS (
                SELECT FROM group_bans b
                WHERE b.workspace_id = :workspace_id AND b.user_id = m.user_id AND b.group_id = ANY(g.path) AND {HOLDS}
            )
        ORDER BY gm.member_id LIMIT :size
    ) listed ON true
    ORDER BY asked.position, listed.member_id
""")
MOST = 5_000
"""Members in one answer: those of one group, or fewer of each of several."""


async def get_members(
    tx: AsyncConnection, workspace_id: str, member_ids: Sequence[str]
) -> tuple[str, Sequence[Row[Any]]]:
    """The workspace's name, "" for none, and the members who exist, suspended ones too, in no particular order."""
    rows = (await tx.execute(GET_MEMBERS, {"workspace_id": workspace_id, "member_ids": list(member_ids)})).all()
    return rows[0].workspace_name if rows else "", [row for row in rows if row.id is not None]


async def list_group_members(
    tx: AsyncConnection, *, workspace_id: str, group_ids: Sequence[str], after: str, size: int
) -> list[list[Row[Any]]]:
    """For each group, in their order: up to `size` rows by member id, after one; see the statement for none."""
    asked = {
        "workspace_id": workspace_id,
        "group_ids": list(group_ids),
        "after": after or members.FIRST,
        "size": size,
    }
    found: list[list[Row[Any]]] = [[] for _ in group_ids]
    for row in await tx.execute(LIST_GROUP_MEMBERS, asked):
        found[row.position - 1].append(row)
    return found
