"""A guest sees nothing from before their history starts, by any path, and changes nothing of it."""

from datetime import timedelta
from typing import Any

import grpc
import pytest
from guildhall.messaging.v1 import message_service_pb2 as messages

from tests.service.test_messaging_streams import listening
from tests.support.guest_calls import call
from tests.support.guest_rooms import Yard, new_yard
from tests.support.suite import Suite, refused

HOUR = timedelta(hours=1)


@pytest.fixture
async def yard(suite: Suite) -> Yard:
    """A workspace of this test's own."""
    return await new_yard(suite)


async def aged(yard: Yard, *texts: str) -> list[messages.Message]:
    """Messages of a day ago, from before the guest's history once it starts."""
    sent = [await yard.hall.sent(yard.admin, text) for text in texts]
    yard.chat.age(*sent)
    return sent


async def begin(yard: Yard) -> None:
    """The guest's history starts an hour ago."""
    await yard.regrant(history_start_time=-HOUR)


async def test_pages_of_messages_end_where_the_history_starts(yard: Yard) -> None:
    await aged(yard, "one", "two", "three")
    for text in ("four", "five"):
        await yard.hall.sent(yard.admin, text)
    assert len((await yard.hall.read(yard.guest)).messages) == 5
    await begin(yard)
    for size in (1, 2, 3, 50):
        found, token = [], ""
        while True:
            page = await yard.hall.read(yard.guest, page_size=size, page_token=token)
            found += [message.text for message in page.messages]
            token = page.next_page_token
            if not token:
                break
        assert found == ["five", "four"]
    assert await yard.hall.texts(yard.admin) == ["one", "two", "three", "four", "five"]
    await yard.regrant(history_start_time=-48 * HOUR)
    assert len((await yard.hall.read(yard.guest)).messages) == 5


async def test_an_older_message_is_as_unknown_as_one_that_never_was(yard: Yard) -> None:
    (old,) = await aged(yard, "old")
    own = await yard.hall.sent(yard.guest, "mine")
    yard.chat.age(own)
    new = await yard.hall.sent(yard.guest, "new")
    ways = (yard.chat.get, yard.chat.reactions, yard.chat.react, yard.chat.unreact)
    for way in ways:
        await way(yard.guest, old)
    await begin(yard)
    for way in (*ways, yard.chat.edit, yard.chat.delete, yard.chat.revisions):
        for message in (old, own) if way in ways else (own,):
            refusal = await refused(way(yard.guest, message))
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        await way(yard.guest, new) if way != yard.chat.delete else None
    assert await yard.hall.texts(yard.admin) == ["old", "mine", "edited"]
    await yard.chat.delete(yard.guest, new)


async def test_a_reply_to_an_older_message_is_refused_and_shown_as_a_reply_to_none(yard: Yard) -> None:
    (old,) = await aged(yard, "old")
    answer = await yard.chat.replied(yard.admin, old)
    assert (await yard.chat.got(yard.guest, answer)).reply_to_message_id == old.message_id
    await begin(yard)
    assert (await yard.chat.got(yard.guest, answer)).reply_to_message_id == ""
    assert (await yard.chat.got(yard.admin, answer)).reply_to_message_id == old.message_id
    refusal = await refused(yard.chat.replied(yard.guest, old))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REFERENCE_GONE")
    to_new = await yard.chat.replied(yard.guest, answer)
    assert (await yard.chat.got(yard.guest, to_new)).reply_to_message_id == answer.message_id


async def test_conversations_count_and_show_nothing_older(yard: Yard) -> None:
    await aged(yard, "one", "two")
    await begin(yard)
    for found in await both(yard):
        assert (found.unread_count, found.HasField("last_message")) == (0, False)
    await yard.hall.sent(yard.admin, "three")
    for found in await both(yard):
        assert (found.unread_count, found.last_message.text) == (1, "three")
    assert (await yard.chat.mark_read(yard.guest, 1)).read_state.unread_count == 1
    for found in await both(yard):
        assert (found.unread_count, found.read_seq) == (1, 1)
    await yard.regrant()
    assert (await yard.chat.mark_unread(yard.guest, 1)).read_state.unread_count == 3


async def both(yard: Yard) -> list[Any]:
    """The channel as GetConversation and ListConversations give it to the guest."""
    listed = (await yard.hall.conversations(yard.guest)).conversations
    return [await yard.hall.get(yard.channel_id, by=yard.guest), *listed]


async def test_a_search_finds_nothing_older_and_no_page_tells_that_it_is_there(yard: Yard) -> None:
    await aged(yard, "word one", "word two")
    await yard.hall.sent(yard.admin, "word three")
    while len((await yard.search(yard.guest, "word")).messages) < 3:
        pass
    await begin(yard)
    found = await yard.search(yard.guest, "word", page_size=1)
    assert [message.text for message in found.messages] == ["word three"]
    assert len((await yard.search(yard.admin, "word")).messages) == 3


async def test_files_of_older_messages_are_gone(yard: Yard) -> None:
    old, old_file = await yard.chat.sent_with_file(yard.admin)
    new, new_file = await yard.chat.sent_with_file(yard.admin)
    yard.chat.age(old)
    yard.chat.rows("UPDATE files SET attached_at = attached_at - interval '25 hours' WHERE id = %s", old_file)
    files = yard.chat.with_files
    assert await files.ids(yard.guest) == [new_file, old_file]
    await begin(yard)
    assert await files.ids(yard.guest) == [new_file]
    assert (await refused(files.get(yard.guest, old_file))).reason == "NOT_FOUND"
    assert (await files.get(yard.guest, new_file)).file.message_id == new.message_id
    assert await files.ids(yard.admin) == [new_file, old_file]


async def test_a_stream_hides_what_is_about_older_messages_and_keeps_the_numbers_dense(yard: Yard) -> None:
    old, other = await aged(yard, "old", "other")
    await begin(yard)
    resume = {yard.channel_id: 0}
    async with (
        listening(yard.hall, yard.guest, resume=resume) as listener,
        listening(yard.hall, yard.admin, resume=resume) as whole,
    ):
        await yard.chat.edit(yard.admin, old)
        await yard.chat.react(yard.friend, old)
        await yard.chat.delete(yard.admin, other)
        answer = await yard.chat.replied(yard.admin, old, "answer")
        await yard.chat.react(yard.friend, answer)
        for each in (listener, whole):
            await each.until(lambda each=each: len(each.numbered(yard.channel_id)) == 8)
    kinds = [event.WhichOneof("payload") for event in listener.numbered(yard.channel_id)]
    assert kinds == ["participant_joined", *["hidden"] * 5, "message_created", "reaction_added"]
    assert listener.numbers(yard.channel_id) == list(range(1, 9)) == whole.numbers(yard.channel_id)
    assert "hidden" not in [event.WhichOneof("payload") for event in whole.events]
    (created,) = (e.message_created for e in listener.events if e.HasField("message_created"))
    assert (created.text, created.reply_to_message_id) == ("answer", "")


async def test_a_history_that_is_moved_holds_for_an_open_stream_once_it_is_acknowledged(yard: Yard) -> None:
    (old,) = await aged(yard, "old")
    async with listening(yard.hall, yard.guest) as listener:
        await yard.chat.edit(yard.admin, old, "seen")
        await listener.until(lambda: any(e.message_edited.text == "seen" for e in listener.events))
        await begin(yard)
        await yard.chat.edit(yard.admin, old, "not seen")
        await yard.hall.sent(yard.admin, "new")
        await listener.until(lambda: "new" in listener.texts(yard.channel_id))
    assert not any(event.message_edited.text == "not seen" for event in listener.events)
    assert any(event.HasField("hidden") for event in listener.events)


async def test_an_expired_grant_ends_reads_sends_and_streams_at_the_instant(yard: Yard) -> None:
    second = await yard.hall.channel()
    await yard.grant(second)
    sent = await yard.hall.sent(yard.admin)
    query = "UPDATE guest_grants SET expire_at = statement_timestamp() + %(span)s WHERE conversation_id = %(id)s"
    yard.hall.sql(query, span=timedelta(seconds=2), id=yard.channel_id)
    async with listening(yard.hall, yard.guest) as listener:
        assert set(listener.opened or ()) == {yard.channel_id, second}
        await listener.until(lambda: listener.has("conversation_lost", yard.channel_id))
        await yard.hall.sent(yard.admin, "after")
        await yard.hall.sent(yard.admin, "there", to=second)
        await listener.until(lambda: listener.texts(second) == ["there"])
        assert "after" not in listener.texts(yard.channel_id)
    for each in (yard.hall.read(yard.guest), yard.hall.send(yard.guest), yard.chat.react(yard.guest, sent)):
        assert (await refused(each)).reason == "NOT_FOUND"
    await yard.hall.sent(yard.guest, to=second)


async def test_a_verdict_says_until_when_the_channel_is_granted(yard: Yard) -> None:
    (verdict,) = await yard.hall.check((yard.guest_id, yard.channel_id))
    assert not verdict.HasField("grant_expire_time")
    await yard.regrant(expire_time=HOUR / 2)
    (verdict,) = await yard.hall.check((yard.guest_id, yard.channel_id))
    assert verdict.grant_expire_time.ToDatetime() < verdict.expire_time.ToDatetime()
    await call(yard.hall, "RevokeChannel", member_id=yard.guest_id, conversation_id=yard.channel_id)
    (verdict,) = await yard.hall.check((yard.guest_id, yard.channel_id))
    assert not verdict.HasField("grant_expire_time")
