"""While guest is away or says nothing, guests send nothing, and nobody else notices."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from tests.service.test_messaging_coalescing import until_waiting
from tests.service.test_messaging_conversations import Room
from tests.service.test_messaging_publish import publishing, reason
from tests.support.suite import Person, Suite, refused

ROUNDS = 3
MEMBERS = 8


@pytest.fixture
async def room(suite: Suite) -> Room:
    """A workspace of this test's own."""
    made = await Room.make(suite)
    assert isinstance(made, Room)
    return made


async def test_without_guest_what_members_send_together_with_a_guest_is_stored(room: Room) -> None:
    guest, _ = await room.guest()
    async with gone(room, guest):
        for _ in range(ROUNDS):
            # The first is alone in its batch; the others gather meanwhile, the guests' among them.
            people = [room.admin, *[guest, room.admin] * MEMBERS]
            outcomes = await asyncio.gather(*(room.send(person) for person in people), return_exceptions=True)
            refusals = [await refused(_raising(outcome)) for outcome in outcomes[1::2]]
            assert {refusal.reason for refusal in refusals} == {"PEER_UNAVAILABLE"}
            assert [outcome for outcome in outcomes[::2] if isinstance(outcome, BaseException)] == []
    stored = [message.sender_user_id for message in (await room.read(room.admin, page_size=200)).messages]
    assert stored == [room.admin.user_id] * ROUNDS * (MEMBERS + 1)
    assert (await room.sent(guest, "again")).text == "again"


async def test_while_guest_says_nothing_members_are_answered_before_the_guest_is_refused(room: Room) -> None:
    guest, _ = await room.guest()
    with silent(room):
        async with publishing(room, guest) as publisher:
            await publisher.write([room.send_request("a guest's")])
            late = asyncio.ensure_future(publisher.result())
            await until_waiting(room, role="guest")
            also_late = asyncio.ensure_future(refused(room.send(guest, "a guest's, too")))
            await asyncio.gather(*(room.sent(room.admin, "a member's") for _ in range(MEMBERS)))
            assert not late.done(), "the members' messages were held"
            assert not also_late.done()
            refusal = await refused(late)
        assert (refusal.reason, (await also_late).reason) == ("PEER_UNAVAILABLE", "PEER_UNAVAILABLE")
    assert await room.texts(room.admin) == ["a member's"] * MEMBERS


async def test_a_guests_messages_of_many_frames_are_stored_in_their_order(room: Room) -> None:
    guest, _ = await room.guest()
    member, _ = await room.member()
    other = await room.channel(private=True)
    async with publishing(room, guest) as publisher:
        for start in range(0, 200, 20):
            await publisher.write([room.send_request(f"{start + n}") for n in range(20)])
            await room.sent(member, "between")
        # One that is refused by guest's word, and goes the same way.
        await publisher.write([room.send_request("x", to=other), room.send_request("200")])
        results = await publisher.close()
    assert [reason(result) for result in results] == [*[""] * 200, "NOT_FOUND", ""]
    seqs = [result.receipt.seq for result in results if result.HasField("receipt")]
    assert seqs == sorted(seqs)


async def test_a_guests_message_waits_for_a_locked_conversation_and_keeps_its_place(room: Room) -> None:
    guest, _ = await room.guest()
    key = str(uuid.uuid4())
    with room.suite.database("messaging_owner") as holder, holder.transaction():
        holder.execute("SELECT 1 FROM conversations WHERE id = %s FOR NO KEY UPDATE", (room.channel_id,))
        async with publishing(room, guest) as publisher:
            await publisher.write([room.send_request("first", key=key)])
            await publisher.write([room.send_request(f"{number}") for number in range(5)])
            waiting = asyncio.ensure_future(publisher.result())
            # Stored elsewhere meanwhile: the guest's lane is nobody else's.
            await room.sent(room.admin, to=await room.channel())
            assert not waiting.done()
            holder.execute("COMMIT")
            assert (await waiting).client_message_id == key
            assert [reason(result) for result in await publisher.close()] == [""] * 5
    assert await room.texts(room.admin) == ["first", *[f"{number}" for number in range(5)]]


@asynccontextmanager
async def gone(room: Room, guest: Person) -> AsyncIterator[None]:
    """Nobody listens where guest did."""
    await room.suite.stop("guest")
    try:
        yield
    finally:
        await room.back("guest", seen_by=guest)


@contextmanager
def silent(room: Room) -> Iterator[None]:
    """guest is asked, and waits for its own database for longer than it is waited for."""
    with room.suite.database("guest_owner") as holder, holder.transaction():
        holder.execute("LOCK TABLE guests IN ACCESS EXCLUSIVE MODE")
        yield


async def _raising(outcome: object) -> object:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
