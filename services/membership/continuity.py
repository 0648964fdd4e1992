"""Continuity: somebody who can run a workspace, and somebody who owns each group, after every path.

What happens by itself is returned as activities: whoever ended the stay records them with their own.
"""

from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.membership.activities import Activity
from services.membership.errors import LastAdmin
from services.membership.holders import ABLE, able_in

COUNT_OTHER_ADMINS = text(f"""
    SELECT count(*) FROM members m
    WHERE m.workspace_id = :workspace_id AND m.role = 'admin' AND m.id <> :member_id AND {ABLE}
""")
# Nobody, if an admin is left; or if no full member is.
SUCCEED = text(f"""
    UPDATE members SET role = 'admin', version = members.version + 1, updated_at = statement_timestamp()
    FROM (
        SELECT m.id, m.role FROM members m
        WHERE m.workspace_id = :workspace_id AND m.id <> :member_id AND {ABLE}
            AND NOT EXISTS (
                SELECT FROM members m
                WHERE m.workspace_id = :workspace_id AND m.role = 'admin' AND m.id <> :member_id AND {ABLE}
            )
        ORDER BY CASE m.role WHEN 'member' THEN 1 ELSE 2 END, m.joined_at, m.id LIMIT 1
    ) heir
    WHERE members.workspace_id = :workspace_id AND members.id = heir.id
    RETURNING members.user_id, heir.role AS former_role
""")
ARCHIVE = text(f"""
    UPDATE workspaces SET archived_at = statement_timestamp(), version = version + 1, updated_at = statement_timestamp()
    WHERE id = :workspace_id AND archived_at IS NULL AND deleted_at IS NULL AND NOT EXISTS (
        SELECT FROM members m
        WHERE m.workspace_id = :workspace_id AND m.id <> :member_id AND {ABLE}
    )
    RETURNING id
""")
REVIVE = text("""
    UPDATE workspaces SET archived_at = NULL, version = version + 1, updated_at = statement_timestamp()
    WHERE id = :workspace_id AND archived_at IS NOT NULL AND deleted_at IS NULL
    RETURNING id
""")
IS_ARCHIVED = text("SELECT archived_at IS NOT NULL FROM workspaces WHERE id = :workspace_id")
# An owner who is suspended, disabled or banned does not count, nor inherit, though the role may still be theirs.
PASS_ON = text(f"""
    WITH owned AS (
        SELECT gm.group_id, gm.role, g.path, own.rank
        FROM group_members gm
        JOIN role_schemes s ON s.id = gm.scheme_id AND s.owning_role = gm.role
        JOIN scheme_roles own ON own.scheme_id = gm.scheme_id AND own.role = gm.role
        JOIN groups g ON g.workspace_id = gm.workspace_id AND g.id = gm.group_id
        WHERE gm.workspace_id = :workspace_id AND gm.member_id = :member_id
            AND (CAST(:below AS uuid) IS NULL OR CAST(:below AS uuid) = ANY(g.path))
    ), others AS (
        SELECT o.group_id, o.role AS owning_role, gm.id, gm.role, r.rank, gm.created_at, m.user_id,
            r.rank > o.rank AS is_above
        FROM owned o
        JOIN group_members gm ON gm.group_id = o.group_id AND gm.member_id <> :member_id
        JOIN members m ON m.workspace_id = gm.workspace_id AND m.id = gm.member_id AND {able_in("o.path")}
        JOIN scheme_roles r ON r.scheme_id = gm.scheme_id AND r.role = gm.role
        WHERE gm.workspace_id = :workspace_id
    ), heirs AS (
        SELECT DISTINCT ON (group_id) group_id, id, owning_role, role, user_id FROM others
        WHERE group_id NOT IN (SELECT group_id FROM others WHERE role = owning_role)
        ORDER BY group_id, is_above, rank DESC, created_at, id
    ), promoted AS (
        UPDATE group_members SET role = heirs.owning_role, version = version + 1, updated_at = statement_timestamp()
        FROM heirs WHERE group_members.workspace_id = :workspace_id AND group_members.id = heirs.id
    ), archived AS (
        UPDATE groups SET archived_at = statement_timestamp(), version = version + 1,
            updated_at = statement_timestamp()
        FROM owned
        WHERE groups.workspace_id = :workspace_id AND groups.id = owned.group_id AND groups.archived_at IS NULL
            AND :archive AND NOT EXISTS (SELECT FROM others WHERE others.group_id = owned.group_id)
        RETURNING groups.id
    )
    SELECT group_id, user_id, role AS former_role, owning_role FROM heirs
    UNION ALL SELECT id, NULL, NULL, NULL FROM archived
    ORDER BY group_id
""")
# Who has no lower role to fall to keeps theirs: a scheme of one role knows owners only.
DEMOTE = text("""
    UPDATE group_members SET role = lower.role, version = group_members.version + 1, updated_at = statement_timestamp()
    FROM role_schemes s
    JOIN scheme_roles owning ON owning.scheme_id = s.id AND owning.role = s.owning_role
    JOIN LATERAL (
        SELECT r.role FROM scheme_roles r WHERE r.scheme_id = s.id AND r.rank < owning.rank ORDER BY r.rank DESC LIMIT 1
    ) lower ON true
    WHERE group_members.workspace_id = :workspace_id AND group_members.member_id = :member_id
        AND s.id = group_members.scheme_id AND s.owning_role = group_members.role
    RETURNING group_members.group_id, s.owning_role, lower.role AS lower_role, (
        SELECT m.user_id FROM members m
        WHERE m.workspace_id = group_members.workspace_id AND m.id = group_members.member_id
    ) AS user_id
""")


async def require_another_admin(tx: AsyncConnection, member: Row[Any]) -> None:
    """LastAdmin if nobody could run the workspace without this member. The count is true only with the lock held.

    Whoever removes somebody else is an admin who stays; the count does not rely on it, for the paths that share it.
    """
    if member.role != "admin":
        return
    if not await tx.scalar(COUNT_OTHER_ADMINS, {"workspace_id": member.workspace_id, "member_id": member.id}):
        raise LastAdmin


async def is_archived(tx: AsyncConnection, workspace_id: str) -> bool:
    """Whether nobody was left to run a workspace. It is locked, or the answer would not hold."""
    return bool(await tx.scalar(IS_ARCHIVED, {"workspace_id": workspace_id}))


async def require_not_archived(tx: AsyncConnection, workspace_id: str) -> None:
    """LastAdmin for who comes as no admin where nobody is left: nobody could ever make one. The workspace is locked."""
    if await is_archived(tx, workspace_id):
        raise LastAdmin("Nobody is left to run the workspace; add an admin first.")


async def succeed_admin(tx: AsyncConnection, workspace_id: str, *, leaving_member_id: str) -> list[Activity]:
    """Makes sure of an admin without this member: the highest rank, earliest joined; nobody left: it is archived.

    For those who cannot be told LastAdmin: deleted and disabled people. The workspace is locked. A disabled one's
    admin role is still to be taken away.
    """
    named = {"workspace_id": workspace_id, "member_id": leaving_member_id}
    heir = (await tx.execute(SUCCEED, named)).one_or_none()
    if heir is not None:
        roles = {"before": {"role": heir.former_role}, "after": {"role": "admin"}}
        return [Activity("member.succeeded", "member", target_user_id=str(heir.user_id), metadata=roles)]
    archived = (await tx.execute(ARCHIVE, named)).one_or_none()
    return [Activity("workspace.archived", "workspace", workspace_id)] if archived else []


async def revive(tx: AsyncConnection, workspace_id: str) -> list[Activity]:
    """Ends a workspace's being archived, if it is: somebody has come to run it."""
    if (await tx.execute(REVIVE, {"workspace_id": workspace_id})).one_or_none() is None:
        return []
    archived = {"before": {"archived": True}, "after": {"archived": False}}
    return [Activity("workspace.updated", "workspace", workspace_id, metadata=archived)]


async def pass_on_groups(
    tx: AsyncConnection,
    workspace_id: str,
    *,
    member_id: str,
    demote: bool = False,
    archive: bool = True,
    below: str | None = None,
) -> list[Activity]:
    """In each group that only this member owns, makes the highest rank, earliest joined, an owner.

    Where nobody is left the group is archived, unless not `archive`: for a suspension, after which the owner may come
    back. `demote` then takes the member's own owning roles. `below`: only this group and those below it. The workspace
    is locked, and the member still there.
    """
    named = {"workspace_id": workspace_id, "member_id": member_id}
    passed = (await tx.execute(PASS_ON, {**named, "archive": archive, "below": below})).all()
    demoted = (await tx.execute(DEMOTE, named)).all() if demote else []
    return [*(_passed(row) for row in passed), *(_demoted(row) for row in demoted)]


def _demoted(row: Row[Any]) -> Activity:
    roles = {"before": {"role": row.owning_role}, "after": {"role": row.lower_role}}
    person = str(row.user_id)
    return Activity("group_member.role_updated", "group", str(row.group_id), target_user_id=person, metadata=roles)


def _passed(row: Row[Any]) -> Activity:
    group_id = str(row.group_id)
    if row.user_id is None:
        return Activity("group.archived", "group", group_id)
    roles = {"before": {"role": row.former_role}, "after": {"role": row.owning_role}}
    return Activity("group_member.succeeded", "group", group_id, target_user_id=str(row.user_id), metadata=roles)
