"""While one conversation's row is held by somebody, changes of others go on (semantics 39), whoever makes them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.service.test_messaging_coalescing import until_waiting
from tests.support.chats import Chat
from tests.support.deliveries import until
from tests.support.statements import Statement, statements_sent
from tests.support.suite import Suite


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
