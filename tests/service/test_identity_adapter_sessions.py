"""The sessions of an Auth.js adapter: Guildhall sessions under the framework's own tokens."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.identity.v1 import adapter_service_pb2 as pb
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.identity.v1 import session_service_pb2 as sessions
from guildhall.identity.v1 import session_service_pb2_grpc as sessions_rpc
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc as users_rpc

from tests.support.administrators import administrator, backend
from tests.support.apps import App, after, at, or_none
from tests.support.identities import execute, kinds_of
from tests.support.suite import Person, Suite, refused

NOBODY = str(uuid.uuid4())


@pytest.fixture(scope="module")
async def app(suite: Suite) -> App:
    return App(suite, await backend(suite, "identity.adapter"))


def session_of(user_id: str, **span: float) -> pb.AdapterSession:
    """A session that is not started yet; a day long unless said otherwise."""
    expires = after(**(span or {"days": 1}))
    return pb.AdapterSession(session_token=uuid.uuid4().hex, user_id=user_id, expires=expires)


async def started(app: App, user_id: str, **span: float) -> pb.AdapterSession:
    session = (await app("CreateSession", session=session_of(user_id, **span))).session
    assert isinstance(session, pb.AdapterSession)
    return session


async def find(app: App, token: str) -> Any:
    """getSessionAndUser: both or None."""
    answer = await app("GetSessionAndUser", session_token=token)
    assert answer.HasField("session") is answer.HasField("user")
    return (answer.session, answer.user) if answer.HasField("session") else None


async def person_of(app: App, session: pb.AdapterSession) -> Person:
    """Whose session it is, calling with an access token of it."""
    answer = await app("CreateAccessToken", session_token=session.session_token)
    return Person(session.user_id, "", "", "", session.session_token, answer.access_token)


async def get_user(suite: Suite, person: Person) -> users.User:
    answer = await person.call(suite.stub(users_rpc.UserServiceStub).GetUser, users.GetUserRequest())
    assert isinstance(answer.user, users.User)
    return answer.user


async def test_a_session_is_started_under_the_frameworks_token_and_found(suite: Suite, app: App) -> None:
    made = await app.user(name="Ada")
    wanted = session_of(made.id)
    assert (await app("CreateSession", session=wanted)).session == wanted
    assert await find(app, wanted.session_token) == (wanted, made)
    assert kinds_of(suite, made.id) == ["signed_in"]


async def test_nothing_is_found_by_an_unknown_token(app: App) -> None:
    assert await find(app, uuid.uuid4().hex) is None


async def test_a_repeated_start_is_the_same_session(suite: Suite, app: App) -> None:
    made, request_id = await app.user(), str(uuid.uuid4())
    wanted = session_of(made.id)
    for _ in range(2):
        assert (await app("CreateSession", session=wanted, request_id=request_id)).session == wanted
    assert len(execute(suite, "SELECT id FROM sessions WHERE user_id = %s", made.id)) == 1


async def test_a_token_that_is_in_use_starts_no_other_session(suite: Suite, app: App) -> None:
    ada, ben = await app.user(), await app.user()
    session = await started(app, ada.id)
    for user in (ada, ben):
        again = pb.AdapterSession(session_token=session.session_token, user_id=user.id, expires=session.expires)
        refusal = await refused(app("CreateSession", session=again))
        assert (refusal.reason, list(refusal.fields)) == ("INVALID_REQUEST", ["session.session_token"])
    assert await find(app, session.session_token) == (session, ada)
    assert execute(suite, "SELECT id FROM sessions WHERE user_id = %s", ben.id) == []


async def test_of_many_starts_with_one_token_at_once_one_wins(app: App) -> None:
    wanted = session_of((await app.user()).id)
    calls = (app("CreateSession", session=wanted) for _ in range(8))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(one, pb.AdapterServiceCreateSessionResponse) for one in outcomes) == 1


async def test_neither_an_unknown_nor_a_disabled_user_gets_a_session(suite: Suite, app: App) -> None:
    made = await app.user()
    execute(suite, "UPDATE users SET disabled_at = statement_timestamp() WHERE id = %s", made.id)
    refusals = [await refused(app("CreateSession", session=session_of(user_id))) for user_id in (made.id, NOBODY)]
    assert refusals[0] == refusals[1]
    assert refusals[0].code == grpc.StatusCode.NOT_FOUND
    execute(suite, "UPDATE users SET disabled_at = NULL WHERE id = %s", made.id)
    await started(app, made.id)


@pytest.mark.parametrize("token", ["", "fifteen letters", "x" * 256])
async def test_a_token_that_could_be_guessed_or_is_too_long_is_refused(app: App, token: str) -> None:
    session = pb.AdapterSession(session_token=token, user_id=(await app.user()).id, expires=after(days=1))
    refusal = await refused(app("CreateSession", session=session))
    assert list(refusal.fields) == ["session.session_token"]


@pytest.mark.parametrize(("remaining", "is_alive"), [("0 seconds", False), ("1 minute", True)])
async def test_a_session_is_alive_while_the_clock_is_before_its_end(
    suite: Suite, app: App, remaining: str, is_alive: bool
) -> None:
    session = await started(app, (await app.user()).id)
    execute(
        suite,
        """UPDATE sessions SET idle_expire_at = statement_timestamp() + CAST(%s AS interval),
            absolute_expire_at = statement_timestamp() + CAST(%s AS interval) WHERE user_id = %s""",
        remaining,
        remaining,
        session.user_id,
    )
    token = session.session_token
    assert (await find(app, token) is not None) is is_alive
    mask = FieldMask(paths=["user_id"])
    updated = await app("UpdateSession", session_token=token, update_mask=mask, user_id=session.user_id)
    assert updated.HasField("session") is is_alive
    if not is_alive:
        assert (await refused(app("CreateAccessToken", session_token=token))).reason == "SESSION_ENDED"
        assert not (await app("DeleteSession", session_token=token)).HasField("session")


async def test_a_session_that_was_over_before_it_began_is_kept_and_never_alive(app: App) -> None:
    session = await started(app, (await app.user()).id, seconds=-1)
    assert await find(app, session.session_token) is None


async def test_a_disabled_users_session_is_absent(suite: Suite, app: App) -> None:
    person, root = await suite.person(), await administrator(suite)
    session = await started(app, person.user_id)
    stub = suite.stub(users_rpc.UserServiceStub)
    await root.call(stub.DisableUser, users.DisableUserRequest(user_id=person.user_id))
    assert await find(app, session.session_token) is None
    assert (await refused(app("CreateAccessToken", session_token=session.session_token))).reason == "SESSION_ENDED"
    await root.call(stub.EnableUser, users.EnableUserRequest(user_id=person.user_id))
    assert await find(app, session.session_token) is None


async def test_an_update_moves_the_end_in_both_directions(app: App) -> None:
    session = await started(app, (await app.user()).id)
    token, mask = session.session_token, FieldMask(paths=["expires"])
    for days in (400, 1, 30):
        session.expires.CopyFrom(at(datetime.now(UTC) + timedelta(days=days)))
        updated = await app("UpdateSession", session_token=token, update_mask=mask, expires=session.expires)
        assert updated.session == session
        assert (await find(app, token))[0] == session
    await app("UpdateSession", session_token=token, update_mask=mask, expires=after(seconds=-1))
    assert await find(app, token) is None
    late = await app("UpdateSession", session_token=token, update_mask=mask, expires=after(days=1))
    assert or_none(late, "session") is None


async def test_an_update_of_no_session_is_null(app: App) -> None:
    mask = FieldMask(paths=["expires"])
    answer = await app("UpdateSession", session_token=uuid.uuid4().hex, update_mask=mask, expires=after(days=1))
    assert or_none(answer, "session") is None


async def test_a_session_keeps_its_user(app: App) -> None:
    ada, ben = await app.user(), await app.user()
    session = await started(app, ada.id)
    fields = {"session_token": session.session_token, "update_mask": FieldMask(paths=["user_id", "expires"])}
    refusal = await refused(app("UpdateSession", **fields, user_id=ben.id, expires=after(days=9)))
    assert (refusal.reason, list(refusal.fields)) == ("INVALID_REQUEST", ["user_id"])
    assert await find(app, session.session_token) == (session, ada)
    kept = await app("UpdateSession", **fields, user_id=ada.id.upper(), expires=session.expires)
    assert kept.session == session


async def test_a_deleted_session_is_returned_once(suite: Suite, app: App) -> None:
    session, request_id = await started(app, (await app.user()).id), str(uuid.uuid4())
    token = session.session_token
    for _ in range(2):
        assert (await app("DeleteSession", session_token=token, request_id=request_id)).session == session
    assert or_none(await app("DeleteSession", session_token=token), "session") is None
    assert await find(app, token) is None
    [(reason,)] = execute(suite, "SELECT ended_reason FROM sessions WHERE user_id = %s", session.user_id)
    assert reason == "adapter_deleted"
    assert kinds_of(suite, session.user_id) == ["signed_in", "signed_out"]


async def test_its_access_token_calls_for_the_user_until_the_session_is_deleted(suite: Suite, app: App) -> None:
    made = await app.user(name="Ada")
    session = await started(app, made.id)
    person = await person_of(app, session)
    assert (await get_user(suite, person)).user_id == made.id
    await app("DeleteSession", session_token=session.session_token)
    assert (await refused(get_user(suite, person))).reason == "SESSION_ENDED"
    assert (await refused(app("CreateAccessToken", session_token=session.session_token))).reason == "SESSION_ENDED"


async def test_an_access_token_lasts_five_minutes_and_leaves_the_session_token_as_it_is(app: App) -> None:
    session = await started(app, (await app.user()).id)
    answer = await app("CreateAccessToken", session_token=session.session_token)
    left = answer.access_token_expire_time.ToDatetime(tzinfo=UTC) - datetime.now(UTC)
    assert timedelta(minutes=4) < left <= timedelta(minutes=5, seconds=5)
    assert await find(app, session.session_token) is not None


async def test_the_user_sees_the_session_among_their_own_and_revokes_it(suite: Suite, app: App) -> None:
    person = await suite.person()
    session = await started(app, person.user_id)
    stub = suite.stub(sessions_rpc.SessionServiceStub)
    listed = (await person.call(stub.ListSessions, sessions.ListSessionsRequest())).sessions
    [other] = [one for one in listed if not one.current]
    assert other.expire_time == other.absolute_expire_time == session.expires
    await person.call(stub.RevokeSession, sessions.RevokeSessionRequest(session_id=other.session_id))
    assert await find(app, session.session_token) is None
    assert or_none(await app("DeleteSession", session_token=session.session_token), "session") is None


async def test_the_adapter_and_refresh_keep_to_their_own_sessions(suite: Suite, app: App) -> None:
    person = await suite.person()
    session = await started(app, person.user_id)
    login = suite.stub(auth_rpc.AuthServiceStub)
    refusal = await refused(
        login.RefreshSession(auth.RefreshSessionRequest(session_token=session.session_token), timeout=10)
    )
    assert refusal.reason == "SESSION_ENDED"
    assert await find(app, session.session_token) is not None
    assert await find(app, person.session_token) is None
    assert (await refused(app("CreateAccessToken", session_token=person.session_token))).reason == "SESSION_ENDED"
    assert or_none(await app("DeleteSession", session_token=person.session_token), "session") is None
    refreshed = await login.RefreshSession(auth.RefreshSessionRequest(session_token=person.session_token), timeout=10)
    assert refreshed.session.user_id == person.user_id


async def test_no_token_and_no_identifier_of_the_framework_is_kept_in_clear(suite: Suite, app: App) -> None:
    made, secret = await app.user(), f"canary-{uuid.uuid4().hex}"
    identifier = f"{uuid.uuid4().hex}@example.com"
    ids = iter(str(uuid.uuid4()) for _ in range(9))
    session = pb.AdapterSession(session_token=secret, user_id=made.id, expires=after(days=1))
    await app("CreateSession", session=session, request_id=next(ids))
    mask = FieldMask(paths=["expires"])
    await app("UpdateSession", session_token=secret, update_mask=mask, expires=after(days=2), request_id=next(ids))
    await app("DeleteSession", session_token=secret, request_id=next(ids))
    token = pb.AdapterVerificationToken(identifier=identifier, token=secret, expires=after(days=1))
    await app("CreateVerificationToken", verification_token=token, request_id=next(ids))
    await app("UseVerificationToken", identifier=identifier, token=secret, request_id=next(ids))
    tables = execute(suite, "SELECT tablename FROM pg_tables WHERE schemaname = 'identity'")
    rows = [execute(suite, f"SELECT CAST(t AS text) FROM {name} t") for (name,) in tables]
    stored = "\n".join(text for table in rows for (text,) in table)
    assert made.id in stored
    for kept_out in (secret, identifier):
        assert kept_out not in stored
        assert kept_out.encode().hex() not in stored
