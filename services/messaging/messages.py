"""Messages: reading one, and paging through them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.messaging.access import Viewer

LAST = (1 << 63) - 1

KEPT = """(
    c.retention_seconds IS NULL OR m.created_at > statement_timestamp() - make_interval(secs => c.retention_seconds)
)"""
"""Whether a message `m` of the conversation `c` is still to be seen: what is older is hidden before it is purged."""

# A reply outlives what it answers; the id of what is hidden would tell that it is still there.
REPLY_TO = """
    CASE WHEN m.reply_to_id IS NULL OR c.retention_seconds IS NULL THEN m.reply_to_id ELSE (
        SELECT answered.id FROM messages answered
        WHERE answered.conversation_id = m.conversation_id AND answered.id = m.reply_to_id
            AND answered.created_at > statement_timestamp() - make_interval(secs => c.retention_seconds)
    ) END
"""
# Before a guest's history, what is answered is hidden as well.
REPLY_TO_AT = """
    CASE WHEN m.reply_to_id IS NOT NULL THEN (
        SELECT answered.created_at FROM messages answered
        WHERE answered.conversation_id = m.conversation_id AND answered.id = m.reply_to_id
    ) END
"""
# Of a message `m` of the conversation `c`. `is_plain` tells that there is nothing but text, which spares the rest a
# look at each message.
MESSAGE = f"""
    CAST(m.id AS text) AS message_id, m.seq, m.event_seq AS message_event_seq,
    CAST(m.sender_member_id AS text) AS sender_member_id, CAST(m.sender_user_id AS text) AS sender_user_id,
    CAST(m.client_message_id AS text) AS client_message_id, m.text, m.created_at, m.ciphertext, m.scheme, m.header,
    CAST({REPLY_TO} AS text) AS reply_to_id, {REPLY_TO_AT} AS reply_to_at,
    CAST(m.mentioned_member_ids AS text[]) AS mentioned_member_ids,
    CAST(m.mentioned_user_group_ids AS text[]) AS mentioned_user_group_ids, m.mentions_everyone, m.file_count,
    m.version, m.edited_at, m.deleted_at,
    CASE WHEN m.file_count > 0 THEN (
        SELECT jsonb_agg(to_jsonb(f) ORDER BY f.id) FROM files f
        WHERE f.conversation_id = m.conversation_id AND f.message_id = m.id
    ) END AS files,
    m.text IS NOT NULL AND m.version = 1 AND m.file_count = 0 AND NOT m.mentions_everyone
        AND num_nonnulls(m.reply_to_id, m.mentioned_member_ids, m.mentioned_user_group_ids) = 0 AS is_plain
"""
COUNTED = """
    SELECT jsonb_agg(jsonb_build_object('emoji', r.emoji, 'count', r.count, 'mine', r.mine) ORDER BY r.first_at)
    FROM (
        SELECT (array_agg(emoji ORDER BY created_at))[1] AS emoji, count(*) AS count,
            bool_or(user_id = :user_id) AS mine, min(created_at) AS first_at
        FROM reactions
        WHERE conversation_id = m.conversation_id AND message_id = m.id GROUP BY emoji_key
    ) r
"""
"""The reactions of a message `m`, each emoji once, for :user_id."""


FACTS = """
    c.visibility,
    ARRAY(
        SELECT CAST(p.member_id AS text) FROM participants p
        WHERE p.conversation_id = c.id AND p.user_id = :user_id
    ) AS member_ids
"""
"""Of a conversation `c`: what tells, once it is known as whom they ask, whether :user_id sees it."""


def _reading(condition: str) -> TextClause:
    """Messages with the facts about their conversation, of one snapshot; `c` is there if it has none."""
    return text(f"""
        SELECT {FACTS}, m.*
        FROM conversations c
        LEFT JOIN LATERAL (
            SELECT {MESSAGE}, ({COUNTED}) AS reactions FROM messages m
            WHERE m.conversation_id = c.id AND {KEPT} AND {condition}
        ) m ON true
        WHERE c.id = :conversation_id AND c.workspace_id = :workspace_id
    """)


LIST = _reading("m.seq < :before ORDER BY m.seq DESC LIMIT :limit")
GET = _reading("m.id = :message_id")


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of one conversation, and what tells who sees it."""

    public: bool
    member_ids: frozenset[str]
    """As whom the reader takes part."""
    rows: Sequence[Row[Any]]

    def is_seen_by(self, viewer: Viewer) -> bool:
        """A guest was found to see the conversation when they were asked about."""
        return viewer.granted is not None or self.public or viewer.member_id in self.member_ids


async def read_page(
    tx: AsyncConnection, *, workspace_id: str, conversation_id: str, user_id: str, before: int, limit: int
) -> Page | None:
    """The messages below a number; None if the workspace has no such conversation."""
    return await _read(tx, LIST, workspace_id, conversation_id, user_id, {"before": before, "limit": limit})


async def read_one(
    tx: AsyncConnection, *, workspace_id: str, conversation_id: str, user_id: str, message_id: str
) -> Page | None:
    """One message, or none, in a page; None if the workspace has no such conversation."""
    return await _read(tx, GET, workspace_id, conversation_id, user_id, {"message_id": message_id})


async def _read(
    tx: AsyncConnection,
    statement: TextClause,
    workspace_id: str,
    conversation_id: str,
    user_id: str,
    parameters: dict[str, Any],
) -> Page | None:
    named = {"workspace_id": workspace_id, "conversation_id": conversation_id, "user_id": user_id}
    return page_of((await tx.execute(statement, {**named, **parameters})).all(), key="message_id")


def page_of(rows: Sequence[Row[Any]], *, key: str) -> Page | None:
    """What a statement with FACTS found: None if it was nothing, only facts where `key` is NULL."""
    if not rows:
        return None
    found = [row for row in rows if getattr(row, key) is not None]
    return Page(rows[0].visibility == "public", frozenset(rows[0].member_ids), found)
