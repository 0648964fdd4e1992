"""What streams are told without a number: how far somebody has read, and that somebody types. The latest wins.

A wake-up carries ids only. Read states are read from their table, and again every two seconds, so that a lost wake-up
costs no more than that; typing is nowhere stored, and a lost one is lost.
"""

import asyncio
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import Database
from services.chassis.errors import NotFound, PermissionDenied
from services.chassis.wakes import Wakes
from services.messaging import events, read_states
from services.messaging.access import TOGETHER, VISIBLE, Viewer
from services.messaging.audiences import POLL_SECONDS, Audience, pause_seconds
from services.messaging.deliveries import granted
from services.messaging.errors import ConversationArchived
from services.messaging.events import Reading
from services.messaging.guards import Guard
from services.messaging.guest_deliveries import find_visible
from services.messaging.guest_sight import Sights
from services.messaging.hub import Hub
from services.messaging.streams import Frame, Stream

log = structlog.get_logger()

WOKEN_READ_STATES = "messaging.read_states"
WOKEN_TYPING = "messaging.typing"
"""Valkey's channels between the replicas: "conversation member", and "replica conversation member user"."""
TYPING_SECONDS = 2.0

OPEN = text(f"SELECT c.archived_at FROM conversations c WHERE c.id = :conversation_id AND {VISIBLE}")
# Participants only where sight may have been taken away.
SIGHTS = text(f"""
    SELECT CAST(c.id AS text) AS conversation_id, c.visibility, c.revision,
        CASE WHEN c.revision > asked.revision THEN ARRAY(
            SELECT CAST(p.member_id AS text) FROM participants p WHERE p.conversation_id = c.id
        ) END AS member_ids, {TOGETHER} AS together
    FROM unnest(CAST(:ids AS uuid[]), CAST(:revisions AS bigint[])) AS asked (id, revision)
    JOIN conversations c ON c.id = asked.id
""")

Typing = tuple[str, str, str]
"""Conversation, member, user."""


class Signals:
    """Hears of them and has the hub's audiences told, each by itself: full members wait for no word about guests."""

    def __init__(self, database: Database, *, hub: Hub, guard: Guard, wakes: Wakes, sights: Sights) -> None:
        self._wakes = wakes
        self._tellers = [_Teller(database, audience=each, guard=guard, sights=sights) for each in hub.audiences]
        self._replica = str(uuid.uuid4())
        self._typed_at: dict[tuple[str, str], float] = {}

    def moved(self, conversation_id: str, member_id: str) -> None:
        """Somebody's read position may have changed."""
        self.hear_moved(f"{conversation_id} {member_id}")
        self._wakes.publish(WOKEN_READ_STATES, f"{conversation_id} {member_id}")

    def hear_moved(self, message: str) -> None:
        """A wake-up about it; an empty one stands for any number that were not heard."""
        for teller in self._tellers:
            teller.hear_moved(message)

    def type(self, conversation_id: str, *, member_id: str, user_id: str) -> None:
        """Passes on that somebody types, unless it was less than two seconds ago that they did."""
        clock = time.monotonic()
        if clock - self._typed_at.get((conversation_id, member_id), -TYPING_SECONDS) < TYPING_SECONDS:
            return
        self._typed_at = {key: at for key, at in self._typed_at.items() if clock - at < TYPING_SECONDS}
        self._typed_at[conversation_id, member_id] = clock
        self._note_typing((conversation_id, member_id, user_id))
        self._wakes.publish(WOKEN_TYPING, f"{self._replica} {conversation_id} {member_id} {user_id}")

    def hear_typing(self, message: str) -> None:
        """Another replica's word; its own comes back, and is known already."""
        match message.split(" "):
            case [replica, conversation_id, member_id, user_id] if replica != self._replica:
                self._note_typing((conversation_id, member_id, user_id))

    def _note_typing(self, typing: Typing) -> None:
        for teller in self._tellers:
            teller.note_typing(typing)

    async def run(self) -> None:
        """Tells streams until cancelled."""
        await asyncio.gather(*(teller.run() for teller in self._tellers))


class _Teller:
    """Tells one audience: those of it who may have it by an answer that was asked for afterwards."""

    def __init__(self, database: Database, *, audience: Audience, guard: Guard, sights: Sights) -> None:
        self._database = database
        self._audience = audience
        self._guard = guard
        self._sights = sights
        self._typing: set[Typing] = set()
        self._moved: set[tuple[str, str]] = set()
        self._since: datetime | None = None
        self._poll = True
        self._wake = asyncio.Event()

    def hear_moved(self, message: str) -> None:
        """A wake-up about a read position; an empty one stands for any number that were not heard."""
        conversation_id, _, member_id = message.partition(" ")
        if not message:
            self._poll = True
        elif self._listens(conversation_id):
            self._moved.add((conversation_id, member_id))
        else:
            return
        self._wake.set()

    def note_typing(self, typing: Typing) -> None:
        """Somebody types."""
        if self._listens(typing[0]):
            self._typing.add(typing)
            self._wake.set()

    def _listens(self, conversation_id: str) -> bool:
        return bool(self._audience.behind) or conversation_id in self._audience.watched

    async def run(self) -> None:
        """Tells streams until cancelled."""
        poll_at = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, poll_at - time.monotonic())):
                    await self._wake.wait()
            if time.monotonic() >= poll_at:
                poll_at, self._poll = time.monotonic() + POLL_SECONDS, True
            self._wake.clear()
            try:
                await self._tell_typing()
                await self._tell_moved()
            except Exception as error:
                log.warning("signals_failed", error=type(error).__name__)
                self._poll = True
                await asyncio.sleep(pause_seconds())

    async def _tell_typing(self) -> None:
        """Reads who sees the conversations, then asks, then tells all but the one who types."""
        typing, self._typing = self._typing, set()
        watching = {each[0]: self._audience.watchers(each[0]) for each in typing}
        if not any(watching.values()):
            return
        readings = await self._database.read(lambda tx: _read_sights(tx, watching))
        held = await self._guard.verify({stream for streams in watching.values() for stream in streams})
        seen = await find_visible(self._sights, _typists(typing, watching))
        for each in typing:
            conversation_id, member_id, user_id = each
            entry = events.typing(conversation_id, member_id=member_id, user_id=user_id)
            for stream in watching[conversation_id]:
                if stream in held or stream.member_id == member_id or conversation_id not in readings:
                    continue
                if stream.channels is not None and member_id not in seen.get(
                    (stream.workspace_id, stream.member_id), ()
                ):
                    continue
                if stream.sees(readings[conversation_id]):
                    stream.give(Frame(entry, {}))

    async def _tell_moved(self) -> None:
        """Reads what moved, then asks, then tells those whom it concerns."""
        pairs, self._moved, polls, self._poll = self._moved, set(), self._poll, False
        if not pairs and not polls:
            return
        read_at, rows = await self._read_moved(pairs, polls=polls)
        concerned = [(stream, row) for row in rows for stream in self._concerned(row)]
        held = await self._guard.verify({stream for stream, _ in concerned}) if concerned else set()
        entries: dict[tuple[str, str], bytes] = {}
        for stream, row in concerned:
            if stream in held or not _sees(stream, row):
                continue
            key = (row.conversation_id, row.member_id)
            stream.moved[key] = row.updated_at
            stream.give(Frame(entries.setdefault(key, events.moved(row)), {}))
        if polls and not held:
            # Otherwise somebody is still to be told of what moved since then.
            self._since = read_at

    async def _read_moved(
        self, pairs: Collection[tuple[str, str]], *, polls: bool
    ) -> tuple[datetime, Sequence[Row[Any]]]:
        streams = self._audience.streams if polls else ()
        member_ids = {stream.member_id for stream in streams}
        conversation_ids = {key for stream in streams for key in stream.places}

        async def read(tx: AsyncConnection) -> tuple[datetime, Sequence[Row[Any]]]:
            read_at = await read_states.clock(tx)
            if not pairs and not member_ids:
                return read_at, []
            rows = await read_states.read_moved(
                tx,
                pairs=pairs,
                member_ids=member_ids,
                conversation_ids=conversation_ids,
                since=self._since or read_at,
                granted=granted(self._audience.streams),
            )
            return read_at, rows

        return await self._database.read(read)

    def _concerned(self, row: Row[Any]) -> list[Stream]:
        """One's own streams, and in a direct conversation the others'; without those who know it already."""
        key = (row.conversation_id, row.member_id)
        return [
            stream
            for stream in self._audience.watchers(row.conversation_id)
            if stream.member_id == row.member_id or row.kind == "direct"
            if key not in stream.moved or stream.moved[key] < row.updated_at
        ]


def _sees(stream: Stream, row: Row[Any]) -> bool:
    if row.kind == "direct":
        return stream.sees(_reading(row, public=False))
    in_channels = stream.channels is None or row.conversation_id in stream.channels.grants
    return in_channels and row.conversation_id in stream.places


def _reading(row: Row[Any], *, public: bool) -> Reading:
    """Nothing new, but what tells who sees the conversation."""
    member_ids = None if row.member_ids is None else frozenset(row.member_ids)
    return Reading(row.conversation_id, public, row.revision, 0, False, member_ids, row.together)


def _typists(
    typing: Collection[Typing], watching: Mapping[str, Collection[Stream]]
) -> Mapping[tuple[str, str], Collection[str]]:
    """For each guest (workspace, member) who listens: who types."""
    found: dict[tuple[str, str], set[str]] = {}
    for conversation_id, member_id, _ in typing:
        for stream in watching[conversation_id]:
            if stream.channels is not None:
                found.setdefault((stream.workspace_id, stream.member_id), set()).add(member_id)
    return found


async def require_open(tx: AsyncConnection, *, writer: Viewer, conversation_id: str) -> None:
    """NOT_FOUND, PERMISSION_DENIED or CONVERSATION_ARCHIVED unless the writer could send there now."""
    parameters = {**writer.parameters, "conversation_id": conversation_id}
    found = (await tx.execute(OPEN, parameters)).one_or_none()
    if found is None:
        raise NotFound
    if not writer.allowed:
        raise PermissionDenied
    if found.archived_at is not None:
        raise ConversationArchived


async def _read_sights(tx: AsyncConnection, watching: Mapping[str, Collection[Stream]]) -> dict[str, Reading]:
    """What tells who sees the conversations now."""
    asked = {
        key: min(stream.places[key].revision for stream in streams if key in stream.places)
        for key, streams in watching.items()
        if any(key in stream.places for stream in streams)
    }
    channels = granted({stream for streams in watching.values() for stream in streams})
    parameters = {"ids": list(asked), "revisions": list(asked.values()), "granted": list(channels)}
    rows = await tx.execute(SIGHTS, parameters)
    return {row.conversation_id: _reading(row, public=row.visibility == "public") for row in rows}
