"""Sending and reading: dense numbers, one effect per key, and who may."""

import asyncio
import uuid
from datetime import datetime

import grpc
import pytest
from guildhall.membership.v1 import member_service_pb2 as members

from services.messaging import outgoing as own
from tests.service.test_messaging_conversations import Room
from tests.support.suite import Person, Suite, refused


@pytest.fixture
async def room(suite: Suite) -> Room:
    """A workspace of this test's own."""
    made = await Room.make(suite)
    assert isinstance(made, Room)
    return made


async def test_numbers_are_dense_whoever_sends_at_the_same_time(room: Room) -> None:
    member, _ = await room.member()
    sent = await asyncio.gather(*(room.sent((room.admin, member)[n % 2], f"{n}") for n in range(200)))
    assert sorted(message.seq for message in sent) == list(range(1, 201))
    assert sorted(message.event_seq for message in sent) == list(range(1, 201))
    page = await room.read(room.admin, page_size=200)
    assert [message.seq for message in page.messages] == list(range(200, 0, -1))
    assert sorted(page.messages, key=lambda message: message.seq) == sorted(sent, key=lambda message: message.seq)


async def test_the_same_key_gives_the_same_message_and_burns_no_number(room: Room) -> None:
    key = str(uuid.uuid4())
    first, *again = await asyncio.gather(*(room.sent(room.admin, "once", key=key) for _ in range(20)))
    assert all(message == first for message in again)
    assert await room.sent(room.admin, "once", key=key.upper()) == first
    assert (await room.sent(room.admin, "next")).seq == first.seq + 1


async def test_the_same_key_with_another_text_is_refused(room: Room) -> None:
    key = str(uuid.uuid4())
    await room.sent(room.admin, "one", key=key)
    refusal = await refused(room.send(room.admin, "two", key=key))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_MISMATCH")
    assert await room.texts(room.admin) == ["one"]


async def test_a_key_is_of_one_sender_in_one_conversation(room: Room) -> None:
    key, other = str(uuid.uuid4()), await room.channel()
    member, _ = await room.member()
    one, two, three = (
        await room.sent(room.admin, "a", key=key),
        await room.sent(member, "b", key=key),
        await room.sent(room.admin, "c", key=key, to=other),
    )
    assert len({one.message_id, two.message_id, three.message_id}) == 3


async def test_a_hidden_conversation_is_answered_like_an_unknown_one(room: Room) -> None:
    member, _ = await room.member()
    viewer, _ = await room.member(members.ROLE_VIEWER)
    guest, _ = await room.guest()
    elsewhere = await Room.make(room.suite)
    hidden, unknown = await room.channel(private=True), str(uuid.uuid4())
    for person in (member, viewer, guest, room.outsider()):
        for call in (room.read, lambda who, where: room.send(who, to=where)):
            refusals = [await refused(call(person, where)) for where in (hidden, unknown, elsewhere.channel_id)]
            assert {refusal.raw for refusal in refusals} == {refusals[0].raw}
            assert (refusals[0].code, refusals[0].reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    await room.sent(room.admin, "for some", to=hidden)
    assert await room.texts(room.admin, hidden) == ["for some"]


async def test_a_viewer_reads_but_does_not_send(room: Room) -> None:
    viewer, _ = await room.member(members.ROLE_VIEWER)
    await room.sent(room.admin, "read me")
    assert await room.texts(viewer) == ["read me"]
    refusal = await refused(room.send(viewer))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert await room.texts(room.admin) == ["read me"]


async def test_a_guest_sends_and_reads_where_granted(room: Room) -> None:
    private = await room.channel(private=True)
    guest, _ = await room.guest(private)
    await room.sent(guest, "from outside", to=private)
    assert await room.texts(guest, private) == ["from outside"]
    assert (await refused(room.send(guest))).reason == "NOT_FOUND"


async def test_a_locked_guest_reads_but_is_told_since_when_they_may_not_send(room: Room) -> None:
    person, guest = await room.guest()
    await room.sent(person, "in time")
    room.lock(guest)
    refusal = await refused(room.send(person))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "GUEST_LOCKED")
    locked, ended = (datetime.fromisoformat(refusal.metadata[name]) for name in ("lock_time", "grace_end_time"))
    assert locked < ended
    assert await room.texts(person) == ["in time"]
    room.end(guest)
    assert (await refused(room.send(person))).reason == "NOT_FOUND"
    assert (await refused(room.read(person))).reason == "NOT_FOUND"


async def test_a_removed_member_finds_nothing_on_the_very_next_call(room: Room) -> None:
    member, member_id = await room.member()
    await room.sent(member, "still here")
    await room.remove(member_id)
    for call in (room.send(member), room.read(member), room.conversations(member)):
        assert (await refused(call)).reason == "NOT_FOUND"


async def test_who_comes_back_starts_with_nothing(room: Room) -> None:
    member, member_id = await room.member()
    own_channel = await room.channel(member, private=True)
    await room.remove(member_id)
    person, _ = await _invited_again(room, member)
    assert (await refused(room.read(person, own_channel))).reason == "NOT_FOUND"
    assert own_channel not in await room.seen(person)
    assert await room.texts(person) == []


async def test_a_signed_out_sender_is_refused_on_the_very_next_call(room: Room) -> None:
    from guildhall.identity.v1 import auth_service_pb2 as auth
    from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc

    await room.sent(room.admin)
    await room.admin.call(room.suite.stub(auth_rpc.AuthServiceStub).SignOut, auth.SignOutRequest())
    refusal = await refused(room.send(room.admin))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "SESSION_ENDED")


async def test_pages_go_back_in_time_while_others_send(room: Room) -> None:
    for number in range(5):
        await room.sent(room.admin, f"{number}")
    page = await room.read(room.admin, page_size=2)
    await room.sent(room.admin, "newer")
    found = [message.text for message in page.messages]
    while page.next_page_token:
        page = await room.read(room.admin, page_size=2, page_token=page.next_page_token)
        found += [message.text for message in page.messages]
    assert found == ["4", "3", "2", "1", "0"]


async def test_a_page_token_of_another_conversation_is_refused(room: Room) -> None:
    other = await room.channel()
    for number in range(3):
        await room.sent(room.admin, f"{number}")
    token = (await room.read(room.admin, page_size=1)).next_page_token
    assert token
    refusal = await refused(room.read(room.admin, other, page_token=token))
    assert (refusal.code, set(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {"page_token"})


async def test_a_text_too_long_or_empty_is_refused_and_the_longest_is_stored(room: Room) -> None:
    for text in ("", "x" * 40_001):
        assert set((await refused(room.send(room.admin, text))).fields) == {"text"}
    assert len((await room.sent(room.admin, "ü" * 40_000)).text) == 40_000


async def test_a_send_that_waited_for_its_lock_asks_again(room: Room) -> None:
    member, member_id = await room.member()
    with room.suite.database("messaging") as database, database.transaction():
        database.execute("SELECT 1 FROM conversations WHERE id = %s FOR NO KEY UPDATE", (room.channel_id,))
        waiting = asyncio.ensure_future(refused(room.send(member, "too late")))
        allowed = asyncio.ensure_future(room.sent(room.admin, "late"))
        await _until_waiting(room, 1)  # the side lane, in which both of them are
        await room.remove(member_id)
        await asyncio.sleep(own.ANSWER_SECONDS)
    assert (await waiting).reason == "NOT_FOUND"
    assert (await allowed).text == "late"
    assert await room.texts(room.admin) == ["late"]


@pytest.mark.parametrize("peer", ["membership", "guest"])
async def test_without_an_answer_about_permission_nothing_is_sent_or_shown(room: Room, peer: str) -> None:
    guest, _ = await room.guest()
    await room.sent(guest, "before")
    await room.suite.stop(peer)
    try:
        for call in (room.send(guest), room.read(guest), room.conversations(guest)):
            refusal = await refused(call)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "PEER_UNAVAILABLE")
    finally:
        await room.back(peer, seen_by=guest)
    await room.sent(guest, "after")
    assert await room.texts(guest) == ["before", "after"]


async def _until_waiting(room: Room, count: int) -> None:
    """Waits until so many sends wait for a lock."""
    with room.suite.database("messaging") as database:
        for _ in range(500):
            row = database.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'messaging'"
            ).fetchone()
            if row and row[0] >= count:
                return
            await asyncio.sleep(0.01)
    raise TimeoutError("nobody waited for the lock")


async def _invited_again(room: Room, person: Person) -> tuple[Person, str]:
    from guildhall.membership.v1 import invitation_service_pb2 as invitations
    from guildhall.membership.v1 import invitation_service_pb2_grpc as invitations_rpc

    stub = room.suite.stub(invitations_rpc.InvitationServiceStub)
    request = invitations.CreateInvitationRequest(
        workspace_id=room.workspace_id, email=person.email, role=members.ROLE_MEMBER
    )
    await room.admin.call(stub.CreateInvitation, request)
    token = await room.suite.mailed_token(person.email, count=2)
    accepted = await person.call(stub.AcceptInvitation, invitations.AcceptInvitationRequest(token=token))
    return person, accepted.member.member_id
