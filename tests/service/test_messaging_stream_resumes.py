"""Coming back to a workspace: what was gained meanwhile is told, and what was lost and regained comes once."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime

import pytest
from guildhall.client.subscriptions import MOST_POSITIONS, Subscription
from guildhall.messaging.v1 import event_service_pb2 as pb

from services.messaging.access import Viewer
from services.messaging.events import Seen, Snapshot
from services.messaging.streams import Stream
from tests.service.test_messaging_streams import WAIT_SECONDS, Listener, listening
from tests.support.conversations import Hall, new_hall
from tests.support.suite import Person, Suite


@pytest.fixture
async def hall(suite: Suite) -> Hall:
    """A workspace of this test's own."""
    return await new_hall(suite)


def told(listener: Listener, conversation_id: str) -> list[tuple[str | None, int]]:
    """What came of a conversation: the kind and the place, in order."""
    found = [event for event in listener.events if event.conversation_id == conversation_id]
    return [(event.WhichOneof("payload"), place_of(event)) for event in found]


def said(listener: Listener, conversation_id: str) -> list[str]:
    """The messages of a conversation, as they came."""
    return [text for text in listener.texts(conversation_id) if text]


def place_of(event: pb.Event) -> int:
    """An event's number, or the one that it names."""
    kind = event.WhichOneof("payload")
    if kind in ("conversation_gained", "reset"):
        return int(getattr(event, kind).event_seq)
    return event.event_seq


async def test_a_conversation_that_began_between_two_streams_comes_from_its_start(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    await hall.sent(hall.admin, "general")
    async with listening(hall, bob) as listener:
        had = listener.opened
    direct, public = (await hall.direct(bob_id)).conversation_id, await hall.channel()
    for conversation_id in (direct, public):
        await hall.sent(hall.admin, "hi", to=conversation_id)
        async with listening(hall, bob, resume=had) as listener:
            await listener.until(lambda heard=listener, key=conversation_id: heard.texts(key))
            assert told(listener, conversation_id) == [("conversation_gained", 0), ("message_created", 1)]
            assert listener.opened == had
            assert told(listener, hall.channel_id) == []


async def test_an_older_conversation_gained_between_two_streams_is_to_be_read_anew(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    private = await hall.channel(private=True)
    await hall.sent(hall.admin, "old", to=private)
    await hall.sent(hall.admin, "general")
    async with listening(hall, bob) as listener:
        had = listener.opened
    await hall.of("AddParticipant", private, member_id=bob_id)
    async with listening(hall, bob, resume=had) as listener:
        await hall.sent(hall.admin, "new", to=private)
        await listener.until(lambda: listener.texts(private))
        assert told(listener, private) == [("conversation_gained", 2), ("reset", 2), ("message_created", 3)]
    # Once it is named, nothing of that comes again.
    async with listening(hall, bob, resume={**had, private: 3}) as listener:
        await hall.sent(hall.admin, "newer", to=private)
        await listener.until(lambda: listener.texts(private))
        assert told(listener, private) == [("message_created", 4)]


async def test_who_resumes_from_what_opened_named_is_told_of_what_was_gained_before(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    await hall.sent(hall.admin, "general")
    async with listening(hall, bob) as listener:
        had = listener.opened
    direct = (await hall.direct(bob_id)).conversation_id
    await hall.sent(hall.admin, "hi", to=direct)
    # Cut after its first frame, whatever else came of it.
    async with listening(hall, bob, resume=had) as listener:
        again = listener.opened
    async with listening(hall, bob, resume=again) as listener:
        await listener.until(lambda: listener.texts(direct))
        assert told(listener, direct) == [("conversation_gained", 0), ("message_created", 1)]


def test_who_ends_before_they_were_told_of_it_does_not_resume_from_it() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    known, gained = (Seen(str(uuid.uuid4()), 7, 1, at) for _ in range(2))
    viewer = Viewer(str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.uuid4()), None)

    def opened() -> tuple[Stream, pb.SubscribeResponse]:
        stream = Stream(viewer=viewer, session_id="", access_revision=1, channels=None, asked_at=0.0)
        return stream, stream.open(Snapshot([known, gained], at, at), resume={known.conversation_id: 7})

    for is_told in (False, True):
        stream, first = opened()
        assert {position.conversation_id for position in first.opened.positions} == {known.conversation_id}
        if is_told:
            assert isinstance(stream.next(), bytes)
        stream.end(pb.STREAM_END_REASON_DRAINED)
        last = stream.next()
        assert isinstance(last, pb.SubscribeResponse)
        ids = {position.conversation_id for position in last.end.positions}
        assert ids == {known.conversation_id, *([gained.conversation_id] if is_told else [])}


async def test_with_as_many_positions_as_there_is_room_for_nothing_is_told_to_be_gained(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    async with listening(hall, bob) as listener:
        had = listener.opened
    direct = (await hall.direct(bob_id)).conversation_id
    many = {**had, **{str(uuid.uuid4()): 0 for _ in range(MOST_POSITIONS - len(had))}}
    async with listening(hall, bob, resume=many) as listener:
        await hall.sent(hall.admin, "hi", to=direct)
        await listener.until(lambda: listener.texts(direct))
        assert told(listener, direct) == [("message_created", 1)]


async def test_a_conversation_that_is_lost_and_regained_on_one_stream_goes_on_where_it_was(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    async with listening(hall, bob) as listener:
        private = await hall.channel(private=True)
        await hall.of("AddParticipant", private, member_id=bob_id)
        await hall.sent(hall.admin, "first", to=private)
        await listener.until(lambda: said(listener, private) == ["first"])
        await hall.of("RemoveParticipant", private, member_id=bob_id)
        await listener.until(lambda: listener.has("conversation_lost", private))
        await hall.sent(hall.admin, "while he was out", to=private)
        await hall.of("AddParticipant", private, member_id=bob_id)
        await hall.sent(hall.admin, "back", to=private)
        await listener.until(lambda: "back" in said(listener, private))
        assert said(listener, private) == ["first", "while he was out", "back"]
        assert listener.numbers(private) == list(range(1, 7))


class Follower:
    """Somebody who listens by the Python client's own subscription, one stream after the other."""

    def __init__(self, hall: Hall, person: Person, positions: Mapping[str, int] | None = None) -> None:
        self.person = person
        self.opened: list[Mapping[str, int]] = []
        self.subscription = Subscription(
            hall.suite.channel("messaging"), hall.workspace_id, positions=positions or {}, opened=self.opened.append
        )

    async def hear(self, enough: Callable[[list[pb.Event]], bool]) -> list[pb.Event]:
        """The events of one stream, until there are enough."""
        heard: list[pb.Event] = []
        async with asyncio.timeout(WAIT_SECONDS), aclosing(self.stream()) as stream:
            async for event in stream:
                heard.append(event)
                self.subscription.note(event)
                if enough(heard):
                    break
        return heard

    def stream(self) -> AsyncGenerator[pb.Event, None]:
        """One stream."""
        return self.subscription.follow(self.person.metadata)

    async def open_once(self) -> None:
        """One stream that stands, and is given up before anything happens."""
        async with asyncio.timeout(WAIT_SECONDS), aclosing(self.stream()) as stream:
            waiting = asyncio.ensure_future(anext(stream))
            try:
                while not self.opened:  # noqa: ASYNC110 - it is told by a callback
                    await asyncio.sleep(0.01)
            finally:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)


def kinds(heard: list[pb.Event], conversation_id: str) -> list[tuple[str | None, int]]:
    """The kinds of events of one conversation, and their places."""
    return [(e.WhichOneof("payload"), place_of(e)) for e in heard if e.conversation_id == conversation_id]


async def test_the_client_is_told_of_what_began_while_it_was_away(hall: Hall) -> None:
    bob, bob_id = await hall.newcomer("Bob")
    follower = Follower(hall, bob)
    await follower.open_once()
    direct = (await hall.direct(bob_id)).conversation_id
    await hall.sent(hall.admin, "hi", to=direct)
    heard = await follower.hear(lambda heard: len(heard) == 2)
    assert kinds(heard, direct) == [("conversation_gained", 0), ("message_created", 1)]
    await hall.sent(hall.admin, "again", to=direct)
    heard = await follower.hear(lambda heard: len(heard) == 1)
    assert kinds(heard, direct) == [("message_created", 2)]


async def test_a_client_that_saw_nothing_is_told_what_it_gained(hall: Hall) -> None:
    # There was no position to name, by which the server could tell that it has come back.
    hall.rows("UPDATE conversations SET visibility = 'private' WHERE id = %s", hall.channel_id)
    bob, bob_id = await hall.newcomer("Bob")
    follower = Follower(hall, bob)
    await follower.open_once()
    assert follower.opened == [{}]
    direct = (await hall.direct(bob_id)).conversation_id
    await hall.sent(hall.admin, "hi", to=direct)
    heard = await follower.hear(lambda heard: len(heard) == 2)
    assert kinds(heard, direct) == [("conversation_gained", 1), ("reset", 1)]


async def test_a_client_with_more_conversations_than_it_may_name_is_told_what_it_gained(hall: Hall) -> None:
    hall.rows(
        "INSERT INTO conversations (id, workspace_id, kind, name, visibility, created_by_member_id)"
        " SELECT gen_random_uuid(), %s, 'channel', 'many', 'public', %s FROM generate_series(1, %s)",
        hall.workspace_id,
        hall.admin_member_id,
        MOST_POSITIONS,
    )
    bob, bob_id = await hall.newcomer("Bob")
    follower = Follower(hall, bob)
    await follower.open_once()
    direct = (await hall.direct(bob_id)).conversation_id
    await hall.sent(hall.admin, "hi", to=direct)
    heard = await follower.hear(lambda heard: len(heard) == 2)
    assert kinds(heard, direct) == [("conversation_gained", 1), ("reset", 1)]
    assert len(heard) == 2
