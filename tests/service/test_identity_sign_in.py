"""Signing in, and what a repeated sign-in gets."""

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from argon2 import PasswordHasher
from guildhall.identity.v1 import auth_service_pb2 as pb
from guildhall.identity.v1 import auth_service_pb2_grpc, user_service_pb2, user_service_pb2_grpc

from tests.support.suite import PASSWORD, Suite, refused


@pytest.fixture
def auth(suite: Suite) -> Any:
    return suite.stub(auth_service_pb2_grpc.AuthServiceStub)


def sign_in(address: str, **fields: str) -> pb.SignInRequest:
    return pb.SignInRequest(**{"email": address, "password": PASSWORD, **fields})


def execute(suite: Suite, statement: str, *parameters: object) -> list[Any]:
    return suite.rows("identity_owner", statement, parameters)


async def test_the_right_password_starts_a_session(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    answer = await auth.SignIn(sign_in(person.email, device_label="laptop"), timeout=10)
    assert (answer.user.user_id, answer.session.user_id) == (person.user_id, person.user_id)
    assert answer.session.device_label == "laptop"
    assert answer.session.session_id != person.session_id
    assert answer.session.expire_time.seconds - answer.session.create_time.seconds == 7 * 24 * 3600
    assert answer.tokens.session_token.startswith("ghs_")
    assert not answer.secret_omitted
    users = suite.stub(user_service_pb2_grpc.UserServiceStub)
    metadata = (("authorization", f"Bearer {answer.tokens.access_token}"),)
    me = await users.GetUser(user_service_pb2.GetUserRequest(), timeout=10, metadata=metadata)
    assert me.user == answer.user


async def test_a_wrong_password_and_an_unknown_address_are_refused_alike(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    wrong = await refused(auth.SignIn(sign_in(person.email, password="not the password"), timeout=10))
    unknown = await refused(auth.SignIn(sign_in(f"x{person.email}"), timeout=10))
    assert wrong == unknown
    assert (wrong.code, wrong.reason) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS")


async def test_an_unverified_address_is_named_only_after_the_right_password(auth: Any) -> None:
    address = f"someone-{uuid.uuid4().hex[:12]}@example.com"
    await auth.SignUp(pb.SignUpRequest(email=address, password=PASSWORD, name="Ada"), timeout=10)
    right = await refused(auth.SignIn(sign_in(address), timeout=10))
    assert (right.code, right.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "EMAIL_UNVERIFIED")
    wrong = await refused(auth.SignIn(sign_in(address, password="not the password"), timeout=10))
    assert wrong.reason == "INVALID_CREDENTIALS"


async def test_a_disabled_user_is_refused_like_an_unknown_one_until_enabled(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    execute(suite, "UPDATE users SET disabled_at = statement_timestamp() WHERE id = %s", person.user_id)
    disabled = await refused(auth.SignIn(sign_in(person.email), timeout=10))
    assert disabled == await refused(auth.SignIn(sign_in(f"x{person.email}"), timeout=10))
    execute(suite, "UPDATE users SET disabled_at = NULL WHERE id = %s", person.user_id)
    assert (await auth.SignIn(sign_in(person.email), timeout=10)).user.user_id == person.user_id


async def test_a_repeated_sign_in_gets_the_same_tokens(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    request = sign_in(person.email, request_id=str(uuid.uuid4()))
    answers = [await auth.SignIn(request, timeout=10) for _ in range(2)]
    assert answers[0] == answers[1]
    again = await auth.SignIn(sign_in(person.email, request_id=str(uuid.uuid4())), timeout=10)
    assert again.session.session_id != answers[0].session.session_id


async def test_sixteen_sign_ins_with_one_key_are_one_session(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    request = sign_in(person.email, request_id=str(uuid.uuid4()))
    answers = await asyncio.gather(*(auth.SignIn(request, timeout=10) for _ in range(16)))
    assert len({answer.SerializeToString() for answer in answers}) == 1
    assert execute(suite, "SELECT count(*) FROM sessions WHERE user_id = %s", person.user_id) == [(2,)]


async def test_a_repeated_sign_in_needs_the_right_password_too(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    request_id = str(uuid.uuid4())
    await auth.SignIn(sign_in(person.email, request_id=request_id), timeout=10)
    wrong = sign_in(person.email, request_id=request_id, password="not the password")
    assert (await refused(auth.SignIn(wrong, timeout=10))).reason == "INVALID_CREDENTIALS"
    other = sign_in(person.email, request_id=request_id, device_label="another")
    assert (await refused(auth.SignIn(other, timeout=10))).reason == "IDEMPOTENCY_MISMATCH"


async def test_a_disabled_user_is_given_no_stored_answer(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    request = sign_in(person.email, request_id=str(uuid.uuid4()))
    await auth.SignIn(request, timeout=10)
    execute(suite, "UPDATE users SET disabled_at = statement_timestamp() WHERE id = %s", person.user_id)
    assert (await refused(auth.SignIn(request, timeout=10))).reason == "INVALID_CREDENTIALS"


async def test_after_ten_minutes_the_stored_answer_has_no_tokens_and_says_so(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    request = sign_in(person.email, request_id=str(uuid.uuid4()))
    first = await auth.SignIn(request, timeout=10)
    aged = "UPDATE idempotency_keys SET created_at = created_at - interval '10 minutes' WHERE method LIKE '%%/SignIn'"
    execute(suite, aged)
    later = await auth.SignIn(request, timeout=10)
    assert later.session == first.session
    assert later.secret_omitted
    assert not later.HasField("tokens")


async def test_a_hash_of_older_parameters_is_renewed_by_signing_in(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    older = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1).hash(PASSWORD)
    execute(suite, "UPDATE users SET password_hash = %s WHERE id = %s", older, person.user_id)
    wrong = sign_in(person.email, password="not the password")
    assert (await refused(auth.SignIn(wrong, timeout=10))).reason == "INVALID_CREDENTIALS"
    assert execute(suite, "SELECT password_hash FROM users WHERE id = %s", person.user_id) == [(older,)]
    answers = await asyncio.gather(*(auth.SignIn(sign_in(person.email), timeout=10) for _ in range(8)))
    assert {answer.user.user_id for answer in answers} == {person.user_id}
    [(renewed,)] = execute(suite, "SELECT password_hash FROM users WHERE id = %s", person.user_id)
    assert "m=19456,t=2,p=1" in renewed
    assert (await auth.SignIn(sign_in(person.email), timeout=10)).user.user_id == person.user_id


@pytest.mark.parametrize(
    ("change", "commits"),
    [
        ("disabled_at = statement_timestamp()", True),
        ("password_hash = 'of another password'", True),
        ("disabled_at = statement_timestamp()", False),
    ],
)
async def test_what_changes_while_a_password_is_verified_is_seen(
    suite: Suite, auth: Any, change: str, commits: bool
) -> None:
    person = await suite.person()
    with suite.database("identity_owner") as connection:
        connection.autocommit = False
        connection.execute(f"UPDATE users SET {change} WHERE id = %s".encode(), (person.user_id,))
        signing_in = asyncio.ensure_future(auth.SignIn(sign_in(person.email), timeout=10))
        while not execute(suite, "SELECT 1 FROM pg_locks WHERE NOT granted"):
            assert not signing_in.done()
            await asyncio.sleep(0.01)
        if commits:
            connection.commit()
        else:
            connection.rollback()
    if commits:
        assert (await refused(signing_in)).reason == "INVALID_CREDENTIALS"
    else:
        assert (await signing_in).user.user_id == person.user_id


async def test_a_user_without_a_password_cannot_sign_in_by_one(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    execute(suite, "UPDATE users SET password_hash = NULL WHERE id = %s", person.user_id)
    assert (await refused(auth.SignIn(sign_in(person.email), timeout=10))).reason == "INVALID_CREDENTIALS"


async def test_address_and_user_agent_come_from_the_gateway_only(suite: Suite) -> None:
    person = await suite.person()
    metadata = (("x-guildhall-client-address", "203.0.113.7"),)
    found = []
    for certificate in ("gateway", "membership"):
        auth = suite.stub(auth_service_pb2_grpc.AuthServiceStub, certificate=certificate)
        answer = await auth.SignIn(sign_in(person.email), timeout=10, metadata=metadata)
        query = "SELECT client_address FROM sessions WHERE id = %s"
        found += execute(suite, query, answer.session.session_id)
    assert found == [("203.0.113.7",), ("",)]
