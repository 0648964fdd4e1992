"""Live delivery: the streams of this process, from their first frame to their last. What is in between is handed to
them by their audiences.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import structlog
from guildhall.messaging.v1 import event_service_pb2 as pb

from services.chassis.call import Call
from services.chassis.database import Database
from services.chassis.errors import NotFound, Overloaded, PeerUnavailable
from services.messaging import events, metrics
from services.messaging.access import Access
from services.messaging.audiences import MOST_CATCHING_UP, Audience
from services.messaging.errors import TooManyStreams
from services.messaging.guards import Guard, SignedIn
from services.messaging.guest_sight import Sights
from services.messaging.streams import Stream

log = structlog.get_logger()

WATCH_SECONDS = 0.7
"""Below the second in which a stream must end, by the time that two calls take."""
HEARTBEAT_SECONDS = 25.0
AGE_SECONDS = 900.0
MOST_STREAMS_OF_USER = 20

WOKEN_CONVERSATIONS = "messaging.conversations"
WOKEN_SIGHTS = "messaging.sights"
"""Valkey's channels between the replicas: a conversation with something new, a workspace where somebody sees more."""


class Hub:
    """All streams of one process."""

    audience_class: ClassVar[type[Audience]] = Audience

    def __init__(
        self,
        database: Database,
        *,
        access: Access,
        guard: Guard,
        sights: Sights,
        publications: Collection[SignedIn] = (),
    ) -> None:
        """`publications` are the open PublishMessages: their sessions are asked about together with the streams'."""
        self._database = database
        self._access = access
        self._guard = guard
        self._publications = publications
        self.turns = asyncio.Semaphore(MOST_CATCHING_UP)
        """To read for who catches up. One for both audiences: after a restart members and guests come back together."""
        self._members, self._guests = (
            self.audience_class(database, guard=guard, sights=sights, turns=self.turns) for _ in ("members", "guests")
        )
        self._places: Counter[str] = Counter()
        self._draining = False
        metrics.SUBSCRIPTIONS.labels("live").set_function(lambda: self._count() - self._count_behind())
        metrics.SUBSCRIPTIONS.labels("catching_up").set_function(self._count_behind)

    @property
    def audiences(self) -> Sequence[Audience]:
        """Full members and guests: neither waits for what the other waits for."""
        return self._members, self._guests

    def wake(self, conversation_id: str = "") -> None:
        """Has a conversation read at once; all of them if none is named."""
        for audience in self.audiences:
            audience.wake(conversation_id)

    def wake_sights(self, workspace_id: str = "") -> None:
        """Has it looked for conversations that somebody of the workspace gained or lost."""
        for audience in self.audiences:
            audience.wake_sights(workspace_id)

    def drain(self) -> None:
        """Tells every stream to come back, to another replica."""
        self._draining = True
        for audience in self.audiences:
            for stream in audience.streams:
                stream.end(pb.STREAM_END_REASON_DRAINED)

    async def subscribe(
        self, call: Call, *, workspace_id: str, resume: Mapping[str, int]
    ) -> AsyncGenerator[pb.SubscribeResponse | bytes, None]:
        """The frames of one stream, from Opened to StreamEnd, events serialised. NOT_FOUND, TOO_MANY_STREAMS."""
        if self._draining:
            raise Overloaded("This server is going away; come back.")
        if self._places[call.user_id] >= MOST_STREAMS_OF_USER:
            raise TooManyStreams
        self._places[call.user_id] += 1
        try:
            stream, opened = await self._open(call, workspace_id, resume)
            audience = self._members if stream.channels is None else self._guests
            audience.add(stream)
            if self._draining:
                # `drain` was called while this one opened, and has not seen it.
                stream.end(pb.STREAM_END_REASON_DRAINED)
            try:
                yield opened
                async for response in self._frames(stream):
                    yield response
            finally:
                audience.remove(stream)
        finally:
            self._places[call.user_id] -= 1
            if not self._places[call.user_id]:
                del self._places[call.user_id]

    async def _open(
        self, call: Call, workspace_id: str, resume: Mapping[str, int]
    ) -> tuple[Stream, pb.SubscribeResponse]:
        """Asks, reads what is seen, and asks again: the first frame too is decided at delivery."""
        asked_at = time.monotonic()
        viewer, access_revision, channels = await self._access.require_watcher(call, workspace_id=workspace_id)
        stream = Stream(
            viewer=viewer,
            session_id=call.session_id,
            access_revision=access_revision,
            channels=channels,
            asked_at=asked_at,
        )
        snapshot = await self._database.read(lambda tx: events.read_snapshot(tx, viewer=viewer, resume=resume))
        stream.groups_wanted = {item.group_id for item in snapshot.seen if item.group_id}
        if await self._guard.verify([stream]):
            raise PeerUnavailable
        if stream.ended:
            raise NotFound
        seen = [item for item in snapshot.seen if stream.is_in_group_of(item)]
        return stream, stream.open(replace(snapshot, seen=seen), resume=resume)

    async def _frames(self, stream: Stream) -> AsyncIterator[pb.SubscribeResponse | bytes]:
        clock = time.monotonic()
        # Not all at the same age, or all would come back at the same moment.
        age_at = clock + AGE_SECONDS * random.uniform(0.8, 1.2)
        beat_at = clock + HEARTBEAT_SECONDS
        while True:
            await stream.wait(min(beat_at, age_at) - time.monotonic())
            if time.monotonic() >= age_at:
                stream.end(pb.STREAM_END_REASON_AGE)
            response = stream.next()
            if response is None:
                if time.monotonic() < beat_at:
                    continue
                response = pb.SubscribeResponse(heartbeat=pb.Heartbeat())
            beat_at = time.monotonic() + HEARTBEAT_SECONDS
            yield response
            stream.note_written()
            if not isinstance(response, bytes) and response.HasField("end"):
                return

    async def run(self) -> None:
        """Delivers until cancelled."""
        await asyncio.gather(*(audience.run() for audience in self.audiences))

    async def watch_sessions(self) -> None:
        """Ends the streams of ended sessions, in either direction, until cancelled."""
        await _every(WATCH_SECONDS, lambda: self._guard.end_signed_out([*self._open_streams(), *self._publications]))

    async def watch_access(self) -> None:
        """Ends the streams of those whose access ended, until cancelled."""
        await asyncio.gather(*(_every(WATCH_SECONDS, audience.check_access) for audience in self.audiences))

    def _count(self) -> int:
        return sum(len(audience.streams) for audience in self.audiences)

    def _count_behind(self) -> int:
        return sum(len(audience.behind) for audience in self.audiences)

    def _open_streams(self) -> list[Stream]:
        return [stream for audience in self.audiences for stream in audience.open_streams()]


async def _every(seconds: float, work: Callable[[], Awaitable[object]]) -> None:
    """Does something again and again, whatever comes of it."""
    while True:
        began = time.monotonic()
        try:
            await work()
        except Exception as error:
            _report("watch", error)
        await asyncio.sleep(max(0.05, began + seconds - time.monotonic()))


def _report(what: str, error: BaseException) -> None:
    log.warning("hub_failed", what=what, error=type(error).__name__)
