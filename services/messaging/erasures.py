"""Erasing what somebody wrote, once they are deleted and asked for it, in steps that may be repeated.

How far it has come is a row of `erasures`, moved on in the transaction of each step.
"""

import uuid
from dataclasses import dataclass

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import Database
from services.chassis.outbox import enqueue
from services.chassis.worker import Work
from services.messaging import tombstones
from services.messaging.changes import Happened, number
from services.messaging.conversations import FIRST

ERASE = "messages.erase"
BATCH = 100
PAGE = 500
"""Conversations looked through in one step."""
LATE_SECONDS = 60
"""Longer than any call lasts: what was let in before the person was deleted has been written by then."""

# One statement, which locks the row: another work may be ending it at this moment.
PLACE = text("""
    INSERT INTO erasures (user_id) VALUES (:user_id) ON CONFLICT (user_id) DO UPDATE SET user_id = excluded.user_id
    RETURNING CAST(conversation_id AS text) AS conversation_id, CAST(client_message_id AS text) AS client_message_id
""")
MOVE_ON = text("""
    UPDATE erasures SET conversation_id = :conversation_id, client_message_id = :client_message_id
    WHERE user_id = :user_id
""")
END = text("DELETE FROM erasures WHERE user_id = :user_id")
LOOK = text("""
    SELECT CAST(c.id AS text) AS id, CAST(c.workspace_id AS text) AS workspace_id,
        EXISTS (SELECT FROM messages m WHERE m.conversation_id = c.id AND m.sender_user_id = :user_id)
            OR EXISTS (SELECT FROM reactions r WHERE r.user_id = :user_id AND r.conversation_id = c.id) AS is_theirs
    FROM (SELECT id, workspace_id FROM conversations WHERE id >= :conversation_id ORDER BY id LIMIT :page) c
    ORDER BY c.id
""")
LOCK = text("""
    SELECT FROM conversations WHERE id = :conversation_id AND workspace_id = :workspace_id FOR NO KEY UPDATE
""")
# Tombstones too: a step's length must not depend on how much was done before it.
MESSAGES = text("""
    SELECT CAST(id AS text) AS id, CAST(client_message_id AS text) AS client_message_id, deleted_at FROM messages
    WHERE conversation_id = :conversation_id AND sender_user_id = :user_id AND client_message_id > :client_message_id
    ORDER BY client_message_id LIMIT :batch
""")
TAKE_REACTIONS = text("""
    DELETE FROM reactions r
    USING (
        SELECT message_id, emoji_key FROM reactions
        WHERE conversation_id = :conversation_id AND user_id = :user_id LIMIT :batch
    ) few
    WHERE r.conversation_id = :conversation_id AND r.user_id = :user_id
        AND r.message_id = few.message_id AND r.emoji_key = few.emoji_key
    RETURNING CAST(r.message_id AS text) AS message_id, CAST(r.member_id AS text) AS member_id
""")
# Of those that were taken back long before, too: they keep their numbers, as after a message's deletion.
FORGET_EMOJI = text("""
    UPDATE conversation_events e SET emoji = NULL
    FROM (
        SELECT conversation_id, event_seq FROM conversation_events
        WHERE user_id = :user_id AND emoji IS NOT NULL LIMIT :batch
    ) few
    WHERE e.conversation_id = few.conversation_id AND e.event_seq = few.event_seq
""")
FORGET_READ_STATES = text("DELETE FROM read_states WHERE user_id = :user_id")


@dataclass(frozen=True, slots=True)
class Step:
    """What one step is about."""

    user_id: str
    workspace_id: str
    conversation_id: str
    client_message_id: str
    """After it, in the order of these ids."""

    @property
    def place(self) -> dict[str, str]:
        """The conversation."""
        return {"workspace_id": self.workspace_id, "conversation_id": self.conversation_id}


async def user_deleted(tx: AsyncConnection, deleted: events.UserDeleted) -> None:
    """Applies identity's event: has the worker erase what there is, and once more what was still being written."""
    if deleted.erase_messages:
        await enqueue(tx, ERASE, deleted.user_id)
        await enqueue(tx, ERASE, deleted.user_id, delay_seconds=LATE_SECONDS)


async def erase(tx: AsyncConnection, user_id: str, *, batch: int = BATCH, page: int = PAGE) -> bool:
    """One step; False once all has been gone through. Begins anew if it is called then."""
    named = {"user_id": user_id}
    place = (await tx.execute(PLACE, named)).one()
    looked = (await tx.execute(LOOK, {**named, "conversation_id": place.conversation_id, "page": page})).all()
    theirs = next((row for row in looked if row.is_theirs), None)
    if theirs is not None:
        # Within a conversation it goes on where it stopped; in the next one it begins.
        after = place.client_message_id if theirs.id == place.conversation_id else FIRST
        await _erase_in(tx, Step(user_id, theirs.workspace_id, theirs.id, after), batch=batch)
        return True
    if len(looked) == page:
        await _move_on(tx, user_id, _next(looked[-1].id), FIRST)
        return True
    if (await tx.execute(FORGET_EMOJI, {**named, "batch": batch})).rowcount == batch:
        return True
    await tx.execute(FORGET_READ_STATES, named)
    await tx.execute(END, named)
    return False


def eraser(database: Database) -> Work:
    """The work `messages.erase`: one step, and the next as work of its own until there is none."""

    async def erase_messages(subject_id: str, _row_id: str) -> None:
        async def step(tx: AsyncConnection) -> None:
            if await erase(tx, subject_id):
                await enqueue(tx, ERASE, subject_id)

        await database.transaction(step)

    return erase_messages


async def _erase_in(tx: AsyncConnection, step: Step, *, batch: int) -> None:
    """Messages first, then reactions to others' messages."""
    await tx.execute(LOCK, step.place)
    named = {"conversation_id": step.conversation_id, "user_id": step.user_id, "batch": batch}
    rows = (await tx.execute(MESSAGES, {**named, "client_message_id": step.client_message_id})).all()
    message_ids = [row.id for row in rows if row.deleted_at is None]
    if message_ids:
        await tombstones.bury(tx, **step.place, message_ids=message_ids)
    if len(rows) == batch:
        await _move_on(tx, step.user_id, step.conversation_id, rows[-1].client_message_id)
        return
    taken = (await tx.execute(TAKE_REACTIONS, named)).all()
    # Without the emoji, once for each message: the event is kept, and would tell what is being forgotten.
    happened = [
        Happened("reaction_removed", message_id=message_id, member_id=member_id, user_id=step.user_id)
        for message_id, member_id in dict.fromkeys((row.message_id, row.member_id) for row in taken)
    ]
    if happened:
        await number(tx, workspace_id=step.workspace_id, conversation_id=step.conversation_id, happened=happened)
    if len(taken) == batch:
        last = rows[-1].client_message_id if rows else step.client_message_id
        await _move_on(tx, step.user_id, step.conversation_id, last)
    else:
        await _move_on(tx, step.user_id, _next(step.conversation_id), FIRST)


async def _move_on(tx: AsyncConnection, user_id: str, conversation_id: str, client_message_id: str) -> None:
    place = {"conversation_id": conversation_id, "client_message_id": client_message_id}
    await tx.execute(MOVE_ON, {"user_id": user_id, **place})


def _next(conversation_id: str) -> str:
    """The next id that there can be."""
    return str(uuid.UUID(int=uuid.UUID(conversation_id).int + 1))
