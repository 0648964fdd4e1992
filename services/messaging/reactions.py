"""Reactions: each person's, each once, and what a message has of them."""

import unicodedata
from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import InvalidRequest, LimitReached, NotFound
from services.messaging.access import IN_HISTORY, Viewer
from services.messaging.changes import Happened, number
from services.messaging.errors import ConversationArchived, MessageDeleted
from services.messaging.messages import FACTS, KEPT, Page, page_of

MOST_EMOJI = 50
LIMIT = "reactions"
"""The limit's name: different emoji of one message."""
LOOKS = {ord("\N{VARIATION SELECTOR-15}"): None, ord("\N{VARIATION SELECTOR-16}"): None}
"""What only says whether an emoji is shown as text or as a picture."""

FIND = text(f"""
    SELECT m.deleted_at FROM conversations c JOIN messages m ON m.conversation_id = c.id
    WHERE c.id = :conversation_id AND c.workspace_id = :workspace_id AND m.id = :message_id AND {KEPT} AND {IN_HISTORY}
""")
COUNT = text("""
    SELECT count(DISTINCT emoji_key) AS emoji_count, coalesce(bool_or(emoji_key = :emoji_key), false) AS is_known,
        coalesce(bool_or(emoji_key = :emoji_key AND user_id = :user_id), false) AS is_mine
    FROM reactions WHERE conversation_id = :conversation_id AND message_id = :message_id
""")
ADD = text("""
    INSERT INTO reactions (conversation_id, message_id, user_id, emoji_key, emoji, member_id)
    VALUES (:conversation_id, :message_id, :user_id, :emoji_key, :emoji, :member_id)
""")
REMOVE = text("""
    DELETE FROM reactions
    WHERE conversation_id = :conversation_id AND message_id = :message_id AND user_id = :user_id
        AND emoji_key = :emoji_key
    RETURNING emoji
""")
LIST = text(f"""
    SELECT {FACTS}, CAST(m.id AS text) AS message_id, m.created_at AS sent_at, r.*
    FROM conversations c
    LEFT JOIN messages m ON m.conversation_id = c.id AND m.id = :message_id AND {KEPT}
    LEFT JOIN LATERAL (
        SELECT CAST(user_id AS text) AS user_id, CAST(member_id AS text) AS member_id, emoji_key, emoji, created_at
        FROM reactions
        WHERE conversation_id = m.conversation_id AND message_id = m.id
            AND (CAST(:among AS uuid[]) IS NULL OR member_id = ANY(CAST(:among AS uuid[])))
            AND created_at <= CAST(:as_of AS timestamptz)
            AND (created_at, user_id, emoji_key)
                > (CAST(:after_at AS timestamptz), CAST(:after_user_id AS uuid), CAST(:after_key AS text) COLLATE "C")
        ORDER BY created_at, user_id, emoji_key LIMIT :limit
    ) r ON true
    WHERE c.id = :conversation_id AND c.workspace_id = :workspace_id
    ORDER BY r.created_at, r.user_id, r.emoji_key
""")
FIRST = ("-infinity", "00000000-0000-0000-0000-000000000000", "")
"""Before every reaction: when, whose, with what."""


def key_of(emoji: str) -> str:
    """Equal for the spellings of one emoji (NFC, variation selectors). INVALID_REQUEST if nothing is left."""
    key = unicodedata.normalize("NFC", emoji.translate(LOOKS))
    if not key:
        raise InvalidRequest(fields=[("emoji", "is nothing but variation selectors")])
    return key


async def add(
    tx: AsyncConnection, *, reacting: Viewer, locked: Row[Any], message_id: str, emoji: str, emoji_key: str
) -> None:
    """Adds somebody's reaction; the second time it changes nothing and sends no event.

    Under the conversation's lock. NOT_FOUND, CONVERSATION_ARCHIVED, MESSAGE_DELETED, LIMIT_REACHED.
    """
    if await _is_deleted(tx, reacting, locked, message_id):
        raise MessageDeleted
    reaction = _reaction(reacting, locked, message_id, emoji_key)
    counted = (await tx.execute(COUNT, reaction)).one()
    if counted.is_mine:
        return
    if not counted.is_known and counted.emoji_count >= MOST_EMOJI:
        raise LimitReached(LIMIT, most=MOST_EMOJI)
    await tx.execute(ADD, {**reaction, "emoji": emoji, "member_id": reacting.member_id})
    await _tell(tx, "reaction_added", reacting, locked, message_id, emoji)


async def remove(tx: AsyncConnection, *, reacting: Viewer, locked: Row[Any], message_id: str, emoji_key: str) -> None:
    """Takes somebody's reaction away; if there is none, also because the message was deleted, it sends no event.

    Under the conversation's lock. NOT_FOUND, CONVERSATION_ARCHIVED.
    """
    await _is_deleted(tx, reacting, locked, message_id)
    removed = (await tx.execute(REMOVE, _reaction(reacting, locked, message_id, emoji_key))).one_or_none()
    if removed is not None:
        await _tell(tx, "reaction_removed", reacting, locked, message_id, removed.emoji)


async def read_page(
    tx: AsyncConnection,
    *,
    workspace_id: str,
    conversation_id: str,
    message_id: str,
    user_id: str,
    after: tuple[str, str, str],
    limit: int,
    among: Collection[str] | None = None,
    as_of: str = "infinity",
) -> Page | None:
    """A message's reactions after a place, oldest first; `emoji` is NULL in the one row of a message without any.

    With `among` only those of some members, and none that is younger than `as_of`.
    None if the workspace has no such conversation; no row if it has no such message.
    """
    parameters = {
        "workspace_id": workspace_id,
        "conversation_id": conversation_id,
        "message_id": message_id,
        "user_id": user_id,
        "after_at": after[0],
        "after_user_id": after[1],
        "after_key": after[2],
        "limit": limit,
        "among": None if among is None else list(among),
        "as_of": as_of,
    }
    return page_of((await tx.execute(LIST, parameters)).all(), key="message_id")


def place_of(row: Row[Any]) -> tuple[str, str, str]:
    """A row's place in the order of the list."""
    created_at: datetime = row.created_at
    return created_at.isoformat(), row.user_id, row.emoji_key


async def _is_deleted(tx: AsyncConnection, viewer: Viewer, locked: Row[Any], message_id: str) -> bool:
    place = {**viewer.parameters, "conversation_id": locked.id, "message_id": message_id}
    found = (await tx.execute(FIND, place)).one_or_none()
    if found is None:
        raise NotFound
    if locked.archived_at is not None:
        raise ConversationArchived
    return found.deleted_at is not None


def _reaction(reacting: Viewer, locked: Row[Any], message_id: str, emoji_key: str) -> dict[str, object]:
    return {
        "conversation_id": locked.id,
        "message_id": message_id,
        "user_id": reacting.user_id,
        "emoji_key": emoji_key,
    }


async def _tell(
    tx: AsyncConnection, kind: str, reacting: Viewer, locked: Row[Any], message_id: str, emoji: str
) -> None:
    told = Happened(kind, message_id=message_id, member_id=reacting.member_id, user_id=reacting.user_id, emoji=emoji)
    await number(tx, workspace_id=reacting.workspace_id, conversation_id=locked.id, happened=[told])
