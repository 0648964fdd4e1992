"""What guest's worker does: it makes the tables say what the clock says already, and removes what is left over.

Nothing waits for it.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import Database
from services.chassis.outbox import enqueue
from services.chassis.worker import Sweep, Work
from services.guest import departures, invites, metrics, notices, policy_changes, purges, redemptions

EXPIRE = "guest.expire"

DUE = text("""
    SELECT expiry_job_id FROM guests
    WHERE (
            state = 'ACTIVE' AND expire_at <= statement_timestamp()
            OR state = 'LOCKED' AND grace_end_at <= statement_timestamp()
        )
        AND NOT EXISTS (
            SELECT 1 FROM outbox
            WHERE outbox.subject_id = guests.expiry_job_id AND outbox.kind = :kind AND NOT outbox.dead
        )
    ORDER BY expire_at LIMIT 500
""")
FIND = text("SELECT member_id, generation, expiry_job_id FROM guests WHERE expiry_job_id = :job_id")
SAME = "member_id = :member_id AND generation = :generation AND expiry_job_id = :expiry_job_id"
LOCK = text(f"""
    UPDATE guests SET state = 'LOCKED', updated_at = statement_timestamp()
    WHERE {SAME} AND expire_at <= statement_timestamp() AND state = 'ACTIVE'
""")
END = text(f"""
    UPDATE guests SET state = 'ENDED', updated_at = statement_timestamp()
    WHERE {SAME} AND grace_end_at <= statement_timestamp() AND state = 'LOCKED'
""")


def works(database: Database) -> Mapping[str, Work]:
    """What the worker does about an outbox row, by its kind; the mails apart."""

    async def expire(job_id: str, _row_id: str) -> None:
        found = await database.read(lambda tx: find_job(tx, job_id=job_id))
        if found is not None:
            for state in await database.transaction(lambda tx: materialise(tx, found)):
                metrics.EXPIRIES.labels(state).inc()

    return {
        EXPIRE: expire,
        policy_changes.APPLY: policy_changes.applier(database),
        purges.PURGE: purges.workspace_purger(database),
    }


def sweeps(database: Database) -> Mapping[str, Sweep]:
    """What the worker looks for each minute."""

    async def sweep_redemptions() -> None:
        while await database.transaction(redemptions.abandon_stale):
            pass

    async def sweep_guests() -> None:
        while await database.transaction(enqueue_due):
            pass

    async def sweep_members() -> None:
        while await database.transaction(departures.remove_long_over):
            pass

    async def sweep_notices() -> None:
        while await database.transaction(notices.queue_due):
            pass

    async def forget() -> None:
        await database.transaction(invites.forget)
        while await database.transaction(redemptions.forget_decided):
            pass

    return {
        "abandon_redemptions": sweep_redemptions,
        "expire_guests": sweep_guests,
        "remove_guests": sweep_members,
        "queue_notices": sweep_notices,
        "forget": forget,
    }


async def enqueue_due(tx: AsyncConnection) -> int:
    """Has the expiry job done of guests whose rows are behind the clock; returns how many there were, at most 500.

    A job that waits already is left out. Two would do no harm, but each sweep would add one while the worker is slow.
    """
    job_ids = (await tx.execute(DUE, {"kind": EXPIRE})).scalars().all()
    for job_id in job_ids:
        await enqueue(tx, EXPIRE, str(job_id))
    return len(job_ids)


async def find_job(tx: AsyncConnection, *, job_id: str) -> Row[Any] | None:
    """The guest whom an expiry job is about; None if an extension has replaced the job."""
    return (await tx.execute(FIND, {"job_id": job_id})).one_or_none()


async def materialise(tx: AsyncConnection, job: Row[Any]) -> list[str]:
    """Locks the guest, or ends them, if nothing has changed since the job was read; an extension wins.

    Returns what became of them: nothing, "locked", "ended", or one after the other.
    """
    steps = {"locked": LOCK, "ended": END}
    return [state for state, step in steps.items() if (await tx.execute(step, job._asdict())).rowcount]
