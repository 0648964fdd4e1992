"""F9: the table of messages is migrated under load: expanded, filled in batches, made strict, and contracted again.

Each step is a transaction with the lock_timeout of our migrations, repeated while a table is in use. The services run
on: they know nothing of the new column, as in a release that is rolled out after its migration.
Control: all of it in one transaction, which holds its locks for as long as it fills.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from services.chassis.migrations import LOCK_TRIES
from tests.faults.bench import WRITERS, Bench, Result, Round, Tally
from tests.faults.load import Manners
from tests.faults.people import join_by_link, make_channels, make_guest_link
from tests.faults.rolling_restart import Callers

ROWS = 20_000
_BATCH = 500
_CALL_SECONDS = 5.0
_CALM_SECONDS = 1.0
_RETRY_SECONDS = 0.5
_CONTROL_SECONDS = 8.0
"""What filling takes with some millions of rows; here it is waited for."""
_PARTITIONS = 16

ROLE = "SET ROLE messaging_owner"
BALLAST = """
    INSERT INTO messages (
        conversation_id, seq, event_seq, id, sender_member_id, sender_user_id, client_message_id, text
    )
    SELECT CAST(%s AS uuid), n, n, uuidv7(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), repeat('x', 100)
    FROM generate_series(1, %s) n
"""
HEADS = "UPDATE conversations SET last_seq = %s, last_event_seq = %s WHERE id = %s"
EXPAND = (
    "ALTER TABLE messages ADD COLUMN characters integer",
    """
    CREATE FUNCTION count_characters() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN NEW.characters := length(coalesce(NEW.text, '')); RETURN NEW; END $$
    """,
    """
    CREATE TRIGGER count_characters BEFORE INSERT OR UPDATE ON messages
    FOR EACH ROW EXECUTE FUNCTION count_characters()
    """,
)
# Rows that somebody has locked are left for the next batch, and lock nobody's.
FILL = f"""
    UPDATE messages m SET characters = length(coalesce(m.text, ''))
    FROM (
        SELECT conversation_id, seq FROM messages WHERE characters IS NULL
        LIMIT {_BATCH} FOR UPDATE SKIP LOCKED
    ) unfilled
    WHERE m.conversation_id = unfilled.conversation_id AND m.seq = unfilled.seq
"""
REQUIRE = "ALTER TABLE messages ADD CONSTRAINT messages_characters CHECK (characters IS NOT NULL) NOT VALID"
VALIDATE = "ALTER TABLE messages VALIDATE CONSTRAINT messages_characters"
STRICT = "ALTER TABLE messages ALTER COLUMN characters SET NOT NULL"
INDEX = "CREATE INDEX CONCURRENTLY messages_characters_{0:02} ON messages_p{0:02} (characters)"
CONTRACT = (
    "ALTER TABLE messages DROP CONSTRAINT messages_characters",
    "DROP TRIGGER count_characters ON messages",
    "DROP FUNCTION count_characters",
    "ALTER TABLE messages DROP COLUMN characters",
)


@dataclass
class _Seen:
    """The calls of all rounds."""

    answered: int = 0
    failed: int = 0
    steps: int = 0
    tries: int = 0
    slowest: float = 0.0

    def add(self, round_: Round, callers: Callers) -> None:
        """Takes in a round that has ended."""
        timings = round_.writer.timings
        self.answered += callers.answered + sum(timing.answered for timing in timings)
        self.failed += sum(callers.failed.values()) + sum(round_.writer.codes.values())
        self.slowest = max([self.slowest, *(timing.seconds for timing in timings)])


async def run(bench: Bench) -> Result:
    """No call fails."""
    seen, tally, control = _Seen(), Tally(), _Seen()
    for number in range(bench.rounds):
        bench.tell(f"round {number + 1} of {bench.rounds}")
        round_, callers = await _begin(bench, "F9")
        async with await bench.cluster.admin() as admin:
            await _as_owner(admin)
            await _migrate(admin, seen, bench)
        await _end(round_, callers, seen, tally)
    bench.tell("control: in one transaction")
    round_, callers = await _begin(bench, "F9-control")
    async with await bench.cluster.admin() as admin:
        await _as_owner(admin)
        await _migrate_at_once(admin)
    await _end(round_, callers, control, Tally())
    return Result(
        rounds=bench.rounds,
        holds=not (seen.failed or tally.findings) and seen.answered > 0,
        control_failed=control.failed > 0,
        detail={
            "rows": ROWS,
            "steps": seen.steps,
            "steps_repeated": seen.tries - seen.steps,
            "calls_answered": seen.answered,
            "calls_failed": seen.failed,
            "slowest_seconds": round(seen.slowest, 2),
            **tally.detail(),
            "control": {"protection_off": "steps of their own", "calls_failed": control.failed},
        },
    )


async def _begin(bench: Bench, name: str) -> tuple[Round, Callers]:
    workspace_id, team = await bench.home()
    guest = (await bench.people.take(WRITERS + 1))[WRITERS]
    ballast_id, channel_id = await make_channels(team[0], workspace_id, 2)
    await join_by_link(guest, await make_guest_link(team[0], workspace_id, channel_id))
    async with await bench.cluster.admin() as admin:
        await _as_owner(admin)
        async with admin.transaction():
            await admin.execute(BALLAST.encode(), [ballast_id, ROWS])
            await admin.execute(HEADS, [ROWS, ROWS, ballast_id])
    # No write is given up or repeated unseen: each failure counts.
    manners = Manners(gives_up_at_once=0, try_seconds=_CALL_SECONDS)
    round_ = Round(bench, name, workspace_id=workspace_id, members=team, manners=manners)
    await round_.begin()
    callers = Callers(team, guest, workspace_id, round_.conversation_ids[-1], channel_id)
    callers.start()
    await asyncio.sleep(_CALM_SECONDS)
    return round_, callers


async def _end(round_: Round, callers: Callers, seen: _Seen, tally: Tally) -> None:
    await asyncio.sleep(_CALM_SECONDS)
    await callers.stop()
    tally.add(round_, await round_.finish())
    seen.add(round_, callers)


async def _as_owner(admin: psycopg.AsyncConnection[Any]) -> None:
    await admin.execute(ROLE)
    await admin.execute("SET search_path = messaging")
    await admin.execute("SET lock_timeout = '1s'")


async def _migrate(admin: psycopg.AsyncConnection[Any], seen: _Seen, bench: Bench) -> None:
    """Step by step, with some time between them as between releases."""
    await _step(admin, seen, EXPAND)
    bench.tell("expanded")
    while await _step(admin, seen, (FILL,)):
        pass
    bench.tell("filled")
    await _step(admin, seen, (REQUIRE,))
    await _step(admin, seen, (VALIDATE,))
    await _step(admin, seen, (STRICT,))
    for partition in range(_PARTITIONS):
        # Not in a transaction, and it locks nobody out.
        await admin.execute(INDEX.format(partition).encode())
    bench.tell("strict")
    await asyncio.sleep(_CALM_SECONDS)
    await _step(admin, seen, CONTRACT)
    bench.tell("contracted")


async def _step(admin: psycopg.AsyncConnection[Any], seen: _Seen, statements: Sequence[str]) -> int:
    """One transaction, again while somebody uses the table; how many rows its last statement changed."""
    seen.steps += 1
    for tries_left in range(LOCK_TRIES, -1, -1):
        seen.tries += 1
        try:
            async with admin.transaction():
                for statement in statements:
                    cursor = await admin.execute(statement.encode())
            return cursor.rowcount
        except psycopg.errors.LockNotAvailable:
            if not tries_left:
                raise
        await asyncio.sleep(_RETRY_SECONDS)
    raise AssertionError("the last try returns or raises")


async def _migrate_at_once(admin: psycopg.AsyncConnection[Any]) -> None:
    await admin.execute("SET lock_timeout = 0")
    async with admin.transaction():
        for statement in (*EXPAND, FILL.replace(f"LIMIT {_BATCH}", ""), STRICT):
            await admin.execute(statement.encode())
        await asyncio.sleep(_CONTROL_SECONDS)
        for statement in CONTRACT[1:]:
            await admin.execute(statement.encode())
