"""Who is delivered to together: the open streams of full members, or those of guests, and the loop that does it.

PostgreSQL is read by position, so a wake-up that is lost or doubled changes nothing but the time: every conversation
that somebody watches is read every two seconds, always. Guests are an audience of their own, because what they get
waits for guest's word: whatever keeps guest from answering delays nobody else.
"""

import asyncio
import contextvars
import random
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

import structlog
from guildhall.messaging.v1 import event_service_pb2 as pb

from services.chassis.database import Database
from services.messaging import deliveries, events
from services.messaging.guards import Guard
from services.messaging.guest_deliveries import for_guests
from services.messaging.guest_sight import Sights
from services.messaging.streams import Stream

log = structlog.get_logger()

POLL_SECONDS = 2.0
DISTRUST_SECONDS = 10.0
"""How often guests are asked about whatever the revision says: a new grant does not raise it."""
RETRY_SECONDS = 0.5
HELD_SECONDS = 30.0
STREAMS_AT_ONCE = 200
"""Of which it is found out what they gained and lost before others have their turn."""
MOST_CATCHING_UP = 2
"""Read at a time, of all audiences: of the four connections for statements the others keep some, whoever comes back.

What they ask meanwhile is asked together, however many they are.
"""


class Audience:
    """Streams of one kind: live ones, which the loop delivers to, and those that catch up by themselves."""

    def __init__(self, database: Database, *, guard: Guard, sights: Sights, turns: asyncio.Semaphore) -> None:
        """`turns` are for who catches up to read; other audiences take theirs from the same."""
        self._database = database
        self._guard = guard
        self._sights = sights
        self._streams: set[Stream] = set()
        self._behind: dict[Stream, asyncio.Task[None]] = {}
        """Each with the task in which it catches up."""
        self._turns = turns
        self._watching: dict[str, set[Stream]] = {}
        self._woken: dict[str, None] = {}
        """In the order in which they are to be read."""
        self._everything = False
        self._look: set[str] = set()
        """The workspaces in which somebody may have gained or lost sight of something."""
        self._workspaces: Counter[str] = Counter()
        """How many streams each has."""
        self._public: dict[str, frozenset[str]] = {}
        self._distrust_at = 0.0
        self._wake = asyncio.Event()

    def wake(self, conversation_id: str = "") -> None:
        """Has a conversation read at once; all of them if none is named."""
        if not conversation_id:
            self._look_everywhere()
        elif conversation_id in self._watching:
            self._woken[conversation_id] = None
        else:
            return
        self._wake.set()

    def wake_sights(self, workspace_id: str = "") -> None:
        """Has it looked for conversations that somebody of the workspace gained or lost."""
        if not workspace_id:
            self._look.update(self._workspaces)
        elif workspace_id in self._workspaces:
            self._look.add(workspace_id)
        else:
            return
        self._wake.set()

    def _look_everywhere(self) -> None:
        self._everything = True
        self._look.update(self._workspaces)

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
        return self._behind.keys()

    def watchers(self, conversation_id: str) -> list[Stream]:
        """The streams that have the conversation, up to date or not."""
        late = [stream for stream in self._behind if conversation_id in stream.places]
        return [*self._watching.get(conversation_id, ()), *late]

    def open_streams(self) -> list[Stream]:
        """Those that have no reason to end."""
        return [stream for stream in self._streams if not stream.ended]

    def add(self, stream: Stream) -> None:
        """Takes in a stream that was just opened. It has to catch up first."""
        self._streams.add(stream)
        self._workspaces[stream.workspace_id] += 1
        self._part(stream)

    def remove(self, stream: Stream) -> None:
        """Forgets a stream whose client is gone."""
        self._streams.discard(stream)
        self._workspaces[stream.workspace_id] -= 1
        if not self._workspaces[stream.workspace_id]:
            del self._workspaces[stream.workspace_id]
            self._public.pop(stream.workspace_id, None)
        self._withdraw(stream)
        if stream in self._behind:
            self._behind.pop(stream).cancel()

    async def _come_up(self, stream: Stream) -> None:
        """Reads on from where one stream stands, as fast as its client takes it, until it has come up with the others.

        Also the way back for a stream for which nobody answered while others went on.
        """
        rest: Sequence[str] = ()
        held_since: float | None = None
        while not stream.joined and not stream.ended:
            await stream.written()
            answer = await self._catch_up(stream, first=rest)
            if answer is not None:
                rest, held_since = answer, None
                continue
            held_since = held_since or time.monotonic()
            if time.monotonic() - held_since > HELD_SECONDS:
                stream.end(pb.STREAM_END_REASON_UNAVAILABLE)
            else:
                await asyncio.sleep(pause_seconds())

    async def _catch_up(self, stream: Stream, *, first: Sequence[str]) -> Sequence[str] | None:
        """Hands a stream what comes next, and joins it to the others if nothing does; `first` are read first.

        Returns what is to be read again; None if no answer came.
        """
        try:
            # Asked first as well: while nobody answers, nothing is read for nothing.
            if await self._guard.verify([stream]):
                return None
            order = dict.fromkeys([*first, *stream.places])
            watching = {key: [stream] for key in order if key in stream.places}
            rest, held = await self._deliver(watching, in_turn=True)
        except Exception as error:
            _report("catch_up", error)
            return None
        if held:
            return None
        if not rest and not stream.ended:
            self._join(stream)
        return rest

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
                self._look_everywhere()
            self._wake.clear()
            try:
                await self._cycle()
            except Exception as error:
                _report("deliver", error)
                self._look_everywhere()
                await asyncio.sleep(pause_seconds())

    async def check_access(self) -> None:
        """Ends the streams of those whose access ended; what is new to guests is found here too."""
        if time.monotonic() >= self._distrust_at:
            self._distrust_at = time.monotonic() + DISTRUST_SECONDS
            for stream in self._streams:
                stream.distrusted = True
        await self._guard.verify(self.open_streams())

    async def _cycle(self) -> None:
        """Looks for gains and losses if need be, then reads what was woken and delivers it."""
        woken = self._woken | dict.fromkeys(self._watching) if self._everything else self._woken
        look = self._look
        self._woken, self._everything, self._look = {}, False, set()
        if look:
            woken |= dict.fromkeys(await self._look_around(look))
        # An ended stream no longer moves on: with it, the same would be read again and again.
        watching = {key: [stream for stream in self._watching.get(key, ()) if not stream.ended] for key in woken}
        rest, held = await self._deliver({key: streams for key, streams in watching.items() if streams})
        for stream in held:
            self._part(stream)
        if rest:
            # Those that were not come to go first, so that none waits for another that always has more.
            self._woken = dict.fromkeys(rest) | self._woken
            self._wake.set()

    async def _deliver(
        self, watching: Mapping[str, Collection[Stream]], *, in_turn: bool = False
    ) -> tuple[Sequence[str], set[Stream]]:
        """Reads, if need be in its turn, asks, hands over, in this order.

        Returns what is to be read again, and for whom no answer came.
        """
        if not watching:
            return [], set()
        readings, rest = await (self._read_in_turn(watching) if in_turn else self._read(watching))
        concerned = {stream for reading in readings for stream in watching[reading.conversation_id]}
        held = await self._guard.verify(concerned) if concerned else set()
        redacted, unanswered = await for_guests(self._sights, readings, watching, held=held)
        held |= unanswered
        for stream, conversation_id in deliveries.hand_over(readings, watching, held=held, redacted=redacted):
            self._lose(stream, conversation_id)
        return rest, held

    async def _read_in_turn(self, watching: Mapping[str, Collection[Stream]]) -> tuple[list[events.Reading], list[str]]:
        """The turn lasts as long as the reading, which goes on when the client of whoever has it goes away."""
        await self._turns.acquire()
        reading = asyncio.create_task(self._read(watching))
        reading.add_done_callback(lambda _: self._turns.release())
        return await asyncio.shield(reading)

    async def _read(self, watching: Mapping[str, Collection[Stream]]) -> tuple[list[events.Reading], list[str]]:
        asked = deliveries.asked(watching)
        # As of now: they may be others than when the turn began to be waited for, and by them it is found out which
        # direct conversations a guest sees.
        granted = deliveries.granted({stream for streams in watching.values() for stream in streams})
        return await self._database.read(lambda tx: events.read(tx, asked=asked, granted=granted))

    async def _look_around(self, among: Collection[str]) -> set[str]:
        """Tells streams of some workspaces what they gained and lost; returns the conversations gained, to be read."""
        streams = [stream for stream in self.open_streams() if stream.joined and stream.workspace_id in among]
        if not streams:
            return set()
        workspace_ids = {stream.workspace_id for stream in streams if stream.channels is None}
        # Of guests as well: who takes part in a direct conversation may see it.
        member_ids = {stream.member_id for stream in streams}
        granted = deliveries.granted(streams)
        sights = await self._database.read(
            lambda tx: events.read_sights(tx, workspace_ids=workspace_ids, member_ids=member_ids, granted=granted)
        )
        public = {workspace_id: frozenset(sights.public.get(workspace_id, ())) for workspace_id in workspace_ids}
        settled = {workspace_id for workspace_id, keys in public.items() if self._public.get(workspace_id) == keys}
        changes: list[deliveries.Change] = []
        for start in range(0, len(streams), STREAMS_AT_ONCE):
            changes += deliveries.changes(streams[start : start + STREAMS_AT_ONCE], sights, settled=settled)
            # So long a loop would keep everybody else's calls waiting.
            await asyncio.sleep(0)
        for change in changes:
            change.stream.groups_wanted |= {
                seen.group_id for seen in change.gained if seen.group_id and not change.stream.is_in_group_of(seen)
            }
        held = await self._guard.verify({change.stream for change in changes}) if changes else set()
        found: set[str] = set()
        for change in changes:
            if change.stream not in held:
                found |= self._apply(change)
        # Without those whose last client went away meanwhile.
        self._public |= {key: public[key] for key in public.keys() & self._workspaces.keys()}
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
        self._behind.pop(stream, None)
        for key in stream.places:
            self._watching.setdefault(key, set()).add(stream)
        # What was committed since it last read woke nobody for it.
        self._woken |= dict.fromkeys(stream.places)
        self._wake.set()

    def _part(self, stream: Stream) -> None:
        """Leaves the stream to itself, unless its client went away while it was asked about."""
        if stream in self._streams:
            self._withdraw(stream)
            # On nobody's behalf: the task outlives whatever call it was made in.
            task = asyncio.create_task(self._come_up(stream), context=contextvars.Context())
            self._behind[stream] = task

    def _withdraw(self, stream: Stream) -> None:
        stream.joined = False
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


def pause_seconds() -> float:
    """Until another try: not the same for all, or all who failed together would come back together."""
    return RETRY_SECONDS * random.uniform(0.5, 1.5)


def _report(what: str, error: BaseException) -> None:
    log.warning("hub_failed", what=what, error=type(error).__name__)
