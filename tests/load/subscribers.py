"""Many streams that listen to one conversation, and check what comes: every event, once, in order, and how late."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from guildhall.messaging.v1 import event_service_pb2 as pb

from tests.load.generator import Control
from tests.load.histogram import Histogram
from tests.load.wire import SUBSCRIBE, bearer, close_channels, now, open_channels, sent_at

_OPEN_SECONDS = 60.0
_AT_ONCE = 20
_GRACE_SECONDS = 5.0
_CATCH_UP_SECONDS = 20.0
_LOOK_SECONDS = 0.02
_MOST_KNOWN = 2_000


@dataclass
class Delivered:
    """What came since the last look. `latency` counts every event at the age of the oldest in its frame: no less."""

    subscribers: int
    events: int = 0
    frames: int = 0
    lost: int = 0
    doubled: int = 0
    cut: Counter[str] = field(default_factory=Counter)
    """Streams that ended, by reason."""
    latency: Histogram = field(default_factory=Histogram)
    late: int = 0
    """Streams that had not everything within the grace."""

    def summary(self) -> dict[str, object]:
        """For a report."""
        return {
            "subscribers": self.subscribers,
            "deliveries": self.events,
            "frames": self.frames,
            "lost": self.lost,
            "doubled": self.doubled,
            "streams_cut": dict(self.cut),
            "milliseconds": self.latency.milliseconds(),
        }


@dataclass(frozen=True)
class _Frame:
    """A frame's events of the conversation: `first` to `last` without a hole, or else `is_broken`."""

    first: int
    last: int
    oldest: int
    is_broken: bool
    end: str = ""


@dataclass
class _Place:
    """How far one stream is."""

    last: int = -1
    ended: bool = False


@dataclass(frozen=True)
class Subscribers:
    """Streams, one per token. Tells how many are open; then each order is a head, and the answer is `Delivered`.

    The order None ends the job.
    """

    target: str
    workspace_id: str
    conversation_id: str
    tokens: Sequence[str]
    connections: int = 10

    async def run(self, control: Control) -> int:
        """Listen until told to stop. Returns how many streams were still open."""
        channels = open_channels(self.target, self.connections)
        listening = _Listening(self, channels)
        try:
            await listening.open(control)
            while (head := await control.orders.get()) is not None:
                control.tell(await listening.look(head))
        finally:
            await listening.close()
            await close_channels(channels)
        return sum(not place.ended for place in listening.places)


class _Listening:
    """The streams of one `Subscribers`."""

    def __init__(self, job: Subscribers, channels: Sequence[grpc.aio.Channel]) -> None:
        self._job = job
        self._rpcs: list[Any] = [channel.unary_stream(SUBSCRIBE) for channel in channels]
        self._request = pb.SubscribeRequest(workspace_id=job.workspace_id).SerializeToString()
        self._known: dict[bytes, _Frame] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.places = [_Place() for _ in job.tokens]
        self.delivered = Delivered(len(job.tokens))

    async def open(self, control: Control) -> None:
        """Open all streams, a few at a time, and wait for the first frame of each."""
        turnstile = asyncio.Semaphore(_AT_ONCE)
        opened = 0

        async def open_one(number: int) -> None:
            nonlocal opened
            async with turnstile:
                rpc = self._rpcs[number % len(self._rpcs)]
                call = rpc(self._request, metadata=bearer(self._job.tokens[number]))
                async with asyncio.timeout(_OPEN_SECONDS):
                    frame = await call.read()
                if frame is grpc.aio.EOF:
                    raise RuntimeError(f"not opened: {await call.code()} {await call.details()}")
                self.places[number].last = self._start(frame)
                self._tasks.append(asyncio.create_task(self._listen(call, self.places[number])))
            opened += 1
            if opened % _AT_ONCE == 0 or opened == len(self.places):
                control.tell(opened)

        await asyncio.gather(*map(open_one, range(len(self.places))))

    def _start(self, frame: bytes) -> int:
        positions = pb.SubscribeResponse.FromString(frame).opened.positions
        return next(at.event_seq for at in positions if at.conversation_id == self._job.conversation_id)

    async def _listen(self, call: Any, place: _Place) -> None:
        known, job = self._known, self._job
        while (raw := await call.read()) is not grpc.aio.EOF:
            # The same bytes go to all subscribers: parsed once, as they were serialised once.
            frame = known.get(raw)
            if frame is None:
                if len(known) > _MOST_KNOWN:
                    known.clear()
                frame = known[raw] = _parse(raw, job.conversation_id)
            delivered = self.delivered
            delivered.frames += 1
            if frame.end:
                delivered.cut[frame.end] += 1
                place.ended = True
                return
            if not frame.last:
                continue
            count = frame.last - frame.first + 1
            delivered.events += count
            delivered.latency.record((now() - frame.oldest) // 1000, count)
            if frame.first == place.last + 1 and not frame.is_broken:
                place.last = frame.last
            else:
                self._blame(frame, place)
        place.ended = True
        self.delivered.cut[f"status {(await call.code()).name}"] += 1

    def _blame(self, frame: _Frame, place: _Place) -> None:
        """A frame that does not follow on."""
        if frame.is_broken or frame.first > place.last + 1:
            self.delivered.lost += max(frame.first - place.last - 1, 1)
        else:
            self.delivered.doubled += min(place.last, frame.last) - frame.first + 1
        place.last = max(place.last, frame.last)

    async def look(self, head: int) -> Delivered:
        """What came since the last look, once every stream has reached the head, or has had its time."""
        await self._reach(head, _GRACE_SECONDS)
        behind = [place for place in self.places if place.last < head]
        # What comes after the grace is late, not lost; the next measurement is to begin with nothing on its way.
        await self._reach(head, _CATCH_UP_SECONDS)
        delivered, self.delivered = self.delivered, Delivered(len(self.places))
        delivered.late = len(behind)
        delivered.lost += sum(head - place.last for place in self.places if place.last < head)
        for place in self.places:
            place.last = max(place.last, head)
        return delivered

    async def _reach(self, head: int, seconds: float) -> None:
        """Wait until all are at the head. Looked for: an event would cost the hot path a comparison per frame."""
        for _ in range(round(seconds / _LOOK_SECONDS)):
            if all(place.last >= head or place.ended for place in self.places):
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def close(self) -> None:
        """Stop listening."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _parse(raw: bytes, conversation_id: str) -> _Frame:
    response = pb.SubscribeResponse.FromString(raw)
    if response.HasField("end"):
        return _Frame(0, 0, 0, False, end=pb.StreamEndReason.Name(response.end.reason))
    events = [event for event in response.events.events if event.conversation_id == conversation_id]
    numbered = [event for event in events if event.event_seq]
    if not numbered:
        return _Frame(0, 0, 0, False)
    first, last = numbered[0].event_seq, numbered[-1].event_seq
    is_broken = [event.event_seq for event in numbered] != list(range(first, last + 1))
    stamps = [sent_at(event.message_created.text) for event in numbered if event.HasField("message_created")]
    return _Frame(first, last, min(stamps, default=now()), is_broken)
