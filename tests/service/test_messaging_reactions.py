"""Reactions: each person's once, whatever its spelling and however many replicas are asked at the same time."""

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.messaging.v1 import message_service_pb2 as pb

from services.messaging import reactions
from tests.service.test_messaging_streams import replica
from tests.support.chats import Chat
from tests.support.suite import Suite, refused

THUMB, TEXT_THUMB, PICTURE_THUMB = "👍", "👍\ufe0e", "👍\ufe0f"


@pytest.fixture
async def room(suite: Suite) -> Chat:
    """A workspace of this test's own."""
    made = await Chat.make(suite)
    assert isinstance(made, Chat)
    return made


def counts(answer: Any) -> list[tuple[str, int, bool]]:
    """The reactions of an answer or a message."""
    return [(item.emoji, item.count, item.mine) for item in answer.reactions]


async def test_a_reaction_is_counted_shown_and_taken_back(room: Chat) -> None:
    member, member_id = await room.member()
    sent = await room.sent(room.admin)
    assert counts(await room.react(member, sent)) == [(THUMB, 1, True)]
    assert counts(await room.react(room.admin, sent)) == [(THUMB, 2, True)]
    assert counts(await room.react(room.admin, sent, "🎉")) == [(THUMB, 2, True), ("🎉", 1, True)]
    assert counts(await room.got(member, sent)) == [(THUMB, 2, True), ("🎉", 1, False)]
    assert counts((await room.read(member)).messages[0]) == [(THUMB, 2, True), ("🎉", 1, False)]
    listed = (await room.reactions(member, sent)).reactions
    assert [(item.user_id, item.emoji) for item in listed] == [
        (member.user_id, THUMB),
        (room.admin.user_id, THUMB),
        (room.admin.user_id, "🎉"),
    ]
    assert (listed[0].member_id, listed[0].message_id) == (member_id, sent.message_id)
    assert listed[0].HasField("create_time")
    assert counts(await room.unreact(member, sent)) == [(THUMB, 1, False), ("🎉", 1, False)]
    assert room.event_kinds() == ["reaction_added"] * 3 + ["reaction_removed"]


async def test_twice_is_once_and_removing_what_is_not_there_is_fine_and_neither_is_told(room: Chat) -> None:
    sent = await room.sent(room.admin)
    assert counts(await room.unreact(room.admin, sent)) == []
    for _ in range(2):
        assert counts(await room.react(room.admin, sent)) == [(THUMB, 1, True)]
    for _ in range(2):
        assert counts(await room.unreact(room.admin, sent)) == []
    assert room.event_kinds() == ["reaction_added", "reaction_removed"]
    assert room.heads() == (1, 3)


async def test_two_spellings_of_an_emoji_are_one_and_its_first_spelling_is_shown(room: Chat) -> None:
    member, _ = await room.member()
    sent = await room.sent(room.admin)
    await room.react(room.admin, sent, PICTURE_THUMB)
    assert counts(await room.react(room.admin, sent, TEXT_THUMB)) == [(PICTURE_THUMB, 1, True)]
    assert counts(await room.react(member, sent, THUMB)) == [(PICTURE_THUMB, 2, True)]
    assert counts(await room.react(member, sent, "e\u0301")) == [(PICTURE_THUMB, 2, True), ("e\u0301", 1, True)]
    assert counts(await room.unreact(member, sent, "\u00e9")) == [(PICTURE_THUMB, 2, True)]
    assert counts(await room.unreact(room.admin, sent, THUMB)) == [(THUMB, 1, False)]


async def test_nothing_but_variation_selectors_is_no_emoji(room: Chat) -> None:
    sent = await room.sent(room.admin)
    for call in (room.react, room.unreact):
        refusal = await refused(call(room.admin, sent, "\ufe0f\ufe0e"))
        assert (refusal.code, set(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {"emoji"})
    for text in ("", "x" * 33):
        assert set((await refused(room.react(room.admin, sent, text))).fields) == {"emoji"}
    assert counts(await room.react(room.admin, sent, "x" * 32)) == [("x" * 32, 1, True)]


async def test_64_equal_reactions_over_two_replicas_are_one_row_and_one_event(room: Chat) -> None:
    sent = await room.sent(room.admin)
    async with replica(room) as (_, other):
        answers = await asyncio.gather(
            *(
                room.react(
                    room.admin,
                    sent,
                    (THUMB, TEXT_THUMB, PICTURE_THUMB)[number % 3],
                    channel=(None, other)[number % 2],
                    request_id=str(uuid.uuid4()),
                )
                for number in range(64)
            )
        )
    assert {tuple(item[1:] for item in counts(answer)) for answer in answers} == {((1, True),)}
    assert room.rows("SELECT count(*) FROM reactions WHERE message_id = %s", sent.message_id) == [(1,)]
    assert room.event_kinds() == ["reaction_added"]
    assert room.heads() == (1, 2)


async def test_a_message_has_50_different_emoji_at_most_also_when_they_come_at_once(room: Chat) -> None:
    member, _ = await room.member()
    sent = await room.sent(room.admin)
    calls = (room.react((room.admin, member)[number % 2], sent, f"e{number}") for number in range(60))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    errors = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert len(errors) == 10
    assert {error.code() for error in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    refusal = await refused(room.react(room.admin, sent, "one more"))
    assert (refusal.reason, refusal.metadata["limit"]) == ("LIMIT_REACHED", reactions.LIMIT)
    known = (await room.got(room.admin, sent)).reactions
    assert len(known) == reactions.MOST_EMOJI
    for person in (room.admin, member):
        assert len(counts(await room.react(person, sent, known[0].emoji))) == reactions.MOST_EMOJI
    await room.unreact(room.admin, sent, known[0].emoji)
    await room.unreact(member, sent, known[0].emoji)
    assert len(counts(await room.react(room.admin, sent, "one more"))) == reactions.MOST_EMOJI


async def test_the_list_comes_in_pages_oldest_first(room: Chat) -> None:
    member, _ = await room.member()
    sent = await room.sent(room.admin)
    made = []
    for number in range(4):
        for person in (room.admin, member):
            await room.react(person, sent, f"{number}")
            made.append((person.user_id, f"{number}"))
    found, token = [], ""
    while True:
        page = await room.reactions(member, sent, page_size=3, page_token=token)
        found += [(item.user_id, item.emoji) for item in page.reactions]
        token = page.next_page_token
        if not token:
            break
    assert found == made
    first = await room.reactions(member, sent, page_size=3)
    refusal = await refused(room.reactions(room.admin, sent, page_token=first.next_page_token))
    assert set(refusal.fields) == {"page_token"}


async def test_whom_writing_is_not_allowed_reads_reactions_and_makes_none(room: Chat) -> None:
    viewer, _ = await room.member(members.ROLE_VIEWER)
    guest, stay = await room.guest()
    sent = await room.sent(room.admin)
    await room.react(guest, sent)
    room.lock(stay)
    for call in (room.react, room.unreact):
        assert (await refused(call(viewer, sent))).reason == "PERMISSION_DENIED"
        assert (await refused(call(guest, sent))).reason == "GUEST_LOCKED"
    for person in (viewer, guest):
        assert len((await room.reactions(person, sent)).reactions) == 1
    room.end(stay)
    assert (await refused(room.reactions(guest, sent))).reason == "NOT_FOUND"


async def test_an_archived_conversation_keeps_its_reactions_as_they_are(room: Chat) -> None:
    sent = await room.sent(room.admin)
    await room.react(room.admin, sent)
    room.archive()
    for call in (room.react, room.unreact):
        refusal = await refused(call(room.admin, sent))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CONVERSATION_ARCHIVED")
    assert len((await room.reactions(room.admin, sent)).reactions) == 1


async def test_a_tombstone_gets_no_reaction_and_has_none_to_take_back(room: Chat) -> None:
    sent = await room.sent(room.admin)
    await room.react(room.admin, sent)
    await room.delete(room.admin, sent)
    refusal = await refused(room.react(room.admin, sent))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MESSAGE_DELETED")
    assert counts(await room.unreact(room.admin, sent)) == []
    assert room.event_kinds() == ["reaction_added", "message_deleted"]


async def test_what_is_hidden_is_answered_like_what_is_unknown(room: Chat) -> None:
    member, _ = await room.member()
    guest, _ = await room.guest()
    hidden = await room.sent(room.admin, to=await room.channel(private=True))
    nowhere = pb.Message(conversation_id=str(uuid.uuid4()), message_id=str(uuid.uuid4()))
    elsewhere = await Chat.make(room.suite)
    foreign = await elsewhere.sent(elsewhere.admin)
    for person in (member, guest, room.outsider()):
        for call in (room.react, room.unreact, room.reactions):
            refusals = [await refused(call(person, message)) for message in (hidden, nowhere, foreign)]
            assert {refusal.raw for refusal in refusals} == {refusals[0].raw}
            assert (refusals[0].code, refusals[0].reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    missing = pb.Message(conversation_id=room.channel_id, message_id=hidden.message_id)
    for call in (room.react, room.unreact, room.reactions):
        assert (await refused(call(room.admin, missing))).raw == refusals[0].raw
    assert counts(await room.react(room.admin, hidden)) == [(THUMB, 1, True)]


async def test_a_repeated_call_reacts_once(room: Chat) -> None:
    sent, request_id = await room.sent(room.admin), str(uuid.uuid4())
    await room.react(room.admin, sent, request_id=request_id)
    await room.unreact(room.admin, sent)
    assert counts(await room.react(room.admin, sent, request_id=request_id)) == []
    assert (await refused(room.react(room.admin, sent, "🎉", request_id=request_id))).reason == "IDEMPOTENCY_MISMATCH"
    assert room.event_kinds() == ["reaction_added", "reaction_removed"]
