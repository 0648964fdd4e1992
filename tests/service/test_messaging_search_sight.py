"""Searching messages, as far as sight goes: who finds what, and page by page."""

import asyncio
import time
import uuid
from collections import Counter
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.messaging.v1 import message_service_pb2 as pb

from tests.service.test_messaging_search import Library
from tests.support.conversations import new_hall
from tests.support.statements import groups_asked_about, statements_sent
from tests.support.suite import Suite, refused


@pytest.fixture
async def library(suite: Suite) -> Library:
    """A workspace of this test's own."""
    made = await Library.make(suite)
    assert isinstance(made, Library)
    return made


async def test_nothing_is_found_in_what_one_does_not_see(library: Library) -> None:
    member, _ = await library.member()
    private = await library.channel(private=True)
    own = await library.channel(member, private=True)
    elsewhere = await Library.make(library.suite)
    for room, person, channel in (
        (library, library.admin, library.channel_id),
        (library, library.admin, private),
        (library, member, own),
        (elsewhere, elsewhere.admin, elsewhere.channel_id),
    ):
        await room.sent(person, f"treasure {channel}", to=channel)
    await elsewhere.settled()
    public_one, private_one, own_one = (f"treasure {channel}" for channel in (library.channel_id, private, own))
    assert await library.found(member, "treasure") == [own_one, public_one]
    assert await library.found(library.admin, "treasure") == [private_one, public_one]
    assert await library.found(member, sender_user_id=library.admin.user_id) == [public_one]
    assert await library.found(member, sender_user_id=elsewhere.admin.user_id) == []


async def test_a_hidden_conversation_in_the_filter_is_like_an_unknown_one(library: Library) -> None:
    member, _ = await library.member()
    hidden, unknown, elsewhere = (
        await library.channel(private=True),
        str(uuid.uuid4()),
        await Library.make(library.suite),
    )
    await library.sent(library.admin, "treasure", to=hidden)
    await library.sent(library.admin, "open treasure")
    await elsewhere.sent(elsewhere.admin, "treasure")
    await elsewhere.settled()
    for channel in (hidden, unknown, elsewhere.channel_id):
        assert await library.found(member, "treasure", conversation_ids=[channel]) == []
        assert await library.found(member, "treasure", conversation_ids=[channel, library.channel_id]) == [
            "open treasure"
        ]
    assert await library.found(library.admin, "treasure", conversation_ids=[hidden.upper()]) == ["treasure"]


async def test_who_is_nobody_here_finds_no_workspace(library: Library) -> None:
    elsewhere = await Library.make(library.suite)
    refusals = [
        await refused(library.search(library.outsider(), "word")),
        await refused(elsewhere.search(library.admin, "word")),
    ]
    assert {(refusal.code, refusal.reason) for refusal in refusals} == {(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")}
    assert len({refusal.raw for refusal in refusals}) == 1


async def test_a_removed_member_finds_nothing_on_the_very_next_call(library: Library) -> None:
    member, member_id = await library.member()
    await library.sent(library.admin, "still here")
    assert await library.found(member, "still") == ["still here"]
    await library.remove(member_id)
    assert (await refused(library.search(member, "still"))).reason == "NOT_FOUND"


async def test_who_no_longer_takes_part_finds_nothing_there(library: Library) -> None:
    member, member_id = await library.member()
    private = await library.channel(member, private=True)
    await library.sent(member, "between us", to=private)
    assert await library.found(member, "between") == ["between us"]
    library.rows("DELETE FROM participants WHERE conversation_id = %(c)s AND member_id = %(m)s", c=private, m=member_id)
    assert await library.found(member, "between") == []


async def test_who_is_out_of_a_group_finds_nothing_there_though_still_written_down(suite: Suite) -> None:
    hall = await new_hall(suite)
    library = Library(suite, hall.admin, hall.workspace_id, hall.admin_member_id, hall.channel_id)
    bob, bob_id = await hall.newcomer("Bob")
    group_id = await hall.group()
    await hall.put_into(group_id, bob_id)
    conversation_id = await hall.group_conversation(group_id)
    await hall.sent(hall.admin, "chorus", to=conversation_id)
    assert await library.found(bob, "chorus") == ["chorus"]
    with hall.held_back(group_id):
        await hall.take_out(group_id, bob_id)
        assert list((await library.search(bob, "chorus")).messages) == []
        assert list((await library.search(bob, "chorus", conversation_ids=[conversation_id])).messages) == []
    assert await library.found(hall.admin, "chorus") == ["chorus"]


async def test_after_the_reading_nobody_is_asked_about_groups_in_which_nothing_was_found(suite: Suite) -> None:
    hall = await new_hall(suite)
    library = Library(suite, hall.admin, hall.workspace_id, hall.admin_member_id, hall.channel_id)
    bob, bob_id = await hall.newcomer("Bob")
    group_ids = [await hall.group(name) for name in ("Choir", "Band", "Crew")]
    for group_id in group_ids:
        await hall.put_into(group_id, bob_id)
    own, *_others = [await hall.group_conversation(group_id) for group_id in group_ids]
    await hall.sent(hall.admin, "chorus", to=own)
    assert await library.found(bob, "chorus") == ["chorus"]
    with statements_sent() as sent:
        assert [each.text for each in (await library.search(bob, "chorus")).messages] == ["chorus"]
    asked = Counter(key for key in groups_asked_about(sent) if key in group_ids)
    assert asked == {group_ids[0]: 2, group_ids[1]: 1, group_ids[2]: 1}


async def test_what_is_archived_is_found(library: Library) -> None:
    await library.sent(library.admin, "long ago")
    library.rows("UPDATE conversations SET archived_at = created_at WHERE id = %(id)s", id=library.channel_id)
    assert await library.found(library.admin, "ago") == ["long ago"]


async def test_a_guest_finds_only_what_is_granted_locked_or_not(library: Library) -> None:
    granted, other = await library.channel(private=True), await library.channel(private=True)
    for channel in (granted, other, library.channel_id):
        await library.sent(library.admin, f"word in {channel}", to=channel)
    person, guest = await library.guest(granted)
    assert await library.found(person, "word") == [f"word in {granted}"]
    assert await library.found(person, "word", conversation_ids=[other, library.channel_id]) == []
    assert await library.found(person, sender_user_id=library.admin.user_id) == [f"word in {granted}"]
    library.lock(guest)
    assert await library.found(person, "word") == [f"word in {granted}"]
    library.end(guest)
    assert (await refused(library.search(person, "word"))).reason == "NOT_FOUND"


async def test_five_hundred_hits_are_paged_through_while_new_ones_arrive(library: Library) -> None:
    channels = [library.channel_id, await library.channel(), await library.channel()]
    for first in range(0, 500, 50):
        hits = (library.sent(library.admin, f"hit {n}", to=channels[n % 3]) for n in range(first, first + 50))
        await asyncio.gather(*hits)
    await library.settled()
    found: list[pb.Message] = []
    token, pages = "", 0
    while True:
        page = await library.search(library.admin, "hit", page_size=37, page_token=token)
        found += page.messages
        pages += 1
        await library.sent(library.admin, f"hit that came during page {pages}")
        if not (token := page.next_page_token):
            break
    assert sorted(message.text for message in found) == sorted(f"hit {n}" for n in range(500))
    ids = [message.message_id for message in found]
    assert ids == sorted(ids, reverse=True)
    assert pages >= 14


async def test_a_page_token_is_of_one_search_of_one_caller(library: Library) -> None:
    member, member_id = await library.member()
    for number in range(3):
        await library.sent(library.admin, f"word {number}")
    await library.settled()
    asked: dict[str, Any] = {"query": "word", "page_size": 1}
    token = (await library.search(library.admin, **asked)).next_page_token
    now = Timestamp(seconds=int(time.time()) + 3600)
    changes: list[dict[str, Any]] = [
        {"query": "word 1"},
        {"conversation_ids": [library.channel_id]},
        {"sender_user_id": library.admin.user_id},
        {"sent_after": Timestamp(seconds=1)},
        {"sent_before": now},
        {"has_file": True},
        {"mentioned_member_id": member_id},
        {"reaction": "👍"},
    ]
    for change in changes:
        refusal = await refused(library.search(library.admin, **{**asked, **change}, page_token=token))
        assert (refusal.code, list(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_token"]), change
    assert (await refused(library.search(member, **asked, page_token=token))).reason == "INVALID_REQUEST"
    assert (
        await refused(library.search(library.admin, **asked, page_token=token[:-4] + "AAAA"))
    ).reason == "INVALID_REQUEST"
    assert [m.text for m in (await library.search(library.admin, **asked, page_token=token)).messages] == ["word 1"]
    with_size = await library.search(library.admin, "word", page_size=2, page_token=token)
    assert [message.text for message in with_size.messages] == ["word 1", "word 0"]
    assert (await refused(library.search(library.admin, "word", page_size=-1))).reason == "INVALID_REQUEST"
