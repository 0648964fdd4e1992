"""PublishMessages: many messages through one stream, each with a fate of its own."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.messaging.v1 import message_service_pb2 as pb
from guildhall.messaging.v1 import message_service_pb2_grpc as rpc

from services.chassis.call import Call
from services.chassis.database import Database
from services.messaging import publishing as publishing_module
from services.messaging import sends
from services.messaging.outgoing import Answer
from services.messaging.servicers.messages import MessageService
from tests.service.test_messaging_conversations import Room
from tests.support.suite import Person, Suite, refusal_of, refused


@pytest.fixture
async def room(suite: Suite) -> Room:
    """A workspace of this test's own."""
    made = await Room.make(suite)
    assert isinstance(made, Room)
    return made


class Publisher:
    """One open PublishMessages."""

    def __init__(self, room: Room, person: Person, channel: grpc.aio.Channel | None = None) -> None:
        stub = rpc.MessageServiceStub(channel) if channel else room.suite.stub(rpc.MessageServiceStub)
        self._call = stub.PublishMessages(timeout=60, metadata=person.metadata)
        self._responses = self._call.__aiter__()
        self.results: list[pb.PublishResult] = []

    async def write(self, requests: Iterable[pb.SendMessageRequest]) -> None:
        """Writes one frame."""
        await self._call.write(pb.PublishMessagesRequest(messages=requests))

    async def result(self) -> pb.PublishResult:
        """The next result."""
        while not self.results:
            self.results += (await anext(self._responses)).results
        return self.results.pop(0)

    async def close(self) -> list[pb.PublishResult]:
        """Writes no more; the results that are still to come. Raises what the stream ended with."""
        await self._call.done_writing()
        return await self.rest()

    async def rest(self) -> list[pb.PublishResult]:
        """The results until the server ends the stream. Raises what it ended with."""
        async for response in self._responses:
            self.results += response.results
        return self.results

    def cancel(self) -> None:
        """Hangs up."""
        self._call.cancel()


def message_service(room: Room) -> MessageService:
    """The servicer that serves in here."""
    tells = (tell.__self__ for tell in room.suite.frames["messaging"]._drains)  # type: ignore[attr-defined]
    return next(service for service in tells if isinstance(service, MessageService))


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what nobody tells."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def publishing(room: Room, person: Person, channel: grpc.aio.Channel | None = None) -> AsyncIterator[Publisher]:
    """An open stream, hung up at the end."""
    publisher = Publisher(room, person, channel)
    try:
        yield publisher
    finally:
        publisher.cancel()


def reason(result: pb.PublishResult) -> str:
    """The reason of a refused message; empty if it was stored."""
    info = error_details_pb2.ErrorInfo()
    return next((str(info.reason) for detail in result.error.details if detail.Unpack(info)), "")


async def test_results_come_in_the_order_of_the_messages_and_numbers_are_dense(room: Room) -> None:
    channels = [room.channel_id, await room.channel(), await room.channel()]
    requests = [room.send_request(f"{n}", to=channels[n % 3]) for n in range(600)]
    async with publishing(room, room.admin) as publisher:
        for start in range(0, 600, 40):
            await publisher.write(requests[start : start + 40])
        results = await publisher.close()
    assert [result.client_message_id for result in results] == [request.client_message_id for request in requests]
    for number, channel in enumerate(channels):
        assert [result.receipt.seq for result in results[number::3]] == list(range(1, 201))
        assert await room.texts(room.admin, channel) == [f"{n}" for n in range(number, 600, 3)][-50:]


async def test_a_refused_message_does_not_touch_its_neighbours(room: Room) -> None:
    member, _ = await room.member()
    hidden = await room.channel(private=True)
    key = str(uuid.uuid4())
    await room.sent(member, "taken", key=key)
    requests = [
        room.send_request("one"),
        room.send_request("x", to=str(uuid.uuid4())),
        room.send_request("x", to=hidden),
        room.send_request("another text", key=key),
        room.send_request("two"),
    ]
    async with publishing(room, member) as publisher:
        await publisher.write(requests)
        results = await publisher.close()
    assert [reason(result) for result in results] == ["", "NOT_FOUND", "NOT_FOUND", "IDEMPOTENCY_MISMATCH", ""]
    assert results[1].error == results[2].error
    assert await room.texts(room.admin) == ["taken", "one", "two"]


async def test_a_repeated_stream_gives_the_same_receipts_and_burns_no_number(room: Room) -> None:
    requests = [room.send_request(f"{n}") for n in range(100)]
    receipts = []
    for _ in range(2):
        async with publishing(room, room.admin) as publisher:
            await publisher.write(requests)
            await publisher.write(requests[50:])
            receipts.append(await publisher.close())
    assert [result.receipt for result in receipts[0][:100]] == [result.receipt for result in receipts[1][:100]]
    assert [result.receipt for result in receipts[0][100:]] == [result.receipt for result in receipts[0][50:100]]
    assert (await room.sent(room.admin, "next")).seq == 101


async def test_a_repetition_within_a_frame_is_one_message_or_a_mismatch(room: Room) -> None:
    key = str(uuid.uuid4())
    texts = ["same", "same", "other", "same"]
    async with publishing(room, room.admin) as publisher:
        await publisher.write([room.send_request(text, key=key) for text in texts])
        results = await publisher.close()
    assert [reason(result) for result in results] == ["", "", "IDEMPOTENCY_MISMATCH", ""]
    assert results[0].receipt == results[1].receipt == results[3].receipt
    assert await room.texts(room.admin) == ["same"]


async def test_a_repetition_behind_a_mismatch_of_its_key_gets_the_answer_of_the_first_time(room: Room) -> None:
    key = str(uuid.uuid4())
    async with publishing(room, room.admin) as publisher:
        await publisher.write([room.send_request("once", key=key)])
        first = await publisher.result()
        await publisher.write([room.send_request(text, key=key) for text in ("other", "once")])
        results = await publisher.close()
    assert [reason(result) for result in results[-2:]] == ["IDEMPOTENCY_MISMATCH", ""]
    assert results[-1].receipt == first.receipt


async def test_a_viewer_is_told_per_message_that_they_may_not(room: Room) -> None:
    viewer, _ = await room.member(members.ROLE_VIEWER)
    async with publishing(room, viewer) as publisher:
        await publisher.write([room.send_request(), room.send_request(to=str(uuid.uuid4()))])
        results = await publisher.close()
    assert [reason(result) for result in results] == ["PERMISSION_DENIED", "NOT_FOUND"]


async def test_who_is_removed_while_the_stream_is_open_stores_nothing_more(room: Room) -> None:
    member, member_id = await room.member()
    async with publishing(room, member) as publisher:
        await publisher.write([room.send_request("before")])
        assert (await publisher.result()).receipt.seq == 1
        await room.remove(member_id)
        await publisher.write([room.send_request("after")])
        assert reason(await publisher.result()) == "NOT_FOUND"
    assert await room.texts(room.admin) == ["before"]


async def test_signing_out_ends_the_stream_and_nothing_after_it_is_stored(room: Room) -> None:
    person = room.admin
    async with publishing(room, person) as publisher:
        await publisher.write([room.send_request("before")])
        await publisher.result()
        await person.call(room.suite.stub(auth_rpc.AuthServiceStub).SignOut, auth.SignOutRequest())
        await publisher.write([room.send_request(f"after {n}") for n in range(50)])
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await publisher.close()
    assert refusal_of(error.value).reason == "SESSION_ENDED"
    assert await room.texts(await room.suite.signed_in(person.email)) == ["before"]


async def test_signing_out_ends_a_stream_on_which_nothing_is_sent_and_no_other(room: Room) -> None:
    member, _ = await room.member()
    async with publishing(room, room.admin) as publisher, publishing(room, member) as other:
        for each in (publisher, other):
            await each.write([room.send_request("before")])
            await each.result()
        await room.admin.call(room.suite.stub(auth_rpc.AuthServiceStub).SignOut, auth.SignOutRequest())
        async with asyncio.timeout(10):
            assert (await refused(publisher.result())).reason == "SESSION_ENDED"
        await other.write([room.send_request("after")])
        assert (await other.result()).receipt.seq == 3


async def test_an_old_stream_ends_well_once_what_was_read_has_its_result(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing_module, "AGE_SECONDS", 2.0)
    async with publishing(room, room.admin) as publisher:
        await publisher.write([room.send_request("young")])
        async with asyncio.timeout(10):
            results = await publisher.rest()
    assert [result.receipt.seq for result in results] == [1]


async def test_a_frame_that_breaks_a_rule_ends_the_stream_naming_the_field(room: Room) -> None:
    async with publishing(room, room.admin) as publisher:
        await publisher.write([room.send_request("good")])
        await publisher.write([room.send_request("good"), room.send_request("")])
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await publisher.close()
    refusal = refusal_of(error.value)
    assert (refusal.code, set(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {"messages[1]"})
    assert await room.texts(room.admin) == ["good"]


async def test_a_locked_conversation_does_not_keep_the_others_waiting(room: Room) -> None:
    stalled, free = room.channel_id, await room.channel()
    member, _ = await room.member()
    with room.suite.database("messaging") as database, database.transaction():
        database.execute("SELECT 1 FROM conversations WHERE id = %s FOR NO KEY UPDATE", (stalled,))
        async with publishing(room, room.admin) as publisher:
            await publisher.write([room.send_request(f"{n}", to=stalled) for n in range(5)])
            for n in range(20):
                # Acknowledged while the other row is still locked, by its own sender and by others.
                await room.sent(member, f"{n}", to=free)
            await publisher.write([room.send_request("last", to=stalled)])
            database.execute("COMMIT")
            results = await publisher.close()
    assert [result.receipt.seq for result in results] == [1, 2, 3, 4, 5, 6]
    assert await room.texts(room.admin, stalled) == ["0", "1", "2", "3", "4", "last"]


async def test_of_a_stream_that_breaks_nothing_is_stored_that_came_after_what_was_dropped(room: Room) -> None:
    # A client repeats both: were the second stored alone, the first would come to stand behind it.
    stalled, slow, service = room.channel_id, await room.channel(), message_service(room)

    def waiting() -> int:
        lane = service._outgoing._lanes.get(stalled)
        return len(lane.waiting) if lane is not None else -1

    with room.suite.database("messaging") as row, room.suite.database("messaging") as table, row.transaction():
        row.execute("SELECT 1 FROM conversations WHERE id = %s FOR NO KEY UPDATE", (stalled,))
        other = asyncio.ensure_future(room.sent(room.admin, "another's", to=stalled))
        await until(lambda: waiting() == 0)
        async with publishing(room, room.admin) as publisher:
            await publisher.write([room.send_request("first", to=stalled)])
            await until(lambda: waiting() == 1)
            with table.transaction():
                # The batch with the second message is under way while the stream breaks.
                table.execute("LOCK TABLE messages IN SHARE MODE")
                await publisher.write([room.send_request("second", to=stalled), room.send_request("x", to=slow)])
                await until(lambda: waiting() == 2)
                publisher.cancel()
                await until(lambda: not service._publications)
        row.execute("COMMIT")
        await other
    await room.sent(room.admin, "last", to=stalled)
    assert await room.texts(room.admin, stalled) == ["another's", "last"]


async def test_a_stream_that_is_cancelled_never_loses_its_first_message_alone(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The next batch is taken at the very moment at which the stream is cancelled.
    service = message_service(room)
    queue, store = service._outgoing._queue, service._outgoing._flush
    stored, go = asyncio.Event(), asyncio.Event()

    async def flush(batch: Sequence[sends.Send], timeout_seconds: float) -> Sequence[Answer | BaseException]:
        answers = await store(batch, timeout_seconds)
        stored.set()
        await go.wait()
        return answers

    async def frames() -> AsyncIterator[pb.PublishMessagesRequest]:
        yield pb.PublishMessagesRequest(messages=[room.send_request("first"), room.send_request("second")])

    monkeypatch.setattr(queue, "_flush", flush)
    other = asyncio.ensure_future(room.sent(room.admin, "another's"))
    await stored.wait()
    call = Call(
        rpc="/guildhall.messaging.v1.MessageService/PublishMessages",
        request_id="r",
        peer="gateway",
        deadline=time.monotonic() + 60,
        user_id=room.admin.user_id,
        session_id=room.admin.session_id,
    )
    publication = publishing_module.Publication(call, service._outgoing, service._body_mac)
    reading = asyncio.ensure_future(anext(publication.responses(frames())))
    await until(lambda: len(queue._waiting) == 2)
    go.set()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await other
    await room.sent(room.admin, "last")
    assert await room.texts(room.admin) == ["another's", "first", "second", "last"]


async def test_many_publishers_and_senders_of_one_conversation_leave_no_hole(room: Room) -> None:
    async def publish(name: int) -> list[int]:
        async with publishing(room, room.admin) as publisher:
            for start in range(0, 100, 10):
                await publisher.write([room.send_request(f"{name}.{start + n}") for n in range(10)])
            return [result.receipt.seq for result in await publisher.close()]

    async def send() -> list[int]:
        return [(await room.sent(room.admin)).seq for _ in range(25)]

    found: list[Any] = await asyncio.gather(*(publish(name) for name in range(6)), *(send() for _ in range(4)))
    assert sorted(seq for seqs in found for seq in seqs) == list(range(1, 701))
    assert all(seqs == sorted(seqs) for seqs in found)


async def test_three_stalled_conversations_do_not_keep_a_fourth_from_its_lane(room: Room) -> None:
    stalled = [room.channel_id, *[await room.channel() for _ in range(2)]]
    brief = await room.channel()
    owner = room.suite.database("messaging")
    with room.suite.database("messaging") as long, owner as short, long.transaction():
        long.execute("SELECT 1 FROM conversations WHERE id = ANY(%s) FOR NO KEY UPDATE", (stalled,))
        async with publishing(room, room.admin) as publisher:
            await publisher.write([room.send_request("waits", to=channel) for channel in stalled])
            with short.transaction():
                short.execute("SELECT 1 FROM conversations WHERE id = %s FOR NO KEY UPDATE", (brief,))
                late = asyncio.ensure_future(room.sent(room.admin, "soon", to=brief))
                await asyncio.sleep(0.3)
                assert not late.done()
            # Acknowledged while the three others are still locked.
            assert (await asyncio.wait_for(late, 4)).text == "soon"
            long.execute("COMMIT")
            assert [reason(result) for result in await publisher.close()] == ["", "", ""]


async def test_more_streams_than_one_user_may_have_are_refused(room: Room) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            publisher = await stack.enter_async_context(publishing(room, room.admin))
            await publisher.write([room.send_request()])
            await publisher.result()
        one_more = await stack.enter_async_context(publishing(room, room.admin))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await one_more.result()
    assert refusal_of(error.value).reason == "TOO_MANY_STREAMS"


@pytest.mark.parametrize("until", ["2001-01-01T00:00:00Z", "2999-01-01T00:00:00Z"])
async def test_a_guests_time_that_passed_after_the_answer_stores_nothing(room: Room, until: str) -> None:
    database = Database(room.suite.settings("messaging"))
    send = sends.Send(
        user_id=str(uuid.uuid4()),
        session_id="",
        workspace_id=room.workspace_id,
        conversation_id=room.channel_id,
        client_message_id=str(uuid.uuid4()),
        text="at the last instant",
        body_mac=uuid.uuid4().hex,
        deadline=0,
        member_id=str(uuid.uuid4()),
        granted=(room.channel_id,),
        allowed=True,
        until=until,
    )
    soon = time.monotonic() + 60
    try:
        for outcomes in (
            await database.atomic(lambda tx: sends.append(tx, sends=[send])),
            await database.transaction(lambda tx: sends.append_once(tx, sends=[send], wait=True, not_after=soon))
            if until < "2026"
            else [],
        ):
            for outcome in outcomes:
                assert (outcome is sends.SKIPPED) == (until < "2026")
    finally:
        await database.close()
    assert await room.texts(room.admin) == ([] if until < "2026" else ["at the last instant"])
