"""Lists of who is in a group, and of the groups that somebody is in."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound
from services.membership.capabilities import BY_ROLE, SUSPEND_MEMBERS
from services.membership.group_access import HIDING, HOLDS, SEEN
from services.membership.group_members import GROUP_MEMBER
from services.membership.groups import FIRST
from services.membership.members import CALLER

SUSPENDING_ROLES = [role for role, capabilities in BY_ROLE.items() if SUSPEND_MEMBERS in capabilities]

# All from the caller outwards: no row at all means that there is nothing to list, one without an id an empty page.
LIST = text(f"""
    WITH own AS MATERIALIZED (
        SELECT g.id, caller.role = ANY(CAST(:suspending_roles AS text[])) AS sees_suspended
        FROM {SEEN} AND g.id = :group_id
    )
    SELECT listed.*
    FROM own
    LEFT JOIN LATERAL (
        SELECT {GROUP_MEMBER}
        FROM group_members gm JOIN members m ON m.workspace_id = gm.workspace_id AND m.id = gm.member_id
        WHERE gm.workspace_id = :workspace_id AND gm.group_id = own.id AND gm.member_id > CAST(:after AS uuid)
            AND (m.state = 'active' OR own.sees_suspended)
        ORDER BY gm.member_id LIMIT :size
    ) listed ON true
    ORDER BY listed.member_id
""")
LIST_OF_PERSON = text(f"""
    SELECT listed.*
    FROM {CALLER}
    JOIN members m ON m.workspace_id = caller.workspace_id AND m.user_id = :subject_user_id AND m.state = 'active'
    LEFT JOIN LATERAL (
        SELECT {GROUP_MEMBER}
        FROM group_members gm JOIN groups g ON g.workspace_id = gm.workspace_id AND g.id = gm.group_id
        WHERE gm.workspace_id = :workspace_id AND gm.member_id = m.id AND gm.group_id > CAST(:after AS uuid)
            AND NOT g.path && {HIDING}
        ORDER BY gm.group_id LIMIT :size
    ) listed ON true
    WHERE caller.workspace_id = :workspace_id AND caller.user_id = :user_id AND caller.state = 'active'
        AND caller.kind = 'full'
    ORDER BY listed.group_id
""")
# A page's worth of each group on the path, then the lowest of them: no group is read as a whole.
LIST_EFFECTIVE = text(f"""
    WITH own AS MATERIALIZED (SELECT g.path FROM {SEEN} AND g.id = :group_id)
    SELECT page.member_id, page.user_id, held.group_ids, held.roles, granted.capabilities
    FROM own
    LEFT JOIN LATERAL (
        SELECT DISTINCT one.member_id, one.user_id
        FROM unnest(own.path) AS each (group_id)
        CROSS JOIN LATERAL (
            SELECT gm.member_id, m.user_id
            FROM group_members gm
            JOIN members m ON m.workspace_id = gm.workspace_id AND m.id = gm.member_id AND m.state = 'active'
            WHERE gm.workspace_id = :workspace_id AND gm.group_id = each.group_id
                AND gm.member_id > CAST(:after AS uuid) AND NOT EXISTS (
                    SELECT FROM group_bans b
                    WHERE b.workspace_id = :workspace_id AND b.user_id = m.user_id AND b.group_id = ANY(own.path)
                        AND {HOLDS}
                )
            ORDER BY gm.member_id LIMIT :size
        ) one
        ORDER BY one.member_id LIMIT :size
    ) page ON true
    LEFT JOIN LATERAL (
        SELECT array_agg(gm.group_id ORDER BY each.position) AS group_ids,
            array_agg(gm.role ORDER BY each.position) AS roles
        FROM unnest(own.path) WITH ORDINALITY AS each (group_id, position)
        JOIN group_members gm ON gm.group_id = each.group_id
        WHERE gm.workspace_id = :workspace_id AND gm.member_id = page.member_id
    ) held ON true
    LEFT JOIN LATERAL (
        SELECT array_agg(DISTINCT capability) AS capabilities
        FROM group_members gm
        JOIN scheme_roles r ON r.scheme_id = gm.scheme_id AND r.role = gm.role
        CROSS JOIN unnest(r.capabilities) AS capability
        WHERE gm.workspace_id = :workspace_id AND gm.member_id = page.member_id AND gm.group_id = ANY(own.path)
    ) granted ON true
    ORDER BY page.member_id
""")


async def list_page(
    tx: AsyncConnection, *, workspace_id: str, group_id: str, user_id: str, after: str | None, size: int
) -> Sequence[Row[Any]]:
    """The roles in the group itself that come after a member id; suspended ones for who suspends. Errors: NotFound."""
    page = {"workspace_id": workspace_id, "group_id": group_id, "user_id": user_id}
    rest = {"after": after or FIRST, "size": size, "suspending_roles": SUSPENDING_ROLES}
    return _found((await tx.execute(LIST, {**page, **rest})).all())


async def list_of_person(
    tx: AsyncConnection, *, workspace_id: str, subject_user_id: str, user_id: str, after: str | None, size: int
) -> Sequence[Row[Any]]:
    """A member's roles in groups that come after a group id. Errors: NotFound, also for who is no member."""
    page = {"workspace_id": workspace_id, "subject_user_id": subject_user_id, "user_id": user_id}
    return _found((await tx.execute(LIST_OF_PERSON, {**page, "after": after or FIRST, "size": size})).all())


async def list_effective(
    tx: AsyncConnection, *, workspace_id: str, group_id: str, user_id: str, after: str | None, size: int
) -> Sequence[Row[Any]]:
    """Whose roles hold in the group, after a member id. Errors: NotFound."""
    page = {"workspace_id": workspace_id, "group_id": group_id, "user_id": user_id}
    return _found((await tx.execute(LIST_EFFECTIVE, {**page, "after": after or FIRST, "size": size})).all())


def _found(rows: Sequence[Row[Any]]) -> Sequence[Row[Any]]:
    if not rows:
        raise NotFound
    return [row for row in rows if row.member_id is not None]
