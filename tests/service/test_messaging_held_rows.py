"""While one conversation's row is held by somebody, changes of others go on, whoever makes them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from guildhall.events.v1 import event_sink_pb2 as events

from services.messaging import files, participants
from tests.service.test_messaging_coalescing import until_waiting
from tests.support.chats import Chat
from tests.support.deliveries import deliver, until, until_put_back_is_done
from tests.support.outboxes import written
from tests.support.statements import Statement, statements_sent
from tests.support.suite import Person, Suite


@pytest.fixture
async def room(suite: Suite) -> Chat:
    """A workspace of this test's own."""
    made = await Chat.make(suite)
    assert isinstance(made, Chat)
    return made


async def test_who_met_a_lock_for_a_moment_does_not_wait_behind_a_conversation_that_stands_still(room: Chat) -> None:
    stalled = await room.sent(room.admin)
    free = await room.sent(room.admin, to=await room.channel())
    with held(room, stalled.conversation_id):
        waiting = asyncio.ensure_future(room.react(room.admin, stalled))
        await until_waiting(room)
        with statements_sent() as sent:
            with held(room, free.conversation_id):
                reacting = asyncio.ensure_future(room.react(room.admin, free))
                await until(lambda: has_met(sent, free.conversation_id))
            async with asyncio.timeout(5):
                assert (await reacting).reactions[0].count == 1
        assert not waiting.done()
    assert (await waiting).reactions[0].count == 1


async def test_a_removal_waits_for_no_conversation_and_keeps_none_from_others(room: Chat) -> None:
    member, member_id = await room.member()
    stalled, *free = [await taken_part_in(room, member, member_id) for _ in range(4)]
    with held(room, stalled):
        removed = events.MemberRemoved(workspace_id=room.workspace_id, member_id=member_id, user_id=member.user_id)
        await deliver(room.suite, events.Event(member_removed=removed), source="membership", to="messaging")
        assert parts(room, member_id) == [stalled]
        for conversation_id in free:
            await room.sent(room.admin, to=conversation_id)
    await until_put_back_is_done(room.suite, "messaging", lambda: parts(room, member_id) == [])
    told = [room.event_kinds(each).count("participant_left") for each in (stalled, *free)]
    assert told == [1, 1, 1, 1]


async def test_a_removal_ends_however_many_conversations_there_are(room: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participants, "MOST_AT_ONCE", 2)
    member, member_id = await room.member()
    ids = [await taken_part_in(room, member, member_id) for _ in range(5)]
    removed = events.MemberRemoved(workspace_id=room.workspace_id, member_id=member_id, user_id=member.user_id)
    async with written(room.suite, "messaging") as outbox:
        await deliver(room.suite, events.Event(member_removed=removed), source="membership", to="messaging", times=2)
        await until(lambda: parts(room, member_id) == [])
        # What they announced is released once, and a minute later once more, however often the event came again.
        query = "SELECT count(*) FROM outbox_written WHERE kind = %s"
        assert outbox.database.execute(query, (files.RELEASE,)).fetchone() == (2,)
    assert [room.event_kinds(each).count("participant_left") for each in ids] == [1, 1, 1, 1, 1]


async def test_a_promotion_waits_for_no_conversation_and_brings_nobody_back_who_left_meanwhile(room: Chat) -> None:
    member, member_id = await room.member()
    stalled, free = [await room.channel() for _ in range(2)]
    with held(room, stalled):
        promoted = events.GuestPromoted(
            workspace_id=room.workspace_id,
            member_id=member_id,
            user_id=member.user_id,
            conversation_ids=[stalled, free],
            role="member",
            actor_user_id=room.admin.user_id,
        )
        await deliver(room.suite, events.Event(guest_promoted=promoted), source="guest", to="messaging")
        assert parts(room, member_id) == [free]
        await room.sent(room.admin, to=free)
        room.rows("DELETE FROM participants WHERE member_id = %s AND conversation_id = %s", member_id, free)
    await until_put_back_is_done(room.suite, "messaging", lambda: parts(room, member_id) == [stalled])
    assert [room.event_kinds(each).count("participant_joined") for each in (stalled, free)] == [1, 1]


@contextmanager
def held(room: Chat, conversation_id: str) -> Iterator[None]:
    """Somebody has the conversation's row."""
    with room.suite.database("messaging_owner") as holder, holder.transaction():
        holder.execute("SELECT 1 FROM conversations WHERE id = %s FOR NO KEY UPDATE", (conversation_id,))
        yield


def has_met(sent: list[Statement], conversation_id: str) -> bool:
    """Whether somebody has tried to lock a conversation to change it, and has looked on after that."""
    tried = [s for s in sent if "SKIP LOCKED" in s.text and conversation_id in str(s.parameters)]
    return any("SELECT FROM conversations" in s.text and s.at > tried[0].at for s in sent) if tried else False


async def taken_part_in(room: Chat, person: Person, member_id: str) -> str:
    """A channel in which somebody takes part."""
    conversation_id = str(await room.channel())
    room.join(conversation_id, person, member_id)
    return conversation_id


def parts(room: Chat, member_id: str) -> list[str]:
    """Where somebody takes part."""
    query = "SELECT CAST(conversation_id AS text) FROM participants WHERE member_id = %s"
    return [conversation_id for (conversation_id,) in room.rows(query, member_id)]
