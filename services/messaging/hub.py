"""Live delivery: the streams of this process, and the loop that reads what is new and hands it to who may have it.

PostgreSQL is read by position, so a wake-up that is lost or doubled changes nothing but the time: every conversation
that somebody watches is read every two seconds, always.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace

import structlog
from guildhall.messaging.v1 import event_service_pb2 as pb

from services.chassis.call import Call
from services.chassis.database import Database
from services.chassis.errors import NotFound, Overloaded, PeerUnavailable
from services.messaging import deliveries, events, metrics
from services.messaging.access import Access
from services.messaging.errors import TooManyStreams
from services.messaging.guards import Guard, SignedIn
from services.messaging.guest_deliveries import for_guests
from services.messaging.guest_sight import Sights
from services.messaging.streams import Stream

log = structlog.get_logger()

POLL_SECONDS = 2.0
WATCH_SECONDS = 0.7
"""Below the second in which a stream must end, by the time that two calls take."""
DISTRUST_SECONDS = 10.0
"""How often guests are asked about whatever the revision says: a new grant does not raise it."""
HELD_SECONDS = 30.0
RETRY_SECONDS = 0.5
HEARTBEAT_SECONDS = 25.0
AGE_SECONDS = 900.0
MOST_STREAMS_OF_USER = 20

WOKEN_CONVERSATIONS = "messaging.conversations"
WOKEN_SIGHTS = "messaging.sights"
"""Valkey's channels between the replicas: a conversation with something new, a workspace where somebody sees more."""


class Hub:
    """All streams of one process."""

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
        self._sights = sights
        self._publications = publications
        self._streams: set[Stream] = set()
        self._behind: set[Stream] = set()
        self._places: Counter[str] = Counter()
        self._watching: dict[str, set[Stream]] = {}
        self._woken: set[str] = set()
        self._everything = False
        self._look = False
        self._public: dict[str, frozenset[str]] = {}
        self._wake = asyncio.Event()
        self._draining = False
        metrics.SUBSCRIPTIONS.labels("live").set_function(lambda: len(self._streams) - len(self._behind))
        metrics.SUBSCRIPTIONS.labels("catching_up").set_function(lambda: len(self._behind))

    def wake(self, conversation_id: str = "") -> None:
        """Has a conversation read at once; all of them if none is named."""
        if not conversation_id:
            self._everything = self._look = True
        elif conversation_id in self._watching:
            self._woken.add(conversation_id)
        else:
            return
        self._wake.set()

    def wake_sights(self, workspace_id: str = "") -> None:
        """Has it looked for conversations that somebody of the workspace gained or lost."""
        if not workspace_id or any(stream.workspace_id == workspace_id for stream in self._streams):
            self._look = True
            self._wake.set()

    @property
    def streams(self) -> Collection[Stream]:
        """All of them."""
        return self._streams

    @property
    def watched(self) -> Collection[str]:
        """The conversations that somebody watches who is up to date."""
        return self._watching.keys()

    @property
    def behind(self) -> Collection[Stream]:
        """The streams that catch up by themselves."""
        return self._behind

    def watchers(self, conversation_id: str) -> list[Stream]:
        """The streams that have the conversation, up to date or not."""
        late = [stream for stream in self._behind if conversation_id in stream.places]
        return [*self._watching.get(conversation_id, ()), *late]

    def drain(self) -> None:
        """Tells every stream to come back, to another replica."""
        self._draining = True
        for stream in self._streams:
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
            self._streams.add(stream)
            self._behind.add(stream)
            if self._draining:
                # `drain` was called while this one opened, and has not seen it.
                stream.end(pb.STREAM_END_REASON_DRAINED)
            try:
                yield opened
                async for response in self._frames(stream):
                    yield response
            finally:
                self._part(stream)
                self._streams.discard(stream)
                self._behind.discard(stream)
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
        beat_at, held_since = clock + HEARTBEAT_SECONDS, clock
        while True:
            if stream.joined:
                await stream.wait(min(beat_at, age_at) - time.monotonic())
                held_since = time.monotonic()
            elif stream.is_idle:
                if await self._catch_up(stream):
                    held_since = time.monotonic()
                else:
                    if time.monotonic() - held_since > HELD_SECONDS:
                        stream.end(pb.STREAM_END_REASON_UNAVAILABLE)
                    await stream.wait(RETRY_SECONDS)
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

    async def _catch_up(self, stream: Stream) -> bool:
        """Reads on from where one stream stands, and joins it to the others when nothing is left.

        False if no answer came. Also the way back for a stream for which nobody answered while others went on.
        """
        try:
            # Asked first as well: while nobody answers, nothing is read for nothing.
            if await self._guard.verify([stream]):
                return False
            more, held = await self._deliver({key: [stream] for key in stream.places})
        except Exception as error:
            _report("catch_up", error)
            return False
        if not more and not held and not stream.ended:
            self._join(stream)
        return not held

    async def run(self) -> None:
        """Delivers until cancelled."""
        poll_at = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, poll_at - time.monotonic())):
                    await self._wake.wait()
            # Also when there is always something to wake for: a wake-up that was lost is found by the poll alone.
            if time.monotonic() >= poll_at:
                poll_at = time.monotonic() + POLL_SECONDS
                self._everything = self._look = True
            self._wake.clear()
            try:
                await self._cycle()
            except Exception as error:
                _report("deliver", error)
                self._everything = self._look = True
                await asyncio.sleep(RETRY_SECONDS)

    async def watch_sessions(self) -> None:
        """Ends the streams of ended sessions, in either direction, until cancelled."""
        await _every(WATCH_SECONDS, lambda: self._guard.end_signed_out([*self._open_streams(), *self._publications]))

    async def watch_access(self) -> None:
        """Ends the streams of those whose access ended, until cancelled; what is new to guests is found here too."""
        distrust_at = 0.0

        async def watch() -> None:
            nonlocal distrust_at
            if time.monotonic() >= distrust_at:
                distrust_at = time.monotonic() + DISTRUST_SECONDS
                for stream in self._streams:
                    stream.distrusted = True
            await self._guard.verify(self._open_streams())

        await _every(WATCH_SECONDS, watch)

    def _open_streams(self) -> list[Stream]:
        return [stream for stream in self._streams if not stream.ended]

    async def _cycle(self) -> None:
        """Looks for gains and losses if need be, then reads what was woken and delivers it."""
        woken = self._woken | set(self._watching) if self._everything else self._woken
        look = self._look
        self._woken, self._everything, self._look = set(), False, False
        if look:
            woken |= await self._look_around()
        # An ended stream no longer moves on: with it, the same would be read again and again.
        watching = {key: [stream for stream in self._watching.get(key, ()) if not stream.ended] for key in woken}
        more, held = await self._deliver({key: streams for key, streams in watching.items() if streams})
        for stream in held:
            self._part(stream)
        if more:
            self._woken |= woken
            self._wake.set()

    async def _deliver(self, watching: Mapping[str, Collection[Stream]]) -> tuple[bool, set[Stream]]:
        """Reads, asks, hands over, in this order. Returns whether there may be more, and for whom no answer came."""
        if not watching:
            return False, set()
        asked = deliveries.asked(watching)
        granted = deliveries.granted({stream for streams in watching.values() for stream in streams})
        readings, more = await self._database.read(lambda tx: events.read(tx, asked=asked, granted=granted))
        concerned = {stream for reading in readings for stream in watching[reading.conversation_id]}
        held = await self._guard.verify(concerned) if concerned else set()
        redacted, unanswered = await for_guests(self._sights, readings, watching, held=held)
        held |= unanswered
        for stream, conversation_id in deliveries.hand_over(readings, watching, held=held, redacted=redacted):
            self._lose(stream, conversation_id)
        return more, held

    async def _look_around(self) -> set[str]:
        """Tells streams what they gained and lost; returns the conversations gained, to be read."""
        streams = [stream for stream in self._open_streams() if stream.joined]
        if not streams:
            return set()
        workspace_ids = {stream.workspace_id for stream in streams}
        # Of guests as well: who takes part in a direct conversation may see it.
        member_ids = {stream.member_id for stream in streams}
        granted = deliveries.granted(streams)
        sights = await self._database.read(
            lambda tx: events.read_sights(tx, workspace_ids=workspace_ids, member_ids=member_ids, granted=granted)
        )
        public = {workspace_id: frozenset(sights.public.get(workspace_id, ())) for workspace_id in workspace_ids}
        settled = {workspace_id for workspace_id, keys in public.items() if self._public.get(workspace_id) == keys}
        changes = deliveries.changes(streams, sights, settled=settled)
        for change in changes:
            change.stream.groups_wanted |= {
                seen.group_id for seen in change.gained if seen.group_id and not change.stream.is_in_group_of(seen)
            }
        held = await self._guard.verify({change.stream for change in changes}) if changes else set()
        found: set[str] = set()
        for change in changes:
            if change.stream not in held:
                found |= self._apply(change)
        self._public = public
        return found

    def _apply(self, change: deliveries.Change) -> set[str]:
        stream = change.stream
        if stream.ended or not stream.joined:
            return set()
        stream.looked_at = change.private
        for conversation_id in change.lost:
            self._lose(stream, conversation_id)
        gained = set()
        for seen in change.gained:
            if not stream.is_in_group_of(seen):
                # They may be in the group again before what is written down has changed.
                stream.looked_at = None
            elif stream.channels is None or stream.is_shown(seen):
                stream.gain(seen)
                self._watching.setdefault(seen.conversation_id, set()).add(stream)
                gained.add(seen.conversation_id)
        return gained

    def _join(self, stream: Stream) -> None:
        stream.joined, stream.looked_at = True, None
        self._behind.discard(stream)
        for key in stream.places:
            self._watching.setdefault(key, set()).add(stream)
        # What was committed since it last read woke nobody for it.
        self._woken.update(stream.places)
        self._wake.set()

    def _part(self, stream: Stream) -> None:
        """Leaves the stream to itself."""
        stream.leave()
        self._behind.add(stream)
        for key in stream.places:
            self._forget(key, stream)

    def _lose(self, stream: Stream, conversation_id: str) -> None:
        stream.lose(conversation_id)
        self._forget(conversation_id, stream)

    def _forget(self, conversation_id: str, stream: Stream) -> None:
        watchers = self._watching.get(conversation_id, set())
        watchers.discard(stream)
        if not watchers:
            self._watching.pop(conversation_id, None)


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
