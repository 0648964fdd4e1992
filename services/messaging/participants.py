"""Who takes part: joining and leaving channels, what becomes of it when a member goes, and lists of it."""

from collections.abc import Sequence
from typing import Any

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.messaging import activities, limits
from services.messaging.changes import Happened, number
from services.messaging.errors import ConversationArchived, ConversationKind
from services.messaging.leftovers import put_back

PARTICIPANT = "CAST(p.member_id AS text) AS member_id, CAST(p.user_id AS text) AS user_id, p.joined_at"
FIND = text(f"""
    SELECT {PARTICIPANT} FROM participants p
    WHERE p.workspace_id = :workspace_id AND p.conversation_id = :conversation_id AND p.member_id = :member_id
""")
INSERT = text(f"""
    INSERT INTO participants AS p (conversation_id, member_id, user_id, workspace_id)
    VALUES (:conversation_id, :member_id, :user_id, :workspace_id)
    RETURNING {PARTICIPANT}
""")
DELETE = text(f"""
    DELETE FROM participants p
    WHERE p.workspace_id = :workspace_id AND p.conversation_id = :conversation_id AND p.member_id = :member_id
    RETURNING {PARTICIPANT}
""")
# Whoever has one is not waited for: what is locked already would be kept from everybody meanwhile.
LOCK_OF_MEMBER = text("""
    SELECT CAST(c.id AS text) FROM conversations c
    WHERE c.id IN (SELECT p.conversation_id FROM participants p WHERE p.member_id = :member_id)
    ORDER BY c.id LIMIT :most FOR NO KEY UPDATE SKIP LOCKED
""")
REMOVE = text("""
    WITH gone AS (
        DELETE FROM participants
        WHERE member_id = :member_id AND conversation_id = ANY(CAST(:conversation_ids AS uuid[]))
        RETURNING conversation_id, member_id, user_id
    ), heads AS (
        UPDATE conversations c SET last_event_seq = c.last_event_seq + 1, revision = c.revision + 1
        FROM gone WHERE c.id = gone.conversation_id
        RETURNING c.id, c.last_event_seq, gone.member_id, gone.user_id
    )
    INSERT INTO conversation_events (conversation_id, event_seq, kind, member_id, user_id)
    SELECT id, last_event_seq, 'participant_left', member_id, user_id FROM heads
""")
TAKES_PART = text("SELECT EXISTS (SELECT FROM participants WHERE member_id = :member_id)")
# With the facts about the conversation, of one snapshot; `c` is there if nobody takes part.
LIST = text(f"""
    SELECT c.visibility, ARRAY(
            SELECT CAST(own.member_id AS text) FROM participants own
            WHERE own.conversation_id = c.id AND own.user_id = :user_id
        ) AS own_member_ids, p.*
    FROM conversations c
    LEFT JOIN LATERAL (
        SELECT {PARTICIPANT} FROM participants p
        WHERE p.conversation_id = c.id AND p.member_id > CAST(:after AS uuid) ORDER BY p.member_id LIMIT :limit
    ) p ON true
    WHERE c.id = :conversation_id AND c.workspace_id = :workspace_id
    ORDER BY p.member_id
""")
# From each no more than can be on the page: a conversation may have 50 000.
LIST_TOGETHER = text("""
    SELECT DISTINCT CAST(p.member_id AS text) AS member_id, CAST(p.user_id AS text) AS user_id
    FROM unnest(CAST(:conversation_ids AS uuid[])) AS asked (id)
    CROSS JOIN LATERAL (
        SELECT p.member_id, p.user_id FROM participants p
        WHERE p.conversation_id = asked.id AND p.workspace_id = :workspace_id AND p.member_id > CAST(:after AS uuid)
            AND (CAST(:among AS uuid[]) IS NULL OR p.member_id = ANY(CAST(:among AS uuid[])))
        ORDER BY p.member_id LIMIT :limit
    ) p
    ORDER BY member_id LIMIT :limit
""")

FIRST = "00000000-0000-0000-0000-000000000000"
MOST_AT_ONCE = 100
"""Conversations whose lock a removal has in one transaction."""


def require_channel(conversation: Row[Any]) -> None:
    """ConversationKind where who takes part is the group's to say, or was said when it was opened."""
    if conversation.kind != "channel":
        raise ConversationKind


def require_open(conversation: Row[Any]) -> None:
    """ConversationArchived if it is."""
    if conversation.archived_at is not None:
        raise ConversationArchived


async def find(tx: AsyncConnection, conversation: Row[Any], *, member_id: str) -> Row[Any] | None:
    """Somebody who takes part; None if they do not."""
    return (await tx.execute(FIND, _named(conversation, member_id))).one_or_none()


async def add(tx: AsyncConnection, conversation: Row[Any], *, member_id: str, user_id: str) -> Row[Any]:
    """Has a member take part in a locked channel; who does already is returned. Errors: LimitReached."""
    present = await find(tx, conversation, member_id=member_id)
    if present is not None:
        return present
    workspace_id = conversation.workspace_id
    await limits.require(tx, "participants", workspace_id=workspace_id, scope_id=conversation.id)
    added = (await tx.execute(INSERT, {**_named(conversation, member_id), "user_id": user_id})).one()
    joined = Happened("participant_joined", member_id=member_id, user_id=user_id)
    await number(tx, workspace_id=workspace_id, conversation_id=conversation.id, happened=[joined])
    await activities.record(tx, conversation, "participant.added", target_user_id=user_id)
    return added


async def remove(tx: AsyncConnection, conversation: Row[Any], *, member_id: str) -> bool:
    """Ends somebody's part in a locked channel; False if they had none."""
    gone = (await tx.execute(DELETE, _named(conversation, member_id))).one_or_none()
    if gone is None:
        return False
    left = Happened("participant_left", member_id=gone.member_id, user_id=gone.user_id)
    await number(
        tx,
        workspace_id=conversation.workspace_id,
        conversation_id=conversation.id,
        happened=[left],
        takes_sight=conversation.visibility == "private",
    )
    await activities.record(tx, conversation, "participant.removed", target_user_id=gone.user_id)
    return True


async def take_turns(tx: AsyncConnection, member_id: str) -> None:
    """Has what other services tell of a member applied one after the other, until this transaction ends."""
    await limits.take_turns(tx, "member", member_id)


async def remove_member(tx: AsyncConnection, removed: events.MemberRemoved) -> bool:
    """Ends a member's part (member.removed), in some conversations at a time. Repeatable: it ends what there is.

    False if there is a rest, for which the event comes again.

    The conversations' own revisions rise, under the lock that every send takes, so no stream misses it. Those that
    somebody has locked come later: what is written down of a member who has gone shows them nothing.
    """
    await take_turns(tx, removed.member_id)
    named = {"member_id": removed.member_id}
    conversation_ids = list(await tx.scalars(LOCK_OF_MEMBER, {**named, "most": MOST_AT_ONCE}))
    await tx.execute(REMOVE, {**named, "conversation_ids": conversation_ids})
    if not await tx.scalar(TAKES_PART, named):
        return True
    await put_back(tx, events.Event(member_removed=removed), at_once=bool(conversation_ids))
    return False


async def list_page(
    tx: AsyncConnection, *, workspace_id: str, conversation_id: str, user_id: str, after: str, limit: int
) -> Sequence[Row[Any]]:
    """Those after a member id, with what tells who sees them; one row without a member if there is none of them.

    No row at all if there is no such conversation.
    """
    named = {"workspace_id": workspace_id, "conversation_id": conversation_id, "user_id": user_id}
    return (await tx.execute(LIST, {**named, "after": after, "limit": limit})).all()


async def list_together(
    tx: AsyncConnection,
    *,
    workspace_id: str,
    conversation_ids: Sequence[str],
    among: Sequence[str],
    after: str,
    limit: int,
) -> Sequence[Row[Any]]:
    """Those after a member id who take part in at least one of the conversations; `among` is empty for everybody."""
    page = {"after": after or FIRST, "limit": limit, "among": list(among) or None}
    named = {"workspace_id": workspace_id, "conversation_ids": list(conversation_ids)}
    return (await tx.execute(LIST_TOGETHER, {**named, **page})).all()


def _named(conversation: Row[Any], member_id: str) -> dict[str, object]:
    return {"workspace_id": conversation.workspace_id, "conversation_id": conversation.id, "member_id": member_id}
