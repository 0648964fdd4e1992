"""F1: kill -9 of a replica of each service, one after the other, under load.

Control: subscribers that come back without their positions lose events.
"""

import asyncio

from deploy.stack.settings import SERVICES
from tests.faults.bench import Bench, Result, Round, Tally
from tests.faults.probes import probers

MOST_SECONDS = 2.0
_WATCHED_SECONDS = 3.0


async def run(bench: Bench) -> Result:
    """ACK lost 0, doubled 0, and each service answers again within two seconds."""
    workspace_id, members = await bench.home()
    silences: dict[str, list[float]] = {service: [] for service in SERVICES}
    tally = Tally()
    for number in range(bench.rounds):
        bench.tell(f"round {number + 1} of {bench.rounds}")
        round_ = Round(bench, "F1", workspace_id=workspace_id, members=members)
        await round_.begin()
        for service in SERVICES:
            silences[service].append(await _kill_one(bench, round_, service, number))
        tally.add(round_, await round_.finish())
    worst = {service: round(max(times), 3) for service, times in silences.items()}
    lost = await _control(bench)
    return Result(
        rounds=bench.rounds,
        holds=not tally.findings and max(worst.values()) <= MOST_SECONDS,
        control_failed=lost > 0,
        detail={
            "silence_seconds_worst": worst,
            "silence_seconds_goal": MOST_SECONDS,
            **tally.detail(),
            "control": {"protection_off": "subscribers resume by position", "events_lost": lost},
        },
    )


async def _kill_one(bench: Bench, round_: Round, service: str, number: int) -> float:
    """Kills a replica; for how long at most the service did not answer."""
    victim = bench.cluster.replicas(service)[number % 2]
    prober = probers(round_.members[1], round_.workspace_id, round_.conversation_ids[0])[service]
    prober.start()
    await asyncio.sleep(0.3)
    killed_at = bench.cluster.kill(victim)
    await asyncio.sleep(_WATCHED_SECONDS)
    silence = prober.longest_silence(since=killed_at)
    await prober.stop()
    await bench.cluster.ready()
    return silence


async def _control(bench: Bench) -> int:
    """The same with subscribers that do not resume, both replicas in turn so that each stream is broken."""
    bench.tell("control: subscribers do not resume")
    workspace_id, members = await bench.home()
    round_ = Round(bench, "F1-control", workspace_id=workspace_id, members=members, resumes=False)
    await round_.begin()
    for victim in bench.cluster.replicas("messaging"):
        await asyncio.sleep(1)
        bench.cluster.kill(victim)
        await asyncio.sleep(1)
        await bench.cluster.ready()
    findings = await round_.finish(settle_seconds=10)
    return findings.counts["stream hole"]
