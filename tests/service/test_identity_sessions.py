"""Sessions: refreshed, ended, run out, asked about."""

import asyncio
import uuid
from typing import Any

import grpc
import jwt
import pytest
from google.protobuf.json_format import MessageToDict
from guildhall.identity.v1 import auth_service_pb2 as pb
from guildhall.identity.v1 import (
    auth_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
    user_service_pb2,
    user_service_pb2_grpc,
)

from tests.support.suite import Person, Suite, refused


@pytest.fixture
def auth(suite: Suite) -> Any:
    return suite.stub(auth_service_pb2_grpc.AuthServiceStub)


def execute(suite: Suite, statement: str, *parameters: object) -> list[Any]:
    return suite.rows("identity_owner", statement, parameters)


def refresh(auth: Any, token: str) -> Any:
    return auth.RefreshSession(pb.RefreshSessionRequest(session_token=token), timeout=10)


def get_user(suite: Suite, person: Person) -> Any:
    users = suite.stub(user_service_pb2_grpc.UserServiceStub)
    return person.call(users.GetUser, user_service_pb2.GetUserRequest())


async def alive(suite: Suite, *session_ids: str) -> list[bool]:
    stub = suite.stub(session_service_pb2_grpc.SessionServiceStub, certificate="messaging")
    request = session_service_pb2.CheckSessionsRequest(session_ids=session_ids)
    return list((await stub.CheckSessions(request, timeout=10)).alive)


def age_claims(suite: Suite, session_id: str) -> None:
    """As if ten seconds had passed since the session's last refresh."""
    statement = "UPDATE session_tokens SET claimed_at = claimed_at - interval '10 seconds' WHERE session_id = %s"
    execute(suite, statement, session_id)


async def test_refreshing_gives_a_successor_that_can_be_refreshed(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    token, seen = person.session_token, {person.session_token}
    for _ in range(3):
        answer = await refresh(auth, token)
        token = answer.tokens.session_token
        assert token not in seen
        seen.add(token)
        assert answer.session.session_id == person.session_id
        person.access_token = answer.tokens.access_token
        assert (await get_user(suite, person)).user.user_id == person.user_id


async def test_a_retry_within_ten_seconds_gets_the_same_successor_and_a_fresh_access_token(
    suite: Suite, auth: Any
) -> None:
    person = await suite.person()
    first, second = [await refresh(auth, person.session_token) for _ in range(2)]
    assert first.tokens.session_token == second.tokens.session_token
    assert first.tokens.access_token != second.tokens.access_token
    await refresh(auth, first.tokens.session_token)
    third = await refresh(auth, person.session_token)
    assert third.tokens.session_token == first.tokens.session_token


async def test_twenty_refreshes_at_once_leave_one_live_chain(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    answers = await asyncio.gather(*(refresh(auth, person.session_token) for _ in range(20)))
    [successor] = {answer.tokens.session_token for answer in answers}
    query = "SELECT array_agg(generation ORDER BY generation) FROM session_tokens WHERE session_id = %s"
    assert execute(suite, query, person.session_id) == [([1, 2],)]
    for answer in answers:
        person.access_token = answer.tokens.access_token
        assert (await get_user(suite, person)).user.user_id == person.user_id
    await refresh(auth, successor)
    age_claims(suite, person.session_id)
    await refused(refresh(auth, successor))
    assert await alive(suite, person.session_id) == [False]


async def test_a_later_reuse_ends_the_session_for_everybody(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    successor = (await refresh(auth, person.session_token)).tokens.session_token
    age_claims(suite, person.session_id)
    refusal = await refused(refresh(auth, person.session_token))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "SESSION_ENDED")
    assert await alive(suite, person.session_id) == [False]
    assert await refused(refresh(auth, successor)) == refusal
    assert (await refused(get_user(suite, person))).reason == "SESSION_ENDED"
    query = "SELECT ended_reason FROM sessions WHERE id = %s"
    assert execute(suite, query, person.session_id) == [("token_reuse",)]


async def test_a_reuse_does_not_end_other_sessions(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    other = await suite.signed_in(person.email)
    await refresh(auth, person.session_token)
    age_claims(suite, person.session_id)
    await refused(refresh(auth, person.session_token))
    assert await alive(suite, person.session_id, other.session_id) == [False, True]


async def test_reuse_beside_refreshes_of_the_successor_always_ends_the_session(suite: Suite, auth: Any) -> None:
    for _ in range(20):
        person = await suite.signed_in((await shared_person(suite)).email)
        successor = (await refresh(auth, person.session_token)).tokens.session_token
        age_claims(suite, person.session_id)
        calls = [refresh(auth, token) for token in (successor, person.session_token) * 4]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        for outcome in outcomes[1::2]:
            assert isinstance(outcome, grpc.aio.AioRpcError)
        assert await alive(suite, person.session_id) == [False]
        await refused(refresh(auth, successor))


_shared: list[Person] = []


async def shared_person(suite: Suite) -> Person:
    """One person for many rounds."""
    if not _shared:
        _shared.append(await suite.person())
    return _shared[0]


async def test_an_unknown_session_token_is_refused_like_an_ended_one(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    await person.call(auth.SignOut, pb.SignOutRequest())
    ended = await refused(refresh(auth, person.session_token))
    assert ended == await refused(refresh(auth, "ghs_none"))
    assert ended.reason == "SESSION_ENDED"


async def test_signing_out_ends_this_session_only(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    other = await suite.signed_in(person.email)
    await person.call(auth.SignOut, pb.SignOutRequest())
    assert (await refused(get_user(suite, person))).reason == "SESSION_ENDED"
    assert (await refused(person.call(auth.SignOut, pb.SignOutRequest()))).reason == "SESSION_ENDED"
    assert (await get_user(suite, other)).user.user_id == person.user_id
    query = "SELECT ended_reason FROM sessions WHERE id = %s"
    assert execute(suite, query, person.session_id) == [("signed_out",)]


@pytest.mark.parametrize(("remaining", "is_alive"), [("0 seconds", False), ("1 minute", True)])
async def test_a_session_runs_out_by_the_databases_clock(
    suite: Suite, auth: Any, remaining: str, is_alive: bool
) -> None:
    person = await suite.person()
    statement = "UPDATE sessions SET idle_expire_at = statement_timestamp() + CAST(%s AS interval) WHERE id = %s"
    execute(suite, statement, remaining, person.session_id)
    assert await alive(suite, person.session_id) == [is_alive]
    if is_alive:
        assert (await get_user(suite, person)).user.user_id == person.user_id
        refreshed = await refresh(auth, person.session_token)
        assert refreshed.session.expire_time.seconds - refreshed.session.create_time.seconds >= 7 * 24 * 3600
    else:
        assert (await refused(get_user(suite, person))).reason == "SESSION_ENDED"
        assert (await refused(refresh(auth, person.session_token))).reason == "SESSION_ENDED"


async def test_refreshing_never_moves_the_end_past_thirty_days(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    statement = """UPDATE sessions SET idle_expire_at = statement_timestamp() + interval '1 hour',
        absolute_expire_at = statement_timestamp() + interval '1 day' WHERE id = %s RETURNING absolute_expire_at"""
    [(absolute,)] = execute(suite, statement, person.session_id)
    refreshed = await refresh(auth, person.session_token)
    assert refreshed.session.expire_time.ToMicroseconds() == int(absolute.timestamp() * 1_000_000)


async def test_disabling_a_user_stops_all_their_sessions_at_once(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    assert await alive(suite, person.session_id) == [True]
    execute(suite, "UPDATE users SET disabled_at = statement_timestamp() WHERE id = %s", person.user_id)
    assert await alive(suite, person.session_id) == [False]
    assert (await refused(get_user(suite, person))).reason == "SESSION_ENDED"
    assert (await refused(refresh(auth, person.session_token))).reason == "SESSION_ENDED"


async def test_sessions_are_answered_in_the_order_asked_duplicates_included(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    ended = await suite.signed_in(person.email)
    await ended.call(auth.SignOut, pb.SignOutRequest())
    asked = [ended.session_id, person.session_id, str(uuid.uuid4()), person.session_id.upper(), person.session_id]
    assert await alive(suite, *asked) == [False, True, False, True, True]


@pytest.mark.parametrize("certificate", ["gateway", "identity"])
async def test_only_services_may_ask_about_sessions_and_users(suite: Suite, certificate: str) -> None:
    sessions = suite.stub(session_service_pb2_grpc.SessionServiceStub, certificate=certificate)
    users = suite.stub(user_service_pb2_grpc.UserServiceStub, certificate=certificate)
    some_id = str(uuid.uuid4())
    for call in (
        sessions.CheckSessions(session_service_pb2.CheckSessionsRequest(session_ids=[some_id]), timeout=10),
        users.BatchGetUsers(user_service_pb2.BatchGetUsersRequest(user_ids=[some_id]), timeout=10),
    ):
        assert (await refused(call)).reason == "PEER_NOT_ALLOWED"


async def test_peers_get_those_users_that_exist_each_once(suite: Suite) -> None:
    ada, bob = await suite.person("Ada"), await suite.person("Bob")
    users = suite.stub(user_service_pb2_grpc.UserServiceStub, certificate="membership")
    asked = [ada.user_id, str(uuid.uuid4()), bob.user_id.upper(), ada.user_id]
    answer = await users.BatchGetUsers(user_service_pb2.BatchGetUsersRequest(user_ids=asked), timeout=10)
    found = {user.user_id: (user.name, user.normalized_email) for user in answer.users}
    assert found == {ada.user_id: ("Ada", ada.email), bob.user_id: ("Bob", bob.email)}
    assert len(answer.users) == 2


async def test_messaging_may_not_ask_about_users(suite: Suite) -> None:
    users = suite.stub(user_service_pb2_grpc.UserServiceStub, certificate="messaging")
    request = user_service_pb2.BatchGetUsersRequest(user_ids=[str(uuid.uuid4())])
    assert (await refused(users.BatchGetUsers(request, timeout=10))).reason == "PEER_NOT_ALLOWED"


async def test_the_caller_sees_themselves_only_with_a_token(suite: Suite) -> None:
    person = await suite.person()
    me = (await get_user(suite, person)).user
    assert (me.user_id, me.email, me.name, me.normalized_email) == (person.user_id, person.email, person.name, "")
    users = suite.stub(user_service_pb2_grpc.UserServiceStub)
    assert (await refused(users.GetUser(user_service_pb2.GetUserRequest(), timeout=10))).reason == "UNAUTHENTICATED"


async def test_the_published_keys_verify_access_tokens(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    answer = await auth.GetJwks(pb.GetJwksRequest(), timeout=10)
    keys = {key.kid: jwt.PyJWK(MessageToDict(key)) for key in answer.keys}
    header = jwt.get_unverified_header(person.access_token)
    claims = jwt.decode(
        person.access_token, keys[header["kid"]], algorithms=["EdDSA"], audience="guildhall", issuer="guildhall"
    )
    assert (claims["sub"], claims["sid"]) == (person.user_id, person.session_id)
    assert claims["exp"] - claims["iat"] == 300
    assert claims["jti"]


async def test_a_forged_access_token_is_refused(suite: Suite) -> None:
    person = await suite.person()
    head, body, signature = person.access_token.split(".")
    person.access_token = f"{head}.{body}.{'A' * len(signature)}"
    assert (await refused(get_user(suite, person))).reason == "UNAUTHENTICATED"
