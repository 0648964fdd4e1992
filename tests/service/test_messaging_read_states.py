"""Read states: forward only, back by word, what is unread, and who is told at once."""

import asyncio
import uuid

import pytest
from guildhall.messaging.v1 import event_service_pb2 as events
from guildhall.messaging.v1 import message_service_pb2 as pb

from services.messaging import audiences, conversations, read_states
from tests.service.test_messaging_messages import _invited_again as invited_again
from tests.service.test_messaging_streams import Listener, listening, replica
from tests.support.chats import Chat
from tests.support.statements import rows_looked_at
from tests.support.suite import Person, Suite, refused

NOWHERE = "unix:///nowhere/valkey.sock"


@pytest.fixture
async def room(suite: Suite) -> Chat:
    """A workspace of this test's own."""
    made = await Chat.make(suite)
    assert isinstance(made, Chat)
    return made


async def place(answer: object) -> tuple[int, int]:
    """Where an answer says that the caller stands: position, unread."""
    state = (await answer).read_state  # type: ignore[misc]
    return state.read_seq, state.unread_count


async def many(room: Chat, count: int, person: Person | None = None, to: str = "") -> list[pb.Message]:
    """Some messages."""
    return [await room.sent(person or room.admin, f"{number}", to=to) for number in range(count)]


def moved(listener: Listener, conversation_id: str) -> list[tuple[str, int]]:
    """Whose position a stream was told of, and what it was."""
    found = [e.read_state_changed for e in listener.events if e.HasField("read_state_changed")]
    return [(state.member_id, state.read_seq) for state in found if state.conversation_id == conversation_id]


async def test_the_position_goes_forward_only_and_never_beyond_the_last_message(room: Chat) -> None:
    member, member_id = await room.member()
    await many(room, 5)
    answer = (await room.mark_read(member, 3)).read_state
    assert (answer.conversation_id, answer.member_id, answer.user_id) == (room.channel_id, member_id, member.user_id)
    assert (answer.read_seq, answer.unread_count) == (3, 2)
    assert await place(room.mark_read(member, 1)) == (3, 2)
    assert await place(room.mark_read(member, 99)) == (5, 0)
    await many(room, 1)
    assert await place(room.mark_read(member, 0)) == (5, 1)


async def test_of_many_calls_at_once_the_highest_wins(room: Chat) -> None:
    member, _ = await room.member()
    await many(room, 20)
    await asyncio.gather(*(room.mark_read(member, seq) for seq in (3, 17, 9, 20, 1, 12, 20, 5)))
    assert await place(room.mark_read(member, 0)) == (20, 0)


async def test_marking_unread_goes_back_only(room: Chat) -> None:
    member, _ = await room.member()
    await many(room, 5)
    assert await place(room.mark_unread(member, 2)) == (0, 5)
    await room.mark_read(member, 4)
    assert await place(room.mark_unread(member, 5)) == (4, 1)
    assert await place(room.mark_unread(member, 2)) == (1, 4)
    assert await place(room.mark_read(member, 3)) == (3, 2)
    assert "seq" in (await refused(room.mark_unread(member, 0))).fields


async def listed(room: Chat, person: Person) -> tuple[int, int]:
    """The same by the list of conversations."""
    found = (await room.conversations(person)).conversations
    return next((each.read_seq, each.unread_count) for each in found if each.conversation_id == room.channel_id)


async def joined(room: Chat) -> Person:
    """A new member who has joined the channel."""
    member, member_id = await room.member()
    room.join(room.channel_id, member, member_id)
    return member


async def test_what_was_there_before_one_joined_is_unread_only_by_word(room: Chat) -> None:
    await many(room, 5)
    member = await joined(room)
    await many(room, 3)
    assert await listed(room, member) == (0, 3)
    # Not forward of where they joined, nor back to the first message.
    assert await place(room.mark_unread(member, 7)) == (5, 3)
    assert await listed(room, member) == (5, 3)
    assert await place(room.mark_unread(member, 2)) == (1, 7)
    assert await listed(room, member) == (1, 7)


async def test_who_has_read_nothing_marks_an_old_message_unread(room: Chat) -> None:
    await many(room, 5)
    member = await joined(room)
    assert await place(room.mark_unread(member, 4)) == (3, 2)
    assert await listed(room, member) == (3, 2)


@pytest.mark.parametrize(("seq", "expected"), [(0, (5, 3)), (2, (5, 3)), (6, (6, 2)), (99, (8, 0))])
async def test_reading_never_goes_back_behind_where_one_joined(room: Chat, seq: int, expected: tuple[int, int]) -> None:
    await many(room, 5)
    member = await joined(room)
    await many(room, 3)
    assert await place(room.mark_read(member, seq)) == expected
    assert await listed(room, member) == expected


@pytest.mark.parametrize("joined_after", [0, 1, 1234, 2999, 3000])
async def test_where_one_joined_is_found_among_many_messages_by_looking_at_few(room: Chat, joined_after: int) -> None:
    fill(room, 3000, before=joined_after)
    with room.suite.database("messaging_owner") as database:
        database.execute("ANALYZE messages")
    database = room.suite.frames["messaging"].database
    where = {"conversation_id": room.channel_id, "workspace_id": room.workspace_id}
    for statement, seq, expected in (
        (read_states.FORWARD, 0, joined_after),
        (read_states.FORWARD, 2000, max(joined_after, 2000)),
        (read_states.BACK, 2999, min(joined_after, 2999)),
        (read_states.BACK, 2**62, joined_after),
    ):
        person, member_id = room.admin, str(uuid.uuid4())
        room.join(room.channel_id, person, member_id)
        # Between what was sent a day ago and what was sent just now.
        room.rows("UPDATE participants SET joined_at = joined_at - interval '1 hour' WHERE member_id = %s", member_id)
        moved = {**where, "member_id": member_id, "user_id": person.user_id, "seq": seq}
        assert await rows_looked_at(database, statement, moved, table="messages") <= 30
        assert room.rows("SELECT read_seq FROM read_states WHERE member_id = %s", member_id) == [(expected,)]
        # Who has a position stands where that is.
        assert await rows_looked_at(database, statement, {**moved, "seq": 1500}, table="messages") == 0


async def test_what_was_marked_unread_by_word_is_read_one_after_the_other(room: Chat) -> None:
    await many(room, 5)
    member = await joined(room)
    assert await place(room.mark_unread(member, 2)) == (1, 4)
    assert await place(room.mark_read(member, 2)) == (2, 3)


async def test_a_repeated_call_moves_once(room: Chat) -> None:
    member, request_id = (await room.member())[0], str(uuid.uuid4())
    await many(room, 5)
    await room.mark_read(member, 4, request_id=request_id)
    await room.mark_unread(member, 2)
    assert await place(room.mark_read(member, 4, request_id=request_id)) == (1, 4)
    refusal = await refused(room.mark_read(member, 5, request_id=request_id))
    assert refusal.reason == "IDEMPOTENCY_MISMATCH"


async def test_own_messages_tombstones_and_what_is_too_old_are_not_unread(room: Chat) -> None:
    member, _ = await room.member()
    sent = await many(room, 4)
    await many(room, 3, member)
    assert await place(room.mark_read(member, 0)) == (0, 4)
    await room.delete(room.admin, sent[1])
    assert await place(room.mark_read(member, 0)) == (0, 3)
    room.retain_for_a_day()
    room.age(sent[0])
    assert await place(room.mark_read(member, 0)) == (0, 2)
    # The first one is from before the admin made the channel by now.
    assert await place(room.mark_read(room.admin, 0)) == (1, 3)


def fill(room: Chat, count: int, *, before: int = 0) -> None:
    """That many messages by the admin, the first `before` of them a day ago."""
    room.rows(
        "INSERT INTO messages (conversation_id, seq, event_seq, id, sender_member_id, sender_user_id, "
        "client_message_id, text, created_at) SELECT %s, n, n, gen_random_uuid(), %s, %s, gen_random_uuid(), 'x', "
        "statement_timestamp() - CASE WHEN n <= %s THEN interval '1 day' ELSE interval '0' END "
        "FROM generate_series(1, %s) n",
        room.channel_id,
        room.admin_member_id,
        room.admin.user_id,
        before,
        count,
    )
    room.rows(
        "UPDATE conversations SET last_seq = %s, last_event_seq = %s WHERE id = %s", count, count, room.channel_id
    )


@pytest.mark.parametrize(("unread", "counted"), [(999, 999), (1000, 1000), (1001, 1000)])
async def test_unread_is_exact_up_to_a_thousand(room: Chat, unread: int, counted: int) -> None:
    member, _ = await room.member()
    fill(room, unread)
    assert await place(room.mark_read(member, 0)) == (0, counted)
    assert conversations.MOST_UNREAD == 1000


async def test_a_locked_guest_reads_on_and_so_does_everybody_in_an_archive(room: Chat) -> None:
    guest, stay = await room.guest()
    await many(room, 3)
    room.lock(stay)
    room.archive()
    assert await place(room.mark_read(guest, 2)) == (2, 1)
    assert await place(room.mark_unread(guest, 1)) == (0, 3)
    room.end(stay)
    assert (await refused(room.mark_read(guest, 3))).reason == "NOT_FOUND"


async def test_what_is_hidden_is_answered_like_what_is_unknown(room: Chat) -> None:
    member, _ = await room.member()
    guest, _ = await room.guest()
    elsewhere = await Chat.make(room.suite)
    hidden, unknown = await room.channel(private=True), str(uuid.uuid4())
    await many(room, 2, to=hidden)
    for person in (member, guest, room.outsider()):
        for call in (
            lambda who, where: room.mark_read(who, 1, where),
            lambda who, where: room.mark_unread(who, 1, where),
            lambda who, where: room.read_states(who, where),
        ):
            refusals = [await refused(call(person, where)) for where in (hidden, unknown, elsewhere.channel_id)]
            assert {refusal.raw for refusal in refusals} == {refusals[0].raw}
            assert refusals[0].reason == "NOT_FOUND"
    assert await place(room.mark_read(room.admin, 1, hidden)) == (1, 0)


async def test_those_who_take_part_are_listed_by_member_id_without_who_has_read_nothing(room: Chat) -> None:
    people = [(room.admin, room.admin_member_id), *[await room.member() for _ in range(4)]]
    for person, member_id in people[1:]:
        room.join(room.channel_id, person, member_id)
    await many(room, 3)
    for person, _ in people[1:]:
        await room.mark_read(person, 2)
    await room.mark_unread(people[2][0], 1)
    passer_by, _ = await room.member()
    await room.mark_read(passer_by, 3)
    found, token = [], ""
    while True:
        page = await room.read_states(passer_by, page_size=2, page_token=token)
        found += [(state.member_id, state.read_seq, state.unread_count) for state in page.read_states]
        token = page.next_page_token
        if not token:
            break
    assert found == sorted((member_id, 2, 0) for _, member_id in (people[1], people[3], people[4]))
    first = await room.read_states(passer_by, page_size=1)
    refusal = await refused(room.read_states(room.admin, page_token=first.next_page_token))
    assert set(refusal.fields) == {"page_token"}


async def test_who_comes_back_has_read_nothing(room: Chat) -> None:
    member, member_id = await room.member()
    await many(room, 3)
    await room.mark_read(member, 2)
    await room.remove(member_id)
    person, _ = await invited_again(room, member)
    assert await place(room.mark_read(person, 0)) == (0, 3)
    async with asyncio.timeout(10):
        while room.rows("SELECT FROM read_states WHERE member_id = %s", member_id):  # noqa: ASYNC110 - as below
            await asyncio.sleep(0.02)


async def test_ones_other_devices_are_told_at_once_and_nobody_else_in_a_channel(room: Chat) -> None:
    member, member_id = await room.member()
    await many(room, 3)
    async with replica(room) as (_, channel):
        async with (
            listening(room, member) as phone,
            listening(room, member, channel=channel) as laptop,
            listening(room, room.admin) as other,
        ):
            await room.mark_read(member, 2)
            for listener in (phone, laptop):
                await listener.until(lambda heard=listener: moved(heard, room.channel_id), seconds=1.5)
            await room.mark_unread(member, 2)
            for listener in (phone, laptop):
                await listener.until(lambda heard=listener: len(moved(heard, room.channel_id)) == 2)
                assert moved(listener, room.channel_id) == [(member_id, 2), (member_id, 1)]
            state = next(e for e in phone.events if e.HasField("read_state_changed"))
            assert (state.event_seq, state.read_state_changed.unread_count) == (0, 0)
            assert state.read_state_changed.HasField("update_time")
            await room.sent(room.admin)
            await other.until(lambda: other.texts(room.channel_id))
            assert moved(other, room.channel_id) == []


async def test_in_a_direct_conversation_the_other_is_told_and_nobody_else(room: Chat) -> None:
    member, member_id = await room.member()
    other, _ = await room.member()
    direct = room.direct((room.admin, room.admin_member_id), (member, member_id))
    await many(room, 2, to=direct)
    async with listening(room, room.admin) as sender, listening(room, other) as third:
        await room.mark_read(member, 2, direct)
        await sender.until(lambda: moved(sender, direct))
        assert moved(sender, direct) == [(member_id, 2)]
        await room.sent(room.admin)
        await third.until(lambda: third.texts(room.channel_id))
        assert not [e for e in third.events if e.HasField("read_state_changed")]


async def test_what_does_not_move_tells_nobody(room: Chat) -> None:
    await many(room, 3)
    async with listening(room, room.admin) as listener:
        await room.mark_read(room.admin, 2)
        await room.mark_read(room.admin, 2)
        await room.mark_read(room.admin, 1)
        await room.mark_unread(room.admin, 3)
        await room.mark_read(room.admin, 3)
        await listener.until(lambda: moved(listener, room.channel_id)[-1:] == [(room.admin_member_id, 3)])
        assert set(moved(listener, room.channel_id)) == {(room.admin_member_id, 2), (room.admin_member_id, 3)}
        assert len(moved(listener, room.channel_id)) == 2


async def test_without_valkey_the_poll_tells(room: Chat) -> None:
    member, member_id = await room.member()
    direct = room.direct((room.admin, room.admin_member_id), (member, member_id))
    await many(room, 2, to=direct)
    await many(room, 2)
    async with replica(room, redis_url=NOWHERE) as (_, channel):
        async with listening(room, member, channel=channel) as own, listening(room, room.admin, channel=channel) as his:
            # At the other replica, whose wake-ups do not come here.
            await room.mark_read(member, 2)
            await room.mark_read(member, 1, direct)
            patience = 3 * audiences.POLL_SECONDS
            await own.until(lambda: moved(own, direct) and moved(own, room.channel_id), seconds=patience)
            await his.until(lambda: moved(his, direct), seconds=patience)
            assert moved(his, direct) == [(member_id, 1)]
            assert moved(his, room.channel_id) == []
            await room.mark_read(member, 2, direct)
            await his.until(lambda: len(moved(his, direct)) == 2, seconds=patience)
            assert moved(his, direct) == [(member_id, 1), (member_id, 2)]


async def test_who_was_removed_is_told_no_position_any_more(room: Chat) -> None:
    member, member_id = await room.member()
    other, other_id = await room.member()
    direct = room.direct((other, other_id), (member, member_id))
    await many(room, 2, other, to=direct)
    async with listening(room, member) as listener:
        await room.remove(member_id)
        await room.mark_read(other, 2, direct)
        end = await listener.finish(seconds=3)
        assert end.reason == events.STREAM_END_REASON_ACCESS_ENDED
        assert moved(listener, direct) == []


async def test_who_left_a_direct_conversation_is_told_no_position_any_more(room: Chat) -> None:
    member, member_id = await room.member()
    direct = room.direct((room.admin, room.admin_member_id), (member, member_id))
    await many(room, 2, to=direct)
    async with listening(room, member) as listener:
        await room.mark_read(room.admin, 1, direct)
        await listener.until(lambda: moved(listener, direct))
        # As RemoveParticipant does it, in one transaction.
        with room.suite.database("messaging") as database, database.transaction():
            database.execute("DELETE FROM participants WHERE member_id = %s", (member_id,))
            database.execute("UPDATE conversations SET revision = revision + 1 WHERE id = %s", (direct,))
        await room.mark_read(room.admin, 2, direct)
        await room.mark_read(room.admin, 1)
        await listener.until(lambda: listener.has("conversation_lost", direct))
        assert moved(listener, direct) == [(room.admin_member_id, 1)]
