"""Edits, deletions and reactions on live streams: dense, in order, whole after reconnects, without what is gone."""

import asyncio
import random
import uuid
from typing import Any

import pytest
from guildhall.messaging.v1 import event_service_pb2 as pb
from guildhall.messaging.v1 import message_service_pb2 as messages

from tests.service.test_messaging_streams import listening, replica
from tests.support.chats import Chat
from tests.support.suite import Person, Suite

SENDERS = 4
CHANGES = 12


@pytest.fixture
async def room(suite: Suite) -> Chat:
    """A workspace of this test's own."""
    made = await Chat.make(suite)
    assert isinstance(made, Chat)
    return made


async def story(room: Chat, person: Person, name: str) -> None:
    """Somebody sends, edits, reacts, takes back and deletes."""
    sent = await room.sent(person, f"{name} 0")
    for number in range(CHANGES):
        await room.edit(person, sent, f"{name} {number + 1}")
        await room.react(person, sent, f"{number}")
        if number % 3 == 0:
            await room.unreact(person, sent, f"{number}")
        if number % 4 == 3:
            await room.delete(person, sent)
            sent = await room.sent(person, f"{name} again")


def payloads(events: list[pb.Event]) -> list[tuple[int, str]]:
    """Numbers and kinds."""
    return [(event.event_seq, str(event.WhichOneof("payload"))) for event in events]


async def head(room: Chat) -> int:
    """The number of the latest event."""
    return room.heads()[1]


async def test_changes_arrive_dense_and_in_order_on_streams_of_two_replicas(room: Chat) -> None:
    member, _ = await room.member()
    async with replica(room) as (_, channel):
        async with listening(room, member) as near, listening(room, member, channel=channel) as far:
            await asyncio.gather(*(story(room, room.admin, f"story {number}") for number in range(SENDERS)))
            last = await head(room)
            for listener in (near, far):
                await listener.until(lambda heard=listener: heard.numbers(room.channel_id)[-1:] == [last])
                assert listener.numbers(room.channel_id) == list(range(1, last + 1))
            assert {kind for _, kind in payloads(near.numbered(room.channel_id))} == {
                "message_created",
                "message_edited",
                "message_deleted",
                "reaction_added",
                "reaction_removed",
            }


async def test_from_every_position_exactly_the_rest_follows(room: Chat) -> None:
    await story(room, room.admin, "story")
    last = await head(room)
    async with listening(room, room.admin, resume={room.channel_id: 0}) as listener:
        await listener.until(lambda: listener.numbers(room.channel_id)[-1:] == [last])
        whole = listener.numbered(room.channel_id)
    assert [event.event_seq for event in whole] == list(range(1, last + 1))
    for position in range(1, last, 3):
        async with listening(room, room.admin, resume={room.channel_id: position}) as listener:
            await listener.until(lambda heard=listener: heard.numbers(room.channel_id)[-1:] == [last])
            assert listener.numbered(room.channel_id) == whole[position:]


async def test_nothing_is_missed_or_doubled_over_reconnects_while_it_happens(room: Chat) -> None:
    telling = asyncio.gather(*(story(room, room.admin, f"story {number}") for number in range(SENDERS)))
    heard: list[int] = []
    async with replica(room) as (_, channel):
        while not telling.done() or len(heard) < await head(room):
            resume = {room.channel_id: heard[-1] if heard else 0}
            where = random.choice([None, channel])
            async with listening(room, room.admin, resume=resume, channel=where) as listener:
                await listener.until(lambda listener=listener: listener.numbers(room.channel_id))
                heard += listener.numbers(room.channel_id)
        await telling
    assert heard == list(range(1, await head(room) + 1))


async def test_an_edit_is_told_as_the_message_is_now(room: Chat) -> None:
    sent = await room.sent(room.admin, "one")
    async with listening(room, room.admin) as listener:
        edited = (await room.edit(room.admin, sent, "two")).message
        await listener.until(lambda: listener.events)
        assert listener.events[0].message_edited == edited
    await room.edit(room.admin, sent, "three")
    async with listening(room, room.admin, resume={room.channel_id: 0}) as listener:
        await listener.until(lambda: len(listener.events) == 3)
        assert listener.events[0].message_created.text == "three"
        assert [event.message_edited.text for event in listener.events[1:]] == ["three", "three"]


async def test_a_reaction_is_told_with_who_and_what(room: Chat) -> None:
    member, member_id = await room.member()
    sent = await room.sent(room.admin)
    async with listening(room, room.admin) as listener:
        await room.react(member, sent, "🎉")
        await room.unreact(member, sent, "🎉")
        await listener.until(lambda: len(listener.events) == 2)
    added, removed = listener.events[0].reaction_added, listener.events[1].reaction_removed
    assert added == removed
    assert (added.message_id, added.member_id, added.user_id, added.emoji) == (
        sent.message_id,
        member_id,
        member.user_id,
        "🎉",
    )


async def test_what_was_deleted_is_never_told_again(room: Chat) -> None:
    secret, emoji = uuid.uuid4().hex, uuid.uuid4().hex
    sent = await room.sent(room.admin, secret)
    await room.edit(room.admin, sent, f"{secret} too")
    await room.react(room.admin, sent, emoji)
    await room.unreact(room.admin, sent, emoji)
    kept = await room.sent(room.admin, "kept")
    async with listening(room, room.admin) as listener:
        gone = (await room.delete(room.admin, sent)).message
        await listener.until(lambda: listener.events)
        assert listener.events[0].message_deleted == gone
    for position in range(6):
        async with listening(room, room.admin, resume={room.channel_id: position}) as listener:
            await listener.until(lambda heard=listener: heard.numbers(room.channel_id)[-1:] == [6])
            assert (
                payloads(listener.events)
                == [
                    (1, "message_created"),
                    (2, "message_edited"),
                    (3, "message_deleted"),
                    (4, "message_deleted"),
                    (5, "message_created"),
                    (6, "message_deleted"),
                ][position:]
            )
            told = [message_of(event) for event in listener.events]
            assert told == [gone, gone, gone, gone, kept, gone][position:]
            assert not any(secret in str(event) or emoji in str(event) for event in listener.events)


def message_of(event: pb.Event) -> messages.Message:
    """The message that an event is about."""
    found: Any = getattr(event, str(event.WhichOneof("payload")))
    assert isinstance(found, messages.Message)
    return found
