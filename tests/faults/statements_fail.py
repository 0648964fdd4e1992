"""F10: each statement of each use case is made to fail, in turn, in PostgreSQL; then the client repeats its call.

Every committed transaction must be a whole one, and after the repetition everything must be there exactly once: the
effect, its line of the audit log, its outbox rows. It is the same each time, so it runs once, whatever the rounds.
Control: transactions that commit between their statements.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from sqlalchemy import Connection, Engine, event

from tests.faults.bench import Bench, Result
from tests.faults.identity_use_cases import IDENTITY
from tests.faults.use_cases import USE_CASES, RefusedInStreamError, UseCase
from tests.faults.workshop import Journal, Point, Shape, Workshop, open_workshop

REPETITIONS = 3
_EXAMPLES = 12
CONTROLS = ("membership: update a member", "messaging.ConversationService/CreateChannel")
COUNTERS = frozenset({"guest.guest_invite_attempts"})
"""Tables of attempts: each try counts, also one that came to nothing."""
USES = "identity.sessions update"
"""That a session was used is noted at most once a minute, for all at once, whoever calls then."""
AGAIN: Mapping[str, frozenset[Shape]] = {
    "guest.GuestInviteService/RedeemGuestInvite": frozenset(
        {("guest.redemptions update",), ("membership.members update",)}
    )
}
"""Steps that a repetition takes anew: each try of a redemption first takes over what the one before has left, itself
and the pending member."""


@dataclass
class Found:
    """What came of the statements that were made to fail. A `torn` transaction has committed a part of itself."""

    use_cases: int = 0
    statements: int = 0
    not_met: int = 0
    answered: int = 0
    torn: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    broken_off: list[str] = field(default_factory=list)

    def detail(self) -> dict[str, Any]:
        """For the report."""
        return {
            "use_cases": self.use_cases,
            "statements_failed": self.statements,
            "answered_all_the_same": self.answered,
            "not_sent_again": self.not_met,
            "torn_transactions": len(self.torn),
            "different_after_repeating": len(self.different),
            "broken_off": self.broken_off,
            "examples": [*self.torn[:_EXAMPLES], *self.different[:_EXAMPLES]],
        }


async def run(bench: Bench) -> Result:
    """All or nothing, everywhere."""
    cases = {**USE_CASES, **IDENTITY}
    async with open_workshop(bench.cluster.folder / "workshop.log") as shop:
        found = await _break_all(bench, shop, cases)
        bench.tell("control: transactions commit between their statements")
        with _commits_between(shop):
            control = await _break_all(bench, shop, {name: cases[name] for name in CONTROLS})
    return Result(
        rounds=1,
        holds=found.statements > 0 and not (found.torn or found.different or found.broken_off),
        control_failed=bool(control.torn or control.different),
        detail={
            **found.detail(),
            "control": {"protection_off": "one transaction for each use case", **control.detail()},
        },
    )


async def _break_all(bench: Bench, shop: Workshop, cases: Mapping[str, UseCase]) -> Found:
    found, told = Found(), ""
    for name, case in cases.items():
        group = name.split(":")[0].split("/")[0]
        if group != told:
            told = group
            bench.tell(f"{group}: {found.statements} statements so far")
        found.use_cases += 1
        try:
            usual, points = await _undisturbed(shop, case)
            for point in points:
                await _break_one(shop, case, point, usual, found, name)
        except (grpc.RpcError, TimeoutError) as error:
            # The others are tried all the same: all of them together take long.
            found.broken_off.append(f"{name}: {type(error).__name__} {error}"[:200])
    return found


async def _undisturbed(shop: Workshop, case: UseCase) -> tuple[Counter[Shape], list[Point]]:
    """What a use case writes when nothing fails, and the statements that it sends."""
    call = await case.prepare(shop.suite)
    await shop.journal.settled()
    mark = shop.journal.mark()
    with shop.statements.watched():
        await call()
    points = list(dict.fromkeys(shop.statements.seen))
    await shop.journal.settled()
    return _counted(shop.journal, mark), points


async def _break_one(
    shop: Workshop, case: UseCase, point: Point, usual: Counter[Shape], found: Found, name: str
) -> None:
    call = await case.prepare(shop.suite)
    await shop.journal.settled()
    mark = shop.journal.mark()
    with shop.statements.watched(point):
        failed = await _fails(call)
    if not shop.statements.is_met:
        # Two questions asked at once may change places; then this one was not asked in that turn.
        found.not_met += 1
        return
    found.statements += 1
    found.answered += not failed
    what = f"{name}, {point.service} no {point.number}: {' '.join(point.text.split())[:90]}"
    if torn := _counted(shop.journal, mark) - usual:
        found.torn.append(f"{what}: {_told(torn)}")
    for _ in range(REPETITIONS):
        if not failed:
            break
        failed = await _fails(call)
    await shop.journal.settled()
    after = _counted(shop.journal, mark)
    again = AGAIN.get(case.rpc, frozenset())
    missing, more = usual - after, Counter({s: n for s, n in (after - usual).items() if s not in again})
    if failed or missing or more:
        refused = f"refused again with {failed}, " if failed else ""
        found.different.append(f"{what}: {refused}missing {_told(missing)}, more {_told(more)}")


async def _fails(call: Any) -> str:
    """The code with which a call is refused; empty if it is answered."""
    try:
        await call()
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    except RefusedInStreamError:
        return "REFUSED"
    return ""


def _counted(journal: Journal, mark: int) -> Counter[Shape]:
    """What was written since, but for counters of attempts."""
    found = journal.since(mark)
    return Counter({s: n for s, n in found.items() if set(s) != {USES} and {row.split()[0] for row in s} - COUNTERS})


def _told(shapes: Counter[Shape]) -> str:
    return "; ".join(f"{count} × {', '.join(shape)}" for shape, count in shapes.items()) or "nothing"


@contextmanager
def _commits_between(shop: Workshop) -> Iterator[None]:
    """Each statement of a transaction is committed at once, as a use case would that has several of them."""

    def commit(connection: Connection, *_others: object) -> None:
        dbapi = connection.connection.dbapi_connection
        if dbapi is not None and connection.get_isolation_level() != "AUTOCOMMIT":
            dbapi.commit()

    event.listen(Engine, "after_cursor_execute", commit)
    try:
        yield
    finally:
        event.remove(Engine, "after_cursor_execute", commit)
