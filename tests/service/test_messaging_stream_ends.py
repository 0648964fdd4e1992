"""How streams end: always with a reason, and with a place to go on from unless access is what ended."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.messaging.v1 import event_service_pb2 as pb
from guildhall.messaging.v1 import event_service_pb2_grpc as rpc

from services.chassis import frame as chassis_frame
from services.messaging import audiences, hub
from services.messaging.__main__ import build
from tests.service.test_messaging_conversations import Room
from tests.service.test_messaging_streams import append_directly, channel_to, listening, replica
from tests.support.suite import Suite, refused

LONG = 300
"""Messages of the longest kind: 12 MB."""


@pytest.fixture
async def room(suite: Suite) -> Room:
    """A workspace of this test's own."""
    made = await Room.make(suite)
    assert isinstance(made, Room)
    return made


async def test_a_guests_stream_ends_by_itself_when_the_grace_does(room: Room) -> None:
    person, guest = await room.guest()
    room.sql(
        "UPDATE guests SET expire_at = statement_timestamp(), "
        "grace_end_at = statement_timestamp() + interval '2 seconds' WHERE member_id = %(id)s",
        id=guest.member_id,
    )
    async with listening(room, person) as listener:
        end = await listener.finish()
        assert end.reason == pb.STREAM_END_REASON_ACCESS_ENDED
        assert not end.positions


async def test_the_stream_of_who_was_removed_ends_without_anything_being_sent(room: Room) -> None:
    member, member_id = await room.member()
    async with listening(room, member) as listener:
        await room.remove(member_id)
        assert (await listener.finish(seconds=2)).reason == pb.STREAM_END_REASON_ACCESS_ENDED


async def test_signing_out_ends_the_stream(room: Room) -> None:
    async with listening(room, room.admin) as listener:
        await room.admin.call(room.suite.stub(auth_rpc.AuthServiceStub).SignOut, auth.SignOutRequest())
        assert (await listener.finish(seconds=2)).reason == pb.STREAM_END_REASON_SESSION_ENDED


async def test_who_reads_too_slowly_is_cut_with_a_place_to_go_on_from(room: Room) -> None:
    stub = room.suite.stub(rpc.EventServiceStub)
    call = room.admin.stream(stub.Subscribe, pb.SubscribeRequest(workspace_id=room.workspace_id))
    assert (await call.read()).HasField("opened")
    await _fill(room, LONG)
    heard, end = await _rest(call)
    assert end.reason == pb.STREAM_END_REASON_SLOW
    assert heard == list(range(1, end.positions[0].event_seq + 1))
    async with listening(room, room.admin, resume={room.channel_id: end.positions[0].event_seq}) as again:
        await again.until(lambda: again.numbers(room.channel_id)[-1:] == [LONG])
        assert heard + again.numbers(room.channel_id) == list(range(1, LONG + 1))


async def test_nobody_opens_more_streams_than_allowed(room: Room) -> None:
    stub = room.suite.stub(rpc.EventServiceStub)
    request = pb.SubscribeRequest(workspace_id=room.workspace_id)
    open_calls = [room.admin.stream(stub.Subscribe, request) for _ in range(hub.MOST_STREAMS_OF_USER)]
    try:
        for call in open_calls:
            assert (await call.read()).HasField("opened")
        refusal = await refused(room.admin.stream(stub.Subscribe, request).read())
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
    finally:
        for call in open_calls:
            call.cancel()
    async with listening(room, (await room.member())[0]):
        pass


async def test_a_replica_that_goes_away_says_so_and_the_stream_goes_on_elsewhere(room: Room) -> None:
    async with replica(room) as (frame, channel), listening(room, room.admin, channel=channel) as listener:
        await room.sent(room.admin, "one")
        await listener.until(lambda: listener.events)
        for tell in frame._drains:
            tell()
        end = await listener.finish()
    assert end.reason == pb.STREAM_END_REASON_DRAINED
    await room.sent(room.admin, "two")
    resume = {position.conversation_id: position.event_seq for position in end.positions}
    async with listening(room, room.admin, resume=resume) as again:
        await again.until(lambda: again.events)
        assert again.texts(room.channel_id) == ["two"]


async def test_a_replica_takes_streams_until_the_gateway_has_noticed_that_it_goes(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Told at once, a stream would come back to where it was sent from, and be refused.
    monkeypatch.setattr(chassis_frame, "NOTICE_SECONDS", 3.0)
    changes = {"listen": "127.0.0.1:0", "health_listen": "127.0.0.1:0", "drain_seconds": 6}
    frame = build(room.suite.settings("messaging", **changes))
    await frame.start()
    stopping = asyncio.create_task(frame.stop())
    health_address = f"127.0.0.1:{frame.ports['health']}"
    async with (
        grpc.aio.insecure_channel(health_address, options=[("grpc.enable_http_proxy", 0)]) as health,
        channel_to(room.suite, frame.ports["service"]) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(health).Watch(health_pb2.HealthCheckRequest(), timeout=10)
        while (await watch.read()).status != health_pb2.HealthCheckResponse.NOT_SERVING:
            pass
        async with listening(room, room.admin, channel=channel) as listener:
            assert (await listener.finish()).reason == pb.STREAM_END_REASON_DRAINED
    await stopping


async def test_a_stream_that_nobody_answers_for_ends_with_its_position(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audiences, "HELD_SECONDS", 1.0)
    await room.sent(room.admin, "one")
    async with listening(room, room.admin) as listener:
        await room.suite.stop("membership")
        try:
            append_directly(room, "held")
            end = await listener.finish(seconds=15)
        finally:
            await room.back("membership")
    assert end.reason == pb.STREAM_END_REASON_UNAVAILABLE
    assert [position.event_seq for position in end.positions] == [1]
    async with listening(room, room.admin, resume={room.channel_id: 1}) as again:
        await again.until(lambda: again.events)
        assert again.texts(room.channel_id) == ["held"]


async def test_an_old_stream_says_where_to_go_on(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "AGE_SECONDS", 0.5)
    async with listening(room, room.admin) as listener:
        end = await listener.finish()
    assert (end.reason, len(end.positions)) == (pb.STREAM_END_REASON_AGE, 1)


async def _fill(room: Room, count: int) -> None:
    """More than waits for a reader who does not read, transport included."""
    for _ in range(0, count, 20):
        await asyncio.gather(*(room.sent(room.admin, "x" * 40_000) for _ in range(20)))


async def _rest(call: Any) -> tuple[list[int], pb.StreamEnd]:
    """The numbers on the rest of a stream, and its end."""
    numbers: list[int] = []
    while True:
        response = await call.read()
        if response.HasField("end"):
            return numbers, response.end
        numbers += [event.event_seq for event in response.events.events]
