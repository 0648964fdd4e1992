"""Retention and ageing: what is past its time is hidden at once on every path, and then removed in small steps."""

import contextlib
import uuid
from collections.abc import Iterator

import pytest
from guildhall.messaging.v1 import message_service_pb2 as messages

from services.messaging import ageing
from tests.service.test_messaging_streams import Listener, listening
from tests.support.chats import Chat
from tests.support.statements import statements_sent
from tests.support.suite import Suite, refused

EVENT_AGE = "UPDATE conversation_events SET created_at = created_at - interval '31 days' WHERE conversation_id = %s"


@pytest.fixture
async def room(suite: Suite) -> Chat:
    """A workspace of this test's own, in whose channel messages are seen for a day."""
    made = await Chat.make(suite)
    assert isinstance(made, Chat)
    made.retain_for_a_day()
    return made


async def purge(room: Chat) -> None:
    """What the worker does each minute."""
    database = room.suite.frames["messaging"].database
    await ageing.purge_messages(database)
    await ageing.purge_events(database)


def left(room: Chat, message: messages.Message) -> dict[str, int]:
    """The rows that hang on a message, and its own."""
    keys = {
        "messages": "id",
        "message_revisions": "message_id",
        "reactions": "message_id",
        "conversation_events": "message_id",
        "files": "message_id",
    }
    return {
        table: room.rows(f"SELECT count(*) FROM {table} WHERE {key} = %s", message.message_id)[0][0]
        for table, key in keys.items()
    }


async def test_an_aged_message_is_hidden_on_every_path_before_anything_removes_it(room: Chat) -> None:
    aged, young = await room.sent(room.admin, "aged"), await room.sent(room.admin, "young")
    replies = [await room.replied(room.admin, message) for message in (aged, young)]
    await room.edit(room.admin, aged, "aged too")
    await room.react(room.admin, aged)
    room.age(aged, hours=23)
    assert (await room.got(room.admin, aged)).text == "aged too"
    room.age(aged, hours=1)
    assert [message.text for message in (await room.read(room.admin)).messages] == ["reply", "reply", "young"]
    unknown = await refused(room.get(room.admin, messages.Message(message_id=young.conversation_id, **place(young))))
    for call in (room.get, room.edit, room.delete, room.revisions, room.react, room.unreact, room.reactions):
        assert (await refused(call(room.admin, aged))).raw == unknown.raw
        await call(room.admin, young)
        young = await room.sent(room.admin, "young again")
    first, second = [await room.got(room.admin, reply) for reply in replies]
    assert (first.reply_to_message_id, second.text) == ("", "reply")
    assert (await refused(_reply(room, aged))).reason == "REFERENCE_GONE"
    assert (await _reply(room, young)).reply_to_message_id == young.message_id


def place(message: messages.Message) -> dict[str, str]:
    """Where it is."""
    return {"conversation_id": message.conversation_id}


async def _reply(room: Chat, message: messages.Message) -> messages.Message:
    return await room.replied(room.admin, message)


async def test_a_reply_names_what_it_answers_as_long_as_that_is_seen(room: Chat) -> None:
    sent = await room.sent(room.admin)
    reply = await room.replied(room.admin, sent)
    assert (await room.got(room.admin, reply)).reply_to_message_id == sent.message_id
    assert (await room.read(room.admin)).messages[0].reply_to_message_id == sent.message_id
    room.age(sent)
    assert (await room.got(room.admin, reply)).reply_to_message_id == ""
    async with listening(room, room.admin, resume={room.channel_id: 1}) as listener:
        await listener.until(lambda: listener.events)
        assert listener.events[0].message_created.reply_to_message_id == ""


async def test_aged_messages_are_removed_with_all_that_hangs_on_them(room: Chat) -> None:
    aged, file_id = await room.sent_with_file(room.admin)
    young = await room.sent(room.admin)
    reply = await room.replied(room.admin, aged)
    for message in (aged, young):
        await room.edit(room.admin, message)
        await room.react(room.admin, message)
    room.age(aged)
    await purge(room)
    assert set(left(room, aged).values()) == {0}
    assert left(room, young) == {
        "messages": 1,
        "message_revisions": 1,
        "reactions": 1,
        "conversation_events": 2,
        "files": 0,
    }
    assert room.rows("SELECT reply_to_id FROM messages WHERE id = %s", reply.message_id) == [(None,)]
    await room.with_files.nothing_left(file_id)
    assert room.heads() == (3, 7)
    assert (await room.sent(room.admin)).seq == 4


async def test_without_retention_nothing_ages(room: Chat) -> None:
    other = await room.channel()
    kept = await room.sent(room.admin, to=other)
    await room.react(room.admin, kept)
    room.age(kept, hours=24 * 365 * 10)
    await purge(room)
    assert left(room, kept)["messages"] == 1
    assert (await room.got(room.admin, kept)).text == "hello"


async def test_a_batch_is_bounded_and_begins_with_the_oldest(room: Chat) -> None:
    sent = [await room.sent(room.admin) for _ in range(5)]
    room.age(*sent[:4])
    database = room.suite.frames["messaging"].database
    seen = []
    for _ in range(3):
        more = await database.transaction(
            lambda tx: ageing.purge_oldest(tx, workspace_id=room.workspace_id, conversation_id=room.channel_id, batch=2)
        )
        query = "SELECT min(seq) FROM messages WHERE conversation_id = %s"
        seen.append((more, room.rows(query, room.channel_id)[0][0]))
    assert seen == [(True, 3), (True, 5), (False, 5)]


async def test_a_locked_conversation_does_not_keep_the_others_waiting(room: Chat) -> None:
    other = await room.channel()
    room.retain_for_a_day(other)
    held, free = await room.sent(room.admin), await room.sent(room.admin, to=other)
    room.age(held, free)
    with locked(room):
        await purge(room)
        assert (left(room, held)["messages"], left(room, free)["messages"]) == (1, 0)
    await purge(room)
    assert left(room, held)["messages"] == 0


async def test_all_that_is_aged_is_removed_however_many_pages_it_is_and_whatever_is_locked(room: Chat) -> None:
    held_ids, free_ids = [[await room.channel() for _ in range(3)] for _ in range(2)]
    held, free = [[await room.sent(room.admin, to=each) for each in ids] for ids in (held_ids, free_ids)]
    for each in (*held_ids, *free_ids):
        room.retain_for_a_day(each)
    # The first pages are of those that somebody has locked.
    room.age(*held, hours=24 * 365)
    room.age(*free)
    database = room.suite.frames["messaging"].database
    with locked(room, *held_ids):
        await ageing.purge_messages(database, page=2)
        assert [left(room, message)["messages"] for message in (*held, *free)] == [1, 1, 1, 0, 0, 0]
    await ageing.purge_messages(database, page=2)
    assert [left(room, message)["messages"] for message in held] == [0, 0, 0]


@contextlib.contextmanager
def locked(room: Chat, *conversation_ids: str) -> Iterator[None]:
    """Somebody has the lock of the channel, or of others."""
    ids = list(conversation_ids) or [room.channel_id]
    with room.suite.database("messaging") as database, database.transaction():
        database.execute("SELECT 1 FROM conversations WHERE id = ANY(%s::uuid[]) FOR NO KEY UPDATE", (ids,))
        yield


async def test_what_to_remove_is_found_without_looking_at_messages_that_stay(room: Chat) -> None:
    room.age(await room.sent(room.admin))
    with statements_sent() as sent:
        await ageing.purge_messages(room.suite.frames["messaging"].database)
    query = next(s for s in sent if s.service == "messaging" and "oldest" in s.text)
    assert "retention_seconds IS NOT NULL" in query.text
    with room.suite.database("messaging") as database:
        database.execute("SET enable_seqscan = off")
        plan = database.execute(f"EXPLAIN {query.text}".encode(), query.parameters).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "conversations_retention" in text
    assert "Seq Scan" not in text


async def test_events_older_than_30_days_go_and_younger_ones_stay(room: Chat) -> None:
    sent = await room.sent(room.admin)
    await room.react(room.admin, sent)
    room.rows(EVENT_AGE.replace("31", "29"), room.channel_id)
    await purge(room)
    assert room.event_kinds() == ["reaction_added"]
    room.rows(EVENT_AGE.replace("31", "1"), room.channel_id)
    await purge(room)
    assert room.event_kinds() == []
    assert (await room.got(room.admin, sent)).text == "hello"


def told(listener: Listener) -> list[tuple[str, int]]:
    """What came, and its number; of a reset where to go on from."""
    found = []
    for event in listener.events:
        kind = str(event.WhichOneof("payload"))
        found.append((kind, event.reset.event_seq if event.HasField("reset") else event.event_seq))
    return found


async def resumed(room: Chat, position: int) -> list[tuple[str, int]]:
    """What a stream is told that comes back, up to something that was sent after."""
    async with listening(room, room.admin, resume={room.channel_id: position}) as listener:
        last = await room.sent(room.admin, "last")
        await listener.until(lambda: ("message_created", last.event_seq) in told(listener))
        assert {event.WhichOneof("payload") for event in listener.events} <= {"message_created", "reset"}
        return told(listener)


async def test_a_stream_is_reset_over_each_hole_in_the_middle(room: Chat) -> None:
    sent = [await room.sent(room.admin) for _ in range(7)]
    room.rows("DELETE FROM messages WHERE id = ANY(%s::uuid[])", [sent[n].message_id for n in (2, 3, 5)])
    assert await resumed(room, 1) == [
        ("message_created", 2),
        ("reset", 4),
        ("message_created", 5),
        ("reset", 6),
        ("message_created", 7),
        ("message_created", 8),
    ]
    assert await resumed(room, 4) == [
        ("message_created", 5),
        ("reset", 6),
        *[("message_created", number) for number in (7, 8, 9)],
    ]
    assert await resumed(room, 6) == [("message_created", number) for number in (7, 8, 9, 10)]


async def test_a_stream_is_reset_when_the_oldest_are_gone(room: Chat) -> None:
    sent = [await room.sent(room.admin) for _ in range(4)]
    room.age(*sent[:2])
    await purge(room)
    assert await resumed(room, 0) == [("reset", 2), *[("message_created", number) for number in (3, 4, 5)]]
    assert await resumed(room, 2) == [("message_created", number) for number in (3, 4, 5, 6)]


async def test_a_stream_is_reset_when_the_latest_are_gone(room: Chat) -> None:
    kept = await room.sent(room.admin)
    for number in range(3):
        await room.react(room.admin, kept, f"{number}")
    room.rows(EVENT_AGE, room.channel_id)
    await purge(room)
    async with listening(room, room.admin, resume={room.channel_id: 0}) as listener:
        await listener.until(lambda: len(listener.events) == 2)
        assert told(listener) == [("message_created", 1), ("reset", 4)]
        last = await room.sent(room.admin, "last")
        await listener.until(lambda: len(listener.events) == 3)
        assert listener.events[2].event_seq == last.event_seq == 5


async def test_a_stream_is_reset_when_all_is_gone(room: Chat) -> None:
    sent = [await room.sent(room.admin) for _ in range(3)]
    await room.react(room.admin, sent[2])
    room.age(*sent)
    await purge(room)
    assert room.rows("SELECT FROM messages WHERE conversation_id = %s", room.channel_id) == []
    async with listening(room, room.admin, resume={room.channel_id: 1}) as listener:
        await listener.until(lambda: listener.events)
        assert told(listener) == [("reset", 4)]
    assert await resumed(room, 4) == [("message_created", 5)]


async def test_what_is_hidden_but_not_removed_yet_is_a_hole_as_well(room: Chat) -> None:
    sent = [await room.sent(room.admin, f"{number}") for number in range(3)]
    await room.edit(room.admin, sent[1], "secret")
    room.age(sent[1])
    async with listening(room, room.admin, resume={room.channel_id: 0}) as listener:
        last = await room.sent(room.admin, "last")
        await listener.until(lambda: listener.numbers(room.channel_id)[-1:] == [last.event_seq])
        assert told(listener) == [
            ("message_created", 1),
            ("reset", 2),
            ("message_created", 3),
            ("reset", 4),
            ("message_created", 5),
        ]


async def test_what_was_purged_is_sent_anew_under_the_same_id_and_what_was_not_is_not(room: Chat) -> None:
    keys = [str(uuid.uuid4()) for _ in range(2)]
    first, kept = [await room.sent(room.admin, "note", key=key) for key in keys]
    room.retain_for_a_day()
    room.age(first)
    await purge(room)
    assert (await room.sent(room.admin, "note", key=keys[1])).message_id == kept.message_id
    again = await room.sent(room.admin, "note", key=keys[0])
    assert (again.message_id != first.message_id, again.seq) == (True, 3)


async def test_an_open_stream_goes_on_over_a_purge(room: Chat) -> None:
    async with listening(room, room.admin) as listener:
        sent = await room.sent(room.admin)
        await listener.until(lambda: listener.events)
        room.age(sent)
        await purge(room)
        await room.sent(room.admin)
        await listener.until(lambda: len(listener.events) == 2)
        assert told(listener) == [("message_created", 1), ("message_created", 2)]
