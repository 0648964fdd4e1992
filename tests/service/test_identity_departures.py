"""Deleting a person: who may, what goes and what stays."""

import asyncio
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import pytest
import uuid_utils
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.events.v1 import event_sink_pb2 as events
from guildhall.guest.v1 import guest_service_pb2 as guests
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.identity.v1 import user_service_pb2 as pb
from guildhall.identity.v1 import user_service_pb2_grpc as rpc
from guildhall.membership.v1 import invitation_service_pb2 as invitations
from guildhall.membership.v1 import invitation_service_pb2_grpc as invitation_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.messaging.v1 import event_service_pb2 as streams
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import worker
from services.identity import departures, sessions
from services.identity.departures import ERASE_ANSWERS, eraser
from services.identity.tables import METADATA
from services.membership.tables import METADATA as MEMBERSHIP
from tests.service.test_guest_redemption import until
from tests.service.test_messaging_conversations import Room
from tests.service.test_messaging_streams import listening
from tests.support.administrators import administrator, only_administrators
from tests.support.identities import execute
from tests.support.outboxes import written
from tests.support.statements import Statement, statements_sent
from tests.support.suite import PASSWORD, Person, Suite, refused

HOLDS_THEM = {
    "users",
    "sessions",
    "accounts",
    "verification_tokens",
    "adapter_verification_tokens",
    "security_events",
    "idempotency_keys",
}
"""The tables of identity in which the person of the search is found before."""


@pytest.fixture
def users(suite: Suite) -> Any:
    return suite.stub(rpc.UserServiceStub)


def delete(users: Any, person: Person, **fields: Any) -> Any:
    return person.call(users.DeleteUser, pb.DeleteUserRequest(**fields))


def sign_in(suite: Suite, address: str, **fields: str) -> Any:
    request = auth.SignInRequest(email=address, password=PASSWORD, **fields)
    return suite.stub(auth_rpc.AuthServiceStub).SignIn(request, timeout=10)


async def is_gone(suite: Suite, person: Person) -> bool:
    """Whether other services are told that there is nobody of that id."""
    stub = suite.stub(rpc.UserServiceStub, certificate="membership")
    answer = await stub.BatchGetUsers(pb.BatchGetUsersRequest(user_ids=[person.user_id]), timeout=10)
    return not answer.users


def age(suite: Suite, person: Person, how_long: str) -> None:
    """Lets a session have been started some time ago."""
    with suite.database("identity") as database:
        database.execute(
            "UPDATE sessions SET created_at = statement_timestamp() - %s::interval WHERE id = %s",
            [how_long, person.session_id],
        )


async def test_who_deletes_themselves_is_gone_and_the_address_is_free(suite: Suite, users: Any) -> None:
    person = await suite.person("Ada")
    await delete(users, person)
    assert (await refused(person.call(users.GetUser, pb.GetUserRequest()))).reason == "SESSION_ENDED"
    assert (await refused(sign_in(suite, person.email))).reason == "INVALID_CREDENTIALS"
    assert await is_gone(suite, person)
    request = auth.SignUpRequest(email=person.email, password=PASSWORD, name="Bea")
    await suite.stub(auth_rpc.AuthServiceStub).SignUp(request, timeout=10)
    token = await suite.mailed_token(person.email, count=2)
    await suite.stub(auth_rpc.AuthServiceStub).VerifyEmail(auth.VerifyEmailRequest(token=token), timeout=10)
    assert (await sign_in(suite, person.email)).user.user_id != person.user_id


async def test_a_session_of_ten_minutes_ago_must_sign_in_again_first(suite: Suite, users: Any) -> None:
    person, recent = await suite.person("Ada"), await suite.person("Bea")
    age(suite, person, "10 minutes")
    refusal = await refused(delete(users, person))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REAUTHENTICATION_REQUIRED")
    by_id = await refused(delete(users, person, user_id=person.user_id.upper()))
    assert by_id.raw == refusal.raw
    assert not await is_gone(suite, person)
    await delete(users, await suite.signed_in(person.email))
    assert await is_gone(suite, person)
    age(suite, recent, "9 minutes 50 seconds")
    await delete(users, recent)
    assert await is_gone(suite, recent)


async def test_a_deletion_compares_the_etag(suite: Suite, users: Any) -> None:
    person = await suite.person("Ada")
    etag = (await person.call(users.GetUser, pb.GetUserRequest())).user.etag
    change = pb.UpdateUserRequest(update_mask=FieldMask(paths=["name"]), name="Bea")
    current = (await person.call(users.UpdateUser, change)).user.etag
    assert (await refused(delete(users, person, etag=etag))).reason == "ETAG_MISMATCH"
    await delete(users, person, etag=current)
    assert await is_gone(suite, person)


async def test_an_administrator_deletes_somebody_else_however_old_the_session(suite: Suite, users: Any) -> None:
    root, person, key = await administrator(suite), await suite.person("Ada"), str(uuid.uuid4())
    age(suite, root, "1 hour")
    await delete(users, root, user_id=person.user_id, request_id=key)
    assert await is_gone(suite, person)
    await delete(users, root, user_id=person.user_id, request_id=key)
    assert (await refused(delete(users, root, user_id=person.user_id))).reason == "NOT_FOUND"


async def test_the_last_administrator_stays_until_there_is_another(suite: Suite, users: Any) -> None:
    root, other = await administrator(suite), await administrator(suite)
    with only_administrators(suite, root, other):
        await delete(users, other)
        assert (await refused(delete(users, root))).reason == "LAST_ADMINISTRATOR"
        assert not await is_gone(suite, root)


def found_in(suite: Suite, service: str, tables: Iterable[str], *words: str) -> set[str]:
    """The tables of a service with a row that holds one of the words, in text or in bytes, in whatever case."""
    patterns = [f"%{word.lower()}%" for word in words] + [f"%{word.encode().hex()}%" for word in words]
    found = set()
    with suite.database(f"{service}_owner") as database:
        for name in tables:
            table = sql.Identifier(name)
            query = sql.SQL("SELECT count(*) FROM {} WHERE lower({}::text) LIKE ANY(%s)").format(table, table)
            row = database.execute(query, [patterns]).fetchone()
            if row and row[0]:
                found.add(name)
    return found


async def until_not(found: Callable[[], object]) -> None:
    """Waits until nothing is found any more."""

    async def is_gone() -> bool:
        return not found()

    await until(is_gone, "all of it is gone")


async def fill(suite: Suite, users: Any, person: Person, root: Person) -> None:
    """Has identity hold of a person whatever it can."""
    for name in ("UPDATED", person.name):
        change = pb.UpdateUserRequest(update_mask=FieldMask(paths=["name"]), name=name, request_id=str(uuid.uuid4()))
        await person.call(users.UpdateUser, change)
    moving = pb.UpdateUserRequest(update_mask=FieldMask(paths=["email"]), email=f"next-{person.email}")
    await person.call(users.UpdateUser, moving)
    await sign_in(suite, person.email, request_id=str(uuid.uuid4()), device_label=f"{person.name}'s laptop")
    sign_up = auth.SignUpRequest(email=person.email, password=PASSWORD, name=person.name, request_id=str(uuid.uuid4()))
    await suite.stub(auth_rpc.AuthServiceStub).SignUp(sign_up, timeout=10)
    # A stored answer about them that is somebody else's, and an entry of theirs in somebody else's log.
    about = pb.EnableUserRequest(user_id=person.user_id, request_id=str(uuid.uuid4()))
    await root.call(users.EnableUser, about)
    with suite.database("identity") as database:
        database.execute(
            "INSERT INTO security_events (id, user_id, actor_id, kind, client_address, user_agent) "
            "VALUES (%s, %s, %s, 'user_enabled', '', '')",
            [str(uuid.uuid4()), root.user_id, person.user_id],
        )
        database.execute(
            "INSERT INTO accounts (id, user_id, type, provider, provider_account_id) VALUES (%s, %s, 'oidc', 'x', %s)",
            [str(uuid.uuid4()), person.user_id, f"of {person.name}"],
        )
        database.execute(
            "INSERT INTO adapter_verification_tokens (identifier, token_hash, expire_at) "
            "VALUES (%s, sha256(%s), statement_timestamp() + interval '1 day')",
            [person.email, uuid.uuid4().bytes],
        )


async def test_nothing_in_identity_tells_of_somebody_who_is_gone(suite: Suite, users: Any) -> None:
    root, person = await administrator(suite), await suite.person(f"Quentin{uuid.uuid4().hex[:8]}")
    words = (person.user_id, person.email, person.name, person.session_id)
    await fill(suite, users, person, root)
    tables = set(METADATA.tables)
    assert found_in(suite, "identity", tables, *words) >= HOLDS_THEM

    await delete(users, await suite.signed_in(person.email), request_id=str(uuid.uuid4()))

    # The event is still to be delivered, and the worker to go through the stored answers. Of sessions the id is left.
    assert found_in(suite, "identity", tables, *words[:-1]) <= {"outbox", "idempotency_keys"}
    await until_not(lambda: found_in(suite, "identity", tables, *words))


async def test_a_deletion_does_not_wait_for_the_tokens_of_many_exchanges(suite: Suite, users: Any) -> None:
    person, frame = await suite.person("Ada"), suite.frames["identity"]
    tokens = "SELECT count(*) FROM session_tokens WHERE session_id = %s"
    execute(
        suite,
        "INSERT INTO session_tokens (token_hash, session_id, generation, claimed_at)"
        " SELECT sha256(convert_to(%s || n, 'UTF8')), %s, n, statement_timestamp() FROM generate_series(2, 3000) AS n",
        person.session_id,
        person.session_id,
    )

    async def delete_and_count(tx: AsyncConnection) -> tuple[Any, Any]:
        await departures.delete(tx, frame.secret, user_id=person.user_id, etag="", erase_messages=False)
        found = await tx.execute(text(tokens.replace("%s", ":id")), {"id": person.session_id})
        return found.scalar_one(), await sessions.check(tx, session_ids=[person.session_id])

    assert await frame.database.transaction(delete_and_count) == (3000, [False])
    refresh = auth.RefreshSessionRequest(session_token=person.session_token)
    refusal = await refused(suite.stub(auth_rpc.AuthServiceStub).RefreshSession(refresh, timeout=10))
    assert refusal.reason == "SESSION_ENDED"
    await until_not(lambda: found_in(suite, "identity", METADATA.tables, person.session_id))


OVER = "UPDATE sessions SET idle_expire_at = statement_timestamp() - interval '31 days' WHERE id = {}"
"""As a deletion leaves a session: due for being forgotten."""


@pytest.mark.parametrize("why", ["no time", "locked"])
async def test_what_one_turn_leaves_is_erased_in_another(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    person, database = await suite.person("Ada"), suite.frames["identity"].database
    token = (
        "INSERT INTO session_tokens (token_hash, session_id, generation, claimed_at)"
        " VALUES (sha256(gen_random_uuid()::text::bytea), %s, 2, statement_timestamp())"
    )
    execute(suite, token, person.session_id)
    async with written(suite, "identity") as outbox:
        with suite.database("identity") as other, other.transaction():
            execute(suite, OVER.format("%s"), person.session_id)
            if why == "locked":
                other.execute("SELECT FROM sessions WHERE id = %s FOR UPDATE", [person.session_id])
            else:
                monkeypatch.setattr(worker, "FORGET_SECONDS", 0)
                monkeypatch.setattr(sessions, "MOST_TOKENS", 1)
            await departures.works(database)[departures.ERASE_SESSIONS](person.user_id, str(uuid_utils.uuid7()))
        kinds = "SELECT kind FROM outbox_written WHERE subject_id = %s"
        assert outbox.database.execute(kinds, [person.user_id]).fetchall() == [(departures.ERASE_SESSIONS,)]
    await until_not(lambda: execute(suite, "SELECT id FROM sessions WHERE id = %s", person.session_id))


async def test_however_many_are_deleted_one_turn_follows(suite: Suite) -> None:
    person = await suite.person("Ada")
    user_ids, rows = ([str(make()) for _ in range(3)] for make in (uuid.uuid4, uuid_utils.uuid7))
    count = text("SELECT count(*) FROM outbox WHERE subject_id = ANY(CAST(:ids AS uuid[]))")

    async def go_on(tx: AsyncConnection) -> int:
        await tx.execute(text(OVER.format(":id")), {"id": person.session_id})
        for user_id, row_id in zip(user_ids, rows, strict=True):
            await departures.go_on(tx, user_id=user_id, row_id=row_id)
        return int((await tx.execute(count, {"ids": user_ids})).scalar_one())

    assert await suite.frames["identity"].database.transaction(go_on) == 1
    await until_not(lambda: execute(suite, "SELECT id FROM sessions WHERE id = %s", person.session_id))


async def test_the_answers_of_others_stay(suite: Suite, users: Any) -> None:
    root, person, other = await administrator(suite), await suite.person("Ada"), await suite.person("Bob")
    request = pb.EnableUserRequest(user_id=other.user_id, request_id=str(uuid.uuid4()))
    answer = await root.call(users.EnableUser, request)
    await root.call(users.EnableUser, pb.EnableUserRequest(user_id=person.user_id, request_id=str(uuid.uuid4())))
    await delete(users, person)
    await until_not(lambda: found_in(suite, "identity", METADATA.tables, person.user_id))
    assert "idempotency_keys" in found_in(suite, "identity", METADATA.tables, other.user_id)
    assert await root.call(users.EnableUser, request) == answer


async def test_an_erasure_whose_time_was_over_goes_on_where_it_stopped(suite: Suite) -> None:
    caller, user_id, row_id = f"~{uuid.uuid4()}", str(uuid.uuid4()), str(uuid.uuid4())
    execute(
        suite,
        "INSERT INTO idempotency_keys (caller, method, key_hash, request_mac, answer)"
        " SELECT %s, 'rpc', int4send(number), '', CASE WHEN number = 500 THEN convert_to(%s, 'UTF8') ELSE '' END"
        " FROM generate_series(1, 500) AS number",
        caller,
        user_id,
    )
    # Not due for the suite's own worker.
    later = "INSERT INTO outbox (id, target, kind, subject_id, due_at) VALUES (%s, 'worker', %s, %s, 'infinity')"
    execute(suite, later, row_id, ERASE_ANSWERS, user_id)
    work = eraser(suite.frames["identity"].database, size=100)

    def places(sent: list[Statement]) -> list[tuple[str, bytes]]:
        parts = [s.parameters for s in sent if "WITH part AS" in s.text]
        return [(part["caller"], bytes(part["key_hash"])) for part in parts]

    with statements_sent() as sent:
        erasing = asyncio.create_task(work(user_id, row_id))
        while len(places(sent)) < 3:
            assert not erasing.done()
            await asyncio.sleep(0)
        erasing.cancel()
        await asyncio.wait([erasing])
        reached = places(sent)[2]
    with statements_sent() as again:
        await work(user_id, row_id)

    assert places(again)[0] >= reached > ("", b"")
    left = "SELECT count(*) FROM idempotency_keys WHERE caller = %s"
    assert execute(suite, left, caller) == [(499,)]
    execute(suite, "DELETE FROM idempotency_keys WHERE caller = %s", caller)
    execute(suite, "DELETE FROM outbox WHERE id = %s", row_id)


@pytest.fixture
async def room(suite: Suite) -> Room:
    """A workspace of this test's own."""
    made = await Room.make(suite)
    assert isinstance(made, Room)
    return made


def revision(room: Room) -> int:
    """The workspace's access revision."""
    with room.suite.database("membership") as database:
        query = "SELECT access_revision FROM workspace_heads WHERE workspace_id = %s"
        row = database.execute(query, [room.workspace_id]).fetchone()
    assert row is not None
    return int(row[0])


async def test_a_member_who_is_gone_leaves_their_messages_and_nothing_else(
    suite: Suite, users: Any, room: Room
) -> None:
    person, member_id = await room.member()
    await room.sent(person, "what I leave")
    before = revision(room)

    async with listening(room, person) as listener:
        await delete(users, person)
        end = await listener.finish()

    assert end.reason in (streams.STREAM_END_REASON_SESSION_ENDED, streams.STREAM_END_REASON_ACCESS_ENDED)
    assert await room.texts(room.admin) == ["what I leave"]
    # The id alone is kept there, for a week: so that no call that was under way lets them in again.
    tables = set(MEMBERSHIP.tables) - {"departed_users"}
    await until_not(lambda: found_in(suite, "membership", tables, person.user_id, person.email, member_id))
    assert revision(room) > before


async def test_a_guest_who_is_gone_is_nobodys_guest(suite: Suite, users: Any, room: Room) -> None:
    person = await suite.person("Gus")
    guest = await room.redeem(person, (await room.invite()).token)
    assert (await room.get(room.admin, guest.member_id)).state == guests.GUEST_STATE_ACTIVE

    await delete(users, person)

    async def has_ended() -> bool:
        return (await room.get(room.admin, guest.member_id)).state == guests.GUEST_STATE_ENDED

    await until(has_ended, "the guest's stay ends")


async def test_whom_they_had_invited_can_no_longer_come_in(suite: Suite, users: Any, room: Room) -> None:
    admin, _ = await room.member(members.ROLE_ADMIN)
    late = await suite.person("Lee")
    stub = suite.stub(invitation_rpc.InvitationServiceStub)
    invite = invitations.CreateInvitationRequest(
        workspace_id=room.workspace_id, email=late.email, role=members.ROLE_MEMBER
    )
    await admin.call(stub.CreateInvitation, invite)
    token = await suite.mailed_token(late.email, count=2)

    await delete(users, admin)

    await until_not(lambda: found_in(suite, "membership", ["members"], admin.user_id))
    accept = invitations.AcceptInvitationRequest(token=token)
    assert (await refused(late.call(stub.AcceptInvitation, accept))).reason == "INVITATION_INVALID"


@pytest.mark.parametrize(("erase", "targets"), [(False, {"membership"}), (True, {"membership", "messaging"})])
async def test_messaging_is_told_only_if_what_they_wrote_is_to_be_erased(
    suite: Suite, users: Any, erase: bool, targets: set[str]
) -> None:
    person = await suite.person("Moe")
    async with written(suite, "identity") as outbox:
        await delete(users, person, erase_messages=erase)
        rows = outbox.database.execute(
            "SELECT target, payload FROM outbox_written WHERE kind = 'user_deleted'"
        ).fetchall()
    told = {target: events.Event.FromString(payload).user_deleted for target, payload in rows}
    assert told == dict.fromkeys(targets, events.UserDeleted(user_id=person.user_id, erase_messages=erase))
