"""What is past its time: messages older than their conversation's retention, and events that nobody resumes from.

Reads hide such messages at once; this only removes what is hidden. A stream that comes back from before is reset.
"""

import functools
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import Database
from services.messaging import tombstones

BATCH = 500
PAGE = 1_000
"""Conversations looked for at once."""
RUN_SECONDS = 8.0
"""Well below a task's 20 s, and so is the batch that is begun just before."""

# Numbers and times go up together, so that the oldest message tells whether there is something to do. Who has waited
# longest comes first: what one run does not get to is the next one's beginning.
AGED = text("""
    SELECT CAST(c.id AS text) AS id, CAST(c.workspace_id AS text) AS workspace_id, oldest.aged_at
    FROM conversations c
    CROSS JOIN LATERAL (
        SELECT m.created_at + make_interval(secs => c.retention_seconds) AS aged_at
        FROM messages m WHERE m.conversation_id = c.id ORDER BY m.seq LIMIT 1
    ) oldest
    WHERE c.retention_seconds IS NOT NULL AND oldest.aged_at <= statement_timestamp()
        AND (oldest.aged_at, c.id) > (CAST(:after_at AS timestamptz), CAST(:after_id AS uuid))
    ORDER BY oldest.aged_at, c.id LIMIT :page
""")
FIRST: tuple[object, str] = ("-infinity", "00000000-0000-0000-0000-000000000000")
# Whoever has it is waited for by the next run, not by the other conversations.
LOCK = text("""
    SELECT retention_seconds FROM conversations
    WHERE id = :conversation_id AND workspace_id = :workspace_id AND retention_seconds IS NOT NULL
    FOR NO KEY UPDATE SKIP LOCKED
""")
OLDEST = text("""
    SELECT CAST(id AS text) AS id, created_at <= statement_timestamp() - make_interval(secs => :seconds) AS is_aged
    FROM messages WHERE conversation_id = :conversation_id ORDER BY seq LIMIT :batch
""")
DELETES = (
    text("""
        DELETE FROM conversation_events
        WHERE conversation_id = :conversation_id AND message_id = ANY(CAST(:message_ids AS uuid[]))
    """),
    text("DELETE FROM messages WHERE conversation_id = :conversation_id AND id = ANY(CAST(:message_ids AS uuid[]))"),
)
DELETE_EVENTS = text("""
    DELETE FROM conversation_events e
    USING (
        SELECT conversation_id, event_seq FROM conversation_events
        WHERE created_at <= statement_timestamp() - interval '30 days' ORDER BY created_at LIMIT :batch
    ) aged
    WHERE e.conversation_id = aged.conversation_id AND e.event_seq = aged.event_seq
""")


async def purge_messages(database: Database, *, page: int = PAGE) -> None:
    """Deletes messages past their retention, oldest first, in small transactions.

    Every conversation has a batch deleted before one of them has its next: a long one does not keep the others waiting.
    """
    stop_at = time.monotonic() + RUN_SECONDS
    more = True
    while more:
        more, after = False, FIRST
        while found := await database.read(functools.partial(_aged, after=after, page=page)):
            for row in found:
                if time.monotonic() >= stop_at:
                    return
                more |= await database.transaction(
                    functools.partial(purge_oldest, workspace_id=row.workspace_id, conversation_id=row.id)
                )
            after = found[-1].aged_at, found[-1].id


async def purge_oldest(tx: AsyncConnection, *, workspace_id: str, conversation_id: str, batch: int = BATCH) -> bool:
    """Deletes a batch of a conversation's aged messages with all that hangs on them; whether there may be more."""
    place = {"workspace_id": workspace_id, "conversation_id": conversation_id}
    seconds: int | None = await tx.scalar(LOCK, place)
    if seconds is None:
        return False
    message_ids = []
    for row in await tx.execute(OLDEST, {**place, "seconds": seconds, "batch": batch}):
        if not row.is_aged:
            break
        message_ids.append(row.id)
    await tombstones.strip(tx, **place, message_ids=message_ids)
    for statement in DELETES:
        await tx.execute(statement, {"conversation_id": conversation_id, "message_ids": message_ids})
    return len(message_ids) == batch


async def purge_events(database: Database) -> None:
    """Deletes events older than 30 days; messages are their own events, and stay."""
    stop_at = time.monotonic() + RUN_SECONDS
    while time.monotonic() < stop_at:
        deleted = await database.transaction(lambda tx: tx.execute(DELETE_EVENTS, {"batch": BATCH}))
        if deleted.rowcount < BATCH:
            return


async def _aged(tx: AsyncConnection, *, after: tuple[object, str], page: int) -> Sequence[Row[Any]]:
    return (await tx.execute(AGED, {"after_at": after[0], "after_id": after[1], "page": page})).all()
