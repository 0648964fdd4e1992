"""F13: one conversation's row is locked for two seconds by a session of the tests' own, under load.

Control: without the side lane the others wait for it.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

import psycopg

from tests.faults.bench import Bench, Result
from tests.faults.checker import Findings, check
from tests.faults.histories import read_pages, read_table
from tests.faults.load import Load, Timing, Writer
from tests.faults.people import Person, make_channels

MOST_RATIO = 2.0
LOCK_SECONDS = 2.0
_OTHERS = 8
_CALLERS_OF_OTHERS = 16
_CALLERS_OF_LOCKED = 24
_CALM_SECONDS = 2.5
_WARM_SECONDS = 1.0
_LOCKS_PER_ROUND = 3


async def run(bench: Bench) -> Result:
    """The p99 of the other conversations is at most twice what it was, and nothing is lost or doubled."""
    protected = await _measure(bench, rounds=bench.rounds, title="round")
    await bench.cluster.run_as("messaging", launcher=("--without", "side_lane"))
    try:
        control = await _measure(bench, rounds=2, title="control: no side lane, round")
    finally:
        await bench.cluster.run_as("messaging")
    return Result(
        rounds=bench.rounds,
        holds=not protected.findings and protected.ratio <= MOST_RATIO,
        control_failed=control.ratio > MOST_RATIO,
        detail={
            **protected.detail(),
            "ratio_goal": MOST_RATIO,
            "control": {"protection_off": "side lane", **control.detail()},
        },
    )


class _Phase(NamedTuple):
    """When the row was left alone, and when it was locked; on time.monotonic()'s clock."""

    calm_from: float
    locked_from: float
    locked_to: float


class _Measured:
    """What the callers of the other conversations felt."""

    def __init__(self) -> None:
        self.calm: list[float] = []
        self.locked: list[float] = []
        self.refused = 0
        self.waited: list[float] = []
        self.findings = Findings()

    @property
    def ratio(self) -> float:
        """p99 with the row locked to p99 without."""
        return percentile(self.locked, 0.99) / percentile(self.calm, 0.99)

    def detail(self) -> dict[str, object]:
        """For the report; milliseconds."""
        return {
            "p99_ratio": round(self.ratio, 2),
            "calm_ms": _summary(self.calm),
            "locked_ms": _summary(self.locked),
            "refused_while_locked": self.refused,
            "locked_conversation_worst_ms": round(max(self.waited, default=0) * 1000),
            "findings": dict(self.findings.counts),
            "examples": self.findings.examples[:8],
        }


async def _measure(bench: Bench, *, rounds: int, title: str) -> _Measured:
    measured = _Measured()
    workspace_id, members = await bench.home()
    for number in range(rounds):
        bench.tell(f"{title} {number + 1} of {rounds}")
        await bench.people.take(len(members))
        await _round(bench, measured, workspace_id, members)
    return measured


async def _round(bench: Bench, measured: _Measured, workspace_id: str, members: Sequence[Person]) -> None:
    hot, *others = await make_channels(members[0], workspace_id, 1 + _OTHERS)
    ledger = bench.ledger("F13")
    writer = Writer(ledger, workspace_id=workspace_id)
    loads = [
        Load(writer, members, others, writers=_CALLERS_OF_OTHERS, pause_seconds=0.15),
        Load(writer, members, [hot], writers=_CALLERS_OF_LOCKED, pause_seconds=0.5),
    ]
    for load in loads:
        load.start()
    async with await bench.cluster.admin() as admin:
        await asyncio.sleep(_WARM_SECONDS)
        phases = [await _calm_then_locked(admin, hot) for _ in range(_LOCKS_PER_ROUND)]
        await asyncio.gather(*(load.stop() for load in loads))
        for phase in phases:
            _sort(measured, writer.timings, hot, phase)
        table = await read_table(admin, [hot, *others])
    pages = await read_pages(members[0], workspace_id, [hot, *others])
    measured.findings.merge(check(ledger.writes.values(), table=table, pages=pages, streams={}))
    ledger.close()


async def _calm_then_locked(admin: psycopg.AsyncConnection, conversation_id: str) -> _Phase:
    """Leaves it alone for a while, then holds the row for two seconds."""
    calm_from = time.monotonic()
    await asyncio.sleep(_CALM_SECONDS)
    async with admin.transaction():
        await admin.execute("SELECT 1 FROM messaging.conversations WHERE id = %s FOR UPDATE", [conversation_id])
        locked_from = time.monotonic()
        await asyncio.sleep(LOCK_SECONDS)
        locked_to = time.monotonic()
    # What had waited is written now, and is no part of the next calm.
    await asyncio.sleep(_WARM_SECONDS)
    return _Phase(calm_from, locked_from, locked_to)


def _sort(measured: _Measured, timings: Sequence[Timing], hot: str, phase: _Phase) -> None:
    for timing in timings:
        ended_at = timing.started_at + timing.seconds
        if timing.conversation_id == hot:
            if timing.started_at < phase.locked_to and ended_at > phase.locked_from:
                measured.waited.append(timing.seconds)
        elif phase.calm_from <= timing.started_at and ended_at <= phase.locked_from:
            measured.calm.append(timing.seconds)
        elif phase.locked_from <= timing.started_at < phase.locked_to:
            # A call that the lock made slow ends after it: it is its start that counts.
            measured.locked.append(timing.seconds)
            measured.refused += not timing.answered


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _summary(values: Sequence[float]) -> dict[str, float]:
    shares = {"p50": 0.5, "p99": 0.99, "worst": 1.0}
    return {"count": len(values)} | {name: round(percentile(values, share) * 1000, 1) for name, share in shares.items()}
