"""F5: each process is stopped by SIGSTOP for some seconds, under load, and goes on after.

It holds its connections and answers nothing. No call may take longer than its deadline and 200 ms (and as much as the
client itself came late meanwhile); and nothing is opened: somebody is removed while the process stands still, and none
of their calls is let in from the answer to the removal on. Callers who give no deadline have five seconds from the
gateway. Control: messaging remembers what membership has said.
"""

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import grpc
import psutil
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as members_rpc
from guildhall.messaging.v1 import message_service_pb2 as messages
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc

from tests.faults.bench import WRITERS, Bench, Result, Round, Tally
from tests.faults.people import Person, join_by_mail, make_channels
from tests.faults.probes import questions

SHORT_SECONDS, LONG_SECONDS = 8.0, 30.0
LONG_ROUNDS = 20
"""From so many rounds on a process is stopped for the long time."""
MOST_LATE_SECONDS = 0.2
_DEADLINE_SECONDS = 1.5
_GATEWAY_SECONDS = 5.0
"""For who gives no deadline (README)."""
_PAUSE_SECONDS = 0.03
_REMOVAL_SECONDS = 5.0
_TICK_SECONDS = 0.01
_GATEWAY = "envoy"


@dataclass
class _Calls:
    """How late the calls were, against their deadlines, and how late the client's own clock came."""

    made: int = 0
    latest: float = float("-inf")
    examples: list[str] = field(default_factory=list)
    noise: float = 0.0
    removals: int = 0
    """How often somebody was removed while a process stood still."""

    def took(self, what: str, seconds: float, allowed: float) -> None:
        """One call that has ended, whatever it gave."""
        self.made += 1
        self.latest = max(self.latest, seconds - allowed)
        if seconds - allowed > MOST_LATE_SECONDS:
            self.examples.append(f"{what} took {seconds:.2f} s of {allowed:.1f} s")


@dataclass
class _Removed:
    """Somebody who is removed while the process stands still, and tries to write and to read all the time."""

    person: Person
    member_id: str
    gone_at: float = float("inf")
    let_in: list[float] = field(default_factory=list)
    """When those calls began that were answered."""

    @property
    def opened(self) -> int:
        """Calls that were let in though they began after the removal was acknowledged."""
        return sum(begun > self.gone_at for begun in self.let_in)


async def run(bench: Bench) -> Result:
    """Late by 200 ms at most, and closed."""
    seconds = LONG_SECONDS if bench.rounds >= LONG_ROUNDS else SHORT_SECONDS
    calls, tally, opened = _Calls(), Tally(), 0
    names = [name for name in bench.cluster.pids() if not name.startswith("migrate-")]
    for number in range(bench.rounds):
        for name in names:
            bench.tell(f"round {number + 1} of {bench.rounds}: {name} stands still for {seconds:.0f} s")
            opened += await _stop_one(bench, name, seconds, calls, tally)
    control = await _control(bench)
    return Result(
        rounds=bench.rounds,
        holds=calls.latest <= MOST_LATE_SECONDS + calls.noise
        and not (opened or tally.findings)
        and calls.removals >= bench.rounds * len(names) / 2,
        control_failed=control > 0,
        detail={
            "processes": len(names),
            "stop_seconds": seconds,
            "calls": calls.made,
            "past_deadline_ms_worst": round(calls.latest * 1000),
            "past_deadline_ms_goal": MOST_LATE_SECONDS * 1000,
            "noise_ms": round(calls.noise * 1000),
            "late": calls.examples[:12],
            "removals_acknowledged": calls.removals,
            "opened": opened,
            **tally.detail(),
            "control": {"protection_off": "membership is asked afresh", "opened": control},
        },
    )


async def _control(bench: Bench) -> int:
    """How many calls are let in after a removal by who does not ask again."""
    bench.tell("control: what membership has said is remembered")
    await bench.cluster.run_as("messaging", launcher=("--without", "fresh_access"))
    try:
        return await _stop_one(bench, "guest", SHORT_SECONDS, _Calls(), Tally(), alone=True)
    finally:
        await bench.cluster.run_as("messaging")


async def _stop_one(
    bench: Bench, name: str, seconds: float, calls: _Calls, tally: Tally, *, alone: bool = False
) -> int:
    """One process, under load; how many calls were let in that must not be.

    `alone` is without load, for a control.
    """
    workspace_id, team = await bench.home()
    leaving = (await bench.people.take(WRITERS + 1))[WRITERS]
    member_id = await join_by_mail(bench.people, team[0], leaving, workspace_id)
    round_ = Round(bench, "F5", workspace_id=workspace_id, members=team)
    (channel_id,) = await make_channels(team[0], workspace_id, 1)
    await round_.begin()
    removed = _Removed(leaving, member_id)
    asked = questions(team[1], workspace_id, channel_id, seconds=_DEADLINE_SECONDS)
    patient = questions(team[2], workspace_id, channel_id, seconds=None)
    callers = []
    if alone:
        await round_.stop_writing()
    else:
        callers += [_ask(ask, service, calls, _DEADLINE_SECONDS) for service, ask in asked.items()]
    if not alone and not name.startswith(_GATEWAY):  # which is who knows of the five seconds
        callers += [_ask(ask, service, calls, _GATEWAY_SECONDS) for service, ask in patient.items()]
    callers += [_measure_noise(calls), _try_to_get_in(removed, workspace_id, channel_id)]
    tasks = [asyncio.create_task(caller) for caller in callers]
    await asyncio.sleep(0.5)
    async with _stopped(bench, name):
        stopped_at = time.monotonic()
        await _remove(team[0], workspace_id, removed)
        await asyncio.sleep(max(0.0, stopped_at + seconds - time.monotonic()))
    await asyncio.sleep(1)
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended
    await bench.cluster.ready()
    tally.add(round_, await round_.finish())
    calls.removals += removed.gone_at < float("inf")
    return removed.opened


async def _ask(ask: Callable[[], Awaitable[object]], service: str, calls: _Calls, allowed: float) -> None:
    """Asks again and again, until cancelled."""
    while True:
        begun = time.monotonic()
        with suppress(grpc.aio.AioRpcError):
            await ask()
        calls.took(service, time.monotonic() - begun, allowed)
        await asyncio.sleep(_PAUSE_SECONDS)


async def _measure_noise(calls: _Calls) -> None:
    """How late this process's own timers come: by as much it sees answers late that were in time."""
    while True:
        begun = time.monotonic()
        await asyncio.sleep(_TICK_SECONDS)
        calls.noise = max(calls.noise, time.monotonic() - begun - _TICK_SECONDS)


async def _try_to_get_in(removed: _Removed, workspace_id: str, channel_id: str) -> None:
    """Writes and reads in turn, until cancelled."""
    place = {"workspace_id": workspace_id, "conversation_id": channel_id}
    while True:
        sent = messages.SendMessageRequest(**place, client_message_id=str(uuid.uuid4()), text="am I still in?")
        for method, request in (("SendMessage", sent), ("ListMessages", messages.ListMessagesRequest(**place))):
            begun = time.monotonic()
            with suppress(grpc.aio.AioRpcError):
                await removed.person.call(messages_rpc.MessageServiceStub, method, request, seconds=1.0)
                removed.let_in.append(begun)
        await asyncio.sleep(_PAUSE_SECONDS)


async def _remove(admin: Person, workspace_id: str, removed: _Removed) -> None:
    """Has them removed, as soon as somebody answers: while their database stands still, nobody does."""
    request = members.RemoveMemberRequest(
        workspace_id=workspace_id, member_id=removed.member_id, request_id=str(uuid.uuid4())
    )
    give_up_at = time.monotonic() + _REMOVAL_SECONDS
    while time.monotonic() < give_up_at:
        with suppress(grpc.aio.AioRpcError):
            await admin.call(members_rpc.MemberServiceStub, "RemoveMember", request, seconds=2.0)
            removed.gone_at = time.monotonic()
            return
        await asyncio.sleep(_PAUSE_SECONDS)


@asynccontextmanager
async def _stopped(bench: Bench, name: str) -> AsyncIterator[None]:
    """A process and all that it has started stand still; in the end they go on, whatever happened."""
    pid = bench.cluster.pids()[name]
    if pid is None:
        raise RuntimeError(f"{name} does not run")
    parent = psutil.Process(pid)
    stopped = [parent.pid, *(child.pid for child in parent.children(recursive=True))]
    try:
        for each in stopped:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGSTOP)
        yield
    finally:
        for each in stopped:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGCONT)
