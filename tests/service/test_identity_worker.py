"""What identity's worker does: mails, and forgetting."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import uuid_utils
from guildhall.identity.v1 import auth_service_pb2 as pb
from guildhall.identity.v1 import auth_service_pb2_grpc

from services.chassis.worker import Work
from services.identity import departures, sessions, verification
from services.identity.tasks import Mails
from tests.support.identities import forget
from tests.support.suite import PASSWORD, Suite, refused


@pytest.fixture
def auth(suite: Suite) -> Any:
    return suite.stub(auth_service_pb2_grpc.AuthServiceStub)


@pytest.fixture
def mails(suite: Suite, tmp_path: Path) -> Mapping[str, Work]:
    frame = suite.frames["identity"]
    return Mails(suite.settings("identity", mail_dir=tmp_path), frame.database, frame.secret).works()


def new_row_id() -> str:
    """An id as outbox rows have them."""
    return str(uuid_utils.uuid7())


def execute(suite: Suite, statement: str, *parameters: object) -> list[Any]:
    return suite.rows("identity_owner", statement, parameters)


def written(folder: Path) -> dict[str, str]:
    """The mails in a folder by their files' names."""
    return {path.name: path.read_text() for path in folder.iterdir()}


async def signed_up(suite: Suite, auth: Any) -> tuple[str, str]:
    """A new address and the id of its verification token."""
    address = f"someone-{uuid.uuid4().hex[:12]}@example.com"
    await auth.SignUp(pb.SignUpRequest(email=address, password=PASSWORD, name="Ada"), timeout=10)
    query = """SELECT verification_tokens.id FROM verification_tokens
        JOIN users ON users.id = user_id WHERE normalized_email = %s"""
    [(token_id,)] = execute(suite, query, address)
    return address, str(token_id)


async def test_a_mail_written_twice_is_one_file_with_the_same_token(
    suite: Suite, auth: Any, mails: Mapping[str, Work], tmp_path: Path
) -> None:
    address, token_id = await signed_up(suite, auth)
    row_id = new_row_id()
    await mails["mail.verify_email"](token_id, row_id)
    once = written(tmp_path)
    await mails["mail.verify_email"](token_id, row_id)
    assert written(tmp_path) == once
    assert list(once) == [f"{row_id}.eml"]
    assert f"Token: {await suite.mailed_token(address)}" in once[f"{row_id}.eml"]


async def test_no_mail_is_written_about_a_token_that_was_used(
    suite: Suite, auth: Any, mails: Mapping[str, Work], tmp_path: Path
) -> None:
    address, token_id = await signed_up(suite, auth)
    await auth.VerifyEmail(pb.VerifyEmailRequest(token=await suite.mailed_token(address)), timeout=10)
    await mails["mail.verify_email"](token_id, new_row_id())
    assert not written(tmp_path)


@pytest.mark.parametrize(
    ("change", "is_kept"),
    [
        ("expire_at = statement_timestamp() + interval '1 minute'", True),
        ("expire_at = statement_timestamp()", False),
        ("used_at = statement_timestamp() - interval '47 hours'", True),
        ("used_at = statement_timestamp() - interval '48 hours'", False),
    ],
)
async def test_tokens_that_are_good_for_nothing_are_forgotten(
    suite: Suite, auth: Any, change: str, is_kept: bool
) -> None:
    _, token_id = await signed_up(suite, auth)
    execute(suite, f"UPDATE verification_tokens SET {change} WHERE id = %s", token_id)
    await forget(suite)
    query = "SELECT count(*) FROM verification_tokens WHERE id = %s"
    assert execute(suite, query, token_id) == [(int(is_kept),)]


@pytest.mark.parametrize(
    ("days", "has_session", "has_token"), [(-1, True, True), (0, True, False), (29, True, False), (31, False, False)]
)
async def test_sessions_are_forgotten_a_month_after_their_end_and_their_tokens_at_once(
    suite: Suite, days: int, has_session: bool, has_token: bool
) -> None:
    person = await suite.person()
    statement = "UPDATE sessions SET idle_expire_at = statement_timestamp() - %s * interval '1 day' WHERE id = %s"
    execute(suite, statement, days, person.session_id)
    await forget(suite)
    for table, column, is_kept in (("sessions", "id", has_session), ("session_tokens", "session_id", has_token)):
        query = f"SELECT count(*) FROM {table} WHERE {column} = %s"
        assert execute(suite, query, person.session_id) == [(int(is_kept),)]


async def test_a_stolen_token_is_noticed_as_long_as_its_session_lives(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    successor = await auth.RefreshSession(pb.RefreshSessionRequest(session_token=person.session_token), timeout=10)
    aged = "UPDATE session_tokens SET claimed_at = claimed_at - interval '29 days' WHERE session_id = %s"
    execute(suite, aged, person.session_id)
    await forget(suite)
    for token in (person.session_token, successor.tokens.session_token):
        presented = auth.RefreshSession(pb.RefreshSessionRequest(session_token=token), timeout=10)
        assert (await refused(presented)).reason == "SESSION_ENDED"
    ended = execute(suite, "SELECT ended_reason FROM sessions WHERE id = %s", person.session_id)
    assert ended == [("token_reuse",)]


async def test_a_session_is_forgotten_after_the_last_of_its_tokens(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MOST_TOKENS", 2)
    person, database = await suite.person(), suite.frames["identity"].database
    # So long ago that they are the first of all that are over.
    over = "UPDATE sessions SET idle_expire_at = '-infinity' WHERE id = %s"
    execute(suite, over, person.session_id)
    more = """INSERT INTO session_tokens (token_hash, session_id, generation, claimed_at)
        SELECT sha256(convert_to(%s || n, 'UTF8')), %s, n, statement_timestamp() FROM generate_series(2, 5) AS n"""
    execute(suite, more, person.session_id, person.session_id)
    tokens = "SELECT count(*) FROM session_tokens WHERE session_id = %s"
    left = []
    with suite.database("identity_owner") as others, others.transaction():
        # The suite's own worker passes by what is locked; this one is the only one over that is not.
        others.execute(
            "SELECT FROM sessions WHERE has_tokens AND idle_expire_at <= statement_timestamp() AND id <> %s FOR UPDATE",
            (person.session_id,),
        )
        while await database.transaction(sessions.forget_tokens):
            left += execute(suite, tokens, person.session_id)
            await database.transaction(sessions.forget)
            has_tokens = execute(suite, "SELECT has_tokens FROM sessions WHERE id = %s", person.session_id)
            assert has_tokens == ([(True,)] if left[-1] != (0,) else [])
    assert left == [(3,), (1,), (0,)]


async def test_what_somebody_has_locked_is_passed_by_and_forgotten_the_next_time(suite: Suite) -> None:
    locked, free = await suite.person(), await suite.person()
    ids = [locked.session_id, free.session_id]
    over = "UPDATE sessions SET idle_expire_at = statement_timestamp() - interval '31 days' WHERE id = ANY(%s::uuid[])"
    execute(suite, over, ids)
    query = "SELECT id::text FROM sessions WHERE id = ANY(%s::uuid[])"
    with suite.database("identity_owner") as connection, connection.transaction():
        connection.execute("SELECT FROM sessions WHERE id = %s FOR UPDATE", (locked.session_id,))
        await forget(suite)
        assert execute(suite, query, ids) == [(locked.session_id,)]
    await forget(suite)
    assert execute(suite, query, ids) == []


@pytest.mark.parametrize(("age", "is_kept"), [("6 days 23 hours", True), ("7 days 1 second", False)])
async def test_a_sign_up_that_nobody_came_back_to_is_forgotten_after_a_week(
    suite: Suite, auth: Any, age: str, is_kept: bool
) -> None:
    address, _ = await signed_up(suite, auth)
    aged = "UPDATE users SET updated_at = statement_timestamp() - CAST(%s AS interval) WHERE email = %s RETURNING id"
    [(user_id,)] = execute(suite, aged, age, address)
    # Kept however old, as long as a mail about it is good.
    await forget(suite)
    assert execute(suite, "SELECT id FROM users WHERE email = %s", address)
    execute(suite, "UPDATE verification_tokens SET expire_at = statement_timestamp() WHERE user_id = %s", user_id)
    await forget(suite)
    assert bool(execute(suite, "SELECT id FROM users WHERE email = %s", address)) is is_kept


def test_what_is_over_and_what_is_to_be_done_is_found_by_indexes(suite: Suite) -> None:
    with suite.database("identity") as database:
        database.execute("SET enable_seqscan = off")
        for statement in (verification.FORGET, departures.FORGET_WORK):
            query = str(statement).replace(":user_id", f"'{uuid.uuid4()}'")
            plan = "\n".join(line for (line,) in database.execute(f"EXPLAIN {query}".encode()).fetchall())
            assert "Seq Scan" not in plan, plan
