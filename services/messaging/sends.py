"""Appending messages, many at a time: the statements that number and store a batch, and what became of each item.

Numbers are taken under the conversation's row lock in the statement that inserts, so they are dense and become visible
in order. Rows that somebody else has locked are skipped and reported, never waited for.
"""

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import Fault, IdempotencyMismatch, NotFound, PermissionDenied


@dataclass(slots=True, eq=False)
class Line:
    """The messages of one stream. Once one of them met an error worth retrying, none behind it may overtake it."""

    broken_by: BaseException | None = None


@dataclass(slots=True, eq=False)
class Send:
    """One message to append. What membership and guest say of its sender is filled in before it is written."""

    user_id: str
    session_id: str
    workspace_id: str
    conversation_id: str
    client_message_id: str
    text: str
    deadline: float
    """On time.monotonic()'s clock."""
    line: Line | None = None
    member_id: str = ""
    granted: bool = False
    """True for a guest to whom the conversation is granted; a full member's sight is read with the conversation."""
    allowed: bool = False
    until: str | None = None
    """When a guest's right to send ends (RFC 3339): compared with the database's clock by the statement that stores."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Under which it is stored once."""
        return self.conversation_id, self.user_id, self.client_message_id


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as it is stored."""

    message_id: str
    seq: int
    event_seq: int
    sender_member_id: str
    created_at: datetime


class AnsweredTooLongAgo(Exception):
    """The lock took so long that permission must be asked for again."""


SKIPPED = object()
"""Stands for an item whose conversation somebody else has locked, or whose sender must be asked about again."""

# Between guest's answer and this statement a guest's time may have passed.
IN_TIME = "(i.until IS NULL OR statement_timestamp() < i.until)"
INPUT = """
    input AS MATERIALIZED (
        SELECT * FROM unnest(
            CAST(:conversation_ids AS uuid[]), CAST(:workspace_ids AS uuid[]), CAST(:member_ids AS uuid[]),
            CAST(:granted AS bool[]), CAST(:allowed AS bool[]), CAST(:user_ids AS uuid[]),
            CAST(:client_message_ids AS uuid[]), CAST(:message_ids AS uuid[]), CAST(:texts AS text[]),
            CAST(:untils AS timestamptz[])
        ) WITH ORDINALITY AS i (
            conversation_id, workspace_id, member_id, granted, allowed, user_id, client_message_id, message_id, text,
            until, place
        )
    )
"""
SEEN = """
    seen AS MATERIALIZED (
        SELECT i.*, c.last_seq, c.last_event_seq FROM input i JOIN locked c ON c.id = i.conversation_id
        WHERE c.workspace_id = i.workspace_id AND (
            i.granted OR c.visibility = 'public' OR EXISTS (
                SELECT FROM participants p WHERE p.conversation_id = c.id AND p.member_id = i.member_id
            )
        )
    )
"""
STORE = """
    numbered AS (
        SELECT f.*, row_number() OVER (PARTITION BY f.conversation_id ORDER BY f.place) AS nth FROM fresh f
    ), heads AS (
        UPDATE conversations c
        SET last_seq = c.last_seq + n.number, last_event_seq = c.last_event_seq + n.number
        FROM (SELECT conversation_id, count(*) AS number FROM fresh GROUP BY conversation_id) n
        WHERE c.id = n.conversation_id
    ), stored AS (
        INSERT INTO messages
            (conversation_id, seq, event_seq, id, sender_member_id, sender_user_id, client_message_id, text)
        SELECT conversation_id, last_seq + nth, last_event_seq + nth, message_id, member_id, user_id,
            client_message_id, text
        FROM numbered
        RETURNING conversation_id, id, seq, event_seq, created_at
    )
"""
RESULT = f"""
    i.place, s.place IS NOT NULL AS seen, m.seq, m.event_seq, m.created_at,
    c.id IS NULL AND EXISTS (SELECT FROM conversations x WHERE x.id = i.conversation_id) OR NOT {IN_TIME} AS skipped
"""
JOINED = """
    FROM input i
    LEFT JOIN locked c ON c.id = i.conversation_id
    LEFT JOIN seen s ON s.place = i.place
    LEFT JOIN stored m ON m.conversation_id = i.conversation_id AND m.id = i.message_id
"""

# One statement, and so one round trip and one transaction. SKIP LOCKED never waits, and a row that was changed since
# the snapshot is read again when it is locked, so the numbers are the newest. A message that is stored already
# violates its key: then nothing of the batch is stored, and it is written again by LOCK and WRITE.
APPEND = text(f"""
    WITH {INPUT}, locked AS MATERIALIZED (
        SELECT c.id, c.workspace_id, c.visibility, c.last_seq, c.last_event_seq FROM conversations c
        WHERE c.id = ANY(CAST(:distinct_ids AS uuid[])) ORDER BY c.id FOR NO KEY UPDATE SKIP LOCKED
    ), {SEEN}, fresh AS (SELECT * FROM seen i WHERE allowed AND {IN_TIME}), {STORE}
    SELECT {RESULT} {JOINED} ORDER BY i.place
""")
LOCK = """
    SELECT CAST(id AS text) FROM conversations
    WHERE id = ANY(CAST(:distinct_ids AS uuid[])) ORDER BY id FOR NO KEY UPDATE
"""
LOCK_OR_SKIP = text(f"{LOCK} SKIP LOCKED")
LOCK_OR_WAIT = text(LOCK)
# In the statement after the lock: the lock's own snapshot is from before the wait, and would miss what was stored then.
WRITE = text(f"""
    WITH {INPUT}, locked AS MATERIALIZED (
        SELECT c.id, c.workspace_id, c.visibility, c.last_seq, c.last_event_seq FROM conversations c
        WHERE c.id = ANY(CAST(:locked_ids AS uuid[]))
    ), {SEEN}, existing AS MATERIALIZED (
        SELECT s.place, m.id, m.seq, m.event_seq, m.sender_member_id, m.created_at, m.text
        FROM seen s JOIN messages m ON m.conversation_id = s.conversation_id
            AND m.sender_user_id = s.user_id AND m.client_message_id = s.client_message_id
        WHERE s.allowed
    ), fresh AS (
        SELECT * FROM seen i
        WHERE allowed AND {IN_TIME} AND NOT EXISTS (SELECT FROM existing e WHERE e.place = i.place)
    ), {STORE}
    SELECT {RESULT}, e.text AS existing_text, CAST(e.id AS text) AS existing_id, e.seq AS existing_seq,
        e.event_seq AS existing_event_seq, CAST(e.sender_member_id AS text) AS existing_member_id,
        e.created_at AS existing_created_at
    {JOINED} LEFT JOIN existing e ON e.place = i.place
    ORDER BY i.place
""")


class OtherText(IdempotencyMismatch):
    """The key stands for `stored`, whose text is `text`."""

    def __init__(self, stored: Stored, text: str) -> None:
        super().__init__()
        self.stored = stored
        self.text_stored = text


Outcome = Stored | Fault | object
"""Stored, why not, or SKIPPED."""


async def append(tx: AsyncConnection, *, sends: Sequence[Send]) -> list[Outcome]:
    """Stores a batch without repeated keys in one statement. IntegrityError if one of them is stored already."""
    message_ids = _message_ids(sends)
    rows = (await tx.execute(APPEND, _parameters(sends, message_ids))).all()
    return _outcomes(sends, message_ids, rows)


async def append_once(tx: AsyncConnection, *, sends: Sequence[Send], wait: bool, not_after: float) -> list[Outcome]:
    """The same in a transaction, for a batch some of which may be stored already. `wait` is for the locks.

    AnsweredTooLongAgo if they were not had by `not_after`, on time.monotonic()'s clock.
    """
    message_ids = _message_ids(sends)
    parameters = _parameters(sends, message_ids)
    lock = LOCK_OR_WAIT if wait else LOCK_OR_SKIP
    locked_ids = list(await tx.scalars(lock, {"distinct_ids": parameters["distinct_ids"]}))
    if time.monotonic() > not_after:
        raise AnsweredTooLongAgo
    rows = (await tx.execute(WRITE, {**parameters, "locked_ids": locked_ids})).all()
    return _outcomes(sends, message_ids, rows)


def distinct(sends: Collection[Send]) -> tuple[list[Send], dict[tuple[str, str, str], Send]]:
    """The batch without repeated keys, and the first of each key."""
    first: dict[tuple[str, str, str], Send] = {}
    for send in sends:
        first.setdefault(send.key, send)
    return list(first.values()), first


def repeated(send: Send, first: Send, outcome: Outcome) -> Outcome:
    """What becomes of a repetition within a batch."""
    if isinstance(outcome, OtherText) and send.text == outcome.text_stored:
        return outcome.stored
    if isinstance(outcome, Stored) and send.text != first.text:
        return OtherText(outcome, first.text)
    return outcome


def _message_ids(sends: Sequence[Send]) -> list[str]:
    return [str(uuid_utils.uuid7()) for _ in sends]


def _parameters(sends: Sequence[Send], message_ids: Sequence[str]) -> dict[str, Any]:
    return {
        "conversation_ids": _array(send.conversation_id for send in sends),
        "workspace_ids": _array(send.workspace_id for send in sends),
        "member_ids": _array(send.member_id for send in sends),
        "granted": _array(str(send.granted) for send in sends),
        "allowed": _array(str(send.allowed) for send in sends),
        "user_ids": _array(send.user_id for send in sends),
        "client_message_ids": _array(send.client_message_id for send in sends),
        "message_ids": _array(message_ids),
        "texts": [send.text for send in sends],
        "untils": [send.until for send in sends],
        "distinct_ids": _array({send.conversation_id for send in sends}),
    }


def _array(items: Iterable[str]) -> str:
    """A PostgreSQL array of items that need no quotes: psycopg would look at each, for a third of the flush's time."""
    return f"{{{','.join(items)}}}"


def _outcomes(sends: Sequence[Send], message_ids: Sequence[str], rows: Sequence[Row[Any]]) -> list[Outcome]:
    return [_outcome(*each) for each in zip(sends, message_ids, rows, strict=True)]


def _outcome(send: Send, message_id: str, row: Row[Any]) -> Outcome:
    if row.seq is not None:
        return Stored(message_id, row.seq, row.event_seq, send.member_id, row.created_at)
    if row.skipped:
        return SKIPPED
    if not row.seen:
        return NotFound()
    if not send.allowed:
        return PermissionDenied()
    stored = Stored(
        row.existing_id, row.existing_seq, row.existing_event_seq, row.existing_member_id, row.existing_created_at
    )
    return stored if row.existing_text == send.text else OtherText(stored, row.existing_text)
