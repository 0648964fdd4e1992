"""One conversation in which much happens leaves its place in each reading to the others."""

import itertools
from collections.abc import Mapping, Sequence

import pytest

from services.messaging import events
from services.messaging.events import Asked, Reading
from tests.service.test_messaging_conversations import Room
from tests.service.test_messaging_streams import Listener, listening
from tests.support.suite import Suite

LONG = 40_000
"""Letters of a message of which a reading holds 27."""
MANY = 1200


@pytest.fixture
async def room(suite: Suite) -> Room:
    """A workspace of this test's own."""
    made = await Room.make(suite)
    assert isinstance(made, Room)
    return made


def fill(room: Room, *filled: tuple[str, int, int]) -> None:
    """Messages that wake nobody, committed together: conversation, how many, and of how many letters each."""
    with room.suite.database("messaging") as database, database.transaction():
        for conversation_id, count, letters in filled:
            database.execute(
                "INSERT INTO messages (conversation_id, seq, event_seq, id, sender_member_id, sender_user_id, "
                "client_message_id, text) SELECT id, last_seq + n, last_event_seq + n, gen_random_uuid(), %s, %s, "
                "gen_random_uuid(), repeat('x', %s) FROM conversations, generate_series(1, %s) n WHERE id = %s",
                (room.admin_member_id, room.admin.user_id, letters, count, conversation_id),
            )
            database.execute(
                "UPDATE conversations SET last_seq = last_seq + %s, last_event_seq = last_event_seq + %s WHERE id = %s",
                (count, count, conversation_id),
            )


async def read(room: Room, positions: Mapping[str, int]) -> tuple[list[Reading], list[str]]:
    asked = [Asked(key, position, position, 1_000_000) for key, position in positions.items()]
    return await room.suite.frames["messaging"].database.read(lambda tx: events.read(tx, asked=asked))


def numbers(readings: Sequence[Reading]) -> dict[str, list[int]]:
    return {reading.conversation_id: [event.event_seq for event in reading.events] for reading in readings}


async def test_conversations_with_news_share_a_reading_and_those_without_take_no_share(room: Room) -> None:
    busy, also_busy, calm, silent = [await room.channel() for _ in range(4)]
    fill(room, (busy, MANY, 1), (also_busy, MANY, 1), (calm, 1, 1))
    readings, rest = await read(room, {busy: 0, silent: 0, calm: 0, also_busy: 0})
    share = events.MOST_EVENTS // 3
    assert numbers(readings) == {busy: [*range(1, share + 1)], calm: [1], also_busy: [*range(1, share + 1)]}
    assert rest == [busy, also_busy]
    alone, rest = await read(room, {silent: 0, busy: share})
    assert numbers(alone) == {busy: [*range(share + 1, share + 1 + events.MOST_EVENTS)]}
    assert rest == [busy]


async def test_with_more_conversations_than_a_reading_holds_each_has_one_event_and_the_others_are_next(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MOST_EVENTS", 2)
    ids = [await room.channel() for _ in range(3)]
    fill(room, *((conversation_id, 2, 1) for conversation_id in ids))
    readings, rest = await read(room, dict.fromkeys(ids, 0))
    assert numbers(readings) == {ids[0]: [1], ids[1]: [1]}
    assert rest == [ids[2], ids[0], ids[1]]


async def test_what_one_conversation_leaves_no_bytes_for_is_read_before_the_rest_of_it(room: Room) -> None:
    heavy, light = await room.channel(), await room.channel()
    fill(room, (heavy, 60, LONG), (light, 1, 1))
    readings, rest = await read(room, {heavy: 0, light: 0})
    held = 1 + events.MOST_BYTES // LONG
    assert numbers(readings) == {heavy: [*range(1, held + 1)]}
    assert rest == [light, heavy]


async def test_on_a_stream_the_others_come_before_the_rest_of_the_one_that_always_has_more(room: Room) -> None:
    calm = [await room.channel() for _ in range(8)]
    async with listening(room, room.admin) as listener:
        await room.sent(room.admin, "live")
        await listener.until(lambda: listener.texts(room.channel_id))
        # The oldest, so the poll reads it first.
        fill(room, (room.channel_id, 75, LONG), *((conversation_id, 1, 1) for conversation_id in calm))
        await listener.until(lambda: len(listener.numbers(room.channel_id)) == 76 and has_all(listener, calm))
    came = [event.conversation_id for event in listener.events if event.event_seq]
    busiest = max(len(list(run)) for key, run in itertools.groupby(came) if key == room.channel_id)
    assert busiest < 75
    assert listener.numbers(room.channel_id) == list(range(1, 77))


def has_all(listener: Listener, conversation_ids: Sequence[str]) -> bool:
    return all(listener.texts(conversation_id) for conversation_id in conversation_ids)
