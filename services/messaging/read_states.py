"""Read states: how far each member has read each conversation, and what is unread after it."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound
from services.messaging.access import IN_HISTORY, TOGETHER, VISIBLE, Viewer
from services.messaging.conversations import unread_of_stay
from services.messaging.messages import FACTS, Page, page_of

LATE_SECONDS = 15
"""No transaction lasts longer: what moved may be seen so much after the time that it bears."""

HEAD = text(f"SELECT c.last_seq FROM conversations c WHERE c.id = :conversation_id AND {VISIBLE}")
# Of two that move it at once, the later time is of what stands: whoever listens keeps the latest.
MOVED_AT = "greatest(statement_timestamp(), r.updated_at + interval '1 microsecond')"


def _joined(first: str, last: str) -> str:
    """SQL: the number between two up to which everything was sent before somebody joined; NULL if they did not.

    Messages lie in the order of their times, so the place is found by halving, each time by one entry of their primary
    key: looked for from an end, it would be behind as many messages as anybody cares to write.
    """
    return f"""(
        WITH RECURSIVE between_two AS (
            SELECT CAST({first} AS bigint) AS low, CAST({last} AS bigint) AS high, p.joined_at
            FROM participants p JOIN conversations c ON c.id = p.conversation_id
            WHERE p.conversation_id = :conversation_id AND p.member_id = :member_id
            UNION ALL
            SELECT CASE WHEN is_before THEN middle ELSE low END, CASE WHEN is_before THEN high ELSE middle - 1 END,
                joined_at
            FROM between_two, LATERAL (SELECT (low + high + 1) / 2 AS middle) half, LATERAL (
                SELECT coalesce((
                    SELECT m.created_at < joined_at FROM messages m
                    WHERE m.conversation_id = :conversation_id AND m.seq > low AND m.seq <= middle
                    ORDER BY m.seq DESC LIMIT 1
                ), true) AS is_before
            ) found
            WHERE low < high
        )
        SELECT low FROM between_two WHERE low >= high
    )"""


# What was there before somebody joined is not unread to them: so who has no position yet starts from there, and for
# nobody else is it looked for.
HAS_POSITION = "EXISTS (SELECT FROM read_states WHERE conversation_id = :conversation_id AND member_id = :member_id)"
FORWARD = text(f"""
    INSERT INTO read_states AS r (conversation_id, member_id, user_id, workspace_id, read_seq)
    VALUES (
        :conversation_id, :member_id, :user_id, :workspace_id,
        CASE WHEN {HAS_POSITION} THEN :seq ELSE coalesce({_joined(":seq", "c.last_seq")}, :seq) END
    )
    ON CONFLICT (conversation_id, member_id) DO UPDATE SET read_seq = excluded.read_seq, updated_at = {MOVED_AT}
    WHERE r.read_seq < excluded.read_seq
""")
BACK = text(f"""
    INSERT INTO read_states AS r (conversation_id, member_id, user_id, workspace_id, read_seq)
    VALUES (
        :conversation_id, :member_id, :user_id, :workspace_id,
        CASE WHEN {HAS_POSITION} THEN 0 ELSE coalesce({_joined("0", "least(:seq, c.last_seq)")}, 0) END
    )
    ON CONFLICT (conversation_id, member_id) DO UPDATE SET read_seq = :seq, updated_at = {MOVED_AT}
    WHERE r.read_seq > :seq
""")
STATE = """
    CAST(r.conversation_id AS text) AS conversation_id, CAST(r.member_id AS text) AS member_id,
    CAST(r.user_id AS text) AS user_id, r.read_seq, r.updated_at
"""
GET = text(f"""
    SELECT CAST(c.id AS text) AS conversation_id, CAST(CAST(:member_id AS uuid) AS text) AS member_id,
        CAST(CAST(:user_id AS uuid) AS text) AS user_id, coalesce(r.read_seq, 0) AS read_seq, r.updated_at,
        {unread_of_stay(IN_HISTORY)} AS unread_count
    FROM conversations c LEFT JOIN read_states r ON r.conversation_id = c.id AND r.member_id = :member_id
    LEFT JOIN participants p ON p.conversation_id = c.id AND p.member_id = :member_id
    WHERE c.id = :conversation_id AND {VISIBLE}
""")
# Who has read without taking part is left out: to see each other in a channel, both must have joined it.
LIST = text(f"""
    SELECT {FACTS}, r.*
    FROM conversations c
    LEFT JOIN LATERAL (
        SELECT {STATE} FROM read_states r
        JOIN participants p ON p.conversation_id = r.conversation_id AND p.member_id = r.member_id
        WHERE r.conversation_id = c.id AND r.read_seq > 0 AND r.member_id > :after
        ORDER BY r.member_id LIMIT :limit
    ) r ON true
    WHERE c.id = :conversation_id AND c.workspace_id = :workspace_id
    ORDER BY r.member_id
""")
# What was moved, for streams: of the pairs that somebody told of, or since a time, by all whom streams are of. Others'
# states only in direct conversations.
MOVED = text(f"""
    WITH moved AS (
        SELECT r.* FROM read_states r
        JOIN unnest(CAST(:pair_conversation_ids AS uuid[]), CAST(:pair_member_ids AS uuid[])) AS told (id, member_id)
            ON r.conversation_id = told.id AND r.member_id = told.member_id
        UNION
        SELECT r.* FROM read_states r WHERE r.member_id = ANY(CAST(:member_ids AS uuid[])) AND r.updated_at > :since
        UNION
        SELECT r.* FROM conversations c JOIN read_states r ON r.conversation_id = c.id
        WHERE c.id = ANY(CAST(:conversation_ids AS uuid[])) AND c.kind = 'direct' AND r.updated_at > :since
    )
    SELECT {STATE}, c.kind, c.revision, CASE WHEN c.kind = 'direct' THEN ARRAY(
            SELECT CAST(p.member_id AS text) FROM participants p WHERE p.conversation_id = c.id
        ) END AS member_ids, {TOGETHER} AS together
    FROM moved r JOIN conversations c ON c.id = r.conversation_id
    ORDER BY r.updated_at
""")
CLOCK = text("SELECT statement_timestamp()")
FORGET_MEMBER = text("DELETE FROM read_states WHERE member_id = :member_id")


async def head(tx: AsyncConnection, *, viewer: Viewer, conversation_id: str) -> int:
    """The number of the latest message of a conversation that the viewer sees. NOT_FOUND."""
    found: int | None = await tx.scalar(HEAD, {**viewer.parameters, "conversation_id": conversation_id})
    if found is None:
        raise NotFound
    return found


async def move_forward(tx: AsyncConnection, *, reader: Viewer, conversation_id: str, seq: int) -> None:
    """Puts somebody's position at `seq`, unless it is there or further."""
    await tx.execute(FORWARD, _moved(reader, conversation_id, seq))


async def move_back(tx: AsyncConnection, *, reader: Viewer, conversation_id: str, seq: int) -> None:
    """Puts somebody's position at `seq`, unless it is there or before."""
    await tx.execute(BACK, _moved(reader, conversation_id, seq))


async def get(tx: AsyncConnection, *, reader: Viewer, conversation_id: str) -> Row[Any]:
    """Somebody's position with `unread_count`. NOT_FOUND if they do not see the conversation."""
    parameters = {**reader.parameters, "user_id": reader.user_id, "conversation_id": conversation_id}
    found = (await tx.execute(GET, parameters)).one_or_none()
    if found is None:
        raise NotFound
    return found


async def read_page(
    tx: AsyncConnection, *, workspace_id: str, conversation_id: str, user_id: str, after: str, limit: int
) -> Page | None:
    """The states of those who take part, by member id; None if the workspace has no such conversation."""
    parameters = {
        "workspace_id": workspace_id,
        "conversation_id": conversation_id,
        "user_id": user_id,
        "after": after,
        "limit": limit,
    }
    return page_of((await tx.execute(LIST, parameters)).all(), key="member_id")


async def read_moved(
    tx: AsyncConnection,
    *,
    pairs: Collection[tuple[str, str]],
    member_ids: Collection[str] = (),
    conversation_ids: Collection[str] = (),
    since: datetime | None = None,
    granted: Collection[str] = (),
) -> Sequence[Row[Any]]:
    """States as they are now, the latest last: of pairs (conversation, member), and of all that moved since a time.

    `granted` are the channels of the guests among those who are told.
    """
    parameters = {
        "pair_conversation_ids": [conversation_id for conversation_id, _ in pairs],
        "pair_member_ids": [member_id for _, member_id in pairs],
        "member_ids": list(member_ids),
        "conversation_ids": list(conversation_ids),
        "granted": list(granted),
        "since": None if since is None else since - timedelta(seconds=LATE_SECONDS),
    }
    return (await tx.execute(MOVED, parameters)).all()


async def clock(tx: AsyncConnection) -> datetime:
    """The database's."""
    read_at: datetime = (await tx.execute(CLOCK)).scalar_one()
    return read_at


async def member_removed(tx: AsyncConnection, removed: events.MemberRemoved) -> None:
    """Forgets how far a member has read: who comes back starts with nothing."""
    await tx.execute(FORGET_MEMBER, {"member_id": removed.member_id})


def _moved(reader: Viewer, conversation_id: str, seq: int) -> dict[str, object]:
    place = {"conversation_id": conversation_id, "member_id": reader.member_id, "seq": seq}
    return {**place, "user_id": reader.user_id, "workspace_id": reader.workspace_id}
