"""Bans from groups: they hold in the group and below it, before everything else."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import InvalidRequest, NotFound
from services.chassis.outbox import enqueue
from services.membership import continuity, group_access, group_members, groups, limits, workspaces
from services.membership.activities import Activity, record
from services.membership.errors import RankTooLow
from services.membership.group_access import HOLDS, Standing
from services.membership.groups import SUBTREE
from services.membership.revisions import raise_access_revision

BAN = """
    b.id, b.workspace_id, b.group_id, b.user_id, b.reason, b.banned_by_member_id, b.created_at, b.expire_at,
    b.was_member
"""
FORGET_ENDED = text(f"""
    DELETE FROM group_bans b WHERE b.workspace_id = :workspace_id AND b.group_id = :group_id AND NOT {HOLDS}
    RETURNING b.user_id
""")
INSERT = text(f"""
    INSERT INTO group_bans AS b
        (id, workspace_id, group_id, scheme_id, user_id, reason, banned_by_member_id, expire_at, was_member)
    SELECT CAST(:id AS uuid), CAST(:workspace_id AS uuid), CAST(:group_id AS uuid), CAST(:scheme_id AS uuid),
        CAST(:user_id AS uuid), CAST(:reason AS text), CAST(:banned_by_member_id AS uuid),
        CAST(:expire_at AS timestamptz), CAST(:was_member AS boolean)
    WHERE CAST(:expire_at AS timestamptz) IS NULL OR statement_timestamp() < CAST(:expire_at AS timestamptz)
    ON CONFLICT (group_id, user_id) DO UPDATE
    SET reason = excluded.reason, banned_by_member_id = excluded.banned_by_member_id,
        expire_at = excluded.expire_at, was_member = b.was_member OR excluded.was_member,
        created_at = statement_timestamp()
    RETURNING {BAN}, extract(epoch FROM b.expire_at - statement_timestamp()) AS seconds_left
""")
DELETE = text(f"""
    DELETE FROM group_bans b
    WHERE b.workspace_id = :workspace_id AND b.group_id = :group_id AND b.user_id = :user_id AND {HOLDS}
    RETURNING b.id
""")
LIST = text(f"""
    SELECT {BAN} FROM group_bans b
    WHERE b.workspace_id = :workspace_id AND b.group_id = :group_id AND {HOLDS}
        AND (CAST(:before AS uuid) IS NULL OR b.id < CAST(:before AS uuid))
    ORDER BY b.id DESC LIMIT :size
""")
FIND_ROLES_IN_SUBTREE = text(f"""
    SELECT DISTINCT gm.group_id
    FROM members m JOIN group_members gm ON gm.workspace_id = m.workspace_id AND gm.member_id = m.id
    WHERE m.workspace_id = :workspace_id AND m.user_id = ANY(CAST(:user_ids AS uuid[])) AND gm.group_id IN (
        SELECT id FROM groups WHERE workspace_id = :workspace_id AND {SUBTREE}
    )
    ORDER BY gm.group_id
""")
WORKSPACE_OF = text("SELECT workspace_id FROM group_bans WHERE id = :ban_id")
END = text(f"""
    DELETE FROM group_bans b USING groups g
    WHERE b.workspace_id = :workspace_id AND b.id = :ban_id AND NOT {HOLDS}
        AND g.workspace_id = b.workspace_id AND g.id = b.group_id
    RETURNING b.user_id, g.path
""")
ENDED = "group_ban.ended"


async def ban(
    tx: AsyncConnection, standing: Standing, *, user_id: str, reason: str, expire_at: datetime | None
) -> Row[Any]:
    """Bans a person, in the group or not, and takes their role in it away. The workspace is locked.

    What only they owned below is passed on. Errors: RankTooLow, LastOwner, LimitReached; InvalidRequest for a time that
    is past.
    """
    group, workspace_id = standing.group, standing.member.workspace_id
    if user_id == standing.member.user_id:
        raise RankTooLow
    target = await group_access.find_target(tx, standing, user_id=user_id)
    named = {"workspace_id": workspace_id, "group_id": group.id, "user_id": user_id}
    changed = await _groups_of_people(tx, workspace_id, standing.group.path, [user_id])
    if target is not None:
        group_access.require_rank_over(standing, target)
        if target.group_member_id is not None:
            await group_access.require_another_owner(tx, standing, member_id=str(target.id), role=target.role)
            await tx.execute(
                group_members.DELETE, {"workspace_id": workspace_id, "group_id": group.id, "member_id": target.id}
            )
    was_member = target is not None and not group_members.is_hidden(standing, target)
    banned = await _put(tx, standing, {**named, "reason": reason, "expire_at": expire_at, "was_member": was_member})
    recorded = [Activity("group_member.banned", "group", group.id, target_user_id=user_id, reason=reason)]
    if target is not None:
        recorded += await continuity.pass_on_groups(tx, workspace_id, member_id=str(target.id), below=group.id)
        await groups.tell_changed(tx, workspace_id, changed)
        await raise_access_revision(tx, workspace_id, "group_banned")
    await record(tx, workspace_id, recorded)
    return banned


async def _put(tx: AsyncConnection, standing: Standing, row: dict[str, Any]) -> Row[Any]:
    group, workspace_id = standing.group, standing.member.workspace_id
    ended = (await tx.execute(FORGET_ENDED, {"workspace_id": workspace_id, "group_id": group.id})).scalars().all()
    free = [str(user_id) for user_id in ended if str(user_id) != row["user_id"]]
    await groups.tell_changed(tx, workspace_id, await _groups_of_people(tx, workspace_id, group.path, free))
    own = {"id": str(uuid_utils.uuid7()), "scheme_id": group.scheme_id, "banned_by_member_id": standing.member.id}
    banned = (await tx.execute(INSERT, {**row, **own})).one_or_none()
    if banned is None:
        raise InvalidRequest(fields=[("expire_time", "must be later than now")])
    if banned.seconds_left is not None:
        await enqueue(tx, ENDED, str(banned.id), delay_seconds=float(banned.seconds_left))
    await limits.require(tx, "group_bans", workspace_id=workspace_id, scope_id=group.id, adding=0)
    return banned


async def _groups_of_people(
    tx: AsyncConnection, workspace_id: str, path: Sequence[str], user_ids: Sequence[str]
) -> Sequence[str]:
    """The groups, from the one with this path down, in which one of these people has a role."""
    if not user_ids:
        return []
    named = {"workspace_id": workspace_id, "user_ids": list(user_ids), "path": list(path)}
    return [str(group_id) for group_id in (await tx.execute(FIND_ROLES_IN_SUBTREE, named)).scalars()]


async def end(tx: AsyncConnection, ban_id: str) -> None:
    """Forgets a ban whose time is over, and has it told that roles below hold again. It is safe to do twice.

    One that holds by now until later, or is lifted, is left alone: whoever did that saw to the rest.
    """
    workspace_id = await tx.scalar(WORKSPACE_OF, {"ban_id": ban_id})
    if workspace_id is None:
        return
    try:
        await workspaces.lock(tx, str(workspace_id))
    except NotFound:
        return
    ended = (await tx.execute(END, {"workspace_id": workspace_id, "ban_id": ban_id})).one_or_none()
    if ended is not None:
        path = [str(group_id) for group_id in ended.path]
        again = await _groups_of_people(tx, str(workspace_id), path, [str(ended.user_id)])
        await groups.tell_changed(tx, str(workspace_id), again)


async def unban(tx: AsyncConnection, standing: Standing, *, user_id: str, reason: str) -> None:
    """Lifts a ban of the group itself; roles below it hold again. The workspace is locked. Errors: NotFound."""
    group, workspace_id = standing.group, standing.member.workspace_id
    named = {"workspace_id": workspace_id, "group_id": group.id, "user_id": user_id}
    if (await tx.execute(DELETE, named)).one_or_none() is None:
        raise NotFound
    await groups.tell_changed(tx, workspace_id, await _groups_of_people(tx, workspace_id, group.path, [user_id]))
    lifted = Activity("group_member.unbanned", "group", group.id, target_user_id=user_id, reason=reason)
    await record(tx, workspace_id, [lifted])


async def list_page(
    tx: AsyncConnection, *, workspace_id: str, group_id: str, before: str | None, size: int
) -> Sequence[Row[Any]]:
    """The bans of the group itself that hold, older than one, newest first."""
    page = {"workspace_id": workspace_id, "group_id": group_id, "before": before, "size": size}
    return (await tx.execute(LIST, page)).all()
