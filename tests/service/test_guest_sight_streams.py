"""What a guest's stream tells names only people whom they see; each event that it may not tell keeps its number."""

import pytest
from guildhall.messaging.v1 import event_service_pb2 as pb

from tests.service.test_messaging_streams import Listener, listening
from tests.support.guest_calls import call
from tests.support.guest_rooms import Yard, new_yard
from tests.support.suite import Suite


@pytest.fixture
async def yard(suite: Suite) -> Yard:
    """A workspace of this test's own."""
    return await new_yard(suite)


def kinds(listener: Listener, yard: Yard) -> list[str]:
    return [event.WhichOneof("payload") or "" for event in listener.numbered(yard.channel_id)]


async def test_events_about_the_hidden_are_hidden_and_a_member_gets_them_whole(yard: Yard) -> None:
    async with listening(yard.hall, yard.guest) as listener, listening(yard.hall, yard.friend) as whole:
        sent = await yard.mention(yard.friend_id, yard.stranger_id)
        await yard.chat.react(yard.stranger, sent)
        await yard.chat.unreact(yard.stranger, sent)
        await yard.chat.react(yard.friend, sent)
        # Told before the stranger is seen: what is told is decided when it is told.
        await listener.until(lambda: len(kinds(listener, yard)) == 4)
        await yard.hall.of("JoinConversation", yard.channel_id, by=yard.stranger)
        await listener.until(lambda: len(kinds(listener, yard)) == 5)
        await yard.hall.of("LeaveConversation", yard.channel_id, by=yard.stranger)
        await yard.mention(yard.stranger_id, text="last")
        for each in (listener, whole):
            await each.until(lambda each=each: "last" in each.texts(yard.channel_id))
    assert kinds(listener, yard) == [
        "message_created",
        "hidden",
        "hidden",
        "reaction_added",
        "participant_joined",
        "hidden",
        "message_created",
    ]
    assert listener.numbers(yard.channel_id) == whole.numbers(yard.channel_id)
    created = [event.message_created for event in listener.events if event.HasField("message_created")]
    assert [list(message.mentions.member_ids) for message in created] == [[yard.friend_id], []]
    assert kinds(whole, yard)[1:3] == ["reaction_added", "reaction_removed"]
    whole_created = [event.message_created for event in whole.events if event.HasField("message_created")]
    assert [set(message.mentions.member_ids) for message in whole_created] == [
        {yard.friend_id, yard.stranger_id},
        {yard.stranger_id},
    ]


async def test_a_stream_that_catches_up_is_told_by_what_is_seen_now(yard: Yard) -> None:
    sent = await yard.hall.sent(yard.admin)
    await yard.chat.react(yard.stranger, sent)
    for event_kind in ("hidden", "reaction_added"):
        async with listening(yard.hall, yard.guest, resume={yard.channel_id: 0}) as listener:
            await listener.until(lambda: len(kinds(listener, yard)) >= 3)
            assert kinds(listener, yard)[2] == event_kind
        await yard.hall.of("JoinConversation", yard.channel_id, by=yard.stranger)


async def test_a_fellow_guest_is_seen_and_one_who_has_gone_is_not(yard: Yard) -> None:
    fellow, stay = await yard.hall.guest()
    sent = await yard.hall.sent(yard.admin)
    async with listening(yard.hall, yard.guest) as listener:
        await yard.chat.react(fellow, sent)
        await listener.until(lambda: kinds(listener, yard) == ["reaction_added"])
        assert [each.member_id for each in (await yard.chat.reactions(yard.guest, sent)).reactions] == [stay.member_id]
        await call(yard.hall, "RemoveGuest", member_id=stay.member_id)
        assert list((await yard.chat.reactions(yard.guest, sent)).reactions) == []


async def test_an_updated_channel_names_who_made_it_only_if_the_guest_sees_them(yard: Yard) -> None:
    made = await yard.hall.channel(yard.stranger)
    await yard.grant(made)

    def updates(listener: Listener) -> list[str]:
        updated = [event.conversation_updated for event in listener.events if event.HasField("conversation_updated")]
        return [each.initiated_by_member_id for each in updated]

    async with listening(yard.hall, yard.guest) as listener:
        await yard.hall.update(made, topic="one", by=yard.stranger)
        await listener.until(lambda: updates(listener) == [yard.stranger_id])
        await yard.hall.of("LeaveConversation", made, by=yard.stranger)
        await yard.hall.update(made, topic="two", by=yard.stranger)
        await listener.until(lambda: updates(listener) == [yard.stranger_id, ""])


async def test_typing_is_told_of_those_whom_the_guest_sees(yard: Yard) -> None:
    def typists(listener: Listener) -> list[str]:
        return [event.typing.member_id for event in listener.events if event.HasField("typing")]

    async with listening(yard.hall, yard.guest) as listener, listening(yard.hall, yard.admin) as whole:
        await yard.chat.type(yard.stranger)
        await whole.until(lambda: typists(whole) == [yard.stranger_id])
        await yard.chat.type(yard.friend)
        await whole.until(lambda: typists(whole) == [yard.stranger_id, yard.friend_id])
        await listener.until(lambda: typists(listener))
        assert typists(listener) == [yard.friend_id]


async def test_without_an_answer_about_people_a_guest_is_told_later_and_a_member_at_once(yard: Yard) -> None:
    async with listening(yard.hall, yard.guest) as listener, listening(yard.hall, yard.friend) as whole:
        await yard.hall.suite.stop("guest")
        try:
            await yard.mention(yard.friend_id, yard.stranger_id)
            await whole.until(lambda: whole.texts(yard.channel_id) == ["hello"])
            assert listener.texts(yard.channel_id) == []
        finally:
            await yard.hall.back("guest")
        await listener.until(lambda: listener.texts(yard.channel_id) == ["hello"], seconds=20)
    (created,) = (event.message_created for event in listener.events if event.HasField("message_created"))
    assert list(created.mentions.member_ids) == [yard.friend_id]
    assert isinstance(listener.events[0], pb.Event)
