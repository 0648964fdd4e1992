"""A person's messages erased because they asked for it: all of them, however often the work is cut short."""

import asyncio
import uuid

import pytest
from guildhall.events.v1 import event_sink_pb2 as events
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc as users_rpc
from sqlalchemy.ext.asyncio import AsyncConnection

from services.messaging import erasures
from tests.service.test_messaging_streams import listening
from tests.support.chats import Chat
from tests.support.deliveries import deliver
from tests.support.suite import Person, Suite


@pytest.fixture
async def room(suite: Suite) -> Chat:
    """A workspace of this test's own."""
    made = await Chat.make(suite)
    assert isinstance(made, Chat)
    return made


async def until_erased(room: Chat, person: Person) -> None:
    """Waits until the worker has gone through all that somebody wrote."""
    query = (
        "SELECT EXISTS (SELECT FROM messages WHERE sender_user_id = %(id)s AND deleted_at IS NULL)"
        " OR EXISTS (SELECT FROM reactions WHERE user_id = %(id)s)"
        " OR EXISTS (SELECT FROM read_states WHERE user_id = %(id)s)"
        " OR EXISTS (SELECT FROM conversation_events WHERE user_id = %(id)s AND emoji IS NOT NULL)"
        " OR EXISTS (SELECT FROM erasures WHERE user_id = %(id)s)"
    )
    async with asyncio.timeout(30):
        with room.suite.database("messaging") as database:
            while database.execute(query, {"id": person.user_id}).fetchone() != (False,):  # noqa: ASYNC110 - a row sets no event
                await asyncio.sleep(0.05)


def told(person: Person, *, erase: bool = True) -> events.Event:
    """What identity tells."""
    return events.Event(user_deleted=events.UserDeleted(user_id=person.user_id, erase_messages=erase))


async def test_who_deletes_themselves_and_asks_for_it_leaves_only_tombstones(room: Chat) -> None:
    member, member_id = await room.member()
    private = await room.channel(member, private=True)
    theirs, hidden = await room.sent(member, "theirs"), await room.sent(member, "hidden", to=private)
    with_file, file_id = await room.sent_with_file(member)
    others = await room.sent(room.admin, "others")
    await room.edit(member, theirs, "edited")
    for message in (theirs, others):
        await room.react(room.admin, message)
        await room.react(member, message, "🎉")
    await room.mark_read(member, 2)
    last = room.heads()[1]
    async with listening(room, room.admin) as listener:
        stub = room.suite.stub(users_rpc.UserServiceStub)
        await member.call(stub.DeleteUser, users.DeleteUserRequest(user_id=member.user_id, erase_messages=True))
        await until_erased(room, member)
        await listener.until(lambda: len([e for e in listener.events if e.event_seq > last]) == 3)
        dropped = [e for e in listener.events if e.event_seq > last]
    assert [str(event.WhichOneof("payload")) for event in dropped] == ["message_deleted"] * 2 + ["reaction_removed"]
    assert {e.message_deleted.message_id for e in dropped[:2]} == {theirs.message_id, with_file.message_id}
    assert [e.event_seq for e in dropped] == [last + 1, last + 2, last + 3]
    removed = dropped[2].reaction_removed
    assert (removed.message_id, removed.emoji, removed.member_id) == (others.message_id, "", member_id)
    for message in (theirs, with_file):
        gone = await room.got(room.admin, message)
        assert (gone.text, gone.HasField("delete_time"), gone.sender_member_id) == ("", True, member_id)
    assert [item.emoji for item in (await room.got(room.admin, others)).reactions] == ["👍"]
    assert (await room.got(room.admin, others)).text == "others"
    for table in ("message_revisions", "reactions"):
        assert room.rows(f"SELECT FROM {table} WHERE message_id = %s", theirs.message_id) == []
    assert room.rows("SELECT text FROM messages WHERE id = %s", hidden.message_id) == [(None,)]
    await room.with_files.nothing_left(file_id)


async def test_no_event_tells_any_more_with_what_they_reacted(room: Chat) -> None:
    member, _ = await room.member()
    elsewhere = await room.channel()
    here, there = await room.sent(room.admin, "here"), await room.sent(room.admin, "there", to=elsewhere)
    for emoji in ("🎉", "👀"):
        await room.react(member, here, emoji)
    await room.react(room.admin, here)
    # Taken back, so that no reaction is left by which the conversation would be found.
    await room.react(member, there, "🎉")
    await room.unreact(member, there, "🎉")
    for _ in range(2):
        await deliver(room.suite, told(member), source="identity", to="messaging")
        await until_erased(room, member)
    query = "SELECT kind, emoji, user_id::text FROM conversation_events WHERE conversation_id = %s ORDER BY event_seq"
    assert room.rows(query, room.channel_id) == [
        ("reaction_added", None, member.user_id),
        ("reaction_added", None, member.user_id),
        ("reaction_added", "👍", room.admin.user_id),
        ("reaction_removed", None, member.user_id),
    ]
    assert [emoji for _, emoji, _ in room.rows(query, elsewhere)] == [None, None]
    async with listening(room, room.admin, resume={room.channel_id: 0, elsewhere: 0}) as listener:
        await listener.until(lambda: len(listener.numbered(elsewhere)) == 3)
        kinds = [event.WhichOneof("payload") for event in listener.numbered(room.channel_id)]
        assert kinds == ["message_created", "hidden", "hidden", "reaction_added", "reaction_removed"]
        last = listener.numbered(room.channel_id)[-1].reaction_removed
        assert (last.message_id, last.emoji, last.user_id) == (here.message_id, "", member.user_id)
        assert listener.numbers(room.channel_id) == [1, 2, 3, 4, 5]
    assert [item.emoji for item in (await room.got(room.admin, here)).reactions] == ["👍"]


async def test_who_does_not_ask_for_it_leaves_what_they_wrote(room: Chat) -> None:
    stays, _ = await room.member()
    erased, _ = await room.member()
    kept, gone = await room.sent(stays, "kept"), await room.sent(erased, "gone")
    await deliver(room.suite, told(stays, erase=False), source="identity", to="messaging")
    await deliver(room.suite, told(erased), source="identity", to="messaging")
    await until_erased(room, erased)
    assert room.rows("SELECT text FROM messages WHERE id = %s", kept.message_id) == [("kept",)]
    assert room.rows("SELECT text FROM messages WHERE id = %s", gone.message_id) == [(None,)]


async def test_what_was_still_being_written_is_erased_a_minute_later(room: Chat) -> None:
    member, _ = await room.member()
    await deliver(room.suite, told(member), source="identity", to="messaging")
    await until_erased(room, member)
    query = (
        "SELECT kind, due_at > statement_timestamp() + interval '30 seconds' FROM outbox "
        "WHERE target = 'worker' AND subject_id = %s AND attempts = 0"
    )
    assert (erasures.ERASE, True) in room.rows(query, member.user_id)


async def test_small_steps_cut_short_and_repeated_erase_each_message_once(room: Chat) -> None:
    member, _ = await room.member()
    channels = [room.channel_id, *[await room.channel() for _ in range(3)]]
    sent = [await room.sent(member, f"{number}", to=channel) for channel in channels[:3] for number in range(5)]
    others = [await room.sent(room.admin, "others", to=channel) for channel in channels for _ in range(3)]
    for message in others:
        await room.react(member, message)
    database = room.suite.frames["messaging"].database
    steps = 0

    class Killed(Exception):
        pass

    async def cut_short(tx: AsyncConnection) -> bool:
        await erasures.erase(tx, member.user_id, batch=2, page=40)
        raise Killed

    while True:
        with pytest.raises(Killed):
            await database.transaction(cut_short)
        steps += 1
        if not await database.transaction(lambda tx: erasures.erase(tx, member.user_id, batch=2, page=40)):
            break
    for _ in range(steps):
        await database.transaction(lambda tx: erasures.erase(tx, member.user_id, batch=2, page=40))
    ids = [message.message_id for message in sent]
    query = "SELECT count(*) FROM messages WHERE id = ANY(%s::uuid[]) AND deleted_at IS NOT NULL AND text IS NULL"
    assert room.rows(query, ids) == [(len(sent),)]
    kinds = [kind for channel in channels for kind in room.event_kinds(channel)]
    assert (kinds.count("message_deleted"), kinds.count("reaction_removed")) == (len(sent), len(others))
    assert room.rows("SELECT FROM reactions WHERE user_id = %s", member.user_id) == []
    for channel in channels:
        query = (
            "SELECT count(*) FROM (SELECT event_seq FROM messages WHERE conversation_id = %s UNION ALL"
            " SELECT event_seq FROM conversation_events WHERE conversation_id = %s) numbered"
        )
        assert room.rows(query, channel, channel) == [(room.heads(channel)[1],)]
    assert [
        text
        for (text,) in room.rows(
            "SELECT text FROM messages WHERE id = ANY(%s::uuid[])", [message.message_id for message in others]
        )
    ] == ["others"] * len(others)


async def test_two_works_at_the_same_time_do_not_disturb_each_other(room: Chat) -> None:
    member, _ = await room.member()
    sent = [await room.sent(member, f"{number}") for number in range(12)]
    database = room.suite.frames["messaging"].database

    async def work() -> None:
        while await database.transaction(lambda tx: erasures.erase(tx, member.user_id, batch=2)):
            pass

    await asyncio.gather(work(), work())
    assert room.event_kinds() == ["message_deleted"] * len(sent)
    assert room.heads() == (12, 24)


async def test_only_identitys_word_is_taken(room: Chat) -> None:
    import grpc

    sink = room.suite.sink("messaging", certificate="guest")
    event = told(room.admin)
    event.event_id = str(uuid.uuid4())
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await sink.DeliverEvents(events.DeliverEventsRequest(events=[event]), timeout=10)
    assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED
