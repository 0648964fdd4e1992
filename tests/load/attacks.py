"""Attacks on the gateway beside honest calls: slow headers and bodies, floods of headers, rapid resets, all at once.

Bounded: so many attackers, each with one connection at a time and a pause before the next, and only for the phase.
The gateway's limits by address are out of the way here, as everybody is on one machine: what is left is the hardening.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.load.callers import TakingTurns, Turn
from tests.load.generator import Control
from tests.load.histogram import Histogram
from tests.load.lab import Figure, Lab
from tests.load.wire import GET_USER, SEND
from tests.support.attacks import ATTACKS

GOAL = 2.0
# How many connections of each kind there are at a time, and how long each waits before it comes again.
CROWD = {
    "slow headers": (100, 0.5),
    "slow headers of HTTP/2": (50, 0.5),
    "slow body": (100, 0.5),
    "slow body of HTTP/2": (50, 0.5),
    "flood of headers": (2, 0.5),
    "flood of headers of HTTP/2": (2, 0.5),
    "rapid resets": (2, 0.5),
}
_MOST_SECONDS = 15.0
_CONNECT_SPREAD_SECONDS = 0.02


@dataclass(frozen=True)
class Attackers:
    """All attacks at once, each of them again when the gateway has ended it."""

    target: str
    seconds: float

    async def run(self, control: Control) -> dict[str, Counter[str]]:
        """How many attacks of each kind the gateway ended, and how many went on until the time was over."""
        over = time.monotonic() + self.seconds
        found: dict[str, Counter[str]] = {name: Counter() for name in CROWD}
        host, _, port = self.target.rpartition(":")

        async def attack(name: str, number: int, pause_seconds: float) -> None:
            # Not all at once: the gateway would be measured at taking connections.
            await asyncio.sleep(number * _CONNECT_SPREAD_SECONDS)
            while (left := over - time.monotonic()) > 0:
                try:
                    ended = await ATTACKS[name]().run(host, int(port), min(left, _MOST_SECONDS))
                except OSError:
                    found[name]["no connection"] += 1
                else:
                    kept_on = "time was over" if left < _MOST_SECONDS else "never ended"
                    found[name]["ended" if ended.by_gateway else kept_on] += 1
                control.tell(sum(counts["ended"] for counts in found.values()))
                await asyncio.sleep(pause_seconds)

        await asyncio.gather(
            *(attack(name, number, pause) for name, (count, pause) in CROWD.items() for number in range(count))
        )
        return found


async def attacks(lab: Lab) -> Figure:
    """p99 of SendMessage and of GetUser beside all attacks ÷ p99 without; the worse of the two."""
    seconds = lab.seconds / 3
    token = (await lab.crowd.tokens(lab.system, 1))[0]
    turns = [
        Turn("send", lab.system.target, SEND, token, lab.messages()[0]),
        Turn("get_user", lab.system.target, GET_USER, token),
    ]
    rest = await lab.run(TakingTurns(turns, seconds), "at rest")
    running = lab.listeners.start(Attackers(lab.system.target, seconds + 2))
    beside = await lab.run(TakingTurns(turns, seconds), "beside the attacks")
    ended = await running.result()
    ratios = {name: _p99(beside[name]) / _p99(rest[name]) for name in beside}
    worst = max(ratios.values())
    detail: dict[str, Any] = {
        "ratios": {name: round(ratio, 2) for name, ratio in ratios.items()},
        "attacks": {name: dict(counts) for name, counts in ended.items()},
        "at_rest": {name: found.milliseconds() for name, found in rest.items()},
        "beside": {name: found.milliseconds() for name, found in beside.items()},
    }
    endured = all(counts["ended"] > 0 and not counts["never ended"] for counts in ended.values())
    return Figure(worst, GOAL, worst <= GOAL and endured, detail)


def _p99(found: Histogram) -> int:
    return max(found.quantile(0.99), 1)
