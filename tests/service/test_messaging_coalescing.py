"""One queue for all messages: what a batch asks and stores at once, on whose behalf, and how old the
answers may be by which it is stored."""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import psycopg
import pytest
from guildhall.messaging.v1 import conversation_service_pb2 as conversations
from guildhall.messaging.v1 import conversation_service_pb2_grpc as conversations_rpc
from guildhall.messaging.v1 import message_service_pb2_grpc as rpc
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import Database
from services.messaging import hub, outgoing, sends
from tests.service.test_messaging_conversations import Room
from tests.service.test_messaging_publish import publishing
from tests.support.statements import Statement, statements_sent
from tests.support.suite import Suite, refused

CHECKS = ("CheckSessions", "BatchCheckAccess", "BatchCheckGuests")
ROUNDS = 30
BY_ID, AS_GIVEN = "ORDER BY id", "ORDER BY array_position(CAST(:distinct_ids AS uuid[]), id)"
HOLD = "SELECT 1 FROM conversations WHERE id = ANY(%s::uuid[]) FOR NO KEY UPDATE"
IS_FREE = "SELECT 1 FROM conversations WHERE id = %s FOR NO KEY UPDATE NOWAIT"
WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND usename = %s AND query_start < clock_timestamp() - make_interval(secs => %s)
"""


@pytest.fixture
async def room(suite: Suite) -> Room:
    """A workspace of this test's own."""
    made = await Room.make(suite)
    assert isinstance(made, Room)
    return made


async def test_a_frame_of_many_messages_is_one_question_to_each_service_and_one_statement(room: Room) -> None:
    channels = [room.channel_id, *[await room.channel() for _ in range(4)]]
    requests = [room.send_request(f"{n}", to=channels[n % 5]) for n in range(200)]
    begun = time.monotonic()
    with statements_sent() as sent:
        async with publishing(room, room.admin) as publisher:
            await publisher.write(requests)
            results = await publisher.close()
    # The watch over open streams asks about the session by itself.
    watched = 1 + int((time.monotonic() - begun) / hub.WATCH_SECONDS)
    assert [result.receipt.seq for result in results] == [1 + n // 5 for n in range(200)]
    asked = checks(sent, [room.admin.session_id, room.admin.user_id])
    assert asked.keys() == {"CheckSessions", "BatchCheckAccess"}
    assert asked["BatchCheckAccess"] == 1 <= asked["CheckSessions"] <= 1 + watched
    assert len(stores(sent, room.channel_id)) == 1


async def test_a_send_asks_for_its_session_once_and_in_its_batch(room: Room) -> None:
    with statements_sent() as sent:
        await room.sent(room.admin)
    assert checks(sent, [room.admin.session_id])["CheckSessions"] == 1
    assert len(stores(sent, room.channel_id)) == 1


async def test_guest_is_asked_only_where_the_sender_is_a_guest(room: Room) -> None:
    guest, known = await room.guest()
    for person, number in ((room.admin, 0), (guest, 1)):
        with statements_sent() as sent:
            await room.sent(person)
        assert checks(sent, [known.member_id])["BatchCheckGuests"] == number


@pytest.mark.parametrize(("silent", "asked"), [("identity", "BatchCheckAccess"), ("membership", "CheckSessions")])
async def test_sessions_and_access_are_asked_side_by_side(room: Room, silent: str, asked: str) -> None:
    await room.sent(room.admin)
    await room.suite.stop(silent)
    try:
        with statements_sent() as sent:
            assert (await refused(room.send(room.admin))).reason == "PEER_UNAVAILABLE"
    finally:
        await room.back(silent)
    # Whichever of the two is asked first, it is not waited for before the other is asked.
    assert checks(sent, [room.admin.session_id, room.admin.user_id])[asked] == 1


async def test_a_batch_carries_nobodys_request_id(room: Room) -> None:
    metadata = (*room.admin.metadata, ("x-request-id", "the first caller"))
    send = room.suite.stub(rpc.MessageServiceStub).SendMessage
    seen = room.suite.stub(conversations_rpc.ConversationServiceStub).ListConversations
    listing = conversations.ListConversationsRequest(workspace_id=room.workspace_id)
    with statements_sent() as sent:
        await send(room.send_request("at once"), timeout=10, metadata=metadata)
        async with locked(room) as holder:
            waiting = asyncio.ensure_future(send(room.send_request("in the lane"), timeout=10, metadata=metadata))
            await until_waiting(room)
            await asyncio.to_thread(holder.rollback)
            await waiting
        await seen(listing, timeout=10, metadata=metadata)
    asked = [statement for statement in sent if statement.rpc in CHECKS and concerns(statement, ids_of(room))]
    assert len(asked) >= 6
    assert "the first caller" not in {statement.request_id for statement in asked}
    # What is done for this one caller alone does carry it.
    assert "the first caller" in {s.request_id for s in sent if s.rpc == "ListConversations"}


async def test_a_message_stored_by_another_replica_during_the_wait_for_the_lock_is_found(room: Room) -> None:
    first = await room.sent(room.admin, "first")
    key = str(uuid.uuid4())
    async with locked(room) as holder:
        waiting = [asyncio.ensure_future(room.sent(room.admin, "once", key=key)) for _ in range(2)]
        await until_waiting(room)
        holder.execute(
            "INSERT INTO messages (conversation_id, seq, event_seq, id, sender_member_id, sender_user_id, "
            "client_message_id, text) VALUES (%s, 2, 2, gen_random_uuid(), %s, %s, %s, 'once')",
            (room.channel_id, first.sender_member_id, room.admin.user_id, key),
        )
        holder.execute("UPDATE conversations SET last_seq = 2, last_event_seq = 2 WHERE id = %s", (room.channel_id,))
        holder.commit()
    found = await asyncio.gather(*waiting)
    assert [message.seq for message in found] == [2, 2]
    assert (await refused(room.send(room.admin, "another text", key=key))).reason == "IDEMPOTENCY_MISMATCH"
    assert (await room.sent(room.admin, "next")).seq == 3


async def test_a_send_whose_answer_grew_old_while_it_waited_is_asked_about_again_before_it_is_stored(
    room: Room,
) -> None:
    with statements_sent() as sent:
        async with locked(room) as holder:
            waiting = asyncio.ensure_future(room.sent(room.admin, "late"))
            await until_waiting(room, seconds=outgoing.ANSWER_SECONDS)
            before = len(sent)
            holder.rollback()
        assert (await waiting).seq == 1
    # Nothing was asked between the beginning of the wait and its end: the answer was as old as the wait.
    again = sent[before:]
    stored = again.index(stores(again, room.channel_id)[0])
    assert {"CheckSessions", "BatchCheckAccess"} <= set(checks(again[:stored], ids_of(room)))


async def test_later_messages_of_a_locked_conversation_stay_behind_the_one_that_waits(room: Room) -> None:
    async with publishing(room, room.admin) as publisher:
        async with locked(room) as holder:
            await publisher.write([room.send_request("0")])
            # Now the lock comes too late for the first, who asks again: nobody may take it meanwhile.
            await until_waiting(room, seconds=outgoing.ANSWER_SECONDS)
            holder.rollback()
            for number in range(1, 40):
                await publisher.write([room.send_request(f"{number}")])
        results = await publisher.close()
    assert [result.receipt.seq for result in results] == list(range(1, 41))
    assert await room.texts(room.admin) == [f"{number}" for number in range(40)]


@pytest.mark.parametrize("wait", [True, False])
async def test_with_an_answer_that_is_too_old_nothing_is_stored_and_the_lock_is_given_back(
    room: Room, wait: bool
) -> None:
    database = Database(room.suite.settings("messaging"))

    async def store(tx: AsyncConnection, not_after: float) -> list[sends.Outcome]:
        return await sends.append_once(tx, sends=[send_of(room)], wait=wait, not_after=not_after)

    try:
        with pytest.raises(sends.AnsweredTooLongAgo):
            await database.transaction(lambda tx: store(tx, 0.0))
        assert await room.texts(room.admin) == []
        with room.suite.database("messaging") as other:
            other.execute(IS_FREE, (room.channel_id,))
        stored = await database.transaction(lambda tx: store(tx, float("inf")))
    finally:
        await database.close()
    assert [type(outcome) for outcome in stored] == [sends.Stored]
    assert await room.texts(room.admin) == ["hello"]


async def test_two_writers_of_the_same_conversations_in_opposite_order_never_deadlock(room: Room) -> None:
    both = [room.channel_id, await room.channel()]
    for number in range(ROUNDS):
        assert await deadlocks(room, sends.LOCK, both if number % 2 else both[::-1]) == 0


async def test_without_the_sorted_lock_the_same_two_writers_do(room: Room) -> None:
    both = [room.channel_id, await room.channel()]
    unsorted = sends.LOCK.replace(BY_ID, AS_GIVEN)
    assert unsorted != sends.LOCK
    for order in (both, both[::-1]):
        assert await deadlocks(room, unsorted, order) == 1


async def deadlocks(room: Room, lock: str, conversation_ids: list[str]) -> int:
    """One round: how many of two writers, one of whom names the conversations backwards, were ended by a deadlock."""
    statement = str(text(lock)).replace(":distinct_ids", "%(ids)s")

    async def write(connection: psycopg.AsyncConnection, ids: list[str]) -> None:
        async with connection.transaction():
            await connection.execute(statement, {"ids": ids})
            await connection.execute("UPDATE conversations SET last_seq = last_seq WHERE id = ANY(%s::uuid[])", (ids,))

    async with superuser(room) as holder, superuser(room) as one, superuser(room) as two:
        async with holder.transaction():
            # Who names it first waits for it; the other has the first one by then, if nothing sorts, and waits behind.
            await holder.execute(HOLD, (conversation_ids[1:],))
            writing = [asyncio.ensure_future(write(one, conversation_ids[::-1]))]
            await until_waiting(room, role="postgres", count=1)
            writing.append(asyncio.ensure_future(write(two, conversation_ids)))
            await until_waiting(room, role="postgres", count=2)
        ended = await asyncio.gather(*writing, return_exceptions=True)
    found = [error for error in ended if isinstance(error, psycopg.errors.DeadlockDetected)]
    assert [error for error in ended if error and error not in found] == []
    return len(found)


@asynccontextmanager
async def superuser(room: Room) -> AsyncIterator[psycopg.AsyncConnection]:
    """A connection that finds a deadlock in 20 ms; only a superuser may ask for that."""
    postgres = room.suite.stack.postgres
    connection = await psycopg.AsyncConnection.connect(
        postgres.url("postgres", "guildhall"),
        password=postgres.password_file.read_text(),
        options="-c search_path=messaging -c deadlock_timeout=20ms",
        autocommit=True,
    )
    async with connection:
        yield connection


@asynccontextmanager
async def locked(room: Room) -> AsyncIterator[psycopg.Connection]:
    """The room's conversation, locked by another replica until it commits or rolls back."""
    with room.suite.database("messaging_owner") as holder:
        holder.autocommit = False
        holder.execute(HOLD, ([room.channel_id],))
        yield holder


async def until_waiting(room: Room, *, role: str = "messaging", count: int = 1, seconds: float = 0.0) -> None:
    """Waits until so many statements of a role have waited for a lock, each for so long."""
    async with superuser(room) as looking, asyncio.timeout(10):
        while (await (await looking.execute(WAITING, (role, seconds))).fetchone() or (0,))[0] < count:  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def send_of(room: Room) -> sends.Send:
    """What the admin sends, already permitted."""
    return sends.Send(
        user_id=room.admin.user_id,
        session_id=room.admin.session_id,
        workspace_id=room.workspace_id,
        conversation_id=room.channel_id,
        client_message_id=str(uuid.uuid4()),
        text="hello",
        body_mac=uuid.uuid4().hex,
        deadline=0,
        member_id=room.admin_member_id,
        allowed=True,
    )


def ids_of(room: Room) -> list[str]:
    """By which the checks ask about the admin."""
    return [room.admin.session_id, room.admin.user_id]


def concerns(statement: Statement, ids: Iterable[str]) -> bool:
    """Whether a statement's parameters name one of the ids."""
    return any(key in str(statement.parameters) for key in ids)


def checks(sent: Iterable[Statement], ids: Iterable[str]) -> Counter[str]:
    """How many statements each of the batched checks sent about the ids: one for each call of it."""
    keys = list(ids)
    return Counter(statement.rpc for statement in sent if statement.rpc in CHECKS and concerns(statement, keys))


def stores(sent: Iterable[Statement], conversation_id: str) -> list[Statement]:
    """The statements that stored messages of a conversation, or tried to."""
    return [s for s in sent if "INSERT INTO messages" in s.text and concerns(s, [conversation_id])]
