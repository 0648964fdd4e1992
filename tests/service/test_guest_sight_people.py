"""What messaging answers to a guest names only people whom they see; a member gets the same in full."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from guildhall.messaging.v1 import message_service_pb2 as messages

from tests.support.guest_calls import call
from tests.support.guest_rooms import Yard, new_yard
from tests.support.statements import statements_sent
from tests.support.suite import Person, Suite, refused

GROUP = "00000000-0000-4000-8000-000000000001"


@pytest.fixture
async def yard(suite: Suite) -> Yard:
    """A workspace of this test's own."""
    return await new_yard(suite)


async def listed(yard: Yard, person: Person) -> list[messages.Message]:
    """What ListMessages gives, newest first."""
    return list((await yard.hall.read(person)).messages)


READS: dict[str, Callable[[Yard, Person, messages.Message], Awaitable[messages.Message]]] = {}


def read(name: str) -> Any:
    return lambda function: READS.setdefault(name, function)


@read("ListMessages")
async def by_list(yard: Yard, person: Person, message: messages.Message) -> messages.Message:
    return next(each for each in await listed(yard, person) if each.message_id == message.message_id)


@read("GetMessage")
async def by_get(yard: Yard, person: Person, message: messages.Message) -> messages.Message:
    return await yard.chat.got(person, message)


@read("GetConversation")
async def by_conversation(yard: Yard, person: Person, message: messages.Message) -> messages.Message:
    return (await yard.hall.get(message.conversation_id, by=person)).last_message


@read("ListConversations")
async def by_conversations(yard: Yard, person: Person, message: messages.Message) -> messages.Message:
    (found,) = (await yard.hall.conversations(person)).conversations
    return found.last_message


@read("SearchMessages")
async def by_search(yard: Yard, person: Person, message: messages.Message) -> messages.Message:
    return await find(yard, person, message.text)


async def find(yard: Yard, person: Person, query: str) -> messages.Message:
    """The message, once it can be found."""
    while True:
        if found := (await yard.search(person, query)).messages:
            return found[0]


@pytest.mark.parametrize("name", sorted(READS))
async def test_a_message_mentions_those_whom_the_guest_sees(yard: Yard, name: str) -> None:
    both = {yard.friend_id, yard.stranger_id}
    sent = await yard.mention(*both, user_group_ids=[GROUP], text="whoever")
    found = await READS[name](yard, yard.guest, sent)
    assert (list(found.mentions.member_ids), list(found.mentions.user_group_ids)) == ([yard.friend_id], [])
    assert found.sender_member_id == yard.hall.admin_member_id
    whole = await READS[name](yard, yard.friend, sent)
    assert (set(whole.mentions.member_ids), list(whole.mentions.user_group_ids)) == (both, [GROUP])
    await yard.hall.of("JoinConversation", yard.channel_id, by=yard.stranger)
    assert set((await READS[name](yard, yard.guest, sent)).mentions.member_ids) == both


async def test_a_message_that_mentions_only_the_hidden_looks_like_one_that_mentions_nobody(yard: Yard) -> None:
    hidden = await yard.chat.got(yard.guest, await yard.mention(yard.stranger_id, user_group_ids=[GROUP]))
    assert not hidden.HasField("mentions")
    sent = await yard.hall.sent(yard.stranger, "from outside")
    assert (await yard.chat.got(yard.guest, sent)).sender_member_id == yard.stranger_id, "who wrote it stays"


async def test_reactions_are_counted_and_listed_of_those_whom_the_guest_sees(yard: Yard) -> None:
    sent = await yard.hall.sent(yard.admin, "react")
    for person, emoji in ((yard.stranger, "🎉"), (yard.stranger, "👍"), (yard.friend, "👍")):
        await yard.chat.react(person, sent, emoji)
    for found in (await yard.chat.got(yard.guest, sent), (await listed(yard, yard.guest))[0]):
        assert [(each.emoji, each.count, each.mine) for each in found.reactions] == [("👍", 1, False)]
    assert {(each.emoji, each.count) for each in (await yard.chat.got(yard.admin, sent)).reactions} == {
        ("🎉", 1),
        ("👍", 2),
    }
    assert [each.member_id for each in (await yard.chat.reactions(yard.guest, sent)).reactions] == [yard.friend_id]
    assert len((await yard.chat.reactions(yard.admin, sent)).reactions) == 3
    answer = await yard.chat.react(yard.guest, sent)
    assert [(each.emoji, each.count, each.mine) for each in answer.reactions] == [("👍", 2, True)]
    await yard.hall.of("JoinConversation", yard.channel_id, by=yard.stranger)
    assert len((await yard.chat.reactions(yard.guest, sent)).reactions) == 4


async def test_a_page_of_reactions_is_not_short_for_want_of_the_hidden(yard: Yard) -> None:
    sent = await yard.hall.sent(yard.admin, "react")
    for number in range(3):
        await yard.chat.react(yard.stranger, sent, f"{number}")
    for emoji in ("👍", "🎉"):
        await yard.chat.react(yard.friend, sent, emoji)
    first = await yard.chat.reactions(yard.guest, sent, page_size=1)
    second = await yard.chat.reactions(yard.guest, sent, page_size=1, page_token=first.next_page_token)
    assert [each.emoji for page in (first, second) for each in page.reactions] == ["👍", "🎉"]
    assert second.next_page_token == ""


async def test_however_many_hidden_people_reacted_guest_is_asked_once_about_them(yard: Yard) -> None:
    sent = await yard.hall.sent(yard.admin, "react")
    await yard.chat.react(yard.stranger, sent, "🎉")
    yard.chat.rows(
        "INSERT INTO reactions (conversation_id, message_id, user_id, member_id, emoji_key, emoji) "
        "SELECT %s, %s, gen_random_uuid(), gen_random_uuid(), '👍', '👍' FROM generate_series(1, 40)",
        sent.conversation_id,
        sent.message_id,
    )
    await yard.chat.react(yard.friend, sent, "👍")
    await yard.chat.react(yard.guest, sent, "🎉")
    with statements_sent() as statements:
        page = await yard.chat.reactions(yard.guest, sent, page_size=1)
    looks = [s for s in statements if s.rpc == "ListReactions" and "FROM reactions" in s.text.replace("JOIN", "FROM")]
    assert len(looks) == 3
    rest = await yard.chat.reactions(yard.guest, sent, page_size=1, page_token=page.next_page_token)
    assert [each.member_id for each in (*page.reactions, *rest.reactions)] == [yard.friend_id, yard.guest_id]
    assert rest.next_page_token == ""
    # In the order of those whom the guest sees, and of the message's own first for who sees everybody.
    for person, expected in (
        (yard.guest, [("👍", 1, False), ("🎉", 1, True)]),
        (yard.friend, [("🎉", 2, False), ("👍", 41, True)]),
    ):
        for found in (await yard.chat.got(person, sent), (await listed(yard, person))[0]):
            assert [(each.emoji, each.count, each.mine) for each in found.reactions] == expected


async def test_searching_by_people_and_reactions_tells_nothing_of_the_hidden(yard: Yard) -> None:
    sent = await yard.mention(yard.friend_id, yard.stranger_id, text="word")
    await yard.chat.react(yard.stranger, sent, "🎉")
    await yard.chat.react(yard.friend, sent, "👍")
    for fields in ({"mentioned_member_id": yard.stranger_id}, {"reaction": "🎉"}):
        assert await texts(yard, yard.admin, **fields) == ["word"]
        hidden = await yard.search(yard.guest, **fields)
        assert (list(hidden.messages), hidden.next_page_token) == ([], "")
    for fields in ({"mentioned_member_id": yard.friend_id}, {"reaction": "👍"}):
        assert await texts(yard, yard.guest, **fields) == ["word"]
    assert await texts(yard, yard.guest, sender_user_id=yard.admin.user_id) == ["word"]


async def texts(yard: Yard, person: Person, **fields: Any) -> list[str]:
    """What is found, once something is."""
    while True:
        if found := (await yard.search(person, **fields)).messages:
            return [message.text for message in found]


async def test_participants_of_a_channel_are_its_people_and_its_guests_page_by_page(yard: Yard) -> None:
    second = await yard.hall.channel()
    _, fellow = await yard.hall.guest()
    await yard.hall.guest(second)
    expected = sorted([yard.hall.admin_member_id, yard.friend_id, yard.guest_id, fellow.member_id])
    found: list[str] = []
    page: dict[str, Any] = {"page_size": 1}
    while True:
        answer = await yard.hall.of("ListParticipants", yard.channel_id, by=yard.guest, **page)
        found += [each.member_id for each in answer.participants]
        if not answer.next_page_token:
            break
        page["page_token"] = answer.next_page_token
    assert found == expected
    assert await yard.hall.taking_part(yard.channel_id) == {yard.hall.admin_member_id, yard.friend_id}
    assert (await refused(yard.hall.taking_part(second, by=yard.guest))).reason == "NOT_FOUND"


async def test_who_made_a_channel_is_named_only_if_the_guest_sees_them(yard: Yard) -> None:
    made = await yard.hall.channel(yard.stranger)
    await yard.hall.of("JoinConversation", made)
    await yard.grant(made)
    assert (await yard.hall.get(made, by=yard.guest)).initiated_by_member_id == yard.stranger_id
    await yard.hall.of("LeaveConversation", made, by=yard.stranger)
    assert (await yard.hall.get(made, by=yard.guest)).initiated_by_member_id == ""
    named = {
        c.conversation_id: c.initiated_by_member_id for c in (await yard.hall.conversations(yard.guest)).conversations
    }
    assert named == {made: "", yard.channel_id: yard.hall.admin_member_id}
    assert (await yard.hall.get(made)).initiated_by_member_id == yard.stranger_id


async def test_read_states_are_of_those_who_take_part(yard: Yard) -> None:
    await yard.hall.sent(yard.admin)
    for person in (yard.admin, yard.friend, yard.stranger, yard.guest):
        await yard.chat.mark_read(person, 1)
    assert {each.member_id for each in (await yard.chat.read_states(yard.guest)).read_states} == {
        yard.hall.admin_member_id,
        yard.friend_id,
    }


async def test_what_is_over_shows_nobody(yard: Yard) -> None:
    second = await yard.hall.channel()
    await yard.grant(second)
    sent = await yard.mention(yard.friend_id)
    await yard.revoke()
    assert (await refused(yard.chat.get(yard.guest, sent))).reason == "NOT_FOUND"
    await yard.grant(yard.channel_id)
    assert list((await yard.chat.got(yard.guest, sent)).mentions.member_ids) == [yard.friend_id]
    await call(yard.hall, "RemoveGuest", member_id=yard.guest_id)
    assert (await refused(yard.chat.get(yard.guest, sent))).reason == "NOT_FOUND"
