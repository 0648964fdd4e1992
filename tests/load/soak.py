"""The soak: half of what the suite can do, three calls in ten cancelled by the client, and nothing may grow.

`make load S=soak`; LOAD_SECONDS is its length (1 200). What each process holds is read from its own /metrics.
"""

import asyncio
import os
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from deploy.stack.settings import SERVICES
from tests.load.callers import Outcome
from tests.load.delivery import hang_up, listen
from tests.load.flood import Flood
from tests.load.lab import Figure, Lab
from tests.load.overload import find_knee
from tests.load.wire import SEND
from tests.support.metrics import sample, scraped

SECONDS = 1_200.0
GOAL_MIB_PER_HOUR = 5.0
CANCELLED = 0.3
_KNEE_SECONDS = 4.0
_LOOK_SECONDS = 5.0
_PART_SECONDS = 120.0
"""Tokens last five minutes, and all streams of a part end with it: what an ended stream keeps would show."""
_STREAMS = 40
_REST_SECONDS = 45.0
"""More than the 30 s for which the gateway keeps an idle connection to nobody."""
_ALLOWED = {"OK", "CANCELLED", "RESOURCE_EXHAUSTED"}
"""What a busy moment refuses is told, and no leak."""
_FLAT = {
    "descriptors": ("process_open_fds", 5.0),
    "tasks": ("guildhall_event_loop_tasks", 20.0),
    "pool": ("guildhall_database_pool_used_connections", 2.0),
}
"""Gauges that must not drift: by so much at most over the second half, or a tenth of what they are."""


@dataclass(frozen=True)
class Look:
    """What one process held at one time."""

    at: float
    mib: float
    held: Mapping[str, float]


@dataclass
class Watched:
    """The looks at every process of the services, by its name."""

    ports: Mapping[str, int]
    looks: dict[str, list[Look]] = field(default_factory=dict)

    async def look(self) -> None:
        """Looks at each once."""
        for name, port in self.ports.items():
            families = await asyncio.to_thread(scraped, port)
            held = {what: sample(families, gauge) for what, (gauge, _) in _FLAT.items()}
            mib = sample(families, "process_resident_memory_bytes") / (1 << 20)
            self.looks.setdefault(name, []).append(Look(time.monotonic(), mib, held))

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    def mib_per_hour(self) -> dict[str, float]:
        """How fast each process's memory grew in the second half: the slope of the least squares."""
        return {name: 3600 * slope([(look.at, look.mib) for look in half(looks)]) for name, looks in self.looks.items()}

    def drifting(self) -> dict[str, float]:
        """What rose in the second half by more than it may, and by how much."""
        found = {}
        for name, looks in self.looks.items():
            later = half(looks)
            for what, (_, allowed) in _FLAT.items():
                points = [(look.at, look.held[what]) for look in later]
                rise = slope(points) * (later[-1].at - later[0].at)
                if rise > max(allowed, statistics.fmean(value for _, value in points) / 10):
                    found[f"{name} {what}"] = round(rise, 1)
        return found


def half(looks: Sequence[Look]) -> Sequence[Look]:
    """The second half: in the first one caches fill."""
    return looks[len(looks) // 2 :]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line with the least squares; 0 for a single point."""
    if len(points) < 2:
        return 0.0
    times, values = zip(*points, strict=True)
    return statistics.linear_regression(times, values).slope


async def soak(lab: Lab) -> Figure:
    """The steepest growth of a process's memory, in MiB an hour; and whether anything else grew."""
    seconds = float(os.environ.get("LOAD_SECONDS", SECONDS))
    callers, knee = await find_knee(lab, _KNEE_SECONDS)
    watched = Watched(_ports(lab))
    await _rest(watched, lab, "what they hold at rest")
    before = {name: looks[-1] for name, looks in watched.looks.items()}
    watched.looks.clear()
    watching = asyncio.create_task(watched.run())
    codes = await _load(lab, knee.per_second / 2, seconds)
    watching.cancel()
    growth, drifting = watched.mib_per_hour(), watched.drifting()
    resting = Watched(watched.ports)
    await _rest(resting, lab, "what they still hold")
    kept = _kept(before, resting)
    strange = {code: count for code, count in codes.items() if code not in _ALLOWED}
    detail: dict[str, Any] = {
        "seconds": seconds,
        "grpcio": grpc.__version__,
        "knee_callers": callers,
        "knee_per_second": round(knee.per_second),
        "codes": dict(codes),
        "cancelled_share": round(codes["CANCELLED"] / max(sum(codes.values()), 1), 3),
        "mib_per_hour": {name: round(value, 2) for name, value in growth.items()},
        "mib_first_and_last": {n: [round(ls[0].mib, 1), round(ls[-1].mib, 1)] for n, ls in watched.looks.items()},
        "held_last": {name: dict(looks[-1].held) for name, looks in watched.looks.items()},
        "drifting": drifting,
        "kept_at_rest": kept,
        "other_codes": strange,
        "samples": {n: [[round(x.at - ls[0].at), round(x.mib, 2)] for x in ls] for n, ls in watched.looks.items()},
    }
    worst = max(growth.values())
    is_cancelled = detail["cancelled_share"] >= 0.9 * CANCELLED
    holds = worst <= GOAL_MIB_PER_HOUR and is_cancelled and not (drifting or kept or strange)
    return Figure(worst, GOAL_MIB_PER_HOUR, holds, detail)


def _ports(lab: Lab) -> dict[str, int]:
    ports = lab.inside.stack.settings.ports
    workers = {f"{service}-worker": ports.worker_metrics(service) for service in SERVICES}
    return {**{service: ports.metrics(service) for service in SERVICES}, **workers}


async def _load(lab: Lab, rate: float, seconds: float) -> Counter[str]:
    """Calls at a rate, some of them cancelled, beside streams that are opened anew with each part."""
    codes: Counter[str] = Counter()
    share, left = CANCELLED, seconds
    while left > 0:
        running = await listen(lab, _STREAMS)
        tokens = await lab.crowd.tokens(lab.system)
        part = min(_PART_SECONDS, left)
        job = Flood(lab.system.target, SEND, tokens, lab.messages(), rate, part, cancelled=share)
        done: Outcome = await lab.run(job, f"{rate:.0f} calls/s, {left:.0f} s left")
        await hang_up(running)
        codes.update(done.codes)
        # Who wants to hang up and has the answer already does not: so more must want to.
        cancelled = done.codes["CANCELLED"] / max(sum(done.codes.values()), 1)
        share = min(1.0, share * CANCELLED / max(cancelled, 0.01))
        left -= part
    return +codes


async def _rest(watched: Watched, lab: Lab, what: str) -> None:
    """Looks once nothing has been asked for a while: connections that nobody uses are closed by time alone."""
    lab.show(what)
    await asyncio.sleep(_REST_SECONDS)
    await watched.look()


def _kept(before: Mapping[str, Look], resting: Watched) -> dict[str, float]:
    """What the processes hold at rest after the load and did not before it."""
    found = {}
    for name, looks in resting.looks.items():
        for what, (_, allowed) in _FLAT.items():
            more = looks[-1].held[what] - before[name].held[what]
            if more > allowed:
                found[f"{name} {what}"] = more
    return found
