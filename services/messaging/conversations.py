"""Conversations: making a channel, and reading those that somebody sees, with how they stand in each."""

from collections.abc import Sequence
from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.messaging import activities, limits
from services.messaging.access import CANDIDATES, IN_HISTORY, LOOKED_UP, VISIBLE, Viewer
from services.messaging.changes import ABANDONED
from services.messaging.messages import KEPT, MESSAGE

CONVERSATION = """
    CAST(c.id AS text) AS id, CAST(c.workspace_id AS text) AS workspace_id, c.kind, c.name, c.topic, c.visibility,
    CAST(c.group_id AS text) AS group_id, CAST(c.created_by_member_id AS text) AS created_by_member_id,
    c.retention_seconds, c.archived_at, c.version, c.last_seq, c.last_event_seq, c.created_at
"""
CREATE = text(f"""
    INSERT INTO conversations AS c (
        id, workspace_id, kind, name, topic, visibility, retention_seconds, created_by_member_id
    )
    VALUES (:id, :workspace_id, 'channel', :name, :topic, :visibility, :retention_seconds, :member_id)
    RETURNING {CONVERSATION}
""")
JOIN = text("""
    INSERT INTO participants (conversation_id, member_id, user_id, workspace_id)
    VALUES (:id, :member_id, :user_id, :workspace_id)
""")
MOST_UNREAD = 1_000


def unread(read_seq: str, since: str = "true") -> str:
    """SQL: how many messages of `c` :user_id has not read, up to MOST_UNREAD; `since` is about the message `m`.

    From the newest back, so that it costs no more where there are a million.
    """
    return f"""(
        SELECT count(*) FROM (
            SELECT m.created_at FROM messages m
            WHERE m.conversation_id = c.id AND m.seq > {read_seq} AND m.sender_user_id <> :user_id
                AND m.deleted_at IS NULL
            ORDER BY m.seq DESC LIMIT {MOST_UNREAD}
        ) m WHERE {KEPT} AND {since}
    )"""


def unread_of_stay(history: str = "true") -> str:
    """SQL: the same for one of their stays, whose read state is `r` and part in it `p`, or NULL for none.

    Who has not read anything has unread what came since they joined.
    """
    since = f"(r.read_seq IS NOT NULL OR m.created_at >= p.joined_at) AND {history}"
    return unread("coalesce(r.read_seq, 0)", since)


def own(history: str = "true") -> str:
    """SQL: how :user_id stands in `c`, and its last message; `history` is about a message `m`.

    By person, not by member: it is read before membership is asked, and the caller sorts out former stays.
    """
    return f"""
    LEFT JOIN LATERAL (
        SELECT jsonb_object_agg(
            stay.member_id, jsonb_build_object('joined', stay.joined, 'read_seq', stay.read_seq, 'unread', stay.unread)
        ) AS stays
        FROM (
            SELECT CAST(coalesce(p.member_id, r.member_id) AS text) AS member_id, p.member_id IS NOT NULL AS joined,
                coalesce(r.read_seq, 0) AS read_seq,
                {unread_of_stay(history)} AS unread
            FROM (
                SELECT member_id, joined_at FROM participants WHERE conversation_id = c.id AND user_id = :user_id
            ) p
            FULL JOIN (
                SELECT member_id, read_seq FROM read_states WHERE conversation_id = c.id AND user_id = :user_id
            ) r ON r.member_id = p.member_id
        ) stay
    ) own ON true
    LEFT JOIN LATERAL (
        SELECT {MESSAGE} FROM messages m
        WHERE m.conversation_id = c.id AND m.seq = c.last_seq AND {KEPT} AND {history}
    ) last ON true
"""


COLUMNS = "to_jsonb(c) AS conversation, own.stays, last.*"
FILTER = """
    c.workspace_id = :workspace_id AND c.id > :after AND (CAST(:kind AS text) IS NULL OR c.kind = :kind)
    AND (c.archived_at IS NOT NULL) = :archived
"""
# A page of those that are public and one of those that they take part in: who has few does not look through all that
# others have among themselves.
LIST_AS_MEMBER = text(f"""
    SELECT {COLUMNS}, 0 AS everything, 0 AS participant_count
    FROM (
        (
            SELECT c.* FROM conversations c WHERE {FILTER} AND c.visibility = 'public' ORDER BY c.id LIMIT :limit
        ) UNION ALL (
            SELECT c.* FROM (
                SELECT DISTINCT p.conversation_id AS id FROM participants p
                WHERE p.user_id = :user_id AND p.conversation_id > :after
            ) candidate, {LOOKED_UP} c
            WHERE {FILTER} AND c.visibility = 'private' ORDER BY c.id LIMIT :limit
        ) ORDER BY id LIMIT :limit
    ) c {own()}
    ORDER BY c.id
""")
LIST_ABANDONED = text(f"""
    SELECT to_jsonb(c) AS conversation, NULL AS stays, NULL AS message_id, 0 AS everything, 0 AS participant_count
    FROM conversations c WHERE {FILTER} AND {ABANDONED} ORDER BY c.id LIMIT :limit
""")
# Who is granted a conversation never joined it: without a read position all of it is unread.
EVERYTHING = f"CASE WHEN own.stays IS NULL THEN {unread('0', IN_HISTORY)} ELSE 0 END AS everything"
LIST_AS_GUEST = text(f"""
    SELECT {COLUMNS}, {EVERYTHING}, 0 AS participant_count
    FROM (
        SELECT c.* FROM {CANDIDATES} candidate, {LOOKED_UP} c
        WHERE {FILTER} AND {VISIBLE} ORDER BY c.id LIMIT :limit
    ) c {own(IN_HISTORY)}
    ORDER BY c.id
""")
READ_AS_GUEST = text(f"""
    SELECT {COLUMNS}, {EVERYTHING}, 0 AS participant_count
    FROM conversations c {own(IN_HISTORY)} WHERE c.id = :conversation_id AND {VISIBLE}
""")
READ_ONE = text(f"""
    SELECT {COLUMNS}, 0 AS everything,
        (SELECT count(*) FROM participants p WHERE p.conversation_id = c.id) AS participant_count
    FROM conversations c {own()}
    WHERE c.id = :conversation_id AND c.workspace_id = :workspace_id
""")
# A guest is let into channels only: VISIBLE without any group confirmed leaves out those of groups, kind the direct.
GET_CHANNELS = text(f"""
    SELECT {CONVERSATION} FROM conversations c
    WHERE {VISIBLE} AND c.kind = 'channel' AND c.id = ANY(CAST(:ids AS uuid[]))
""")
GET = text(f"""
    SELECT {CONVERSATION} FROM conversations c WHERE c.workspace_id = :workspace_id AND c.id = :conversation_id
""")

FIRST = "00000000-0000-0000-0000-000000000000"


async def create_channel(
    tx: AsyncConnection, *, creator: Viewer, name: str, topic: str, visibility: str, retention_seconds: int | None
) -> Row[Any]:
    """Makes a channel in which its creator takes part. Errors: LimitReached."""
    workspace_id = creator.workspace_id
    await limits.take_turns(tx, "channels", workspace_id)
    await limits.require(tx, "channels", workspace_id=workspace_id)
    row = {"id": str(uuid_utils.uuid7()), "workspace_id": workspace_id, "member_id": creator.member_id}
    values = {"name": name, "topic": topic, "visibility": visibility, "retention_seconds": retention_seconds}
    made = (await tx.execute(CREATE, {**row, **values})).one()
    await tx.execute(JOIN, {**row, "user_id": creator.user_id})
    await activities.record(tx, made, "conversation.created", after={"kind": "channel", "visibility": visibility})
    return made


async def get(tx: AsyncConnection, *, workspace_id: str, conversation_id: str) -> Row[Any]:
    """A conversation that is known to be there, with CONVERSATION's columns."""
    return (await tx.execute(GET, {"workspace_id": workspace_id, "conversation_id": conversation_id})).one()


async def list_as_member(tx: AsyncConnection, *, user_id: str, **page: Any) -> Sequence[Row[Any]]:
    """What the person would see as a full member; `is_seen` tells what of it they do. One statement for any number.

    `page` is workspace_id, kind or None, archived, after and limit.
    """
    return (await tx.execute(LIST_AS_MEMBER, {**page, "user_id": user_id})).all()


async def list_abandoned(tx: AsyncConnection, **page: Any) -> Sequence[Row[Any]]:
    """The private channels in which nobody takes part, guests left aside; of what was said in them nothing."""
    return (await tx.execute(LIST_ABANDONED, page)).all()


async def list_as_guest(tx: AsyncConnection, *, viewer: Viewer, **page: Any) -> Sequence[Row[Any]]:
    """What a guest sees: the channels granted, and direct conversations."""
    return (await tx.execute(LIST_AS_GUEST, {**page, **viewer.parameters, "user_id": viewer.user_id})).all()


async def read_one(tx: AsyncConnection, *, workspace_id: str, conversation_id: str, user_id: str) -> Row[Any] | None:
    """One conversation as the person stands in it, whether they see it or not; None if there is none."""
    named = {"workspace_id": workspace_id, "conversation_id": conversation_id, "user_id": user_id}
    return (await tx.execute(READ_ONE, named)).one_or_none()


async def read_as_guest(tx: AsyncConnection, *, viewer: Viewer, conversation_id: str) -> Row[Any] | None:
    """One conversation as a guest stands in it; None if they do not see it."""
    named = {**viewer.parameters, "conversation_id": conversation_id, "user_id": viewer.user_id}
    return (await tx.execute(READ_AS_GUEST, named)).one_or_none()


def is_seen(row: Row[Any], viewer: Viewer) -> bool:
    """VISIBLE for a full member, of a row that was read before the viewer was known."""
    conversation = row.conversation
    if conversation["group_id"] is not None and conversation["group_id"] not in viewer.groups:
        return False
    return conversation["visibility"] == "public" or bool((row.stays or {}).get(viewer.member_id, {}).get("joined"))


async def get_channels(
    tx: AsyncConnection, *, workspace_id: str, member_id: str, ids: Sequence[str]
) -> Sequence[Row[Any]]:
    """Those of the conversations that are channels and that a full member sees."""
    member = Viewer(workspace_id, "", member_id, None)
    return (await tx.execute(GET_CHANNELS, {**member.parameters, "ids": list(ids)})).all()
