"""Streams that come back together, after a service was away, do not all read at once."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest

from services.messaging import audiences
from tests.service.test_messaging_conversations import Room
from tests.service.test_messaging_streams import Listener, append_directly, listening, replica
from tests.support.deliveries import until
from tests.support.metrics import own
from tests.support.suite import Suite

STREAMS = 8
LOOKS = 40
READING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND usename = 'messaging' AND query LIKE '%%c.revision, c.last_event_seq AS head%%'
"""


@pytest.fixture
async def room(suite: Suite) -> Room:
    """A workspace of this test's own."""
    made = await Room.make(suite)
    assert isinstance(made, Room)
    return made


async def test_streams_that_catch_up_read_two_at_a_time_and_all_of_them_get_everything(room: Room) -> None:
    async with replica(room) as (_, channel), AsyncExitStack() as stack:
        listeners = [
            await stack.enter_async_context(listening(room, room.admin, channel=channel)) for _ in range(STREAMS)
        ]
        await until(lambda: own("guildhall_subscriptions", state="live") == STREAMS)
        await room.suite.stop("membership")
        append_directly(room, "held")
        await until(lambda: own("guildhall_subscriptions", state="catching_up") == STREAMS)
        with room.suite.database("messaging_owner") as holder, holder.transaction():
            holder.execute("LOCK TABLE conversations IN ACCESS EXCLUSIVE MODE")
            await room.suite.start("membership")
            await until(lambda: reading(room) > 0)
            assert max(await looks(room)) == audiences.MOST_CATCHING_UP
        await all_have(listeners, room, ["held"])
        await room.sent(room.admin, "live")
        await all_have(listeners, room, ["held", "live"])


def test_who_tries_again_does_not_do_so_together_with_the_others() -> None:
    pauses = {audiences.pause_seconds() for _ in range(50)}
    assert len(pauses) == 50
    assert max(pauses) - min(pauses) > audiences.RETRY_SECONDS / 4
    assert 0 < min(pauses) <= max(pauses) < audiences.POLL_SECONDS


def reading(room: Room) -> int:
    """How many statements wait that read for streams: while they do, each keeps a connection."""
    return int(room.suite.rows("messaging", READING, ())[0][0])


async def looks(room: Room) -> list[int]:
    """The same, again and again."""
    found = []
    for _ in range(LOOKS):
        found.append(reading(room))
        await asyncio.sleep(0.03)
    return found


async def all_have(listeners: Sequence[Listener], room: Room, texts: Sequence[str]) -> None:
    """Waits until each has heard these, and nothing else."""
    for listener in listeners:
        await listener.until(lambda heard=listener: len(heard.texts(room.channel_id)) >= len(texts), seconds=20)
        assert listener.texts(room.channel_id) == list(texts)
