"""Notices to guests and sponsors: days before the expiry, at the lock, at the end. Each is sent once.

A plan is rows; a change of the times plans anew. A row goes to the worker only while it fits the guest's times, and
holds no name or address: those are asked for when the mail is written.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.outbox import enqueue

MAIL = "mail.guest_notice"
BATCH = 500

# In hours: a day of an interval depends on the session's time zone.
FITS = """CASE
    WHEN notice.kind = 'removed' THEN guests.end_reason = 'removed'
    WHEN guests.ended_at IS NOT NULL THEN false
    WHEN notice.kind = 'locked' THEN notice.due_at = guests.expire_at
    WHEN notice.kind = 'ended' THEN notice.due_at = guests.grace_end_at
    ELSE notice.due_at = guests.expire_at - make_interval(hours => 24 * CAST(substr(notice.kind, 10) AS integer))
END"""
"""Whether a row of guest_notices, as `notice`, is still of the guest's times."""

DROP_UNFIT = text(f"""
    DELETE FROM guest_notices notice USING guests, guest_policies policy
    WHERE notice.member_id = ANY(CAST(:member_ids AS uuid[])) AND guests.member_id = notice.member_id
        AND policy.workspace_id = guests.workspace_id AND notice.queued_at IS NULL
        AND NOT (
            {FITS}
            AND (
                notice.kind NOT LIKE 'expiring%'
                OR CAST(substr(notice.kind, 10) AS integer) = ANY(policy.notice_days)
            )
        )
""")
# What was planned for the same instant before, and perhaps sent, is not planned again.
PLAN = text("""
    INSERT INTO guest_notices (member_id, workspace_id, generation, kind, recipient, due_at)
    SELECT guests.member_id, guests.workspace_id, guests.generation, planned.kind, told.recipient, planned.due_at
    FROM guests
    JOIN guest_policies policy ON policy.workspace_id = guests.workspace_id
    CROSS JOIN LATERAL (
        SELECT 'expiring_' || days AS kind, guests.expire_at - make_interval(hours => 24 * days) AS due_at
        FROM unnest(policy.notice_days) AS days
        WHERE statement_timestamp() < guests.expire_at - make_interval(hours => 24 * days)
        UNION ALL SELECT 'locked', guests.expire_at WHERE guests.expire_at < guests.grace_end_at
        UNION ALL SELECT 'ended', guests.grace_end_at
    ) planned
    CROSS JOIN (VALUES ('guest'), ('sponsor')) AS told (recipient)
    WHERE guests.member_id = ANY(CAST(:member_ids AS uuid[])) AND guests.ended_at IS NULL
        AND NOT EXISTS (
            SELECT FROM guest_notices notice
            WHERE notice.member_id = guests.member_id AND notice.kind = planned.kind
                AND notice.recipient = told.recipient AND notice.due_at = planned.due_at
        )
    ON CONFLICT ON CONSTRAINT guest_notices_once_key DO NOTHING
""")
# Whose time had run out was told so.
REMOVED = text("""
    INSERT INTO guest_notices (member_id, workspace_id, generation, kind, recipient, due_at, queued_at)
    SELECT member_id, workspace_id, generation, 'removed', recipient, statement_timestamp(), statement_timestamp()
    FROM guests CROSS JOIN (VALUES ('guest'), ('sponsor')) AS told (recipient)
    WHERE workspace_id = CAST(:workspace_id AS uuid) AND member_id = CAST(:member_id AS uuid)
        AND grace_end_at > ended_at
    ON CONFLICT ON CONSTRAINT guest_notices_once_key DO NOTHING
    RETURNING CAST(id AS text)
""")
QUEUE = text("""
    UPDATE guest_notices SET queued_at = statement_timestamp()
    WHERE id IN (
        SELECT id FROM guest_notices WHERE queued_at IS NULL AND due_at <= statement_timestamp()
        ORDER BY due_at LIMIT :batch FOR UPDATE SKIP LOCKED
    )
    RETURNING CAST(id AS text)
""")
FIND_TO_SEND = text(f"""
    SELECT notice.kind, notice.recipient, CAST(guests.workspace_id AS text) AS workspace_id,
        CAST(guests.user_id AS text) AS user_id, CAST(guests.sponsor_member_id AS text) AS sponsor_member_id,
        guests.expire_at, coalesce(guests.ended_at, guests.grace_end_at) AS end_at
    FROM guest_notices notice JOIN guests ON guests.member_id = notice.member_id
    WHERE notice.id = :id AND notice.sent_at IS NULL AND {FITS}
""")
SENT = text("UPDATE guest_notices SET sent_at = statement_timestamp() WHERE id = :id AND sent_at IS NULL")


async def plan(tx: AsyncConnection, member_ids: Sequence[str]) -> None:
    """Plans the notices of guests anew, by their times and the policy, which this transaction holds."""
    await tx.execute(DROP_UNFIT, {"member_ids": list(member_ids)})
    await tx.execute(PLAN, {"member_ids": list(member_ids)})


async def tell_removed(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> None:
    """Has both told, after this transaction, that a guest ended before their time; what was planned fits no more."""
    removed = await tx.execute(REMOVED, {"workspace_id": workspace_id, "member_id": member_id})
    for notice_id in removed.scalars().all():
        await enqueue(tx, MAIL, notice_id)


async def queue_due(tx: AsyncConnection) -> int:
    """Gives the worker what is due, each once; returns how many there were, at most 500."""
    ids = (await tx.execute(QUEUE, {"batch": BATCH})).scalars().all()
    for notice_id in ids:
        await enqueue(tx, MAIL, notice_id)
    return len(ids)


async def find_to_send(tx: AsyncConnection, notice_id: str) -> Row[Any] | None:
    """What a notice says; None if it was sent, or is about times that are no longer the guest's."""
    return (await tx.execute(FIND_TO_SEND, {"id": notice_id})).one_or_none()


async def mark_sent(tx: AsyncConnection, notice_id: str) -> None:
    """Keeps a repetition of the work from sending it again."""
    await tx.execute(SENT, {"id": notice_id})
