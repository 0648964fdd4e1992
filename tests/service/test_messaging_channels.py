"""Channels: joining, leaving, adding, removing; and what it does to streams and sends."""

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from guildhall.messaging.v1 import conversation_service_pb2 as pb
from sqlalchemy import text

from services.messaging import sends
from tests.service.test_messaging_streams import listening
from tests.support.conversations import Hall, key, new_hall
from tests.support.suite import Person, Suite, refusal_of, refused

PRIVATE, PUBLIC = pb.VISIBILITY_PRIVATE, pb.VISIBILITY_PUBLIC


@pytest.fixture
async def hall(suite: Suite) -> Hall:
    """A workspace of this test's own."""
    return await new_hall(suite)


async def private_with(hall: Hall, *member_ids: str, owner: Person | None = None) -> str:
    """A private channel with people in it."""
    channel = await hall.channel(owner, private=True)
    for member_id in member_ids:
        await hall.of("AddParticipant", channel, by=owner, member_id=member_id)
    return channel


async def test_whoever_sees_a_public_channel_joins_it_once(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob", "viewer")
    request_id = key()
    first = await hall.of("JoinConversation", hall.channel_id, by=bob, request_id=request_id)
    for again in (request_id, key(), ""):
        assert await hall.of("JoinConversation", hall.channel_id, by=bob, request_id=again) == first
    assert (first.participant.member_id, first.participant.user_id) == (bob_id, bob.user_id)
    assert bob_id in await hall.taking_part(hall.channel_id)
    assert (await hall.get(hall.channel_id, by=bob)).last_event_seq == 1


async def test_a_private_channel_is_not_joined_and_looks_like_none(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    hidden = await private_with(hall)
    refusals = [
        await refused(hall.of(method, conversation_id, by=bob, **more))
        for conversation_id in (hidden, str(uuid.uuid4()))
        for method, more in (
            ("JoinConversation", {}),
            ("LeaveConversation", {}),
            ("AddParticipant", {"member_id": bob_id}),
            ("RemoveParticipant", {"member_id": hall.admin_member_id}),
            ("ArchiveConversation", {}),
            ("ListParticipants", {}),
            ("GetConversation", {}),
        )
    ]
    assert {refusal.raw for refusal in refusals} == {refusals[0].raw}
    assert refusals[0].code == grpc.StatusCode.NOT_FOUND


async def test_leaving_a_private_channel_takes_it_out_of_sight_of_who_leaves(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    channel = await private_with(hall, bob_id)
    async with listening(hall, bob) as his, listening(hall, hall.admin) as others:
        await hall.of("LeaveConversation", channel, by=bob)
        await hall.sent(hall.admin, "secret", to=channel)
        await others.until(lambda: len(others.numbered(channel)) >= 2)
        await his.until(lambda: his.has("conversation_lost", channel))
        assert not his.numbered(channel)
        assert others.numbered(channel)[0].participant_left.member_id == bob_id
    for call in (hall.get(channel, by=bob), hall.read(bob, channel), hall.send(bob, to=channel)):
        assert (await refused(call)).reason == "NOT_FOUND"


async def test_leaving_a_public_channel_takes_nothing_out_of_sight(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    await hall.of("JoinConversation", hall.channel_id, by=bob)
    for _ in range(2):
        await hall.of("LeaveConversation", hall.channel_id, by=bob)
    found = await hall.get(hall.channel_id, by=bob)
    assert (found.joined, found.last_event_seq) == (False, 2)
    assert bob_id not in await hall.taking_part(hall.channel_id)


async def test_a_guest_neither_joins_nor_leaves_nor_brings_anybody(hall: Hall) -> None:
    guest, as_guest = await hall.guest()
    _, bob_id = await hall.newcomer("Bob")
    for method, more in (
        ("JoinConversation", {}),
        ("LeaveConversation", {}),
        ("AddParticipant", {"member_id": bob_id}),
        ("RemoveParticipant", {"member_id": hall.admin_member_id}),
        ("ArchiveConversation", {}),
    ):
        refusal = await refused(hall.of(method, hall.channel_id, by=guest, **more))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert await hall.taking_part(hall.channel_id, by=guest) == {hall.admin_member_id, as_guest.member_id}
    assert await hall.taking_part(hall.channel_id) == {hall.admin_member_id}


async def test_who_is_added_gains_the_channel_on_an_open_stream_at_once(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    channel = await private_with(hall)
    async with listening(hall, bob) as listener:
        request_id = key()
        first = await hall.of("AddParticipant", channel, member_id=bob_id, request_id=request_id)
        assert await hall.of("AddParticipant", channel, member_id=bob_id, request_id=request_id) == first
        assert await hall.of("AddParticipant", channel, member_id=bob_id) == first
        await listener.until(lambda: listener.has("conversation_gained", channel))
        await hall.sent(hall.admin, "welcome", to=channel)
        await listener.until(lambda: "welcome" in listener.texts(channel))
    assert (await hall.get(channel, by=bob)).last_event_seq == 2


async def test_people_are_added_by_who_takes_part_and_sends_or_by_who_manages(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    cy, cy_id = await hall.newcomer("Cy")
    eve, eve_id = await hall.newcomer("Eve", "viewer")
    _, dee_id = await hall.newcomer("Dee")
    # Seen, but Bob takes no part in it; Eve does, and may not send.
    await hall.of("JoinConversation", hall.channel_id, by=eve)
    for person in (bob, eve):
        call = hall.of("AddParticipant", hall.channel_id, by=person, member_id=dee_id)
        assert (await refused(call)).reason == "PERMISSION_DENIED"
    await hall.of("JoinConversation", hall.channel_id, by=bob)
    await hall.of("AddParticipant", hall.channel_id, by=bob, member_id=dee_id)
    # An admin, who takes no part in it.
    other = await hall.channel(cy)
    await hall.of("AddParticipant", other, by=hall.admin, member_id=eve_id)
    assert await hall.taking_part(other) == {cy_id, eve_id}
    assert {bob_id, dee_id} <= await hall.taking_part(hall.channel_id)


async def test_only_active_full_members_are_added_and_the_others_are_told_apart_from_nobody(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    _, as_guest = await hall.guest()
    await hall.change_member("SuspendMember", bob_id)
    channel = await private_with(hall)
    refusals = [
        await refused(hall.of("AddParticipant", channel, member_id=member_id))
        for member_id in (bob_id, as_guest.member_id, str(uuid.uuid4()))
    ]
    assert {(refusal.code, refusal.raw) for refusal in refusals} == {(grpc.StatusCode.NOT_FOUND, refusals[0].raw)}
    await hall.change_member("ReinstateMember", bob_id)
    await hall.of("AddParticipant", channel, member_id=bob_id)
    assert await hall.taking_part(channel, by=bob) == {hall.admin_member_id, bob_id}


async def test_people_are_removed_by_who_made_the_channel_or_manages(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    cy, cy_id = await hall.newcomer("Cy")
    _, dee_id = await hall.newcomer("Dee")
    channel = await private_with(hall, cy_id, dee_id, hall.admin_member_id, owner=bob)
    refusal = await refused(hall.of("RemoveParticipant", channel, by=cy, member_id=dee_id))
    assert refusal.reason == "PERMISSION_DENIED"
    async with listening(hall, cy) as listener:
        await hall.of("RemoveParticipant", channel, by=bob, member_id=cy_id)
        await hall.sent(bob, "secret", to=channel)
        await listener.until(lambda: listener.has("conversation_lost", channel))
        assert not listener.numbered(channel)
    request_id = key()
    for _ in range(2):
        await hall.of("RemoveParticipant", channel, member_id=dee_id, request_id=request_id)
    gone = await refused(hall.of("RemoveParticipant", channel, member_id=dee_id))
    assert gone.reason == "NOT_FOUND"
    assert await hall.taking_part(channel) == {bob_id, hall.admin_member_id}


async def test_a_send_whose_snapshot_is_older_than_its_senders_removal_is_not_stored(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    channel = await private_with(hall, bob_id)
    # The statement as it is, but that it waits for the test between its snapshot and its locks.
    locks = "ORDER BY c.id FOR NO KEY UPDATE SKIP LOCKED"
    waiting = sends.APPEND.text.replace(locks, f"AND (SELECT pg_advisory_xact_lock_shared(35)) IS NOT NULL {locks}")
    assert waiting.count("advisory") == 1
    monkeypatch.setattr(sends, "APPEND", text(waiting))
    with hall.suite.stack.admin_database() as admin:
        admin.execute("SELECT pg_advisory_lock(35)")
        sending = asyncio.create_task(_outcome(hall.send(bob, "too late", to=channel)))
        waits = "SELECT FROM pg_stat_activity WHERE usename = 'messaging' AND wait_event = 'advisory'"
        async with asyncio.timeout(10):
            while not admin.execute(waits).fetchall():  # noqa: ASYNC110 - PostgreSQL sets no event
                await asyncio.sleep(0.01)
        await hall.of("RemoveParticipant", channel, member_id=bob_id)
        admin.execute("SELECT pg_advisory_unlock(35)")
    assert await sending == "NOT_FOUND"
    assert hall.rows("SELECT FROM messages WHERE conversation_id = %s AND text = 'too late'", channel) == []


async def test_a_send_in_flight_of_who_is_removed_is_stored_before_it_or_not_at_all(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    channel = await private_with(hall, bob_id)
    for _ in range(5):
        sending = [asyncio.create_task(_outcome(hall.send(bob, f"{n}", to=channel))) for n in range(20)]
        await hall.of("RemoveParticipant", channel, member_id=bob_id)
        (removed_at,) = hall.rows(
            "SELECT max(event_seq) FROM conversation_events WHERE conversation_id = %s AND kind = 'participant_left'",
            channel,
        )[0]
        outcomes = await asyncio.gather(*sending)
        assert set(outcomes) <= {"", "NOT_FOUND"}
        assert await _outcome(hall.send(bob, "late", to=channel)) == "NOT_FOUND"
        latest = hall.rows(
            "SELECT coalesce(max(event_seq), 0) FROM messages WHERE conversation_id = %s AND sender_user_id = %s",
            channel,
            bob.user_id,
        )[0][0]
        assert latest < removed_at
        await hall.of("AddParticipant", channel, member_id=bob_id)
        assert await _outcome(hall.send(bob, "again", to=channel)) == ""


async def _outcome(call: Any) -> str:
    """The reason of a refusal; empty for an answer."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return refusal_of(error).reason
    return ""


async def test_joins_leaves_and_archiving_at_once_leave_dense_events_that_add_up(hall: Hall) -> None:
    people = [await hall.newcomer(name) for name in ("Bob", "Cy", "Dee", "Eve")]

    async def comes_and_goes(person: Person) -> None:
        for _ in range(6):
            await _outcome(hall.of("JoinConversation", hall.channel_id, by=person))
            await hall.of("LeaveConversation", hall.channel_id, by=person)

    async def archives() -> None:
        for turn in range(6):
            await hall.of("ArchiveConversation", hall.channel_id, unarchive=bool(turn % 2))

    await asyncio.gather(*(comes_and_goes(person) for person, _ in people), archives())

    happened = hall.rows(
        "SELECT event_seq, kind, member_id::text FROM conversation_events"
        " WHERE conversation_id = %s ORDER BY event_seq",
        hall.channel_id,
    )
    assert [number for number, _, _ in happened] == list(range(1, len(happened) + 1))
    assert (await hall.get(hall.channel_id)).last_event_seq == len(happened)
    for _, member_id in people:
        own = [kind for _, kind, whose in happened if whose == member_id]
        assert own == ["participant_joined", "participant_left"] * (len(own) // 2)
    archived = False
    for _, kind, _ in happened:
        archived ^= kind == "conversation_updated"
        assert not (archived and kind == "participant_joined")
    assert await hall.taking_part(hall.channel_id) == {hall.admin_member_id}


async def test_a_member_who_goes_leaves_every_conversation_by_a_numbered_event(hall: Hall) -> None:
    _, bob_id = await hall.newcomer("Bob")
    channel = await private_with(hall, bob_id)
    async with listening(hall, hall.admin) as listener:
        await hall.remove(bob_id)
        await listener.until(lambda: listener.numbered(channel))
        assert listener.numbered(channel)[-1].participant_left.member_id == bob_id
    assert await hall.taking_part(channel) == {hall.admin_member_id}
