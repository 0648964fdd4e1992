"""The security log: what happened to somebody's ways of signing in, told to them and to administrators."""

import base64
import uuid
from typing import Any

import grpc
import pytest
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.identity.v1 import session_service_pb2 as pb
from guildhall.identity.v1 import session_service_pb2_grpc as rpc
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc as users_rpc

from tests.service.test_identity_service_accounts import Office
from tests.service.test_identity_sessions import age_claims, execute, refresh
from tests.support.identities import forget
from tests.support.suite import PASSWORD, Person, Suite, refused

SEEN = (("x-guildhall-client-address", "203.0.113.9"),)


@pytest.fixture
def stub(suite: Suite) -> Any:
    return suite.stub(rpc.SessionServiceStub)


@pytest.fixture
def auth_stub(suite: Suite) -> Any:
    return suite.stub(auth_rpc.AuthServiceStub)


async def events(stub: Any, person: Person, **values: Any) -> Any:
    return (await person.call(stub.ListSecurityEvents, pb.ListSecurityEventsRequest(**values))).events


def kinds(log: Any) -> list[str]:
    """The kinds of a log, oldest first."""
    names = [pb.SecurityEventKind.Name(event.kind).removeprefix("SECURITY_EVENT_KIND_") for event in log]
    return names[::-1]


def only(log: Any, kind: str) -> Any:
    """The one entry of a kind."""
    [found] = [event for event in log if event.kind == pb.SecurityEventKind.Value(f"SECURITY_EVENT_KIND_{kind}")]
    return found


async def test_a_whole_story_is_told_in_its_order(suite: Suite, stub: Any, auth_stub: Any) -> None:
    person = await suite.person()
    wrong = auth.SignInRequest(email=person.email, password="not the password")
    await refused(auth_stub.SignIn(wrong, timeout=10, metadata=SEEN))
    phone, tablet, laptop = [await suite.signed_in(person.email) for _ in range(3)]
    await phone.call(auth_stub.SignOut, auth.SignOutRequest())
    await person.call(stub.RevokeSession, pb.RevokeSessionRequest(session_id=tablet.session_id))
    await refresh(auth_stub, laptop.session_token)
    age_claims(suite, laptop.session_id)
    await refused(refresh(auth_stub, laptop.session_token))
    change = auth.ChangePasswordRequest(current_password=PASSWORD, new_password="another long password")
    await person.call(auth_stub.ChangePassword, change)
    log = await events(stub, person)
    assert kinds(log) == [
        "EMAIL_VERIFIED",
        "SIGNED_IN",
        "SIGN_IN_FAILED",
        *["SIGNED_IN"] * 3,
        "SIGNED_OUT",
        "SESSION_REVOKED",
        "TOKEN_REUSED",
        "PASSWORD_CHANGED",
    ]
    assert only(log, "SIGN_IN_FAILED").client_address == "203.0.113.9"
    assert only(log, "SIGN_IN_FAILED").session_id == ""
    assert only(log, "SIGNED_OUT").session_id == phone.session_id
    assert only(log, "SESSION_REVOKED").session_id == tablet.session_id
    assert only(log, "TOKEN_REUSED").session_id == laptop.session_id
    assert only(log, "PASSWORD_CHANGED").session_id == person.session_id
    assert all(event.user_agent.startswith("grpc-python") for event in log)
    assert [event.create_time.ToNanoseconds() for event in log] == sorted(
        (event.create_time.ToNanoseconds() for event in log), reverse=True
    )


async def test_each_session_that_is_revoked_with_the_others_has_its_entry(suite: Suite, stub: Any) -> None:
    person = await suite.person()
    others = [await suite.signed_in(person.email) for _ in range(2)]
    for _ in range(2):
        await person.call(stub.RevokeSessions, pb.RevokeSessionsRequest(keep_current=True))
    log = [event for event in await events(stub, person) if event.kind == pb.SECURITY_EVENT_KIND_SESSION_REVOKED]
    assert {event.session_id for event in log} == {other.session_id for other in others}
    assert len(log) == 2


async def test_what_changed_nothing_is_not_in_the_log(suite: Suite, stub: Any) -> None:
    person, bob = await suite.person(), await suite.person("Bob")
    other = await suite.signed_in(person.email)
    for _ in range(2):
        await person.call(stub.RevokeSession, pb.RevokeSessionRequest(session_id=other.session_id))
    await refused(person.call(stub.RevokeSession, pb.RevokeSessionRequest(session_id=bob.session_id)))
    assert kinds(await events(stub, person)).count("SESSION_REVOKED") == 1
    assert "SESSION_REVOKED" not in kinds(await events(stub, bob))


async def test_an_administrator_reads_anybodys_log_and_nobody_else_does(suite: Suite, stub: Any) -> None:
    office, person, bob = await Office.open(suite), await suite.person(), await suite.person("Bob")
    own = await events(stub, person)
    assert await events(stub, person, user_id=person.user_id.upper()) == own
    assert await events(stub, office.admin, user_id=person.user_id) == own
    unknown = str(uuid.uuid4())
    refusals = [await refused(events(stub, bob, user_id=user_id)) for user_id in (person.user_id, unknown)]
    assert refusals[0].code == grpc.StatusCode.PERMISSION_DENIED
    assert refusals[0].raw == refusals[1].raw
    assert (await refused(events(stub, office.admin, user_id=unknown))).reason == "NOT_FOUND"


async def test_what_an_administrator_does_to_service_accounts_is_in_their_own_log(suite: Suite, stub: Any) -> None:
    office = await Office.open(suite)
    account = await office.account()
    made = await office.create_key(account.service_account_id)
    for _ in range(2):
        await office.revoke_key(account.service_account_id, made.key.key_id)
    await office.delete(account.service_account_id)
    log = (await events(stub, office.admin))[:4]
    assert kinds(log) == [
        "SERVICE_ACCOUNT_CREATED",
        "SERVICE_KEY_CREATED",
        "SERVICE_KEY_REVOKED",
        "SERVICE_ACCOUNT_DELETED",
    ]
    assert {(event.service_account_id, event.session_id) for event in log} == {
        (account.service_account_id, office.admin.session_id)
    }


async def test_a_repeated_call_is_one_entry(suite: Suite, stub: Any) -> None:
    office = await Office.open(suite)
    account = await office.account()
    request_id = str(uuid.uuid4())
    for _ in range(3):
        await office.create_key(account.service_account_id, request_id)
    assert kinds(await events(stub, office.admin)).count("SERVICE_KEY_CREATED") == 1


async def test_being_disabled_is_in_the_log_of_who_was_disabled(suite: Suite, stub: Any) -> None:
    office, person = await Office.open(suite), await suite.person()
    disable = users.DisableUserRequest(user_id=person.user_id)
    await office.admin.call(suite.stub(users_rpc.UserServiceStub).DisableUser, disable)
    log = await events(stub, office.admin, user_id=person.user_id)
    assert kinds(log)[-1] == "USER_DISABLED"
    query = "SELECT actor_id::text FROM security_events WHERE id = %s"
    assert execute(suite, query, log[0].event_id) == [(office.admin.user_id,)]


async def test_pages_together_are_the_log_and_a_token_is_good_for_no_other(suite: Suite, stub: Any) -> None:
    office, person = await Office.open(suite), await suite.person()
    for _ in range(3):
        await suite.signed_in(person.email)
    whole = [event.event_id for event in await events(stub, person)]
    seen: list[str] = []
    tokens = [""]
    while not seen or tokens[-1]:
        request = pb.ListSecurityEventsRequest(page_size=2, page_token=tokens[-1])
        page = await person.call(stub.ListSecurityEvents, request)
        seen += [event.event_id for event in page.events]
        tokens.append(page.next_page_token)
    assert seen == whole
    first = tokens[1]
    raw = bytearray(base64.urlsafe_b64decode(first))
    raw[-1] ^= 1
    for who, values in (
        (office.admin, {"user_id": person.user_id, "page_token": first}),
        (office.admin, {"page_token": first}),
        (person, {"page_token": base64.urlsafe_b64encode(raw).decode()}),
    ):
        assert set((await refused(events(stub, who, **values))).fields) == {"page_token"}
    assert await events(stub, person, user_id=person.user_id, page_token=first)


async def test_entries_are_forgotten_after_a_year(suite: Suite, stub: Any) -> None:
    person = await suite.person()
    statement = """UPDATE security_events SET created_at = statement_timestamp() - CAST(%s AS interval)
        WHERE user_id = %s AND kind = %s"""
    execute(suite, statement, "1 year", person.user_id, "email_verified")
    execute(suite, statement, "364 days", person.user_id, "signed_in")
    await forget(suite)
    assert kinds(await events(stub, person)) == ["SIGNED_IN"]
