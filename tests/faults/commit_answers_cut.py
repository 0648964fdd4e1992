"""F7: the answer to COMMIT is cut between messaging and PostgreSQL, forty times a round.

Then a burst of PublishMessages loses its first statement on the way there: what follows must not overtake it.
Control: a client that takes a new key for each try writes twice.
"""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.faults.bench import Bench, Result, Round, Tally
from tests.faults.checker import Findings
from tests.faults.commits import CommitCuts
from tests.faults.load import Manners
from tests.faults.tcp_proxy import Proxy

CUTS_PER_ROUND = 40
_BURST = 1_500
"""More than one batch holds, so that others wait behind the one that is lost."""
_SOCKET = ".s.PGSQL.5432"


async def run(bench: Bench) -> Result:
    """Exactly one row every time."""
    tally = Tally()
    async with _cutting(bench) as cuts:
        workspace_id, members = await bench.home()
        for number in range(bench.rounds):
            bench.tell(f"round {number + 1} of {bench.rounds}")
            round_ = Round(bench, "F7", workspace_id=workspace_id, members=members)
            tally.add(round_, await _round(round_, cuts, times=CUTS_PER_ROUND, burst=_BURST))
        cut = len(cuts.cut)
        bench.tell("control: a new key for each try")
        manners = Manners(repeats_under_the_same_key=False)
        round_ = Round(
            bench, "F7-control", workspace_id=workspace_id, members=members, manners=manners, publishes=False
        )
        control = await _round(round_, cuts, times=10)
    return Result(
        rounds=bench.rounds,
        holds=not tally.findings and cut == CUTS_PER_ROUND * bench.rounds,
        control_failed=control.counts["doubled"] > 0,
        detail={
            "answers_cut": cut,
            "answers_cut_goal": CUTS_PER_ROUND * bench.rounds,
            "requests_lost": len(cuts.lost),
            **tally.detail(),
            "control": {"protection_off": "one key for all tries", "doubled": control.counts["doubled"]},
        },
    )


async def _round(round_: Round, cuts: CommitCuts, *, times: int, burst: int = 0) -> Findings:
    await round_.begin()
    turns = itertools.cycle(round_.conversation_ids)
    for _ in range(times):
        write = round_.ledger.intend(next(turns))
        # The text holds the key whatever id the message is sent under.
        cuts.arm(write.key)
        await round_.writer.send(round_.members[0], write, gives_up=False)
        cuts.armed.clear()
    if burst:
        publisher = round_.publisher(round_.members[2], "burst", burst=burst)
        cuts.lose(publisher.first_key)
        publisher.start()
        await publisher.stop()
        cuts.armed_requests.clear()
    return await round_.finish()


@asynccontextmanager
async def _cutting(bench: Bench) -> AsyncIterator[CommitCuts]:
    """messaging reaches PostgreSQL through a proxy that can cut."""
    postgres = bench.cluster.stack.postgres
    folder = bench.cluster.settings.layout.sockets / "cut"
    folder.mkdir(mode=0o700, exist_ok=True)
    cuts = CommitCuts()
    proxy = Proxy(folder / _SOCKET, postgres.socket_folder / _SOCKET, make_filter=cuts.filter)
    await proxy.start()
    url = postgres.url("messaging", "guildhall").replace(str(postgres.socket_folder), str(folder))
    try:
        await bench.cluster.run_as("messaging", environment={"GUILDHALL_DATABASE_URL": url})
        yield cuts
    finally:
        await bench.cluster.run_as("messaging")
        await proxy.stop()
