"""While guest says nothing, for as long as it likes, full members' streams go on as if nobody were a guest."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from guildhall.messaging.v1 import event_service_pb2 as pb

from services.chassis import channel as chassis_channel
from services.messaging import audiences
from services.messaging.peers import Guests
from tests.faults.tcp_proxy import Mode, Proxy
from tests.service.test_messaging_streams import Listener, listening, replica
from tests.support.guest_rooms import Yard, new_yard
from tests.support.suite import Suite

PATIENCE_SECONDS = 25.0
"""How long messaging waits for guest in these tests: well beyond what the tests wait for anything."""


@pytest.fixture
async def yard(suite: Suite) -> Yard:
    """A workspace of this test's own."""
    return await new_yard(suite)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """With time-outs as they are, who waits where they should not would do so for two seconds."""
    for asks in (chassis_channel.ask, Guests.channels):
        monkeypatch.setitem(asks.__kwdefaults__, "timeout_seconds", PATIENCE_SECONDS)
    # Guests are asked about at each look, so that silence is met by the watch too.
    monkeypatch.setattr(audiences, "DISTRUST_SECONDS", 0.0)


@asynccontextmanager
async def between(yard: Yard) -> AsyncIterator[tuple[Proxy, grpc.aio.Channel]]:
    """A replica of messaging, and what stands between it and guest."""
    upstream = ("127.0.0.1", yard.hall.suite.stack.settings.ports.service("guest"))
    proxy = Proxy(("127.0.0.1", 0), upstream)
    await proxy.start()
    try:
        async with replica(yard.hall, guest_address=f"127.0.0.1:{proxy.port}") as (_, channel):
            try:
                yield proxy, channel
            finally:
                proxy.set_mode(Mode.PASS)
    finally:
        await proxy.stop()


async def until_live(yard: Yard, *listeners: Listener) -> None:
    """Waits until streams have something that was sent to them."""
    await yard.mention(yard.friend_id, text="live")
    for listener in listeners:
        await listener.until(lambda heard=listener: heard.texts(yard.channel_id) == ["live"])


def typists(listener: Listener) -> list[str]:
    return [event.typing.member_id for event in listener.events if event.HasField("typing")]


async def test_members_get_what_is_sent_and_guests_get_it_in_its_order_when_guest_answers_again(yard: Yard) -> None:
    texts = [f"{number}" for number in range(5)]
    async with between(yard) as (proxy, channel):
        async with (
            listening(yard.hall, yard.guest, channel=channel) as guests,
            listening(yard.hall, yard.friend, channel=channel) as members,
        ):
            await until_live(yard, guests, members)
            proxy.set_mode(Mode.BLACK_HOLE)
            for number, text in enumerate(texts):
                await yard.mention(yard.friend_id, yard.stranger_id, text=text)
                await members.until(lambda n=number: len(members.texts(yard.channel_id)) == n + 2)
            assert guests.texts(yard.channel_id) == ["live"]
            proxy.set_mode(Mode.PASS)
            await guests.until(lambda: len(guests.texts(yard.channel_id)) == 1 + len(texts), seconds=20)
    for listener in (guests, members):
        assert listener.texts(yard.channel_id) == ["live", *texts]
        numbers = listener.numbers(yard.channel_id)
        assert numbers == list(range(numbers[0], numbers[0] + 1 + len(texts)))
    shown = [list(event.message_created.mentions.member_ids) for event in guests.numbered(yard.channel_id)]
    assert shown == [[yard.friend_id]] * (1 + len(texts))


async def test_the_streams_of_members_who_are_removed_end(yard: Yard) -> None:
    others = [await yard.hall.newcomer(name) for name in ("Ann", "Ben")]
    async with between(yard) as (proxy, channel), listening(yard.hall, yard.guest, channel=channel) as guests:
        await until_live(yard, guests)
        proxy.set_mode(Mode.BLACK_HOLE)
        # The second is removed when guest has been asked for certain: the watch has looked at the first since.
        for person, member_id in others:
            async with listening(yard.hall, person, channel=channel) as listener:
                await yard.hall.remove(member_id)
                assert (await listener.finish()).reason == pb.STREAM_END_REASON_ACCESS_ENDED


async def test_members_are_told_who_types_and_what_they_read_elsewhere(yard: Yard) -> None:
    async with between(yard) as (proxy, channel):
        async with (
            listening(yard.hall, yard.guest, channel=channel) as guests,
            listening(yard.hall, yard.admin, channel=channel) as members,
        ):
            await until_live(yard, guests, members)
            proxy.set_mode(Mode.BLACK_HOLE)
            for number, person in enumerate((yard.friend, yard.stranger)):
                await yard.chat.type(person)
                await members.until(lambda n=number: len(typists(members)) == n + 1)
            await yard.chat.mark_read(yard.admin, 1)
            await members.until(lambda: members.has("read_state_changed", yard.channel_id))
    assert typists(members) == [yard.friend_id, yard.stranger_id]
