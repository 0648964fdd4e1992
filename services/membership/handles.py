"""Handles: what people and user groups are mentioned by, one namespace per workspace.

A handle that is given up stays behind as a tombstone for 30 days: for nobody, or for the person who had it.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import LimitReached
from services.membership.errors import HandleReserved, HandleTaken

RESERVED = frozenset({"here", "channel", "everyone", "all"})
"""They address everybody at once in messages."""

MOST_KEPT = 5
"""Tombstones of one person in one workspace: whoever keeps changing theirs would take the names of everybody."""

# One that the holder has already is left as it is.
RELEASE = text("""
    UPDATE handles
    SET member_id = NULL, user_group_id = NULL, released_at = statement_timestamp(), former_user_id = (
        SELECT user_id FROM members WHERE workspace_id = :workspace_id AND id = CAST(:member_id AS uuid)
    )
    WHERE workspace_id = :workspace_id AND handle <> :but
        AND (member_id = CAST(:member_id AS uuid) OR user_group_id = CAST(:user_group_id AS uuid))
""")
TAKE = text("""
    INSERT INTO handles (workspace_id, handle, member_id, user_group_id)
    VALUES (:workspace_id, :handle, CAST(:member_id AS uuid), CAST(:user_group_id AS uuid))
    ON CONFLICT (workspace_id, handle) DO UPDATE
    SET member_id = excluded.member_id, user_group_id = excluded.user_group_id,
        released_at = NULL, former_user_id = NULL
    WHERE handles.member_id = excluded.member_id OR handles.user_group_id = excluded.user_group_id
        OR statement_timestamp() >= handles.released_at + interval '30 days'
        OR handles.former_user_id = CAST(:user_id AS uuid)
    RETURNING handle
""")
GIVE_BACK = text("""
    UPDATE handles SET member_id = :member_id, released_at = NULL, former_user_id = NULL
    WHERE workspace_id = :workspace_id AND handle = (
        SELECT handle FROM handles
        WHERE former_user_id = :user_id AND workspace_id = :workspace_id
            AND statement_timestamp() < released_at + interval '30 days'
        ORDER BY released_at DESC, handle LIMIT 1
    ) AND NOT EXISTS (SELECT FROM handles WHERE workspace_id = :workspace_id AND member_id = :member_id)
    RETURNING handle
""")
COUNT_KEPT = text("""
    SELECT count(*) AS kept,
        extract(epoch FROM min(released_at) + interval '30 days' - statement_timestamp()) AS next_is_free_in
    FROM handles
    WHERE workspace_id = :workspace_id AND former_user_id = CAST(:user_id AS uuid)
        AND statement_timestamp() < released_at + interval '30 days'
""")
FORGET = text("UPDATE handles SET former_user_id = NULL WHERE former_user_id = :user_id")
# One that somebody is just taking is theirs.
FORGET_OLD = text("""
    DELETE FROM handles WHERE (workspace_id, handle) IN (
        SELECT workspace_id, handle FROM handles
        WHERE released_at <= statement_timestamp() - interval '30 days'
        ORDER BY released_at LIMIT 1000 FOR UPDATE SKIP LOCKED
    )
""")
# A tombstone has no holder, so it stands for nobody; nor does anything in a workspace that has ended.
EXPAND = text("""
    SELECT asked.position, named.user_group_id, person.id AS member_id, person.user_id
    FROM unnest(CAST(:handles AS text[])) WITH ORDINALITY AS asked (handle, position)
    LEFT JOIN LATERAL (
        SELECT h.member_id, h.user_group_id FROM handles h
        JOIN workspaces w ON w.id = h.workspace_id AND w.deleted_at IS NULL
        WHERE h.workspace_id = :workspace_id AND h.handle = asked.handle
    ) named ON true
    LEFT JOIN LATERAL (
        SELECT m.id, m.user_id FROM members m
        WHERE m.workspace_id = :workspace_id AND m.id = named.member_id AND m.state = 'active'
        UNION ALL
        SELECT m.id, m.user_id FROM user_group_members g
        JOIN members m ON m.workspace_id = g.workspace_id AND m.id = g.member_id AND m.state = 'active'
        WHERE g.workspace_id = :workspace_id AND g.user_group_id = named.user_group_id
    ) person ON true
    ORDER BY asked.position, person.id
""")


async def take(
    tx: AsyncConnection,
    *,
    workspace_id: str,
    handle: str,
    member_id: str | None = None,
    user_group_id: str | None = None,
    user_id: str | None = None,
    field: str,
) -> str:
    """Gives a member or a user group a handle in place of their present one; returns it as it is kept.

    The workspace is locked. `user_id` is the member's person; `field` is where the handle stands in the request.
    Errors: HandleReserved; HandleTaken; LimitReached if they would leave too many behind.
    """
    kept = handle.casefold()
    if kept in RESERVED:
        raise HandleReserved(field)
    holder = {"workspace_id": workspace_id, "member_id": member_id, "user_group_id": user_group_id}
    await tx.execute(RELEASE, {**holder, "but": kept})
    if (await tx.execute(TAKE, {**holder, "handle": kept, "user_id": user_id})).one_or_none() is None:
        raise HandleTaken
    if user_id is not None:
        await _require_few_kept(tx, workspace_id=workspace_id, user_id=user_id)
    return kept


async def _require_few_kept(tx: AsyncConnection, *, workspace_id: str, user_id: str) -> None:
    left = (await tx.execute(COUNT_KEPT, {"workspace_id": workspace_id, "user_id": user_id})).one()
    if left.kept > MOST_KEPT:
        raise LimitReached("handle_changes", most=MOST_KEPT, retry_after_seconds=float(left.next_is_free_in))


async def release(
    tx: AsyncConnection, *, workspace_id: str, member_id: str | None = None, user_group_id: str | None = None
) -> None:
    """Leaves a tombstone of the holder's handle, if they have one. To be called while the holder's row is there."""
    holder = {"workspace_id": workspace_id, "member_id": member_id, "user_group_id": user_group_id}
    await tx.execute(RELEASE, {**holder, "but": ""})


async def give_back(tx: AsyncConnection, member: Row[Any]) -> str | None:
    """Gives somebody who joined the handle that they had last, within its 30 days; None if there is none.

    To be called at every join. Guests have no handles, so they get theirs when they become full members.
    """
    if member.kind != "full":
        return None
    named = {"workspace_id": member.workspace_id, "member_id": member.id, "user_id": member.user_id}
    found: str | None = await tx.scalar(GIVE_BACK, named)
    return found


async def forget(tx: AsyncConnection, user_id: str) -> None:
    """Keeps what somebody gave up for nobody, in all workspaces. Releasing another one afterwards names them anew."""
    await tx.execute(FORGET, {"user_id": user_id})


async def forget_old(tx: AsyncConnection) -> int:
    """Deletes tombstones that are past their 30 days, a batch of them; returns how many that were."""
    return (await tx.execute(FORGET_OLD)).rowcount


async def expand(tx: AsyncConnection, *, workspace_id: str, handles: Sequence[str]) -> Sequence[Row[Any]]:
    """Whom handles stand for: a row for each active member, by `position` from 1; one without a member for nobody."""
    kept = [handle.casefold() for handle in handles]
    return (await tx.execute(EXPAND, {"workspace_id": workspace_id, "handles": kept})).all()
