"""What a change of a policy is to the guests who are there: brought to them in small transactions.

Their times come first, and the call that changed the policy waits for them: its answer says that they hold. Then the
notices, for which nobody waits. A batch that is done twice changes nothing the second time; what a call has left that
died, the worker goes on with.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import Database
from services.chassis.outbox import enqueue
from services.chassis.worker import Work
from services.guest import notices, sight

APPLY = "guest_policy.apply"
BATCH = 500
LATE_SECONDS = 10
"""Longer than any call lasts: by then it has done its part, or never will."""
FOREVER = timedelta(days=36_500)

BEGIN = text("""
    INSERT INTO policy_changes (workspace_id, grace, maximum_stay) VALUES (:workspace_id, :grace, :maximum_stay)
    ON CONFLICT (workspace_id) DO UPDATE
    SET grace = excluded.grace, maximum_stay = excluded.maximum_stay, after_member_id = excluded.after_member_id
""")
IS_UNFINISHED = text("""
    SELECT EXISTS (SELECT FROM policy_changes WHERE workspace_id = :workspace_id AND grace IS NOT NULL)
""")
# The policy before the change, as whoever changes it locks them, and both before any guest.
HOLD = text("SELECT 1 FROM guest_policies WHERE workspace_id = :workspace_id FOR KEY SHARE")
LOCK = text("""
    SELECT grace, maximum_stay, after_member_id FROM policy_changes WHERE workspace_id = :workspace_id FOR UPDATE
""")
# For the notices also those whose time is over: the change may have ended it, and the worker been late. A notice that
# was planned for the same instant before is not planned again.
NEXT = """
    SELECT CAST(member_id AS text) FROM guests
    WHERE workspace_id = :workspace_id AND member_id > :after_member_id AND ended_at IS NULL {further}
    ORDER BY member_id LIMIT :batch FOR UPDATE
"""
NEXT_TO_TIGHTEN = text(NEXT.format(further="AND statement_timestamp() < grace_end_at"))
NEXT_TO_PLAN = text(NEXT.format(further=""))
# Downwards only. Whoever has stayed longer is locked at this instant, not in the past: the grace is still theirs.
TIGHTEN = text("""
    UPDATE guests
    SET expire_at = tight.expire_at,
        grace_end_at = least(guests.grace_end_at, tight.expire_at + CAST(:grace AS interval)),
        generation = generation + 1, expiry_job_id = gen_random_uuid(), updated_at = statement_timestamp()
    FROM (
        SELECT member_id, least(
            expire_at, greatest(created_at + CAST(:maximum_stay AS interval), statement_timestamp())
        ) AS expire_at
        FROM guests
        WHERE workspace_id = :workspace_id AND member_id = ANY(CAST(:member_ids AS uuid[]))
            AND statement_timestamp() < grace_end_at
    ) tight
    WHERE guests.member_id = tight.member_id
        AND (guests.expire_at > tight.expire_at OR guests.grace_end_at > tight.expire_at + CAST(:grace AS interval))
""")
MOVE_ON = text("UPDATE policy_changes SET after_member_id = :member_id WHERE workspace_id = :workspace_id")
HOLDS = text("""
    UPDATE policy_changes SET grace = NULL, maximum_stay = NULL, after_member_id = DEFAULT
    WHERE workspace_id = :workspace_id
""")
DONE = text("DELETE FROM policy_changes WHERE workspace_id = :workspace_id")


class Unfinished(Exception):
    """An earlier change does not hold for everybody yet: what it cuts must not meet those who come after the next."""


async def require_finished(tx: AsyncConnection, workspace_id: str) -> None:
    """Unfinished, if a guest's times are still to be cut. The policy is locked."""
    if await tx.scalar(IS_UNFINISHED, {"workspace_id": workspace_id}):
        raise Unfinished


async def begin_tightening(
    tx: AsyncConnection, workspace_id: str, *, grace: timedelta, maximum_stay: timedelta | None
) -> None:
    """Has no guest who is there keep more than this; None cuts nobody's stay. The policy is locked, and finished."""
    named = {"workspace_id": workspace_id, "grace": grace, "maximum_stay": maximum_stay}
    await tx.execute(BEGIN, named)
    await enqueue(tx, APPLY, workspace_id, delay_seconds=LATE_SECONDS)


async def begin_planning(tx: AsyncConnection, workspace_id: str) -> None:
    """Has the notices planned anew, and nobody's times changed. The policy is locked, and finished."""
    await tx.execute(BEGIN, {"workspace_id": workspace_id, "grace": None, "maximum_stay": None})
    await enqueue(tx, APPLY, workspace_id)


async def tighten(tx: AsyncConnection, workspace_id: str, *, batch: int = BATCH) -> bool | None:
    """Cuts the times of the next guests; True if there may be more, None if nobody's are to be cut.

    The loss of sight is noted with the last batch: after an earlier one, streams of those whose turn comes later would
    be found in order, and not be looked at again.
    """
    change = await _lock(tx, workspace_id)
    if change is None or change.grace is None:
        return None
    member_ids = await _next(tx, NEXT_TO_TIGHTEN, workspace_id, change, batch)
    caps = {"grace": change.grace, "maximum_stay": change.maximum_stay or FOREVER}
    await tx.execute(TIGHTEN, {"workspace_id": workspace_id, "member_ids": list(member_ids), **caps})
    if len(member_ids) == batch:
        await tx.execute(MOVE_ON, {"workspace_id": workspace_id, "member_id": member_ids[-1]})
        return True
    await tx.execute(HOLDS, {"workspace_id": workspace_id})
    await sight.take(tx, workspace_id, "policy_tightened")
    await enqueue(tx, APPLY, workspace_id)
    return False


async def plan(tx: AsyncConnection, workspace_id: str, *, batch: int = BATCH) -> bool:
    """Plans the notices of the next guests anew; True if there may be more."""
    change = await _lock(tx, workspace_id)
    if change is None:
        return False
    member_ids = await _next(tx, NEXT_TO_PLAN, workspace_id, change, batch)
    await notices.plan(tx, member_ids)
    if len(member_ids) == batch:
        await tx.execute(MOVE_ON, {"workspace_id": workspace_id, "member_id": member_ids[-1]})
        return True
    await tx.execute(DONE, {"workspace_id": workspace_id})
    return False


async def _lock(tx: AsyncConnection, workspace_id: str) -> Row[Any] | None:
    await tx.execute(HOLD, {"workspace_id": workspace_id})
    return (await tx.execute(LOCK, {"workspace_id": workspace_id})).one_or_none()


async def _next(
    tx: AsyncConnection, statement: TextClause, workspace_id: str, change: Row[Any], batch: int
) -> Sequence[str]:
    """The guests after those who were met, locked."""
    page = {"workspace_id": workspace_id, "after_member_id": change.after_member_id, "batch": batch}
    return (await tx.execute(statement, page)).scalars().all()


def applier(database: Database) -> Work:
    """The work `guest_policy.apply`: one batch, and the next as work of its own until nothing is left."""

    async def apply(workspace_id: str, _row_id: str) -> None:
        async def step(tx: AsyncConnection) -> None:
            more = await tighten(tx, workspace_id)
            if more is None:
                more = await plan(tx, workspace_id)
            if more:
                await enqueue(tx, APPLY, workspace_id)

        await database.transaction(step)

    return apply
