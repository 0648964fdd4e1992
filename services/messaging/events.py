"""Numbered events, as streams read them: one statement, so that events, their head and who takes part agree."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from guildhall.messaging.v1 import event_service_pb2 as pb
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.messaging import wire
from services.messaging.access import CANDIDATES, LOOKED_UP, TAKING_PART, TOGETHER, Together, Viewer
from services.messaging.messages import KEPT, MESSAGE

MOST_EVENTS = 500
"""In one reading, shared equally by the conversations that have news."""
MOST_BYTES = 1 << 20
"""Of content in one reading, but for its last event: well below what may wait for one stream."""
BYTES = "coalesce(octet_length(e.text), 0) + coalesce(octet_length(e.ciphertext), 0)"

# Each message is itself the event of its sending; the others have rows of their own, and the message as it is now.
EVENTS = f"""
    (
        SELECT m.event_seq, 'message_created' AS event_kind, CAST(NULL AS text) AS file_id,
            CAST(NULL AS text) AS event_member_id, CAST(NULL AS text) AS event_user_id, CAST(NULL AS text) AS emoji,
            {MESSAGE}
        FROM messages m
        WHERE m.conversation_id = c.id AND m.event_seq > asked.position AND c.last_event_seq > asked.position AND {KEPT}
        ORDER BY m.event_seq LIMIT asked.share
    ) UNION ALL (
        SELECT e.event_seq, e.kind, CAST(e.file_id AS text), CAST(e.member_id AS text), CAST(e.user_id AS text),
            e.emoji, {MESSAGE}
        FROM conversation_events e
        LEFT JOIN messages m ON m.conversation_id = e.conversation_id AND m.id = e.message_id
        WHERE e.conversation_id = c.id AND e.event_seq > asked.position AND c.last_event_seq > asked.position
            AND (e.message_id IS NULL OR m.id IS NOT NULL AND {KEPT})
        ORDER BY e.event_seq LIMIT asked.share
    ) ORDER BY event_seq LIMIT asked.share
"""
# Participants are read only where sight may have been taken away. Each conversation with news gets its share, so that
# one in which much happens leaves room for the others.
READ = text(f"""
    SELECT * FROM (
        SELECT CAST(c.id AS text) AS conversation_id, CAST(c.workspace_id AS text) AS workspace_id, c.visibility,
            c.revision, c.last_event_seq AS head,
            CASE WHEN c.revision > asked.revision THEN ARRAY(
                SELECT CAST(p.member_id AS text) FROM participants p
                WHERE p.conversation_id = c.id
            ) END AS member_ids, {TOGETHER} AS together,
            e.*, asked.number,
            CASE WHEN e.event_kind = 'conversation_updated' THEN to_jsonb(c) END AS updated,
            sum({BYTES}) OVER (ORDER BY asked.number, e.event_seq) AS bytes, {BYTES} AS own_bytes
        FROM (
            SELECT asked.*, greatest(1, :most / count(*) OVER ()) AS share
            FROM unnest(CAST(:ids AS uuid[]), CAST(:positions AS bigint[]), CAST(:revisions AS bigint[]))
                WITH ORDINALITY AS asked (id, position, revision, number)
            JOIN conversations c ON c.id = asked.id
            WHERE c.last_event_seq <> asked.position OR c.revision > asked.revision
        ) asked
        JOIN conversations c ON c.id = asked.id
        LEFT JOIN LATERAL ({EVENTS}) e ON true
        ORDER BY asked.number, e.event_seq
        LIMIT :most
    ) news
    WHERE news.bytes - news.own_bytes < :most_bytes
    ORDER BY news.number, news.event_seq
""")
SEEN = """
    CAST(c.id AS text) AS conversation_id, CAST(c.workspace_id AS text) AS workspace_id, c.last_event_seq AS head,
    c.revision, c.created_at, CAST(c.group_id AS text) AS group_id
"""
# Whoever reads this or the next asks membership about the groups afterwards.
SNAPSHOT = text(f"""
    SELECT {SEEN}, clock.read_at FROM (SELECT statement_timestamp() AS read_at) clock
    LEFT JOIN (
        SELECT c.* FROM {CANDIDATES} candidate, {LOOKED_UP} c WHERE {TAKING_PART}
    ) c ON true ORDER BY c.id
""")
# No later than when they were last there: what they were told of happened before that.
HAD_UNTIL = text("""
    SELECT max(greatest(
        c.created_at,
        (SELECT m.created_at FROM messages m WHERE m.conversation_id = c.id AND m.event_seq = asked.position),
        (SELECT e.created_at FROM conversation_events e WHERE e.conversation_id = c.id AND e.event_seq = asked.position)
    ))
    FROM unnest(CAST(:ids AS uuid[]), CAST(:positions AS bigint[])) AS asked (id, position)
    JOIN conversations c ON c.id = asked.id
""")
# TAKING_PART for many viewers at once: public channels once for each workspace, the rest for each member and grant.
SIGHTS = text(f"""
    SELECT {SEEN}, CAST(NULL AS text) AS member_id, false AS granted, CAST(NULL AS jsonb) AS together
    FROM conversations c
    WHERE c.workspace_id = ANY(CAST(:workspace_ids AS uuid[])) AND c.visibility = 'public'
    UNION ALL
    SELECT {SEEN}, CAST(p.member_id AS text), false, {TOGETHER} FROM participants p
    JOIN conversations c ON c.id = p.conversation_id
    WHERE p.member_id = ANY(CAST(:member_ids AS uuid[])) AND c.visibility = 'private'
    UNION ALL
    SELECT {SEEN}, NULL, true, NULL FROM conversations c WHERE c.id = ANY(CAST(:granted AS uuid[]))
""")


@dataclass(frozen=True, slots=True)
class Asked:
    """What to read of one conversation: events above a position, participants if its revision is above another."""

    conversation_id: str
    position: int
    highest: int
    """The highest position that anybody had when it was asked."""
    revision: int


@dataclass(frozen=True, slots=True)
class Written:
    """A numbered event as an EventBatch holds it, serialised once for all who get it."""

    event_seq: int
    entry: bytes
    event: pb.Event
    """What is serialised: guests get it as far as they may be told."""
    at: datetime | None = None
    """When the message was sent that it is about."""
    reply_to_at: datetime | None = None
    """When the message was sent that this one answers."""

    @classmethod
    def of(cls, event: pb.Event, *, at: datetime | None = None, reply_to_at: datetime | None = None) -> "Written":
        """The event, serialised."""
        return cls(event.event_seq, _entry(event), event, at, reply_to_at)


@dataclass(slots=True)
class Reading:
    """What one conversation had to tell."""

    conversation_id: str
    public: bool
    revision: int
    head: int
    restored: bool
    """True if somebody had seen more than there is: the database was restored to an older state."""
    member_ids: frozenset[str] | None
    """Those who take part; None where the revision is the one that was known."""
    together: Together | None = None
    """Of a direct conversation: in which of the guests' channels each of its people takes part."""
    events: list[Written] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Seen:
    """One conversation that somebody sees."""

    conversation_id: str
    head: int
    revision: int
    created_at: datetime
    group_id: str | None = None
    together: Together | None = None
    """As in a Reading."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that one viewer sees, by which a stream opens."""

    seen: Sequence[Seen]
    read_at: datetime
    """By the database clock."""
    had_until: datetime | None = None
    """When the latest event happened that they have; None if they named none, or all that they see."""


@dataclass(slots=True)
class Sights:
    """Which conversations who sees, in one snapshot."""

    public: dict[str, dict[str, Seen]] = field(default_factory=dict)
    """By workspace."""
    private: dict[str, dict[str, Seen]] = field(default_factory=dict)
    """By member; for guests their direct conversations, seen or not."""
    granted: dict[str, dict[str, Seen]] = field(default_factory=dict)
    """By workspace."""


async def read(
    tx: AsyncConnection, *, asked: Sequence[Asked], granted: Iterable[str] = ()
) -> tuple[list[Reading], list[str]]:
    """What is new, at most MOST_EVENTS and about MOST_BYTES, and which conversations are to be read again for the rest.

    Those that were not come to stand first among these, so that whoever reads them in this order serves each in turn.
    Conversations without news are left out. `granted` are the channels of the guests among those who get it.
    """
    parameters = {
        "ids": [item.conversation_id for item in asked],
        "positions": [item.position for item in asked],
        "revisions": [item.revision for item in asked],
        "granted": list(granted),
        "most": MOST_EVENTS,
        "most_bytes": MOST_BYTES,
    }
    rows = (await tx.execute(READ, parameters)).all()
    highest = {item.conversation_id: item.highest for item in asked}
    readings: dict[str, Reading] = {}
    for row in rows:
        reading = readings.get(row.conversation_id)
        if reading is None:
            reading = readings[row.conversation_id] = _reading(row, highest[row.conversation_id])
        if row.event_seq is not None:
            reading.events.append(Written.of(_event(row), at=row.created_at, reply_to_at=row.reply_to_at))
    # A hole at the end, which was purged, looks like a rest; the next reading finds that there is none.
    rest = [key for key, reading in readings.items() if reading.events and reading.events[-1].event_seq < reading.head]
    if rows and (len(rows) == MOST_EVENTS or rows[-1].bytes >= MOST_BYTES):
        rest = [item.conversation_id for item in asked[rows[-1].number :]] + rest
    return list(readings.values()), rest


async def read_snapshot(tx: AsyncConnection, *, viewer: Viewer, resume: Mapping[str, int]) -> Snapshot:
    """All that a viewer sees, and until when they were there before who has the events up to `resume`."""
    rows = (await tx.execute(SNAPSHOT, viewer.parameters)).all()
    seen = [_seen(row) for row in rows if row.conversation_id is not None]
    # Of what they see alone: when something happened elsewhere is not theirs to find out.
    known = {item.conversation_id: resume[item.conversation_id] for item in seen if item.conversation_id in resume}
    if not known or len(known) == len(seen):
        return Snapshot(seen, rows[0].read_at)
    had_until: datetime | None = await tx.scalar(HAD_UNTIL, {"ids": list(known), "positions": list(known.values())})
    return Snapshot(seen, rows[0].read_at, had_until)


async def read_sights(
    tx: AsyncConnection, *, workspace_ids: Iterable[str], member_ids: Iterable[str], granted: Iterable[str]
) -> Sights:
    """What full members see, by workspace and member, and the conversations of the grants."""
    parameters = {"workspace_ids": list(workspace_ids), "member_ids": list(member_ids), "granted": list(granted)}
    sights = Sights()
    for row in await tx.execute(SIGHTS, parameters):
        if row.granted:
            group = sights.granted.setdefault(row.workspace_id, {})
        elif row.member_id is None:
            group = sights.public.setdefault(row.workspace_id, {})
        else:
            group = sights.private.setdefault(row.member_id, {})
        group[row.conversation_id] = _seen(row)
    return sights


def gained(conversation_id: str, position: int) -> bytes:
    """The caller now sees the conversation. As an EventBatch holds it, like the four below."""
    place = pb.Position(conversation_id=conversation_id, event_seq=position)
    return _entry(pb.Event(conversation_id=conversation_id, conversation_gained=place))


def lost(conversation_id: str) -> bytes:
    """The caller no longer sees the conversation."""
    return _entry(pb.Event(conversation_id=conversation_id, conversation_lost=pb.ConversationLost()))


def reset(conversation_id: str, position: int) -> bytes:
    """What lies between the caller's position and this one cannot be given any more."""
    place = pb.Position(conversation_id=conversation_id, event_seq=position)
    return _entry(pb.Event(conversation_id=conversation_id, reset=place))


def moved(row: Any) -> bytes:
    """Somebody has read to another place: a row of read_states."""
    return _entry(pb.Event(conversation_id=row.conversation_id, read_state_changed=wire.read_state(row)))


def typing(conversation_id: str, *, member_id: str, user_id: str) -> bytes:
    """Somebody types."""
    participant = pb.EventParticipant(member_id=member_id, user_id=user_id)
    return _entry(pb.Event(conversation_id=conversation_id, typing=participant))


def response(entries: bytes) -> bytes:
    """A SubscribeResponse of events that are serialised already, one behind the other: its tag, their length, they."""
    length, header = len(entries), bytearray([pb.SubscribeResponse.EVENTS_FIELD_NUMBER << 3 | 2])
    while length > 0x7F:
        header.append(length & 0x7F | 0x80)
        length >>= 7
    header.append(length)
    return bytes(header) + entries


def positions(places: Mapping[str, int]) -> list[pb.Position]:
    """Places by conversation, as the wire has them."""
    return [pb.Position(conversation_id=key, event_seq=value) for key, value in places.items()]


def _reading(row: Row[Any], highest: int) -> Reading:
    return Reading(
        conversation_id=row.conversation_id,
        public=row.visibility == "public",
        revision=row.revision,
        head=row.head,
        restored=row.head < highest,
        member_ids=None if row.member_ids is None else frozenset(row.member_ids),
        together=row.together,
    )


def _event(row: Row[Any]) -> pb.Event:
    event = pb.Event(conversation_id=row.conversation_id, event_seq=row.event_seq)
    FILLED[row.event_kind](event, row)
    return event


def _fill_message(event: pb.Event, row: Row[Any]) -> None:
    message = wire.message(row, workspace_id=row.workspace_id, conversation_id=row.conversation_id)
    getattr(event, row.event_kind).CopyFrom(message)


def _fill_reaction(event: pb.Event, row: Row[Any]) -> None:
    if row.deleted_at is not None:
        # What is left to say of it: the reaction went with the message.
        message = wire.message(row, workspace_id=row.workspace_id, conversation_id=row.conversation_id)
        event.message_deleted.CopyFrom(message)
        return
    if row.emoji is None and row.event_kind == "reaction_added":
        # Whose it was has been erased. That it is gone is told by an event after it.
        event.hidden.SetInParent()
        return
    reaction = getattr(event, row.event_kind)
    reaction.message_id, reaction.emoji = row.message_id, row.emoji or ""
    reaction.member_id, reaction.user_id = row.event_member_id, row.event_user_id


def _fill_participant(event: pb.Event, row: Row[Any]) -> None:
    participant = pb.EventParticipant(member_id=row.event_member_id, user_id=row.event_user_id)
    getattr(event, row.event_kind).CopyFrom(participant)


def _fill_updated(event: pb.Event, row: Row[Any]) -> None:
    event.conversation_updated.CopyFrom(wire.conversation_of_json(row.updated))


def _fill_file(event: pb.Event, row: Row[Any]) -> None:
    event.file_deleted.file_id, event.file_deleted.message_id = row.file_id, row.message_id


FILLED: Mapping[str, Callable[[pb.Event, Row[Any]], None]] = MappingProxyType(
    {
        "message_created": _fill_message,
        "message_edited": _fill_message,
        "message_deleted": _fill_message,
        "reaction_added": _fill_reaction,
        "reaction_removed": _fill_reaction,
        "participant_joined": _fill_participant,
        "participant_left": _fill_participant,
        "conversation_updated": _fill_updated,
        "file_deleted": _fill_file,
    }
)
"""Fills in the payload of each kind of event; the kind is the payload's name."""


def _entry(event: pb.Event) -> bytes:
    """The elements of a repeated field stand one behind the other, so that entries may be joined."""
    return pb.EventBatch(events=[event]).SerializeToString()


def _seen(row: Row[Any]) -> Seen:
    together = getattr(row, "together", None)
    return Seen(row.conversation_id, row.head, row.revision, row.created_at, row.group_id, together)
