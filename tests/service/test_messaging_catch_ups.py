"""Streams that come back together, after a service was away, do not all read at once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

from services.messaging import __main__ as messaging
from services.messaging import audiences
from services.messaging.hub import Hub
from tests.service.test_messaging_conversations import Room
from tests.service.test_messaging_streams import Listener, append_directly, listening, replica
from tests.support.deliveries import until
from tests.support.guest_rooms import new_yard
from tests.support.metrics import own
from tests.support.suite import Person, Suite

STREAMS = 8
STAY = 2
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
    guest, _ = await room.guest()
    async with replica(room) as (_, channel), AsyncExitStack() as stack:
        # Members and guests: they come back together.
        listeners = await opened(stack, room, [room.admin, guest] * (STREAMS // 2), channel)
        async with all_behind(room):
            assert max(await looks(room)) == audiences.MOST_CATCHING_UP
        await all_have(listeners, room, ["held"])
        await room.sent(room.admin, "live")
        await all_have(listeners, room, ["held", "live"])


async def test_who_hangs_up_while_it_is_read_for_them_keeps_their_turn_until_it_has_been(room: Room) -> None:
    async with replica(room) as (_, channel), AsyncExitStack() as stack:
        listeners = await opened(stack, room, [room.admin] * STREAMS, channel)
        async with all_behind(room):
            await until(lambda: reading(room) == audiences.MOST_CATCHING_UP)
            most = 0
            for left, listener in enumerate(reversed(listeners[STAY:]), start=1):
                await listener.close()
                await until(lambda left=left: own("guildhall_subscriptions", state="catching_up") == STREAMS - left)
                most = max(most, *await looks(room, times=4))
            assert most == audiences.MOST_CATCHING_UP
        await all_have(listeners[:STAY], room, ["held"])


async def test_a_guest_who_is_granted_another_channel_while_they_wait_their_turn_loses_nothing_by_it(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    hubs: list[Hub] = []

    class Shown(Hub):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            hubs.append(self)

    monkeypatch.setattr(messaging, "Hub", Shown)
    yard = await new_yard(suite)
    direct, second = (await yard.hall.direct(yard.guest_id)).conversation_id, await yard.hall.channel()
    async with replica(yard.hall) as (_, channel):
        (hub,) = hubs
        for _ in range(audiences.MOST_CATCHING_UP):
            await hub.turns.acquire()
        async with listening(yard.hall, yard.guest, channel=channel) as listener:
            await yard.hall.sent(yard.admin, "psst", to=direct)
            (stream,) = hub.audiences[1].streams
            assert not stream.joined
            await yard.grant(second)
            await yard.revoke()
            await until(lambda: stream.channels is not None and set(stream.channels.grants) == {second})
            for _ in range(audiences.MOST_CATCHING_UP):
                hub.turns.release()
            await listener.until(lambda: listener.has("conversation_lost", yard.channel_id))
            await listener.until(lambda: listener.texts(direct) == ["psst"])
            assert not listener.has("conversation_lost", direct)


def test_who_tries_again_does_not_do_so_together_with_the_others() -> None:
    pauses = {audiences.pause_seconds() for _ in range(50)}
    assert len(pauses) == 50
    assert max(pauses) - min(pauses) > audiences.RETRY_SECONDS / 4
    assert 0 < min(pauses) <= max(pauses) < audiences.POLL_SECONDS


async def opened(
    stack: AsyncExitStack, room: Room, people: Sequence[Person], channel: grpc.aio.Channel
) -> list[Listener]:
    """A stream of each, up to date."""
    listeners = [await stack.enter_async_context(listening(room, person, channel=channel)) for person in people]
    await until(lambda: own("guildhall_subscriptions", state="live") == len(people))
    return listeners


@asynccontextmanager
async def all_behind(room: Room) -> AsyncIterator[None]:
    """While nobody can read on: a message that no stream has, since membership was away, and is back."""
    await room.suite.stop("membership")
    append_directly(room, "held")
    await until(lambda: own("guildhall_subscriptions", state="live") == 0)
    with room.suite.database("messaging_owner") as holder, holder.transaction():
        holder.execute("LOCK TABLE conversations IN ACCESS EXCLUSIVE MODE")
        await room.suite.start("membership")
        await until(lambda: reading(room) > 0)
        yield


def reading(room: Room) -> int:
    """How many statements wait that read for streams: while they do, each keeps a connection."""
    return int(room.suite.rows("messaging", READING, ())[0][0])


async def looks(room: Room, *, times: int = LOOKS) -> list[int]:
    """The same, again and again."""
    found = []
    for _ in range(times):
        found.append(reading(room))
        await asyncio.sleep(0.03)
    return found


async def all_have(listeners: Sequence[Listener], room: Room, texts: Sequence[str]) -> None:
    """Waits until each has heard these, and nothing else."""
    for listener in listeners:
        await listener.until(lambda heard=listener: len(heard.texts(room.channel_id)) >= len(texts), seconds=20)
        assert listener.texts(room.channel_id) == list(texts)
