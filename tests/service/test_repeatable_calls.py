"""What is kept of repeatable calls, in a service's own table: for how long, and whose."""

import hashlib

import pytest
import uuid_utils
from guildhall.identity.v1 import user_service_pb2 as pb

from services.chassis import idempotency
from services.chassis.call import CURRENT, Call
from tests.support.identities import execute
from tests.support.suite import Suite


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
    await suite.frames["identity"].database.transaction(lambda tx: tx.execute(idempotency.FORGET))
    assert execute(suite, query, caller) == [kept]
    older = "UPDATE idempotency_keys SET created_at = statement_timestamp() - interval '48 hours' WHERE caller = %s"
    execute(suite, older, caller)
    for _ in range(2):  # what one sweep unseals the next one deletes
        await suite.frames["identity"].database.transaction(lambda tx: tx.execute(idempotency.FORGET))
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
