"""F3: kill -9 of Valkey with all that it held, under load; in every other round it stays away.

Control: replicas that do not poll deliver what they are woken for, and nothing wakes them.
"""

import asyncio
import time

from tests.faults.bench import Bench, Result, Round, Tally
from tests.faults.checker import Findings

MOST_SECONDS = 60.0


async def run(bench: Bench) -> Result:
    """ACK lost 0, and every event is delivered within a minute, without a hole."""
    workspace_id, members = await bench.home()
    tally = Tally()
    delivered: list[float] = []
    for number in range(bench.rounds):
        stays_away = number % 2 == 0
        bench.tell(f"round {number + 1} of {bench.rounds}, Valkey {'stays away' if stays_away else 'comes back'}")
        round_ = Round(bench, "F3", workspace_id=workspace_id, members=members)
        await round_.begin()
        await asyncio.sleep(1)
        findings, seconds = await _without_valkey(bench, round_, stays_away=stays_away)
        delivered.append(seconds)
        tally.add(round_, findings)
    missed = await _control(bench)
    return Result(
        rounds=bench.rounds,
        holds=not tally.findings and max(delivered) <= MOST_SECONDS,
        control_failed=missed > 0,
        detail={
            "delivered_after_kill_seconds_worst": round(max(delivered), 3),
            "delivered_after_kill_seconds_goal": MOST_SECONDS,
            **tally.detail(),
            "control": {"protection_off": "replicas poll", "events_not_delivered": missed},
        },
    )


async def _without_valkey(bench: Bench, round_: Round, *, stays_away: bool) -> tuple[Findings, float]:
    """Writes go on for three seconds without Valkey; how long after its end everything was delivered."""
    killed_at = await bench.cluster.keep_down("valkey")
    if not stays_away:
        await bench.cluster.bring_up("valkey")
    await asyncio.sleep(3)
    await round_.stop_writing()
    # Time that was spent on writing is not time that the events were late.
    stopped_at = time.monotonic()
    findings = await round_.finish(settle_seconds=MOST_SECONDS - (stopped_at - killed_at))
    seconds = time.monotonic() - killed_at
    if stays_away:
        await bench.cluster.bring_up("valkey")
    return findings, seconds


async def _control(bench: Bench) -> int:
    bench.tell("control: replicas do not poll (takes its full minute)")
    await bench.cluster.run_as("messaging", launcher=("--without", "poll"))
    try:
        workspace_id, members = await bench.home()
        round_ = Round(bench, "F3-control", workspace_id=workspace_id, members=members)
        await round_.begin()
        await asyncio.sleep(1)
        findings, _ = await _without_valkey(bench, round_, stays_away=True)
        return findings.counts["stream hole"]
    finally:
        await bench.cluster.run_as("messaging")
