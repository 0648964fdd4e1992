"""Who sends too much is stopped before the queue that everybody shares, and stops nobody else."""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from guildhall.messaging.v1 import message_service_pb2_grpc as rpc

from services.chassis.errors import Overloaded, SessionEnded
from services.messaging import outgoing
from services.messaging.group_lookups import GroupLookups
from services.messaging.outgoing import Outgoing
from services.messaging.peers import Guests, Membership
from services.messaging.rates import BURST_SECONDS, Rates
from services.messaging.sends import Send, Stored
from tests.service.test_messaging_coalescing import locked
from tests.service.test_messaging_conversations import Room
from tests.service.test_messaging_publish import publishing
from tests.service.test_messaging_streams import replica
from tests.support.suite import Person, Refusal, Suite, refusal_of, refused

MANY = 100_000
SENDER, WORKSPACE = "messages_per_second_of_sender", "messages_per_second_of_workspace"


@pytest.fixture(scope="module")
async def rooms(suite: Suite) -> tuple[Room, Room]:
    """Two workspaces; each test has a process of messaging to itself, and so buckets that are full."""
    one, other = await Room.make(suite), await Room.make(suite)
    assert isinstance(one, Room)
    assert isinstance(other, Room)
    return one, other


def retry_seconds(refusal: Refusal) -> float:
    """When to come back, as the refusal says; fails if it does not."""
    info = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(info) for detail in status_pb2.Status.FromString(refusal.raw).details)
    return info.retry_delay.ToTimedelta().total_seconds()


async def send(channel: grpc.aio.Channel, room: Room, person: Person, **request: str) -> Any:
    """A message through a process."""
    stub: Any = rpc.MessageServiceStub(channel)
    return await person.call(stub.SendMessage, room.send_request(**request))


async def flood(channel: grpc.aio.Channel, room: Room, person: Person, count: int) -> tuple[int, list[Refusal]]:
    """Many at once: how many were stored, and the refusals of the others."""
    answers = await asyncio.gather(*(send(channel, room, person) for _ in range(count)), return_exceptions=True)
    errors = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    return count - len(errors), [refusal_of(error) for error in errors]


async def test_a_sender_who_floods_is_told_when_to_come_back_and_others_still_pass(rooms: tuple[Room, Room]) -> None:
    room, other = rooms
    member, _ = await room.member()
    async with replica(room, messages_per_second_of_sender=1) as (_, channel):
        begun = time.monotonic()
        stored, refusals = await flood(channel, room, room.admin, 40)
        burst = BURST_SECONDS
        assert burst <= stored <= burst + 1 + time.monotonic() - begun
        assert {(each.code, each.reason) for each in refusals} == {
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
        }
        assert {(each.metadata["limit"], each.metadata["most"]) for each in refusals} == {(SENDER, "1")}
        await send(channel, room, member)
        await send(channel, other, other.admin)

        delays = [retry_seconds(each) for each in refusals]
        assert all(0 < delay <= 1 for delay in delays)
        await asyncio.sleep(delays[-1])  # what a client does that is told so
        await send(channel, room, room.admin)


async def test_a_workspace_that_floods_stops_no_other(rooms: tuple[Room, Room]) -> None:
    room, other = rooms
    member, _ = await room.member()
    async with replica(room, messages_per_second_of_workspace=1) as (_, channel):
        stored, refusals = await flood(channel, room, room.admin, 40)
        assert stored >= BURST_SECONDS
        refusals.append(await refused(_until_refused(channel, room, member)))
        await send(channel, other, other.admin)
    assert {(each.reason, each.metadata["limit"]) for each in refusals} == {("LIMIT_REACHED", WORKSPACE)}
    assert all(0 < retry_seconds(each) <= 1 for each in refusals)


async def _until_refused(channel: grpc.aio.Channel, room: Room, person: Person) -> None:
    """Time passes meanwhile, so that one may still be taken."""
    for _ in range(40):
        await send(channel, room, person)


async def test_strangers_use_up_nothing_of_a_workspace(rooms: tuple[Room, Room]) -> None:
    room, other = rooms
    async with replica(room, messages_per_second_of_workspace=1) as (_, channel):
        for _ in range(5):
            stored, refusals = await flood(channel, room, other.admin, 8)
            assert (stored, {each.reason for each in refusals}) == (0, {"NOT_FOUND"})
        stored, refusals = await flood(channel, room, room.admin, BURST_SECONDS)
    assert (stored, refusals) == (BURST_SECONDS, [])


async def test_a_sender_is_limited_in_made_up_workspaces_too(rooms: tuple[Room, Room]) -> None:
    room, _ = rooms
    made_up = Room(room.suite, room.admin, "", "", room.channel_id)
    found: Counter[str] = Counter()
    async with replica(room, messages_per_second_of_sender=1) as (_, channel):
        for _ in range(40):
            made_up.workspace_id = str(uuid.uuid4())
            found[(await refused(send(channel, made_up, room.admin))).reason] += 1
    assert found.keys() == {"NOT_FOUND", "LIMIT_REACHED"}


async def test_a_stream_ends_with_the_first_message_too_many_and_none_overtakes_it(suite: Suite) -> None:
    room = await Room.make(suite)
    assert isinstance(room, Room)
    texts: list[str] = []
    async with replica(room, messages_per_second_of_sender=20) as (_, channel):
        async with publishing(room, room.admin, channel) as publisher:
            # More than a burst, and for long enough that later ones would be taken again.
            begun = time.monotonic()
            while time.monotonic() < begun + 1 or len(texts) < 400:
                batch = [room.send_request(f"{len(texts) + n}") for n in range(50)]
                try:
                    await publisher.write(batch)
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    break
                texts += [each.text for each in batch]
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await publisher.close()
        stored = [result.receipt.seq for result in publisher.results]
        assert stored == list(range(1, len(stored) + 1))
        assert 200 <= len(stored) < len(texts)
        refusal = refusal_of(error.value)
        assert (refusal.reason, refusal.metadata["limit"]) == ("LIMIT_REACHED", SENDER)

        await asyncio.sleep(retry_seconds(refusal))  # what a client does that is told so
        async with publishing(room, room.admin, channel) as again:
            await again.write([room.send_request(texts[len(stored)])])
            assert (await again.close())[0].receipt.seq == len(stored) + 1
    assert await _newest(room) == [f"{number}" for number in range(len(stored) + 1)][-200:]


async def _newest(room: Room) -> list[str]:
    return [message.text for message in reversed((await room.read(room.admin, page_size=200)).messages)]


def new_queue(room: Room, *, check_sessions: Any = None) -> Outgoing:
    """The queue of a process by itself, with rates that nobody reaches."""
    frame = room.suite.frames["messaging"]
    return Outgoing(
        frame.database,
        check_sessions=check_sessions or frame.sessions.check,
        membership=Membership(frame.channels["membership"]),
        guests=Guests(frame.channels["guest"]),
        on_stored=lambda _ids: None,
        rates=Rates(of_sender=MANY, of_workspace=MANY),
        groups=GroupLookups(frame.database),
    )


def submit(queue: Outgoing, room: Room) -> asyncio.Future[outgoing.Answer]:
    """Queues a message of the room's admin."""
    send = Send(
        user_id=room.admin.user_id,
        session_id=room.admin.session_id,
        workspace_id=room.workspace_id,
        conversation_id=room.channel_id,
        client_message_id=str(uuid.uuid4()),
        text="hello",
        body_mac=uuid.uuid4().hex,
        deadline=time.monotonic() + 10,
    )
    return queue.submit(send)


async def test_one_workspace_holds_half_of_the_queue_and_another_finds_the_rest(rooms: tuple[Room, Room]) -> None:
    room, other = rooms

    async def nobody_is_signed_in(session_ids: Sequence[str], _timeout_seconds: float) -> Sequence[bool]:
        return [False] * len(session_ids)

    queue, half = new_queue(room, check_sessions=nobody_is_signed_in), outgoing.MOST_WAITING // 2
    # Nothing leaves the queue before this test waits for something.
    waiting = [submit(queue, room) for _ in range(half)]
    with pytest.raises(Overloaded):
        submit(queue, room)
    waiting += [submit(queue, other) for _ in range(half)]
    with pytest.raises(Overloaded):
        submit(queue, other)

    ended = await asyncio.gather(*waiting, return_exceptions=True)

    assert {type(each) for each in ended} == {SessionEnded}
    await asyncio.wait([submit(queue, room)])


async def test_one_workspace_holds_half_of_the_places_beside_the_queue(suite: Suite, rooms: tuple[Room, Room]) -> None:
    room, other = await Room.make(suite), rooms[1]
    assert isinstance(room, Room)
    queue = new_queue(room)
    async with locked(room) as holder, locked(other):
        aside = await asyncio.gather(*(submit(queue, room) for _ in range(outgoing.MOST_WAITING // 2)))
        with pytest.raises(Overloaded):
            await submit(queue, room)
        others = await submit(queue, other)
        assert isinstance(others, asyncio.Future)
        holder.rollback()
        stored = await asyncio.gather(*(each for each in aside if isinstance(each, asyncio.Future)))
    assert isinstance(await others, Stored)
    assert sorted(each.seq for each in stored) == list(range(1, len(aside) + 1))
    async with locked(room):
        # There is room beside the queue again.
        freed = await submit(queue, room)
    assert isinstance(freed, asyncio.Future)
    assert (await freed).seq == len(aside) + 1
