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
from services.messaging.access import seen_by_guest
from services.messaging.errors import ConversationArchived, ReferenceGone


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
    text: str | None
    body_mac: str
    deadline: float
    """On time.monotonic()'s clock."""
    line: Line | None = None
    extras: "Extras | None" = None
    member_id: str = ""
    granted: tuple[str, ...] | None = None
    """What is granted to a guest: the channel, or all channels for what is not one of them; None for a full member."""
    locked: Fault | None = None
    """What a locked guest is refused with where they see the conversation."""
    since: datetime | None = None
    """From when on a guest sees the channel's messages, to which alone they may reply."""
    allowed: bool = False
    until: str | None = None
    """When a guest's right to send ends (RFC 3339): compared with the database's clock by the statement that stores."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Under which it is stored once."""
        return self.conversation_id, self.user_id, self.client_message_id


@dataclass(frozen=True, slots=True)
class Extras:
    """What most messages do not have. Ids are arrays of PostgreSQL, None for none."""

    ciphertext: bytes | None = None
    scheme: str | None = None
    header: bytes | None = None
    reply_to_id: str | None = None
    member_ids: str | None = None
    user_group_ids: str | None = None
    everyone: bool = False
    file_ids: tuple[str, ...] = ()

    @property
    def refers(self) -> bool:
        """Whether something must still be there for the message to be stored."""
        return self.reply_to_id is not None or bool(self.file_ids)


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as it is stored."""

    message_id: str
    seq: int
    event_seq: int
    sender_member_id: str
    created_at: datetime
    was_there: bool = False
    """True if it had been stored before: it may have been edited or deleted since."""


class AnsweredTooLongAgo(Exception):
    """The lock took so long that permission must be asked for again."""


SKIPPED = object()
"""Stands for an item whose conversation somebody else has locked, or whose sender must be asked about again."""

LOCKED = """c.id, c.workspace_id, c.kind, c.created_by_member_id, c.visibility, c.last_seq, c.last_event_seq,
    c.archived_at, c.retention_seconds"""
# Between guest's answer and this statement a guest's time may have passed.
IN_TIME = "(i.until IS NULL OR statement_timestamp() < i.until)"
INPUT = """
    input AS MATERIALIZED (
        SELECT * FROM unnest(
            CAST(:conversation_ids AS uuid[]), CAST(:workspace_ids AS uuid[]), CAST(:member_ids AS uuid[]),
            CAST(:granted AS text[]), CAST(:allowed AS bool[]), CAST(:user_ids AS uuid[]),
            CAST(:client_message_ids AS uuid[]), CAST(:message_ids AS uuid[]), CAST(:texts AS text[]),
            CAST(:body_macs AS uuid[]), CAST(:untils AS timestamptz[]),
            CAST(:ciphertexts AS bytea[]), CAST(:schemes AS text[]), CAST(:headers AS bytea[]),
            CAST(:reply_to_ids AS uuid[]), CAST(:mentioned_member_ids AS text[]),
            CAST(:mentioned_user_group_ids AS text[]), CAST(:everyone AS bool[]), CAST(:file_ids AS text[]),
            CAST(:sinces AS timestamptz[])
        ) WITH ORDINALITY AS i (
            conversation_id, workspace_id, member_id, granted, allowed, user_id, client_message_id, message_id, text,
            body_mac, until, ciphertext, scheme, header, reply_to_id, mentioned_member_ids, mentioned_user_group_ids,
            everyone, file_ids, since, place
        )
    )
"""
SEEN = f"""
    seen AS MATERIALIZED (
        SELECT i.*, c.last_seq, c.last_event_seq, c.archived_at, c.retention_seconds
        FROM input i JOIN locked c ON c.id = i.conversation_id
        WHERE c.workspace_id = i.workspace_id AND CASE
            WHEN i.granted IS NOT NULL THEN {seen_by_guest("i.member_id", "CAST(i.granted AS uuid[])")}
            ELSE c.visibility = 'public' OR EXISTS (
                SELECT FROM participants p WHERE p.conversation_id = c.id AND p.member_id = i.member_id
            )
        END
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
        INSERT INTO messages (
            conversation_id, seq, event_seq, id, sender_member_id, sender_user_id, client_message_id, text, body_mac,
            ciphertext, scheme, header, reply_to_id, mentioned_member_ids, mentioned_user_group_ids, mentions_everyone,
            file_count
        )
        SELECT conversation_id, last_seq + nth, last_event_seq + nth, message_id, member_id, user_id,
            client_message_id, text, body_mac, ciphertext, scheme, header, reply_to_id,
            CAST(mentioned_member_ids AS uuid[]), CAST(mentioned_user_group_ids AS uuid[]), everyone,
            coalesce(cardinality(CAST(file_ids AS uuid[])), 0)
        FROM numbered
        RETURNING conversation_id, id, seq, event_seq, created_at
    )
"""
RESULT = f"""
    i.place, s.place IS NOT NULL AS seen, s.archived_at IS NOT NULL AS archived, m.seq, m.event_seq, m.created_at,
    c.id IS NULL AND EXISTS (SELECT FROM conversations x WHERE x.id = i.conversation_id) OR NOT {IN_TIME} AS skipped
"""
JOINED = """
    FROM input i
    LEFT JOIN locked c ON c.id = i.conversation_id
    LEFT JOIN seen s ON s.place = i.place
    LEFT JOIN stored m ON m.conversation_id = i.conversation_id AND m.id = i.message_id
"""

# One statement, and so one round trip and one transaction. SKIP LOCKED never waits, and a row that was changed since
# the snapshot is read again when it is locked, so the numbers are the newest. Who takes part is read in the snapshot: a
# row whose revision is another than there counts as locked, or a message would be stored after its sender was removed.
# A message that is stored already violates its key: then nothing of the batch is stored, and it is written again by
# LOCK and WRITE.
APPEND = text(f"""
    WITH {INPUT}, newest AS MATERIALIZED (
        SELECT {LOCKED}, c.revision FROM conversations c
        WHERE c.id = ANY(CAST(:distinct_ids AS uuid[])) ORDER BY c.id FOR NO KEY UPDATE SKIP LOCKED
    ), locked AS MATERIALIZED (
        SELECT n.* FROM newest n JOIN conversations o ON o.id = n.id AND o.revision = n.revision
    ), {SEEN}, fresh AS (SELECT * FROM seen i WHERE allowed AND archived_at IS NULL AND {IN_TIME}), {STORE}
    SELECT {RESULT} {JOINED} ORDER BY i.place
""")
LOCK = """
    SELECT CAST(id AS text) FROM conversations
    WHERE id = ANY(CAST(:distinct_ids AS uuid[])) ORDER BY id FOR NO KEY UPDATE
"""
LOCK_OR_SKIP = text(f"{LOCK} SKIP LOCKED")
LOCK_OR_WAIT = text(LOCK)
# What nobody took up in a day is deleted without the conversation's lock.
LOCK_FILES = text("SELECT FROM files WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR NO KEY UPDATE")
# In the statement after the lock: the lock's own snapshot is from before the wait, and would miss what was stored then.
WRITE = text(f"""
    WITH {INPUT}, locked AS MATERIALIZED (
        SELECT {LOCKED} FROM conversations c WHERE c.id = ANY(CAST(:locked_ids AS uuid[]))
    ), {SEEN}, existing AS MATERIALIZED (
        SELECT s.place, m.id, m.seq, m.event_seq, m.sender_member_id, m.created_at, m.text, m.body_mac
        FROM seen s JOIN messages m ON m.conversation_id = s.conversation_id
            AND m.sender_user_id = s.user_id AND m.client_message_id = s.client_message_id
        WHERE s.allowed
    ), referring AS MATERIALIZED (
        SELECT s.place, s.reply_to_id IS NOT NULL AND NOT EXISTS (
            SELECT FROM messages m
            WHERE m.conversation_id = s.conversation_id AND m.id = s.reply_to_id AND m.deleted_at IS NULL
                AND (s.since IS NULL OR m.created_at >= s.since) AND (
                s.retention_seconds IS NULL
                OR m.created_at > statement_timestamp() - make_interval(secs => s.retention_seconds)
            )
        ) AS reply_gone, s.file_ids IS NOT NULL AND (
            -- Of two messages that name the same file, the first has it.
            EXISTS (
                SELECT FROM seen o WHERE o.conversation_id = s.conversation_id AND o.place < s.place
                    AND CAST(o.file_ids AS uuid[]) && CAST(s.file_ids AS uuid[])
            ) OR cardinality(CAST(s.file_ids AS uuid[])) <> (
                SELECT count(*) FROM files f
                WHERE f.workspace_id = s.workspace_id AND f.conversation_id = s.conversation_id
                    AND f.id = ANY(CAST(s.file_ids AS uuid[])) AND f.uploader_member_id = s.member_id
                    AND f.state = 'ready' AND f.message_id IS NULL
            )
        ) AS files_gone
        FROM seen s
    ), fresh AS (
        SELECT i.* FROM seen i JOIN referring r ON r.place = i.place
        WHERE allowed AND archived_at IS NULL AND {IN_TIME} AND NOT r.reply_gone AND NOT r.files_gone
            AND NOT EXISTS (SELECT FROM existing e WHERE e.place = i.place)
    ), {STORE}, attached AS (
        UPDATE files f SET message_id = n.message_id, attached_at = statement_timestamp() FROM numbered n
        WHERE n.file_ids IS NOT NULL AND f.workspace_id = n.workspace_id AND f.conversation_id = n.conversation_id
            AND f.id = ANY(CAST(n.file_ids AS uuid[]))
    )
    SELECT {RESULT}, r.reply_gone, e.text AS existing_text, replace(CAST(e.body_mac AS text), '-', '') AS existing_mac,
        CAST(e.id AS text) AS existing_id, e.seq AS existing_seq, e.event_seq AS existing_event_seq,
        CAST(e.sender_member_id AS text) AS existing_member_id, e.created_at AS existing_created_at
    {JOINED} LEFT JOIN existing e ON e.place = i.place LEFT JOIN referring r ON r.place = i.place
    ORDER BY i.place
""")


class OtherBody(IdempotencyMismatch):
    """The key stands for `stored`, whose body is another."""

    def __init__(self, stored: Stored, body_mac: str) -> None:
        super().__init__()
        self.stored = stored
        self.mac_stored = body_mac


Outcome = Stored | Fault | object
"""Stored, why not, or SKIPPED."""


async def append(tx: AsyncConnection, *, sends: Sequence[Send]) -> list[Outcome]:
    """Stores a batch without repeated keys in one statement. IntegrityError if one of them is stored already.

    For messages that refer to nothing, and what is ARCHIVED is to be looked at again by append_once.
    """
    message_ids = _message_ids(sends)
    rows = (await tx.execute(APPEND, _parameters(sends, message_ids))).all()
    return [_outcome(*each) for each in zip(sends, message_ids, rows, strict=True)]


async def append_once(tx: AsyncConnection, *, sends: Sequence[Send], wait: bool, not_after: float) -> list[Outcome]:
    """The same in a transaction, for a batch some of which may be stored already. `wait` is for the locks.

    AnsweredTooLongAgo if they were not had by `not_after`, on time.monotonic()'s clock.
    """
    message_ids = _message_ids(sends)
    parameters = _parameters(sends, message_ids)
    lock = LOCK_OR_WAIT if wait else LOCK_OR_SKIP
    locked_ids = list(await tx.scalars(lock, {"distinct_ids": parameters["distinct_ids"]}))
    file_ids = [file_id for send in sends if send.extras for file_id in send.extras.file_ids]
    if file_ids:
        await tx.execute(LOCK_FILES, {"ids": file_ids})
    if time.monotonic() > not_after:
        raise AnsweredTooLongAgo
    rows = (await tx.execute(WRITE, {**parameters, "locked_ids": locked_ids})).all()
    return [_outcome_once(*each) for each in zip(sends, message_ids, rows, strict=True)]


def distinct(sends: Collection[Send]) -> tuple[list[Send], dict[tuple[str, str, str], Send]]:
    """The batch without repeated keys, and the first of each key."""
    first: dict[tuple[str, str, str], Send] = {}
    for send in sends:
        first.setdefault(send.key, send)
    return list(first.values()), first


def repeated(send: Send, first: Send, outcome: Outcome) -> Outcome:
    """What becomes of a repetition within a batch."""
    if isinstance(outcome, OtherBody) and send.body_mac == outcome.mac_stored:
        return outcome.stored
    if isinstance(outcome, Stored) and send.body_mac != first.body_mac:
        return OtherBody(outcome, first.body_mac)
    return outcome


def _message_ids(sends: Sequence[Send]) -> list[str]:
    return [str(uuid_utils.uuid7()) for _ in sends]


def _parameters(sends: Sequence[Send], message_ids: Sequence[str]) -> dict[str, Any]:
    return {
        "conversation_ids": _array(send.conversation_id for send in sends),
        "workspace_ids": _array(send.workspace_id for send in sends),
        "member_ids": _array(send.member_id for send in sends),
        "granted": _array("NULL" if s.granted is None else f'"{{{",".join(s.granted)}}}"' for s in sends),
        "allowed": _array(str(send.allowed) for send in sends),
        "user_ids": _array(send.user_id for send in sends),
        "client_message_ids": _array(send.client_message_id for send in sends),
        "message_ids": _array(message_ids),
        "texts": [send.text for send in sends],
        "body_macs": _array(send.body_mac for send in sends),
        "untils": [send.until for send in sends],
        "sinces": [send.since for send in sends],
        "distinct_ids": _array({send.conversation_id for send in sends}),
        **_extras([send.extras for send in sends]),
    }


NO_EXTRAS = Extras()


def _extras(extras: Sequence[Extras | None]) -> dict[str, Any]:
    nulls = _array("NULL" for _ in extras)
    if not any(extras):
        parameters: dict[str, Any] = dict.fromkeys(
            ("ciphertexts", "schemes", "headers", "reply_to_ids", "mentioned_member_ids", "mentioned_user_group_ids"),
            nulls,
        )
        return {**parameters, "everyone": _array("false" for _ in extras), "file_ids": nulls}
    present = [each or NO_EXTRAS for each in extras]
    return {
        "ciphertexts": [each.ciphertext for each in present],
        "schemes": [each.scheme for each in present],
        "headers": [each.header for each in present],
        "reply_to_ids": _array(each.reply_to_id or "NULL" for each in present),
        "mentioned_member_ids": [each.member_ids for each in present],
        "mentioned_user_group_ids": [each.user_group_ids for each in present],
        "everyone": _array(str(each.everyone) for each in present),
        "file_ids": [_array(each.file_ids) if each.file_ids else None for each in present],
    }


def _array(items: Iterable[str]) -> str:
    """A PostgreSQL array of items that need no quotes: psycopg would look at each, for a third of the flush's time."""
    return f"{{{','.join(items)}}}"


def _outcome(send: Send, message_id: str, row: Row[Any]) -> Outcome:
    if row.seq is not None:
        return Stored(message_id, row.seq, row.event_seq, send.member_id, row.created_at)
    if row.skipped:
        return SKIPPED
    if not row.seen:
        return NotFound()
    return ConversationArchived() if send.allowed and row.archived else send.locked or PermissionDenied()


def _outcome_once(send: Send, message_id: str, row: Row[Any]) -> Outcome:
    if row.existing_id is not None:
        stored = Stored(
            row.existing_id,
            row.existing_seq,
            row.existing_event_seq,
            row.existing_member_id,
            row.existing_created_at,
            was_there=True,
        )
        # Messages of the first release have no authenticator, and were never edited while it ran.
        same = row.existing_mac == send.body_mac if row.existing_mac else row.existing_text == send.text
        return stored if same else OtherBody(stored, row.existing_mac or "")
    if row.seq is None and row.seen and send.allowed and not row.archived and not row.skipped:
        return ReferenceGone("reply_to_message_id" if row.reply_gone else "file_ids")
    return _outcome(send, message_id, row)
