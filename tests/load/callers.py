"""Unary calls: callers in a closed loop, or one caller that takes turns."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from tests.load.generator import Control
from tests.load.histogram import Histogram
from tests.load.wire import Message, Tls, bearer, close_channels, message_ids, now, open_channels

CALL_SECONDS = 5.0
TELL_SECONDS = 0.5
_SECOND = 1_000_000_000


@dataclass
class Outcome:
    """What calls gave: how many by status, and how long those took that were answered."""

    seconds: float
    codes: Counter[str] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=Histogram)
    refusal_latency: Histogram = field(default_factory=Histogram)
    by_second: list[int] = field(default_factory=list)
    """Answered calls in each second."""
    ended: int = 0
    """All calls, those of the warm-up included."""

    @property
    def per_second(self) -> float:
        """Answered calls per second."""
        return self.codes["OK"] / self.seconds

    def count_second(self, second: int) -> None:
        """Count an answered call in a second, from 0."""
        while len(self.by_second) <= second:
            self.by_second.append(0)
        self.by_second[second] += 1

    def summary(self) -> dict[str, object]:
        """For a report."""
        return {
            "per_second": round(self.per_second, 1),
            "codes": dict(self.codes),
            "milliseconds": self.latency.milliseconds(),
        }


@dataclass(frozen=True)
class Callers:
    """Callers that each call again as soon as they are answered, or refused.

    Callers and messages are handed out in turn: caller n has token n, and goes through the messages one by one.
    What ends in the first `warm_seconds` is not counted.
    """

    target: str
    path: str
    tokens: Sequence[str]
    messages: Sequence[Message]
    callers: int
    seconds: float
    warm_seconds: float = 0.5
    connections: int = 4

    async def run(self, control: Control) -> Outcome:
        """Call until the time is over."""
        outcome = Outcome(self.seconds)
        channels = open_channels(self.target, self.connections)
        try:
            rpcs: list[Any] = [channel.unary_unary(self.path) for channel in channels]
            begun = now() + int(self.warm_seconds * _SECOND)
            over = begun + int(self.seconds * _SECOND)
            loops = [
                self._call(rpcs[n % len(rpcs)], n, begun=begun, over=over, outcome=outcome) for n in range(self.callers)
            ]
            telling = asyncio.create_task(tell_progress(control, outcome))
            await asyncio.gather(*loops)
            telling.cancel()
        finally:
            await close_channels(channels)
        return outcome

    async def _call(
        self,
        rpc: "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]",
        number: int,
        begun: int,
        over: int,
        outcome: Outcome,
    ) -> None:
        metadata = bearer(self.tokens[number % len(self.tokens)])
        next_id, turn = message_ids(), number
        codes, latency = outcome.codes, outcome.latency
        while (started := now()) < over:
            request = self.messages[turn % len(self.messages)].stamped(next_id(), started)
            turn += 1
            code = "OK"
            try:
                await rpc(request, metadata=metadata, timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                code = error.code().name
            ended = now()
            outcome.ended += 1
            if not begun <= ended < over:
                continue
            codes[code] += 1
            if code == "OK":
                latency.record((ended - started) // 1000)
                outcome.count_second((ended - begun) // _SECOND)
            else:
                outcome.refusal_latency.record((ended - started) // 1000)


async def tell_progress(control: Control, outcome: Outcome) -> None:
    """Tell every half second how many calls were answered, until cancelled."""
    while True:
        await asyncio.sleep(TELL_SECONDS)
        control.tell(outcome.codes["OK"])


@dataclass(frozen=True)
class Turn:
    """One of the calls that a single caller takes in turns: a `message`, stamped anew each time, or `bodies`."""

    name: str
    target: str
    path: str
    token: str = ""
    message: Message | None = None
    bodies: Sequence[bytes] = (b"",)
    tls: Tls | None = None


@dataclass(frozen=True)
class TakingTurns:
    """One caller, one call at a time, each kind in turn: what disturbs the machine disturbs all kinds alike."""

    turns: Sequence[Turn]
    seconds: float
    warm_rounds: int = 50

    async def run(self, control: Control) -> dict[str, Histogram]:
        """The latency of each kind, by name. A refusal raises: there is none in a measurement at rest."""
        found = {turn.name: Histogram() for turn in self.turns}
        channels = [open_channels(turn.target, 1, turn.tls)[0] for turn in self.turns]
        next_id = message_ids()
        try:
            calls: list[tuple[Turn, Any, Any]] = [
                (turn, channel.unary_unary(turn.path), bearer(turn.token) if turn.token else None)
                for turn, channel in zip(self.turns, channels, strict=True)
            ]
            rounds, told, over = 0, 0, 0
            while rounds <= self.warm_rounds or now() < over:
                if rounds == self.warm_rounds:
                    over = now() + int(self.seconds * _SECOND)
                for turn, rpc, metadata in calls:
                    body = (
                        turn.message.stamped(next_id(), 0) if turn.message else turn.bodies[rounds % len(turn.bodies)]
                    )
                    started = now()
                    await rpc(body, metadata=metadata, timeout=CALL_SECONDS)
                    if rounds >= self.warm_rounds:
                        found[turn.name].record((now() - started) // 1000)
                rounds += 1
                if now() - told > TELL_SECONDS * _SECOND:
                    told = now()
                    control.tell(rounds)
        finally:
            await close_channels(channels)
        return found
