"""Streams that send: as fast as a window allows, or at a set rate."""

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from guildhall.messaging.v1 import message_service_pb2 as pb

from tests.load.callers import Outcome, tell_progress
from tests.load.generator import Control
from tests.load.wire import (
    ECHO_STREAM,
    PUBLISH,
    Message,
    bearer,
    close_channels,
    message_ids,
    now,
    open_channels,
)

_SECOND = 1_000_000_000
_LAST_ACKNOWLEDGEMENT_SECONDS = 15.0
_MOST_IN_FRAME = 200
_MOST_UNANSWERED = 1_900  # the contract allows 2 000
_TICK_SECONDS = 0.005


@dataclass(frozen=True)
class Publishers:
    """Bidirectional streams, each with up to `window` messages without a result, `frame_size` of them in a frame.

    `path` is PublishMessages or the echo's; what comes back is parsed in either case.
    """

    target: str
    path: str
    tokens: Sequence[str]
    messages: Sequence[Message]
    streams: int
    window: int
    frame_size: int
    seconds: float
    warm_seconds: float = 1.0
    connections: int = 4

    async def run(self, control: Control) -> Outcome:
        """Send until the time is over."""
        outcome = Outcome(self.seconds)
        channels = open_channels(self.target, self.connections)
        try:
            begun = now() + int(self.warm_seconds * _SECOND)
            over = begun + int(self.seconds * _SECOND)
            streams = [
                _Stream(self, channels[n % len(channels)], n, outcome=outcome, begun=begun, over=over)
                for n in range(self.streams)
            ]
            telling = asyncio.create_task(tell_progress(control, outcome))
            await asyncio.gather(*(stream.run() for stream in streams))
            telling.cancel()
        finally:
            await close_channels(channels)
        return outcome


class _Stream:
    """One stream of `Publishers`."""

    def __init__(
        self, job: Publishers, channel: grpc.aio.Channel, number: int, *, outcome: Outcome, begun: int, over: int
    ) -> None:
        self._job = job
        self._number = number
        self._outcome = outcome
        self._begun, self._over = begun, over
        self._sent: deque[int] = deque()
        self._room = asyncio.Event()
        token = job.tokens[number % len(job.tokens)]
        self._call: Any = channel.stream_stream(job.path)(metadata=bearer(token))

    async def run(self) -> None:
        """Write and read side by side. The reader ends when the server does, after the writer has said it is done."""
        writing = asyncio.create_task(self._write())
        try:
            await self._read(writing)
            await writing
        finally:
            writing.cancel()
            self._call.cancel()

    async def _write(self) -> None:
        job, sent = self._job, self._sent
        next_id, turn = message_ids(), self._number
        framed = [message.framed() for message in job.messages]
        while (clock := now()) < self._over:
            items = []
            for _ in range(job.frame_size):
                items.append(framed[turn % len(framed)].stamped(next_id(), clock))
                turn += 1
            sent.extend([clock] * job.frame_size)
            await self._call.write(b"".join(items))
            while len(sent) > job.window - job.frame_size:
                self._room.clear()
                await self._room.wait()
        await self._call.done_writing()

    async def _read(self, writing: "asyncio.Task[None]") -> None:
        outcome, sent = self._outcome, self._sent
        while True:
            async with asyncio.timeout(_LAST_ACKNOWLEDGEMENT_SECONDS):
                frame = await self._call.read()
            if frame is grpc.aio.EOF:
                if writing.done() and not sent:
                    return
                raise RuntimeError(f"the stream ended: {await self._call.code()} {await self._call.details()}")
            count, refused = _count(self._job.path, frame)
            clock = now()
            outcome.ended += count
            is_counted = self._begun <= clock < self._over
            for _ in range(count):
                started = sent.popleft()
                if is_counted:
                    outcome.latency.record((clock - started) // 1000)
            if is_counted:
                outcome.codes["OK"] += count - sum(refused.values())
                outcome.codes.update(refused)
            self._room.set()


def _count(path: str, frame: bytes) -> tuple[int, Counter[str]]:
    """How many messages a frame answers, and which codes those have that it refuses."""
    if path == ECHO_STREAM:
        return len(pb.PublishMessagesRequest.FromString(frame).messages), Counter()
    results = pb.PublishMessagesResponse.FromString(frame).results
    refused = [result.error.code for result in results if result.WhichOneof("outcome") != "receipt"]
    return len(results), Counter(f"code {code}" for code in refused)


@dataclass
class Paced:
    """What a paced sender did. `head` is the highest event_seq it was told."""

    sent: int = 0
    acknowledged: int = 0
    head: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


@dataclass(frozen=True)
class Pacer:
    """One stream that sends `rate` messages a second to one conversation.

    Each message bears the time at which it was due, not that at which it got out: if anything is late, this too is,
    and the delay is counted (no coordinated omission).
    """

    target: str
    token: str
    message: Message
    rate: float
    seconds: float

    async def run(self, control: Control) -> Paced:
        """Send, and wait for the last acknowledgement."""
        channels = open_channels(self.target)
        paced = Paced()
        try:
            call: Any = channels[0].stream_stream(PUBLISH)(metadata=bearer(self.token))
            total = max(1, round(self.rate * self.seconds))
            reading = asyncio.create_task(_read_receipts(call, paced, total))
            begun = now()
            await self._send(call, paced, total, reading)
            await asyncio.wait([reading], timeout=_LAST_ACKNOWLEDGEMENT_SECONDS)
            if not reading.done():
                reading.cancel()
                paced.refused["unanswered"] = paced.sent - paced.acknowledged
            else:
                reading.result()
            paced.seconds = (now() - begun) / _SECOND
            call.cancel()
        finally:
            await close_channels(channels)
        return paced

    async def _send(self, call: Any, paced: Paced, total: int, reading: "asyncio.Task[None]") -> None:
        framed, next_id = self.message.framed(), message_ids()
        gap = _SECOND / self.rate
        begun = now()
        while paced.sent < total and not reading.done():
            due = min(total, int((now() - begun) / gap) + 1)
            due = min(due, paced.acknowledged + _MOST_UNANSWERED, paced.sent + _MOST_IN_FRAME)
            if due > paced.sent:
                numbers = range(paced.sent, due)
                items = [framed.stamped(next_id(), begun + int(number * gap)) for number in numbers]
                await call.write(b"".join(items))
                paced.sent = due
            wait = (begun + paced.sent * gap - now()) / _SECOND
            await asyncio.sleep(max(wait, _TICK_SECONDS))


async def _read_receipts(call: Any, paced: Paced, total: int) -> None:
    while paced.acknowledged < total:
        frame = await call.read()
        if frame is grpc.aio.EOF:
            raise RuntimeError(f"the stream ended: {await call.code()} {await call.details()}")
        for result in pb.PublishMessagesResponse.FromString(frame).results:
            paced.acknowledged += 1
            if result.HasField("receipt"):
                paced.head = max(paced.head, result.receipt.event_seq)
            else:
                paced.refused[str(result.error.code)] += 1
