"""Messages: paging through them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.messaging.access import Viewer

LAST = (1 << 63) - 1

MESSAGE = """
    CAST(m.id AS text) AS message_id, m.seq, m.event_seq, CAST(m.sender_member_id AS text) AS sender_member_id,
    CAST(m.sender_user_id AS text) AS sender_user_id, CAST(m.client_message_id AS text) AS client_message_id,
    m.text, m.created_at
"""
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
