"""Live delivery: everything, once, in order, to those who may have it at that moment and to nobody else."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from guildhall.messaging.v1 import event_service_pb2 as pb
from guildhall.messaging.v1 import event_service_pb2_grpc as rpc

from services.chassis.frame import Frame
from services.messaging.__main__ import build
from tests.service.test_messaging_conversations import Room
from tests.support.deliveries import until
from tests.support.metrics import own
from tests.support.suite import Person, Suite, refused

WAIT_SECONDS = 10


class Listener:
    """Reads one stream to its end."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.opened: dict[str, int] | None = None
        self.events: list[pb.Event] = []
        self.end: pb.StreamEnd | None = None
        self._changed = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for response in self.call:
            async with self._changed:
                match response.WhichOneof("frame"):
                    case "opened":
                        self.opened = {p.conversation_id: p.event_seq for p in response.opened.positions}
                    case "events":
                        self.events += response.events.events
                    case "end":
                        self.end = response.end
                self._changed.notify_all()

    async def until(self, condition: Callable[[], object], *, seconds: float = WAIT_SECONDS) -> None:
        """Waits until it has read what is expected."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(condition)

    async def finish(self, *, seconds: float = WAIT_SECONDS) -> pb.StreamEnd:
        """Waits for the last frame and the status after it, which must be OK."""
        async with asyncio.timeout(seconds):
            await self._reading
        assert self.end is not None
        assert await self.call.code() == grpc.StatusCode.OK
        return self.end

    async def close(self) -> None:
        """Gives up on the stream."""
        self._reading.cancel()
        self.call.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    def texts(self, conversation_id: str) -> list[str]:
        """The messages of one conversation, as they came."""
        return [e.message_created.text for e in self.numbered(conversation_id)]

    def numbered(self, conversation_id: str) -> list[pb.Event]:
        """The numbered events of one conversation, as they came."""
        return [e for e in self.events if e.conversation_id == conversation_id and e.event_seq]

    def has(self, kind: str, conversation_id: str) -> bool:
        """Whether an event without a number came."""
        return any(e.WhichOneof("payload") == kind and e.conversation_id == conversation_id for e in self.events)

    def numbers(self, conversation_id: str) -> list[int]:
        """The event numbers of one conversation, as they came."""
        return [e.event_seq for e in self.numbered(conversation_id)]


@pytest.fixture
async def room(suite: Suite) -> Room:
    """A workspace of this test's own."""
    made = await Room.make(suite)
    assert isinstance(made, Room)
    return made


@asynccontextmanager
async def listening(
    room: Room, person: Person, *, resume: dict[str, int] | None = None, channel: grpc.aio.Channel | None = None
) -> AsyncIterator[Listener]:
    """Somebody's open stream."""
    positions = [pb.Position(conversation_id=key, event_seq=value) for key, value in (resume or {}).items()]
    request = pb.SubscribeRequest(workspace_id=room.workspace_id, positions=positions)
    stub = rpc.EventServiceStub(channel) if channel else room.suite.stub(rpc.EventServiceStub)
    listener = Listener(person.stream(stub.Subscribe, request))
    try:
        await listener.until(lambda: listener.opened is not None)
        yield listener
    finally:
        await listener.close()


@asynccontextmanager
async def replica(room: Room, **changes: object) -> AsyncIterator[tuple[Frame, grpc.aio.Channel]]:
    """Another process of messaging, as far as anybody can tell."""
    suite = room.suite
    frame = build(suite.settings("messaging", listen="127.0.0.1:0", health_listen="127.0.0.1:0", **changes))
    await frame.start()
    port = suite.stack.settings.ports.service("messaging")
    try:
        async with channel_to(suite, frame.ports["service"]) as channel:
            yield frame, channel
    finally:
        assert port != frame.ports["service"]
        await frame.stop()


def channel_to(suite: Suite, port: int) -> grpc.aio.Channel:
    """A channel to a messaging process of a test's own, with the gateway's certificate."""
    from deploy.stack import certificates

    files = certificates.files(suite.stack.settings.layout.certificates, "gateway")
    credentials = grpc.ssl_channel_credentials(
        files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )
    options = [("grpc.ssl_target_name_override", "messaging"), ("grpc.enable_http_proxy", 0)]
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options)


async def test_what_is_sent_arrives_live_once_and_in_order_for_everybody(room: Room) -> None:
    member, _ = await room.member()
    async with listening(room, room.admin) as one, listening(room, member) as two:
        sent = await asyncio.gather(*(room.sent(room.admin, f"{n}") for n in range(100)))
        for listener in (one, two):
            await listener.until(lambda heard=listener: len(heard.events) >= 100)
            assert listener.numbers(room.channel_id) == list(range(1, 101))
            assert [e.message_created for e in listener.events] == sorted(sent, key=lambda message: message.seq)


async def test_an_event_is_serialised_once_for_all_who_get_it(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [(await room.member())[0] for _ in range(2)]
    made: list[str] = []

    def counted(message_class: type) -> Callable[[Any], bytes]:
        serialise = message_class.SerializeToString  # type: ignore[attr-defined]

        def count(message: Any) -> bytes:
            serialised = bytes(serialise(message))
            # A stream's first and last frames are its own, and other tests' streams are about other conversations.
            is_of_events = message_class is pb.EventBatch or message.WhichOneof("frame") == "events"
            if is_of_events and room.channel_id.encode() in serialised:
                made.append(message_class.__name__)
            return serialised

        return count

    for message_class in (pb.EventBatch, pb.SubscribeResponse):
        monkeypatch.setattr(message_class, "SerializeToString", counted(message_class))
    async with replica(room) as (_, channel), AsyncExitStack() as stack:
        listeners = [
            await stack.enter_async_context(listening(room, person, channel=channel))
            for person in (room.admin, *others)
        ]
        # One after the other, so that each is read by itself and the streams merge nothing. For whom nobody answered in
        # time, as happens on a busy machine, the hub reads by itself until they are live again: that is not shared.
        for number in range(20):
            await until(lambda: own("guildhall_subscriptions", state="live") == len(listeners))
            made.clear()
            await room.sent(room.admin, f"{number}")
            for listener in listeners:
                await listener.until(lambda heard=listener, n=number: len(heard.events) > n)
            if len(made) == 1:
                break

    assert [listener.texts(room.channel_id) for listener in listeners] == [[f"{n}" for n in range(number + 1)]] * 3
    assert made == ["EventBatch"]


async def test_a_stream_resumes_without_a_hole_and_without_a_double(room: Room) -> None:
    sending = asyncio.create_task(_send_many(room, 300))
    heard: list[int] = []
    while len(heard) < 300:
        resume = {room.channel_id: heard[-1] if heard else 0}
        async with listening(room, room.admin, resume=resume) as listener:
            await listener.until(lambda listener=listener: listener.events)
            heard += listener.numbers(room.channel_id)
    await sending
    assert heard == list(range(1, 301))


async def test_who_comes_without_a_position_gets_only_what_is_new(room: Room) -> None:
    for number in range(3):
        await room.sent(room.admin, f"{number}")
    async with listening(room, room.admin) as listener:
        assert listener.opened == {room.channel_id: 3}
        await room.sent(room.admin, "new")
        await listener.until(lambda: listener.events)
        assert listener.texts(room.channel_id) == ["new"]


async def test_more_than_one_reading_is_caught_up_with(room: Room) -> None:
    with room.suite.database("messaging") as database:
        database.execute(
            "INSERT INTO messages (conversation_id, seq, event_seq, id, sender_member_id, sender_user_id, "
            "client_message_id, text) SELECT %s, n, n, gen_random_uuid(), %s, %s, gen_random_uuid(), repeat('x', 2000) "
            "FROM generate_series(1, 1700) n",
            (room.channel_id, room.admin_member_id, room.admin.user_id),
        )
        database.execute(
            "UPDATE conversations SET last_seq = 1700, last_event_seq = 1700 WHERE id = %s", (room.channel_id,)
        )
    async with listening(room, room.admin, resume={room.channel_id: 0}) as listener:
        await room.sent(room.admin, "last")
        await listener.until(lambda: len(listener.events) >= 1701)
        assert listener.numbers(room.channel_id) == list(range(1, 1702))


async def test_a_position_above_the_head_is_reset(room: Room) -> None:
    await room.sent(room.admin)
    async with listening(room, room.admin, resume={room.channel_id: 99}) as listener:
        assert listener.opened == {room.channel_id: 1}
        await room.sent(room.admin, "after")
        await listener.until(lambda: len(listener.events) >= 2)
        assert listener.events[0].reset.event_seq == 1
        assert listener.texts(room.channel_id) == ["after"]


async def test_positions_of_what_is_hidden_or_unknown_are_answered_alike(room: Room) -> None:
    member, _ = await room.member()
    hidden, unknown = await room.channel(private=True), str(uuid.uuid4())
    async with listening(room, member, resume={hidden: 0, unknown: 0, room.channel_id.upper(): 0}) as listener:
        await listener.until(lambda: len(listener.events) >= 2)
        assert {e.conversation_id: e.WhichOneof("payload") for e in listener.events} == {
            hidden: "conversation_lost",
            unknown: "conversation_lost",
        }
        await room.sent(room.admin, "secret", to=hidden)
        await room.sent(room.admin, "public")
        await listener.until(lambda: listener.texts(room.channel_id))
        assert listener.texts(hidden) == []


async def test_a_channel_made_meanwhile_is_gained_and_nothing_of_it_is_missed(room: Room) -> None:
    member, _ = await room.member()
    async with listening(room, member) as listener:
        public, private = await room.channel(), await room.channel(private=True)
        await room.sent(room.admin, "first", to=public)
        await room.sent(room.admin, "secret", to=private)
        await listener.until(lambda: listener.texts(public))
        assert listener.has("conversation_gained", public)
        assert listener.texts(public) == ["first"]
        assert not [e for e in listener.events if e.conversation_id == private]


async def test_a_guest_hears_only_what_was_granted_also_when_locked_until_the_grace_ends(room: Room) -> None:
    other = await room.channel()
    person, guest = await room.guest()
    async with listening(room, person) as listener:
        assert set(listener.opened or ()) == {room.channel_id}
        room.lock(guest)
        await room.sent(room.admin, "elsewhere", to=other)
        await room.sent(room.admin, "here")
        await listener.until(lambda: listener.texts(room.channel_id))
        assert {e.conversation_id for e in listener.events} == {room.channel_id}


async def test_nothing_sent_after_a_removal_reaches_who_was_removed(room: Room) -> None:
    stays, _ = await room.member()
    for _ in range(5):
        goes, member_id = await room.member()
        async with listening(room, goes) as listener, listening(room, stays) as other:
            sending = asyncio.create_task(_send_many(room, 20, "before"))
            await listener.until(lambda heard=listener: heard.events)
            await room.remove(member_id)
            await sending
            await room.sent(room.admin, "secret")
            end = await listener.finish(seconds=2)
            assert (end.reason, list(end.positions)) == (pb.STREAM_END_REASON_ACCESS_ENDED, [])
            assert "secret" not in listener.texts(room.channel_id)
            await other.until(lambda heard=other: "secret" in heard.texts(room.channel_id))


async def test_an_outsider_opens_no_stream_and_is_told_what_an_unknown_workspace_tells(room: Room) -> None:
    stub = room.suite.stub(rpc.EventServiceStub)
    outsider = room.outsider()
    refusals = []
    for workspace_id in (room.workspace_id, str(uuid.uuid4())):
        call = outsider.stream(stub.Subscribe, pb.SubscribeRequest(workspace_id=workspace_id))
        refusals.append(await refused(call.read()))
    assert refusals[0].reason == "NOT_FOUND"
    assert refusals[0].raw == refusals[1].raw


async def test_delivery_needs_no_valkey(room: Room) -> None:
    async with replica(room, redis_url="unix:///nowhere/valkey.sock") as (_, channel):
        async with listening(room, room.admin, channel=channel) as listener:
            await room.sent(room.admin, "by another replica")
            await listener.until(lambda: listener.events)
            assert listener.texts(room.channel_id) == ["by another replica"]
            made = await room.channel()
            await room.sent(room.admin, "gained", to=made)
            await listener.until(lambda: listener.texts(made))


async def test_while_membership_gives_no_answer_delivery_waits(room: Room) -> None:
    async with listening(room, room.admin) as listener:
        await room.suite.stop("membership")
        try:
            append_directly(room, "held")
            with pytest.raises(TimeoutError):
                await listener.until(lambda: listener.events, seconds=4)
        finally:
            await room.back("membership")
        await listener.until(lambda: listener.events)
        assert listener.texts(room.channel_id) == ["held"]
        await room.sent(room.admin, "live")
        await listener.until(lambda: len(listener.events) >= 2)


def append_directly(room: Room, text: str) -> None:
    """A message that was committed just before membership went away."""
    with room.suite.database("messaging") as database, database.transaction():
        row = database.execute(
            "UPDATE conversations SET last_seq = last_seq + 1, last_event_seq = last_event_seq + 1 WHERE id = %s "
            "RETURNING last_seq",
            (room.channel_id,),
        ).fetchone()
        assert row
        database.execute(
            "INSERT INTO messages (conversation_id, seq, event_seq, id, sender_member_id, sender_user_id, "
            "client_message_id, text) VALUES (%s, %s, %s, gen_random_uuid(), %s, %s, gen_random_uuid(), %s)",
            (room.channel_id, row[0], row[0], room.admin_member_id, room.admin.user_id, text),
        )


async def _send_many(room: Room, count: int, text: str = "n") -> None:
    for _ in range(count):
        await room.sent(room.admin, text)
