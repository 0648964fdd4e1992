"""Messages: appending one under its conversation's lock, and paging through them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import IdempotencyMismatch, NotFound
from services.messaging.access import VISIBLE, Viewer

ANSWER_SECONDS = 0.25
"""How old the answer about permission may be when the lock is granted."""
LAST = (1 << 63) - 1

MESSAGE = """
    CAST(m.id AS text) AS message_id, m.seq, m.event_seq, CAST(m.sender_member_id AS text) AS sender_member_id,
    CAST(m.sender_user_id AS text) AS sender_user_id, CAST(m.client_message_id AS text) AS client_message_id,
    m.text, m.created_at
"""
LOCK = text(f"SELECT FROM conversations c WHERE c.id = :conversation_id AND {VISIBLE} FOR NO KEY UPDATE")
# A statement after the lock's: that one's snapshot is from before the wait, and so would be what it found.
FIND = text(f"""
    SELECT {MESSAGE}
    FROM conversations c
    LEFT JOIN messages m ON m.conversation_id = c.id
        AND m.sender_user_id = :user_id AND m.client_message_id = :client_message_id
    WHERE c.id = :conversation_id AND {VISIBLE}
""")
APPEND = text(f"""
    WITH numbered AS (
        UPDATE conversations SET last_seq = last_seq + 1, last_event_seq = last_event_seq + 1
        WHERE id = :conversation_id
        RETURNING id, last_seq, last_event_seq
    )
    INSERT INTO messages AS m
        (conversation_id, seq, event_seq, id, sender_member_id, sender_user_id, client_message_id, text)
    SELECT id, last_seq, last_event_seq, CAST(:id AS uuid), :member_id, :user_id, :client_message_id, :text
    FROM numbered
    RETURNING {MESSAGE}
""")
# The facts about the conversation are of the snapshot that the messages are of; `c` is there if it has none.
LIST = text(f"""
    SELECT c.visibility,
        ARRAY(
            SELECT CAST(p.member_id AS text) FROM participants p
            WHERE p.conversation_id = c.id AND p.user_id = :user_id
        ) AS member_ids,
        m.*
    FROM conversations c
    LEFT JOIN LATERAL (
        SELECT {MESSAGE} FROM messages m
        WHERE m.conversation_id = c.id AND m.seq < :before
        ORDER BY m.seq DESC LIMIT :limit
    ) m ON true
    WHERE c.id = :conversation_id AND c.workspace_id = :workspace_id
""")


class AnswerTooOld(Exception):
    """The lock took so long that permission must be asked for again."""


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to append, with the permission it is appended under."""

    conversation_id: str
    client_message_id: str
    text: str
    sender: Viewer
    answered_at: float
    """When permission was answered, on time.monotonic()'s clock."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some messages of one conversation, newest first, and what tells who sees it."""

    public: bool
    member_ids: frozenset[str]
    """As whom the reader takes part."""
    rows: Sequence[Row[Any]]

    def is_seen_by(self, viewer: Viewer) -> bool:
        """For a guest the conversation itself is what was granted."""
        return viewer.granted is not None or self.public or viewer.member_id in self.member_ids


def is_too_old(answered_at: float) -> bool:
    """Whether permission must be asked for again before anything is written."""
    return time.monotonic() - answered_at > ANSWER_SECONDS


async def append(tx: AsyncConnection, *, new: NewMessage) -> Row[Any]:
    """Takes the next numbers and stores the message, or returns the one that is there under the same client id.

    NOT_FOUND if the sender does not see the conversation, IDEMPOTENCY_MISMATCH if the text is another, AnswerTooOld.
    """
    parameters = {
        **new.sender.parameters,
        "conversation_id": new.conversation_id,
        "user_id": new.sender.user_id,
        "client_message_id": new.client_message_id,
    }
    if (await tx.execute(LOCK, parameters)).one_or_none() is None:
        raise NotFound
    if is_too_old(new.answered_at):
        raise AnswerTooOld
    found = (await tx.execute(FIND, parameters)).one_or_none()
    if found is None:
        raise NotFound
    if found.message_id is None:
        return (await tx.execute(APPEND, {**parameters, "id": str(uuid_utils.uuid7()), "text": new.text})).one()
    if found.text != new.text:
        raise IdempotencyMismatch
    return found


async def read_page(
    tx: AsyncConnection, *, workspace_id: str, conversation_id: str, user_id: str, before: int, limit: int
) -> Page | None:
    """The messages below a number; None if the workspace has no such conversation."""
    parameters = {
        "workspace_id": workspace_id,
        "conversation_id": conversation_id,
        "user_id": user_id,
        "before": before,
        "limit": limit,
    }
    rows = (await tx.execute(LIST, parameters)).all()
    if not rows:
        return None
    facts = rows[0]
    found = [row for row in rows if row.message_id is not None]
    return Page(facts.visibility == "public", frozenset(facts.member_ids), found)
