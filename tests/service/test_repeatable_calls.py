"""What is kept of repeatable calls, in a service's own table: for how long, and whose. Likewise of events."""

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
import uuid_utils
from guildhall.identity.v1 import user_service_pb2 as pb
from sqlalchemy.exc import DBAPIError

from deploy.stack.settings import SERVICES
from services.chassis import idempotency, inbox
from services.chassis.call import CURRENT, Call
from services.chassis.worker import FRAME_ROWS, forgetting
from tests.support.identities import execute
from tests.support.suite import Suite


async def sweep_frame(suite: Suite, *, failing: str = "") -> list[str]:
    """Has identity forget what every service does; says which sweeps failed, of which only the named one may."""
    failed = []
    for name, sweep in forgetting(suite.frames["identity"].database, FRAME_ROWS).items():
        try:
            await sweep()
        except DBAPIError:
            if name != failing:
                raise
            failed.append(name)
    return failed


@pytest.mark.parametrize(
    ("age", "kept"),
    [("9 minutes", (b"answer", b"sealed")), ("10 minutes", (b"answer", None)), ("47 hours", (b"answer", None))],
)
async def test_a_secret_in_an_answer_is_kept_for_ten_minutes_and_the_rest_for_two_days(
    suite: Suite, age: str, kept: tuple[bytes, bytes | None]
) -> None:
    caller = str(uuid_utils.uuid7())
    put = """INSERT INTO idempotency_keys
        (caller, method, key_hash, request_mac, answer, sealed_answer, created_at)
        VALUES (%s, 'm', '', '', 'answer', 'sealed', statement_timestamp() - CAST(%s AS interval))"""
    query = "SELECT answer, sealed_answer FROM idempotency_keys WHERE caller = %s"
    execute(suite, put, caller, age)
    await sweep_frame(suite)
    assert execute(suite, query, caller) == [kept]
    older = "UPDATE idempotency_keys SET created_at = statement_timestamp() - interval '48 hours' WHERE caller = %s"
    execute(suite, older, caller)
    await sweep_frame(suite)
    assert execute(suite, query, caller) == []


async def test_only_the_callers_own_answer_to_that_call_is_forgotten(suite: Suite) -> None:
    caller, other, key, other_key = (str(uuid_utils.uuid7()) for _ in range(4))
    rows = [(caller, "/a/B", key), (other, "/a/B", key), (caller, "/a/C", key), (caller, "/a/B", other_key)]
    put = "INSERT INTO idempotency_keys (caller, method, key_hash, request_mac) VALUES (%s, %s, %s, '')"
    for of, method, each in rows:
        execute(suite, put, of, method, hashlib.sha256(each.encode()).digest())
    request = pb.DisableUserRequest(request_id=key.upper())
    token = CURRENT.set(Call(rpc="/a/B", request_id="r", peer="gateway", deadline=0, user_id=caller))
    try:
        await suite.frames["identity"].database.transaction(lambda tx: idempotency.forget(tx, request))
    finally:
        CURRENT.reset(token)

    query = "SELECT caller, method, key_hash FROM idempotency_keys WHERE caller = ANY(%s)"
    left = {(of, method, bytes(digest)) for of, method, digest in execute(suite, query, [caller, other])}
    assert left == {(of, method, hashlib.sha256(each.encode()).digest()) for of, method, each in rows[1:]}


STORED = """
    INSERT INTO idempotency_keys (caller, method, key_hash, request_mac, answer, sealed_answer, created_at)
    SELECT %s, 'm', int4send(n), '', 'answer', %s, statement_timestamp() - CAST(%s AS interval)
    FROM generate_series(1, %s) AS n
"""
APPLIED = """
    INSERT INTO inbox (event_id, source, kind, applied_at)
    SELECT gen_random_uuid(), %s, 'x', statement_timestamp() - interval '8 days' FROM generate_series(1, %s)
"""


async def test_each_step_of_forgetting_is_a_thousand_rows_and_a_sweep_takes_them_all(suite: Suite) -> None:
    caller, database = str(uuid_utils.uuid7()), suite.frames["identity"].database
    await sweep_frame(suite)
    execute(suite, STORED, caller, b"sealed", "3 days", 2500)
    execute(suite, APPLIED, caller, 2500)
    counts = """SELECT count(sealed_answer), count(*), (SELECT count(*) FROM inbox WHERE source = %s)
        FROM idempotency_keys WHERE caller = %s"""
    assert [await database.transaction(step) for step in FRAME_ROWS.values()] == [1000] * 3
    # Of one age, as these are, the first thousand to be unsealed need not be the first to be deleted.
    [(_, answers, applied)] = execute(suite, counts, caller, caller)
    assert (answers, applied) == (1500, 1500)
    await sweep_frame(suite)
    assert execute(suite, counts, caller, caller) == [(0, 0, 0)]


async def test_what_cannot_be_forgotten_keeps_nothing_else_from_it(suite: Suite) -> None:
    caller = str(uuid_utils.uuid7())
    execute(suite, STORED, caller, b"sealed", "3 days", 1)
    execute(suite, APPLIED, caller, 1)
    execute(
        suite,
        """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON idempotency_keys EXECUTE FUNCTION refuse()""",
    )
    try:
        assert await sweep_frame(suite, failing="unseal_answers") == ["unseal_answers"]
    finally:
        execute(suite, "DROP FUNCTION refuse CASCADE")
    for count in ("idempotency_keys WHERE caller = %s", "inbox WHERE source = %s"):
        assert execute(suite, f"SELECT count(*) FROM {count}", caller) == [(0,)]


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (idempotency.UNSEAL_OLD, "idempotency_keys_sealed"),
        (idempotency.FORGET_OLD, "idempotency_keys_created"),
        (inbox.FORGET_OLD, "inbox_applied"),
    ],
)
def test_what_is_to_be_forgotten_is_found_without_reading_what_is_not(
    suite: Suite, service: str, statement: Any, index: str
) -> None:
    # As the owner, who may have the tables analysed, and in a transaction of which nobody else sees anything.
    with suite.database(f"{service}_owner") as database, database.transaction(force_rollback=True):
        for sealed, age, count in ((None, "1 day", 20_000), (b"sealed", "1 minute", 100), (b"sealed", "3 days", 3)):
            database.execute(STORED, (f"~{age}", sealed, age, count))
        database.execute(
            "INSERT INTO inbox (event_id, source, kind) SELECT gen_random_uuid(), '~', 'x' "
            "FROM generate_series(1, 20000)"
        )
        database.execute(APPLIED, ("~", 3))
        database.execute("ANALYZE idempotency_keys, inbox")
        ((plan,),) = database.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.text}".encode()).fetchall()

    every = list(nodes(plan[0]["Plan"]))
    assert "Seq Scan" not in {node["Node Type"] for node in every}
    (scan,) = [node for node in every if node.get("Index Name") == index]
    assert scan["Actual Rows"] < 100
    assert scan.get("Rows Removed by Filter", 0) == 0


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A node of a plan, and all below it."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)
