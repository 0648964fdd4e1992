"""Typing: passed on to who listens at that moment, never stored, never to the one who types."""

import asyncio
import uuid

import grpc
import pytest
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.messaging.v1 import event_service_pb2 as pb

from services.messaging import signals
from tests.service.test_messaging_streams import Listener, listening, replica
from tests.support.chats import Chat
from tests.support.suite import Suite, refused


@pytest.fixture
async def room(suite: Suite) -> Chat:
    """A workspace of this test's own."""
    made = await Chat.make(suite)
    assert isinstance(made, Chat)
    return made


def typing(listener: Listener, conversation_id: str) -> list[str]:
    """Which members a stream was told of."""
    found = [e for e in listener.events if e.HasField("typing") and e.conversation_id == conversation_id]
    return [e.typing.member_id for e in found]


async def test_others_hear_of_it_over_two_replicas_and_who_types_does_not(room: Chat) -> None:
    member, member_id = await room.member()
    async with replica(room) as (_, channel):
        async with (
            listening(room, room.admin) as near,
            listening(room, room.admin, channel=channel) as far,
            listening(room, member) as own,
            listening(room, member, channel=channel) as own_far,
        ):
            await room.type(member)
            for listener in (near, far):
                await listener.until(lambda heard=listener: typing(heard, room.channel_id))
            event = next(e for e in near.events if e.HasField("typing"))
            assert (event.event_seq, event.typing.user_id) == (0, member.user_id)
            await room.sent(room.admin)
            for listener in (near, far, own, own_far):
                await listener.until(lambda heard=listener: heard.texts(room.channel_id))
            assert [typing(listener, room.channel_id) for listener in (near, far, own, own_far)] == [
                [member_id],
                [member_id],
                [],
                [],
            ]
    assert room.heads() == (1, 1)


async def test_what_comes_within_two_seconds_is_not_passed_on(room: Chat) -> None:
    member, member_id = await room.member()
    other, other_id = await room.member()
    elsewhere = await room.channel()
    async with listening(room, room.admin) as listener:
        for _ in range(5):
            await room.type(member)
        await room.type(member, elsewhere)
        await room.type(other)
        await listener.until(lambda: len(typing(listener, room.channel_id)) == 2 and typing(listener, elsewhere))
        await asyncio.sleep(signals.TYPING_SECONDS)
        await room.type(member)
        await listener.until(lambda: len(typing(listener, room.channel_id)) == 3)
        assert typing(listener, room.channel_id) == [member_id, other_id, member_id]
        assert typing(listener, elsewhere) == [member_id]


async def test_who_may_not_send_does_not_type_either(room: Chat) -> None:
    viewer, _ = await room.member(members.ROLE_VIEWER)
    guest, stay = await room.guest()
    refusal = await refused(room.type(viewer))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    await room.type(guest)
    room.lock(stay)
    assert (await refused(room.type(guest))).reason == "GUEST_LOCKED"
    room.end(stay)
    assert (await refused(room.type(guest))).reason == "NOT_FOUND"
    await room.type(room.admin)
    room.archive()
    refusal = await refused(room.type(room.admin))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CONVERSATION_ARCHIVED")


async def test_what_is_hidden_is_answered_like_what_is_unknown(room: Chat) -> None:
    member, _ = await room.member()
    viewer, _ = await room.member(members.ROLE_VIEWER)
    guest, _ = await room.guest()
    elsewhere = await Chat.make(room.suite)
    hidden = await room.channel(private=True)
    for person in (member, viewer, guest, room.outsider()):
        places = (hidden, str(uuid.uuid4()), elsewhere.channel_id)
        refusals = [await refused(room.type(person, where)) for where in places]
        assert {refusal.raw for refusal in refusals} == {refusals[0].raw}
        assert refusals[0].reason == "NOT_FOUND"
    await room.type(room.admin, hidden)


async def test_a_private_conversation_is_heard_by_who_takes_part(room: Chat) -> None:
    member, member_id = await room.member()
    other, _ = await room.member()
    private = await room.channel(private=True)
    room.join(private, member, member_id)
    async with listening(room, member) as inside, listening(room, other) as outside:
        await room.type(room.admin, private)
        await inside.until(lambda: typing(inside, private))
        with room.suite.database("messaging") as database, database.transaction():
            database.execute(
                "DELETE FROM participants WHERE conversation_id = %s AND member_id = %s", (private, member_id)
            )
            database.execute("UPDATE conversations SET revision = revision + 1 WHERE id = %s", (private,))
        await asyncio.sleep(signals.TYPING_SECONDS)
        await room.type(room.admin, private)
        await room.sent(room.admin)
        for listener in (inside, outside):
            await listener.until(lambda heard=listener: heard.texts(room.channel_id))
        await inside.until(lambda: inside.has("conversation_lost", private))
        assert typing(inside, private) == [room.admin_member_id]
        assert typing(outside, private) == []


async def test_who_was_removed_hears_nothing_any_more(room: Chat) -> None:
    member, member_id = await room.member()
    async with listening(room, member) as listener:
        await room.remove(member_id)
        await room.type(room.admin)
        end = await listener.finish(seconds=3)
        assert end.reason == pb.STREAM_END_REASON_ACCESS_ENDED
        assert typing(listener, room.channel_id) == []
