"""One's sessions: listed, looked at, ended from another device; and where and when each was used."""

import asyncio
import base64
import uuid
from typing import Any

import grpc
import pytest
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.identity.v1 import session_service_pb2 as pb
from guildhall.identity.v1 import session_service_pb2_grpc as rpc
from guildhall.identity.v1 import user_service_pb2, user_service_pb2_grpc
from guildhall.messaging.v1 import event_service_pb2

from services.identity import sessions, uses
from tests.service.test_identity_key_rotation import restarted_identity
from tests.service.test_identity_sessions import alive, execute, get_user
from tests.service.test_messaging_conversations import Room
from tests.service.test_messaging_streams import listening
from tests.support.suite import PASSWORD, Person, Suite, answered, refused


@pytest.fixture
def stub(suite: Suite) -> Any:
    return suite.stub(rpc.SessionServiceStub)


async def listed(stub: Any, person: Person, **page: Any) -> Any:
    return await person.call(stub.ListSessions, pb.ListSessionsRequest(**page))


def revoke(stub: Any, person: Person, session_id: str, **values: Any) -> Any:
    return person.call(stub.RevokeSession, pb.RevokeSessionRequest(session_id=session_id, **values))


async def sign_in(suite: Suite, person: Person, *, label: str, address: str) -> Any:
    """The answer to a sign-in of a device that the gateway has seen."""
    request = auth.SignInRequest(email=person.email, password=PASSWORD, device_label=label)
    seen = (("x-guildhall-client-address", address),)
    return await suite.stub(auth_rpc.AuthServiceStub).SignIn(request, timeout=10, metadata=seen)


async def test_sessions_are_listed_newest_first_with_what_tells_them_apart(suite: Suite, stub: Any) -> None:
    person = await suite.person()
    phone = await sign_in(suite, person, label="Phone", address="203.0.113.7")
    answer = await listed(stub, person)
    assert [session.session_id for session in answer.sessions] == [phone.session.session_id, person.session_id]
    newest, own = answer.sessions
    assert (newest.device_label, newest.client_address, newest.current) == ("Phone", "203.0.113.7", False)
    assert newest.user_agent.startswith("grpc-python")
    assert newest.expire_time.seconds - newest.create_time.seconds == 7 * 24 * 3600
    assert newest.absolute_expire_time.seconds - newest.create_time.seconds == 30 * 24 * 3600
    assert newest.last_use_time == newest.create_time
    assert (own.current, own.user_id) == (True, person.user_id)
    assert not answer.next_page_token


async def test_the_current_session_is_the_one_of_the_call(suite: Suite, stub: Any) -> None:
    person = await suite.person()
    other = await suite.signed_in(person.email)
    for each in (person, other):
        session = (await each.call(stub.GetCurrentSession, pb.GetCurrentSessionRequest())).session
        assert (session.session_id, session.user_id, session.current) == (each.session_id, person.user_id, True)


async def test_only_sessions_that_are_alive_are_listed(suite: Suite, stub: Any) -> None:
    person = await suite.person()
    ended, over, fresh = [await suite.signed_in(person.email) for _ in range(3)]
    await revoke(stub, person, ended.session_id)
    statement = "UPDATE sessions SET idle_expire_at = statement_timestamp() WHERE id = %s"
    execute(suite, statement, over.session_id)
    await suite.person("Bob")
    answer = await listed(stub, person)
    assert [session.session_id for session in answer.sessions] == [fresh.session_id, person.session_id]


async def test_pages_together_are_the_list(suite: Suite, stub: Any) -> None:
    person = await suite.person()
    for _ in range(4):
        await suite.signed_in(person.email)
    whole = [session.session_id for session in (await listed(stub, person)).sessions]
    assert len(whole) == 5
    seen, token = [], ""
    for size in (2, 2, 1):
        page = await listed(stub, person, page_size=2, page_token=token)
        assert len(page.sessions) == size
        seen += [session.session_id for session in page.sessions]
        token = page.next_page_token
    assert (seen, token) == (whole, "")


async def test_a_page_token_of_another_list_or_person_or_of_ones_own_making_is_refused(suite: Suite, stub: Any) -> None:
    person, bob = await suite.person(), await suite.person("Bob")
    for somebody in (person, bob):
        await suite.signed_in(somebody.email)
    token = (await listed(stub, person, page_size=1)).next_page_token
    assert len((await listed(stub, person, page_size=1, page_token=token)).sessions) == 1
    events = await person.call(stub.ListSecurityEvents, pb.ListSecurityEventsRequest(page_size=1))
    raw = bytearray(base64.urlsafe_b64decode(token))
    raw[-3] ^= 1
    for who, wrong in (
        (bob, token),
        (person, events.next_page_token),
        (person, base64.urlsafe_b64encode(raw).decode()),
        (person, "forged"),
    ):
        refusal = await refused(listed(stub, who, page_size=1, page_token=wrong))
        assert (refusal.code, set(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {"page_token"})
    request = pb.ListSecurityEventsRequest(page_token=token)
    assert set((await refused(person.call(stub.ListSecurityEvents, request))).fields) == {"page_token"}


async def test_a_session_that_is_revoked_from_another_device_is_refused_on_the_very_next_call(
    suite: Suite, stub: Any
) -> None:
    person = await suite.person()
    lost = await suite.signed_in(person.email)
    assert (await get_user(suite, lost)).user.user_id == person.user_id
    await revoke(stub, person, lost.session_id)
    assert (await refused(get_user(suite, lost))).reason == "SESSION_ENDED"
    token = auth.RefreshSessionRequest(session_token=lost.session_token)
    assert (await refused(suite.stub(auth_rpc.AuthServiceStub).RefreshSession(token, timeout=10))).reason == (
        "SESSION_ENDED"
    )
    assert (await get_user(suite, person)).user.user_id == person.user_id


async def test_the_streams_of_a_revoked_session_end_and_no_others(suite: Suite, stub: Any) -> None:
    room = await Room.make(suite)
    assert isinstance(room, Room)
    lost = await suite.signed_in(room.admin.email)
    async with listening(room, room.admin) as kept, listening(room, lost) as cut:
        await revoke(stub, room.admin, lost.session_id)
        assert (await cut.finish(seconds=5)).reason == event_service_pb2.STREAM_END_REASON_SESSION_ENDED
        await room.sent(room.admin, "still here")
        await kept.until(lambda: kept.events)


async def test_ones_own_session_can_be_revoked_too(suite: Suite, stub: Any) -> None:
    person = await suite.person()
    await revoke(stub, person, person.session_id.upper())
    assert (await refused(get_user(suite, person))).reason == "SESSION_ENDED"


async def test_revoking_again_changes_nothing_with_or_without_the_same_key(suite: Suite, stub: Any) -> None:
    person = await suite.person()
    lost = await suite.signed_in(person.email)
    key = str(uuid.uuid4())
    query = "SELECT ended_at, ended_reason FROM sessions WHERE id = %s"
    await revoke(stub, person, lost.session_id, request_id=key)
    [first] = execute(suite, query, lost.session_id)
    assert first[1] == "revoked"
    for values in ({"request_id": key}, {"request_id": str(uuid.uuid4())}, {}):
        await revoke(stub, person, lost.session_id, **values)
    assert execute(suite, query, lost.session_id) == [first]


async def test_anothers_session_does_not_exist_and_goes_on(suite: Suite, stub: Any) -> None:
    person, bob = await suite.person(), await suite.person("Bob")
    for values in ({}, {"request_id": str(uuid.uuid4())}):
        hidden = await refused(revoke(stub, person, bob.session_id, **values))
        unknown = await refused(revoke(stub, person, str(uuid.uuid4()), **values | {"request_id": ""}))
        assert hidden.reason == "NOT_FOUND"
        assert hidden.raw == unknown.raw
    assert await alive(suite, bob.session_id) == [True]


async def test_all_other_sessions_end_and_the_one_of_the_call_lives_on(suite: Suite, stub: Any) -> None:
    person, bob = await suite.person(), await suite.person("Bob")
    others = [await suite.signed_in(person.email) for _ in range(3)]
    await revoke(stub, person, others[0].session_id)
    request = pb.RevokeSessionsRequest(keep_current=True, request_id=str(uuid.uuid4()))
    for _ in range(2):
        assert (await person.call(stub.RevokeSessions, request)).revoked_count == 2
    ids = [person.session_id, bob.session_id, *(other.session_id for other in others)]
    assert await alive(suite, *ids) == [True, True, False, False, False]


async def test_all_sessions_end_the_one_of_the_call_too(suite: Suite, stub: Any) -> None:
    person = await suite.person()
    other = await suite.signed_in(person.email)
    assert (await person.call(stub.RevokeSessions, pb.RevokeSessionsRequest())).revoked_count == 2
    assert await alive(suite, person.session_id, other.session_id) == [False, False]
    assert (await refused(get_user(suite, person))).reason == "SESSION_ENDED"


async def test_sign_ins_beside_the_end_of_all_others_are_ended_or_alive_and_nothing_between(
    suite: Suite, stub: Any
) -> None:
    person = await suite.person()
    request = pb.RevokeSessionsRequest(keep_current=True)
    outcomes = await asyncio.gather(
        *(suite.signed_in(person.email) for _ in range(4)),
        *(person.call(stub.RevokeSessions, request) for _ in range(4)),
    )
    alive_now = {session.session_id for session in (await listed(stub, person)).sessions}
    assert len(alive_now) == 1 + 4 - sum(answer.revoked_count for answer in outcomes[4:])
    for device in outcomes[:4]:
        if device.session_id in alive_now:
            assert (await get_user(suite, device)).user.user_id == person.user_id
        else:
            assert (await refused(get_user(suite, device))).reason == "SESSION_ENDED"


async def test_a_refresh_notes_where_it_came_from(suite: Suite, stub: Any) -> None:
    person = await suite.person()
    execute(
        suite,
        "UPDATE sessions SET last_used_at = last_used_at - interval '1 hour', user_agent = 'old' WHERE id = %s",
        person.session_id,
    )
    [before] = (await listed(stub, person)).sessions
    request = auth.RefreshSessionRequest(session_token=person.session_token)
    metadata = (("x-guildhall-client-address", "2001:db8::7"),)
    await suite.stub(auth_rpc.AuthServiceStub).RefreshSession(request, timeout=10, metadata=metadata)
    [after] = (await listed(stub, person)).sessions
    assert (before.client_address, before.user_agent) == ("", "old")
    assert (after.client_address, after.user_agent[:11]) == ("2001:db8::7", "grpc-python")
    assert after.last_use_time.seconds > before.last_use_time.seconds


async def test_the_use_of_a_session_is_noted_later_and_at_most_once_a_minute(
    suite: Suite, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uses, "EVERY_SECONDS", 0.05)
    recent, old, ended = [await suite.person() for _ in range(3)]
    users = suite.stub(user_service_pb2_grpc.UserServiceStub)
    async with restarted_identity(suite):
        for person, seconds in ((recent, 50), (old, 70), (ended, 70)):
            statement = """UPDATE sessions SET last_used_at = statement_timestamp() - %s * interval '1 second'
                WHERE id = %s"""
            execute(suite, statement, seconds, person.session_id)
        query = "SELECT last_used_at FROM sessions WHERE id = ANY(%s::uuid[]) ORDER BY id"
        before = execute(suite, query, [recent.session_id, ended.session_id])
        await revoke(stub, ended, ended.session_id)
        await refused(get_user(suite, ended))
        await answered(lambda: recent.call(users.GetUser, user_service_pb2.GetUserRequest()))
        await get_user(suite, old)
        fresh = "SELECT id FROM sessions WHERE id = %s AND last_used_at > statement_timestamp() - interval '1 minute'"
        while not execute(suite, fresh, old.session_id):  # noqa: ASYNC110 - a row sets no event
            await asyncio.sleep(0.02)
        assert execute(suite, query, [recent.session_id, ended.session_id]) == before


async def test_only_what_is_alive_and_asked_about_is_noted_as_used(suite: Suite, stub: Any) -> None:
    used, ended, other = [await suite.person() for _ in range(3)]
    await revoke(stub, ended, ended.session_id)
    ids = [person.session_id for person in (used, ended, other)]
    execute(suite, "UPDATE sessions SET last_used_at = created_at - interval '1 hour' WHERE id = ANY(%s::uuid[])", ids)

    database = suite.frames["identity"].database
    await database.atomic(lambda tx: sessions.note_use(tx, session_ids=ids[:2]))

    query = "SELECT id::text FROM sessions WHERE id = ANY(%s::uuid[]) AND last_used_at > created_at"
    assert execute(suite, query, ids) == [(used.session_id,)]
