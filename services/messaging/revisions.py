"""Revisions: what messages said before their edits."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.messaging.messages import FACTS, KEPT, Page, page_of

LIST = text(f"""
    SELECT {FACTS}, CAST(m.id AS text) AS message_id, CAST(m.sender_member_id AS text) AS sender_member_id,
        m.created_at AS sent_at, r.*
    FROM conversations c
    LEFT JOIN messages m ON m.conversation_id = c.id AND m.id = :message_id AND {KEPT}
    LEFT JOIN LATERAL (
        SELECT version, text, ciphertext, scheme, header, created_at FROM message_revisions
        WHERE conversation_id = m.conversation_id AND message_id = m.id AND version < :before
        ORDER BY version DESC LIMIT :limit
    ) r ON true
    WHERE c.id = :conversation_id AND c.workspace_id = :workspace_id
    ORDER BY r.version DESC
""")
LAST = (1 << 31) - 1


async def read_page(
    tx: AsyncConnection,
    *,
    workspace_id: str,
    conversation_id: str,
    message_id: str,
    user_id: str,
    before: int,
    limit: int,
) -> Page | None:
    """A message's revisions below a version, newest first; `version` is NULL in the one row of a message without any.

    None if the workspace has no such conversation; no row if it has no such message.
    """
    parameters = {
        "workspace_id": workspace_id,
        "conversation_id": conversation_id,
        "message_id": message_id,
        "user_id": user_id,
        "before": before,
        "limit": limit,
    }
    return page_of((await tx.execute(LIST, parameters)).all(), key="message_id")
