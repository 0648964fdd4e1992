"""What a scenario has at hand: the system, its people, the generators; and the figure that it gives back."""

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.load.callers import Outcome
from tests.load.generator import Generator, Job, Running
from tests.load.people import Crowd
from tests.load.processors import machine_seconds
from tests.load.system import Booted, System
from tests.load.wire import Message, message

Result = TypeVar("Result")


@dataclass(frozen=True)
class Figure:
    """What a scenario measured, and whether it is what is wanted."""

    value: float
    goal: float
    holds: bool
    detail: dict[str, Any]


@dataclass
class Lab:
    """`seconds` is LOAD_SECONDS: how long the long phases last; the others are parts of it."""

    system: System
    crowd: Crowd
    seconds: float
    show: Callable[[str], None]
    callers: Generator
    listeners: Generator
    archive: Any = None
    """Two million messages, once a scenario has needed them (archive.py)."""

    @property
    def inside(self) -> Booted:
        """The inside of the suite; only scenarios that are left out elsewhere may ask."""
        if self.system.booted is None:
            raise RuntimeError("not measurable from outside")
        return self.system.booted

    def messages(self) -> list[Message]:
        """A message to each conversation."""
        return [message(self.crowd.workspace_id, key) for key in self.crowd.conversation_ids]

    async def run(self, job: Job[Result], what: str, generator: Generator | None = None) -> Result:
        """Run a job to its end; what it tells is shown."""
        running = (generator or self.callers).start(job)
        showing = asyncio.create_task(self._show(running, what))
        try:
            return await running.result()
        finally:
            showing.cancel()

    async def _show(self, running: Running[Any], what: str) -> None:
        self.show(what)
        while True:
            self.show(f"{what}: {await running.told.get():,}")


@dataclass
class Versus:
    """Rounds of the suite and of the echo, in turns."""

    ours: list[Outcome] = field(default_factory=list)
    echo: list[Outcome] = field(default_factory=list)
    used: dict[str, dict[str, float]] = field(default_factory=lambda: {"ours": {}, "echo": {}})
    """Processor seconds of each process, while ours and while the echo was called."""
    elsewhere: float = 0.0
    """The share of the machine's processors that went to what is not of this run: above a tenth, measure again."""

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        pairs = zip(self.ours, self.echo, strict=True)
        return statistics.median(ours.per_second / max(echo.per_second, 0.001) for ours, echo in pairs)

    def summary(self) -> dict[str, Any]:
        """For a report: the rates, and the latencies of all rounds together."""
        return {
            "per_second": round(statistics.median(outcome.per_second for outcome in self.ours), 1),
            "echo_per_second": round(statistics.median(outcome.per_second for outcome in self.echo), 1),
            "ratios": [
                round(ours.per_second / max(echo.per_second, 0.001), 3)
                for ours, echo in zip(self.ours, self.echo, strict=True)
            ],
            "milliseconds": together(self.ours).latency.milliseconds(),
            "echo_milliseconds": together(self.echo).latency.milliseconds(),
            "codes": dict(together(self.ours).codes),
            "processors_elsewhere": round(self.elsewhere, 3),
            "cpu_microseconds": {
                "ours": _per_call(self.used["ours"], self.ours),
                "echo": _per_call(self.used["echo"], self.echo),
            },
        }


async def versus(lab: Lab, ours: Job[Outcome], echo: Job[Outcome], rounds: int) -> Versus:
    """Measure both in turns, each time the other first: what the machine does meanwhile touches both."""
    found = Versus()
    watch = Watch(lab)
    for number in range(rounds):
        for name in ("echo", "ours") if number % 2 == 0 else ("ours", "echo"):
            before, used = cpu_seconds(lab), found.used[name]
            outcome = await lab.run(ours if name == "ours" else echo, f"round {number + 1} of {rounds}, {name}")
            (found.ours if name == "ours" else found.echo).append(outcome)
            for process, seconds in cpu_seconds(lab).items():
                used[process] = used.get(process, 0.0) + seconds - before.get(process, 0.0)
    found.elsewhere = watch.elsewhere()
    return found


def _per_call(used: Mapping[str, float], outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Processor microseconds per answered call, the warm-up's included: where the time goes, and how much in all."""
    calls = max(sum(outcome.ended for outcome in outcomes), 1)
    costs = {name: round(seconds * 1e6 / calls, 1) for name, seconds in used.items()}
    costs = {name: cost for name, cost in sorted(costs.items(), key=lambda item: -item[1]) if cost >= 1}
    return {"all": round(sum(costs.values()), 1), **costs}


def cpu_seconds(lab: Lab) -> dict[str, float]:
    """Processor time so far of each process of the suite, and of the generator. Empty for one that runs elsewhere."""
    if lab.system.booted is None:
        return {}
    generators = lab.callers.cpu_seconds() + lab.listeners.cpu_seconds()
    return {**lab.system.booted.cpu_seconds(), "generator": generators}


class Watch:
    """How much of this machine goes to what is not of this run, from now on."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._begun = time.monotonic()
        self._before = self._foreign_seconds()

    def _foreign_seconds(self) -> float:
        return machine_seconds() - sum(cpu_seconds(self._lab).values()) - time.process_time()

    def elsewhere(self) -> float:
        """The share of all processors; 0 for a suite that runs elsewhere, whose own work could not be told apart."""
        if self._lab.system.booted is None:
            return 0.0
        capacity = (time.monotonic() - self._begun) * (os.cpu_count() or 1)
        return max(0.0, (self._foreign_seconds() - self._before) / capacity)


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """Several outcomes as one."""
    whole = Outcome(sum(outcome.seconds for outcome in outcomes))
    for outcome in outcomes:
        whole.ended += outcome.ended
        whole.codes.update(outcome.codes)
        whole.latency.add(outcome.latency)
        whole.refusal_latency.add(outcome.refusal_latency)
    return whole
