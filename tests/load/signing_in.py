"""Signing in beside other calls: hashing passwords takes whole processors, and must not take everybody's."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from guildhall.identity.v1 import auth_service_pb2 as auth

from tests.load.callers import CALL_SECONDS, TakingTurns, Turn
from tests.load.generator import Control
from tests.load.histogram import Histogram
from tests.load.lab import Figure, Lab
from tests.load.people import PASSWORD
from tests.load.wire import GET_USER, SEND, close_channels, now, open_channels

AT_ONCE = 50
ROUNDS = 5
"""At rest and beside in turn, so that what disturbs the machine disturbs both; of one round's few hundred calls of a
kind, the slowest three would decide the p99."""
SIGN_IN = "/guildhall.identity.v1.AuthService/SignIn"
_SECOND = 1_000_000_000


@dataclass(frozen=True)
class Bursts:
    """So many calls at once, again as soon as all of them are answered."""

    target: str
    path: str
    bodies: Sequence[bytes]
    at_once: int
    seconds: float

    async def run(self, control: Control) -> Counter[str]:
        """How many calls had which status."""
        codes: Counter[str] = Counter()
        channels = open_channels(self.target, 4)
        rpcs: list[Any] = [channel.unary_unary(self.path) for channel in channels]

        async def call(number: int) -> None:
            try:
                await rpcs[number % len(rpcs)](self.bodies[number % len(self.bodies)], timeout=CALL_SECONDS)
                codes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                codes[error.code().name] += 1

        try:
            over = now() + int(self.seconds * _SECOND)
            while now() < over:
                await asyncio.gather(*map(call, range(self.at_once)))
                control.tell(codes["OK"])
        finally:
            await close_channels(channels)
        return codes


async def sign_ins(lab: Lab) -> Figure:
    """p99 of SendMessage and of GetUser while 50 people sign in at once ÷ p99 without; the worse of the two."""
    seconds = lab.seconds / 5
    token = (await lab.crowd.tokens(lab.system, 1))[0]
    turns = [
        Turn("send", lab.system.target, SEND, token, lab.messages()[0]),
        Turn("get_user", lab.system.target, GET_USER, token),
    ]
    bodies = [
        auth.SignInRequest(email=person.email, password=PASSWORD).SerializeToString() for person in lab.crowd.people
    ]
    bursts = Bursts(lab.system.target, SIGN_IN, bodies, AT_ONCE, seconds + 1)
    rest, beside = [{turn.name: Histogram() for turn in turns} for _ in range(2)]
    codes: Counter[str] = Counter()
    for round_ in range(1, ROUNDS + 1):
        of = f"round {round_} of {ROUNDS}"
        _add(rest, await lab.run(TakingTurns(turns, seconds), f"at rest, {of}"))
        running = lab.listeners.start(bursts)
        _add(beside, await lab.run(TakingTurns(turns, seconds), f"beside {AT_ONCE} sign-ins at once, {of}"))
        codes += await running.result()
    ratios = {name: _p99(beside[name]) / _p99(rest[name]) for name in beside}
    worst = max(ratios.values())
    detail: dict[str, Any] = {
        "ratios": {name: round(ratio, 2) for name, ratio in ratios.items()},
        "sign_ins": dict(codes),
        "at_rest": {name: found.milliseconds() for name, found in rest.items()},
        "beside": {name: found.milliseconds() for name, found in beside.items()},
    }
    is_clean = set(codes) <= {"OK", "RESOURCE_EXHAUSTED"} and codes["OK"] > 0
    return Figure(worst, 2.0, worst <= 2.0 and is_clean, detail)


def _add(whole: Mapping[str, Histogram], part: Mapping[str, Histogram]) -> None:
    for name, found in part.items():
        whole[name].add(found)


def _p99(found: Histogram) -> int:
    return max(found.quantile(0.99), 1)
