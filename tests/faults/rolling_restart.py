"""F8: every process of the suite is replaced, one after the other, under load: services, workers, beat and Envoy.

Each is told by SIGTERM, as an orchestrator tells it; Envoy's successor starts on the same ports before the old one is
told to send its clients away. Controls: services that stop at once, and an Envoy that does.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from deploy.stack.settings import SERVICES
from tests.faults.bench import WRITERS, Bench, Result, Round, Tally
from tests.faults.load import Manners
from tests.faults.people import Person, join_by_link, make_guest_link
from tests.faults.probes import questions

LEAST_CALLS = 10_000
"""In each round."""
_CALL_SECONDS = 5.0
_PAUSE_SECONDS = 0.01
_CALLERS = 3
"""For each person."""
_GATEWAY_DRAIN_SECONDS = 12.0
"""Envoy's drain time, and what is left of the longest call that came in before its end."""
_CONTROL_TURNS = 4
_CLEAN = "exit code 0"
_EXAMPLES = 12


@dataclass
class Callers:
    """Unary calls to every service, again and again; none is repeated, so that each failure counts."""

    people: Sequence[Person]
    guest: Person
    workspace_id: str
    conversation_id: str
    guests_channel_id: str
    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    _stopping: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        """Begins to call."""
        for person in self.people:
            asked = questions(person, self.workspace_id, self.conversation_id, seconds=_CALL_SECONDS)
            self._tasks += [asyncio.create_task(self._call(asked)) for _ in range(_CALLERS)]
        # What a guest reads, messaging asks guest about.
        seen = questions(self.guest, self.workspace_id, self.guests_channel_id, seconds=_CALL_SECONDS)
        self._tasks.append(asyncio.create_task(self._call({"messaging, a guest": seen["messaging"]})))

    async def stop(self) -> None:
        """Waits for the calls at hand."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _call(self, asked: dict[str, Callable[[], Awaitable[object]]]) -> None:
        while not self._stopping:
            for service, ask in asked.items():
                begun = time.monotonic()
                try:
                    await ask()
                    self.answered += 1
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.NOT_FOUND and service == "guest":
                        self.answered += 1
                        continue
                    self.failed[f"{service}: {error.code().name}"] += 1
                    took = time.monotonic() - begun
                    self.examples.append(f"{service} after {took:.2f} s: {error.code().name} {error.details()}")
                await asyncio.sleep(_PAUSE_SECONDS)


class _Calls:
    """Every unary call of a round, and how the processes were replaced in it."""

    def __init__(self) -> None:
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self.examples: list[str] = []
        self.stop_seconds: dict[str, float] = {}
        self.away_seconds: dict[str, float] = {}
        self.unclean: list[str] = []

    def add(self, round_: Round, callers: Callers) -> None:
        """Takes in a round that has ended."""
        timings = round_.writer.timings
        self.answered += callers.answered + sum(timing.answered for timing in timings)
        self.failed.update(callers.failed)
        self.failed.update({f"SendMessage: {code}": count for code, count in round_.writer.codes.items()})
        self.examples += callers.examples

    async def restart(self, bench: Bench, name: str) -> None:
        """Replaces one process."""
        bench.tell(f"restart of {name}")
        done = await bench.cluster.restart(name)
        if done.ended != _CLEAN:
            self.unclean.append(f"{name}: {done.ended}")
        self.stop_seconds[name] = max(self.stop_seconds.get(name, 0.0), round(done.stop_seconds, 2))
        self.away_seconds[name] = max(self.away_seconds.get(name, 0.0), round(done.away_seconds, 2))

    def detail(self) -> dict[str, Any]:
        """For the report."""
        return {
            "calls_answered": self.answered,
            "calls_failed": dict(self.failed),
            "failures": self.examples[:_EXAMPLES],
            "stop_seconds_worst": max(self.stop_seconds.values(), default=0.0),
            "away_seconds_worst": max(self.away_seconds.values(), default=0.0),
            "not_ended_well": self.unclean,
        }


async def run(bench: Bench) -> Result:
    """No call fails, and every subscriber resumes without a hole."""
    calls, tally = _Calls(), Tally()
    for number in range(bench.rounds):
        bench.tell(f"round {number + 1} of {bench.rounds}")
        round_, callers = await _begin(bench, "F8")
        for service in SERVICES:
            for name in bench.cluster.replicas(service):
                await calls.restart(bench, name)
        # Meanwhile somebody signs up: the mail that a worker was about to send is sent by its successor.
        signing_up = asyncio.create_task(bench.people.take(WRITERS + 2 + number))
        for name in (*(f"{service}-worker" for service in SERVICES), "beat"):
            await calls.restart(bench, name)
        await signing_up
        bench.tell("a second Envoy")
        ended = await bench.cluster.replace_gateway(drain_seconds=_GATEWAY_DRAIN_SECONDS)
        if ended != _CLEAN:
            calls.unclean.append(f"Envoy: {ended}")
        await callers.stop()
        tally.add(round_, await round_.finish())
        calls.add(round_, callers)
    controls = {
        "services drain": await _services_stop_at_once(bench),
        "Envoy drains": await _gateway_stops_at_once(bench),
    }
    failed = sum(calls.failed.values())
    return Result(
        rounds=bench.rounds,
        holds=not (failed or tally.findings or calls.unclean) and calls.answered >= LEAST_CALLS * bench.rounds,
        control_failed=all(controls.values()),
        detail={
            **calls.detail(),
            "calls_goal": LEAST_CALLS * bench.rounds,
            **tally.detail(),
            "control": [{"protection_off": what, "calls_failed": count} for what, count in controls.items()],
        },
    )


async def _begin(bench: Bench, name: str) -> tuple[Round, Callers]:
    workspace_id, members = await bench.home()
    guest = (await bench.people.take(WRITERS + 1))[WRITERS]
    # No write is given up: whether each was answered at the first try is what the writer's codes say.
    manners = Manners(gives_up_at_once=0, try_seconds=_CALL_SECONDS)
    round_ = Round(bench, name, workspace_id=workspace_id, members=members, manners=manners)
    await round_.begin()
    channel_id = round_.conversation_ids[0]
    await join_by_link(guest, await make_guest_link(members[0], workspace_id, channel_id))
    callers = Callers(members, guest, workspace_id, round_.conversation_ids[-1], channel_id)
    callers.start()
    return round_, callers


async def _control(bench: Bench, title: str, replace: Callable[[Bench], Awaitable[None]]) -> int:
    """How many calls fail with the protection taken away."""
    bench.tell(f"control: {title}")
    round_, callers = await _begin(bench, "F8-control")
    await replace(bench)
    await callers.stop()
    await round_.finish()
    return sum(callers.failed.values()) + sum(round_.writer.codes.values())


async def _services_stop_at_once(bench: Bench) -> int:
    await bench.cluster.run_as("messaging", launcher=("--without", "drain"))
    try:
        return await _control(bench, "services stop at once", _restart_messaging)
    finally:
        await bench.cluster.run_as("messaging")


async def _restart_messaging(bench: Bench) -> None:
    for _ in range(_CONTROL_TURNS):
        for name in bench.cluster.replicas("messaging"):
            await bench.cluster.restart(name)


async def _gateway_stops_at_once(bench: Bench) -> int:
    return await _control(bench, "Envoy stops at once", _end_gateway)


async def _end_gateway(bench: Bench) -> None:
    await bench.cluster.replace_gateway(drain_seconds=0)
