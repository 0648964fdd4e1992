"""F2: kill -9 of PostgreSQL, the postmaster and every backend, under load.

Control: a client that takes silence for success has acknowledged writes that nobody stored.
"""

import asyncio
import time

import psycopg

from tests.faults.bench import Bench, Result, Round, Tally
from tests.faults.cluster import own_processes
from tests.faults.load import Manners

MOST_SECONDS = 10.0
_GIVE_UP_SECONDS = 60.0


async def run(bench: Bench) -> Result:
    """ACK lost 0, serving again within ten seconds after it accepts, and no process of ours restarted."""
    workspace_id, members = await bench.home()
    tally = Tally()
    before = own_processes(bench.cluster.pids())
    serving: list[float] = []
    for number in range(bench.rounds):
        bench.tell(f"round {number + 1} of {bench.rounds}")
        round_ = Round(bench, "F2", workspace_id=workspace_id, members=members)
        await round_.begin()
        await asyncio.sleep(1.5)
        serving.append(await _kill(bench, round_))
        await asyncio.sleep(1)
        tally.add(round_, await round_.finish())
    after = own_processes(bench.cluster.pids())
    restarted = sorted(name for name, pid in before.items() if after[name] != pid)
    lost = await _control(bench)
    return Result(
        rounds=bench.rounds,
        holds=not tally.findings and max(serving) <= MOST_SECONDS and not restarted,
        control_failed=lost > 0,
        detail={
            "serving_seconds_worst": round(max(serving), 3),
            "serving_seconds_goal": MOST_SECONDS,
            "restarted": restarted,
            **tally.detail(),
            "control": {"protection_off": "silence is not success", "acknowledged_and_lost": lost},
        },
    )


async def _kill(bench: Bench, round_: Round) -> float:
    """Kills the server; how long after it accepted again every kind of call was answered."""
    bench.cluster.kill_with_children("postgresql")
    await _until_it_accepts(bench)
    accepted_at = time.monotonic()
    # Both replicas must be seen to serve, so several in a row.
    answered = 0
    while answered < 10 and time.monotonic() - accepted_at < _GIVE_UP_SECONDS:
        conversation_id = round_.conversation_ids[answered % len(round_.conversation_ids)]
        written = await round_.writer.write(round_.members[0], conversation_id, patience_seconds=0)
        answered = answered + 1 if written.message_id else 0
        await asyncio.sleep(0.02)
    return time.monotonic() - accepted_at


async def _until_it_accepts(bench: Bench) -> None:
    deadline = time.monotonic() + _GIVE_UP_SECONDS
    while time.monotonic() < deadline:
        try:
            async with await bench.cluster.admin() as admin:
                await admin.execute("SELECT 1")
                return
        except psycopg.OperationalError:
            await asyncio.sleep(0.02)
    raise TimeoutError("PostgreSQL did not come back")


async def _control(bench: Bench) -> int:
    bench.tell("control: silence is taken for success")
    workspace_id, members = await bench.home()
    manners = Manners(takes_silence_for_success=True)
    round_ = Round(bench, "F2-control", workspace_id=workspace_id, members=members, manners=manners, publishes=False)
    await round_.begin()
    await asyncio.sleep(1)
    await _kill(bench, round_)
    return (await round_.finish()).counts["lost"]
