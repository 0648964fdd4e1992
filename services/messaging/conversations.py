"""Channels: making one, listing those that somebody sees, and what becomes of them when a member goes."""

from collections.abc import Sequence
from typing import Any

import uuid_utils
from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.messaging.access import VISIBLE, Viewer

CONVERSATION = """
    CAST(c.id AS text) AS id, CAST(c.workspace_id AS text) AS workspace_id, c.name, c.visibility,
    c.last_seq, c.last_event_seq, c.created_at
"""
CREATE = text(f"""
    INSERT INTO conversations AS c (id, workspace_id, kind, name, visibility, created_by_member_id)
    VALUES (:id, :workspace_id, 'channel', :name, :visibility, :member_id)
    RETURNING {CONVERSATION}
""")
JOIN = text("""
    INSERT INTO participants (conversation_id, member_id, user_id, workspace_id)
    VALUES (:id, :member_id, :user_id, :workspace_id)
""")
# By person, not by member: it is read before membership is asked, and the caller sorts out former stays.
LIST_AS_MEMBER = text(f"""
    SELECT {CONVERSATION}, joined.member_ids
    FROM conversations c
    CROSS JOIN LATERAL (
        SELECT array_agg(CAST(p.member_id AS text)) AS member_ids
        FROM participants p WHERE p.conversation_id = c.id AND p.user_id = :user_id
    ) joined
    WHERE c.workspace_id = :workspace_id AND c.id > :after
        AND (c.visibility = 'public' OR joined.member_ids IS NOT NULL)
    ORDER BY c.id LIMIT :limit
""")
LIST_AS_GUEST = text(f"""
    SELECT {CONVERSATION} FROM conversations c WHERE {VISIBLE} AND c.id > :after ORDER BY c.id LIMIT :limit
""")
GET = text(f"""
    SELECT {CONVERSATION} FROM conversations c WHERE {VISIBLE} AND c.id = ANY(CAST(:ids AS uuid[]))
""")
FIND = text(f"SELECT FROM conversations c WHERE {VISIBLE} AND c.id = :conversation_id")
# In id order, as every lock of several conversations: two removals must not wait for each other.
LOCK_OF_MEMBER = text("""
    SELECT c.id FROM conversations c
    WHERE c.id IN (SELECT p.conversation_id FROM participants p WHERE p.member_id = :member_id)
    ORDER BY c.id FOR NO KEY UPDATE
""")
REMOVE = text("""
    WITH gone AS (DELETE FROM participants WHERE member_id = :member_id RETURNING conversation_id)
    UPDATE conversations SET revision = revision + 1 WHERE id IN (SELECT conversation_id FROM gone)
""")

FIRST = "00000000-0000-0000-0000-000000000000"


async def create_channel(tx: AsyncConnection, *, creator: Viewer, name: str, visibility: str) -> Row[Any]:
    """Makes a channel in which its creator takes part."""
    row = {"id": str(uuid_utils.uuid7()), "workspace_id": creator.workspace_id, "member_id": creator.member_id}
    made = (await tx.execute(CREATE, {**row, "name": name, "visibility": visibility})).one()
    await tx.execute(JOIN, {**row, "user_id": creator.user_id})
    return made


async def list_as_member(
    tx: AsyncConnection, *, workspace_id: str, user_id: str, after: str, limit: int
) -> Sequence[Row[Any]]:
    """What the person would see as a full member; `member_ids` says as whom they take part in each."""
    parameters = {"workspace_id": workspace_id, "user_id": user_id, "after": after, "limit": limit}
    return (await tx.execute(LIST_AS_MEMBER, parameters)).all()


async def list_as_guest(tx: AsyncConnection, *, viewer: Viewer, after: str, limit: int) -> Sequence[Row[Any]]:
    """The channels granted to a guest."""
    return (await tx.execute(LIST_AS_GUEST, {**viewer.parameters, "after": after, "limit": limit})).all()


async def get_visible(
    tx: AsyncConnection, *, workspace_id: str, member_id: str, ids: Sequence[str]
) -> Sequence[Row[Any]]:
    """Those of the conversations that a full member sees."""
    parameters = {"workspace_id": workspace_id, "member_id": member_id, "granted": None, "ids": list(ids)}
    return (await tx.execute(GET, parameters)).all()


async def remove_member(tx: AsyncConnection, removed: events.MemberRemoved) -> None:
    """Ends a member's participation everywhere (member.removed). Repeatable: the second time finds nothing.

    The conversations' own revisions rise, under the lock that every send takes, so no stream misses it.
    """
    await tx.execute(LOCK_OF_MEMBER, {"member_id": removed.member_id})
    await tx.execute(REMOVE, {"member_id": removed.member_id})
