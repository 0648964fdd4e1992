"""What messages are found by follows what is written, whoever follows it and whatever ends in between."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

import pytest
from guildhall.messaging.v1 import message_service_pb2 as pb

from services.chassis.database import Database
from services.messaging import search_entries
from services.messaging.search_keys import LONGEST, SHORTEST, window_before
from tests.service.test_messaging_search import OF_MESSAGE, Library
from tests.support.suite import Suite

FRESH_SECONDS = 5.0
"""At rest it is half a second; the machine may have other work."""


@pytest.fixture
async def library(suite: Suite) -> Library:
    """A workspace of this test's own."""
    made = await Library.make(suite)
    assert isinstance(made, Library)
    return made


@pytest.fixture
async def database(suite: Suite) -> AsyncIterator[Database]:
    """messaging's own role, as in another process."""
    opened = Database(suite.settings("messaging"), pool_size=4)
    yield opened
    await opened.close()


def entries(library: Library) -> list[str]:
    """The ids of the messages of the workspace's channel that have an entry, one for each."""
    rows = library.rows(
        "SELECT CAST(message_id AS text) FROM search_entries WHERE conversation_id = %(id)s", id=library.channel_id
    )
    return sorted(row[0] for row in rows)


async def test_what_was_sent_is_found_soon(library: Library) -> None:
    await library.sent(library.admin, "fresh words")
    begun = time.monotonic()
    while not (await library.search(library.admin, "fresh")).messages:
        assert time.monotonic() - begun < FRESH_SECONDS
        await asyncio.sleep(0.02)


async def test_those_who_follow_at_the_same_time_lose_and_double_nothing(library: Library, database: Database) -> None:
    async def follow_again_and_again() -> None:
        while not done.is_set():
            await database.transaction(
                lambda tx: search_entries.follow(tx, conversation_ids=[library.channel_id], most=3)
            )

    done = asyncio.Event()
    followers = [asyncio.create_task(follow_again_and_again()) for _ in range(4)]
    sent: list[pb.Message] = []
    for _ in range(10):
        sent += await asyncio.gather(*(library.sent(library.admin, "word") for _ in range(10)))
    await library.settled()
    done.set()
    await asyncio.gather(*followers)
    assert entries(library) == sorted(message.message_id for message in sent)
    assert len(await library.found(library.admin, "word")) == 100


async def test_going_through_it_again_changes_nothing(library: Library, database: Database) -> None:
    kept, deleted = await library.sent(library.admin, "kept"), await library.sent(library.admin, "deleted")
    library.touch(deleted, "message_deleted", f"UPDATE messages SET text = NULL, deleted_at = created_at {OF_MESSAGE}")
    await library.settled()
    library.rows("UPDATE search_positions SET event_seq = 0 WHERE conversation_id = %(id)s", id=library.channel_id)
    written = "SELECT xmin FROM search_entries WHERE conversation_id = %(id)s"
    before = library.rows(written, id=library.channel_id)
    await database.transaction(lambda tx: search_entries.follow(tx, conversation_ids=[library.channel_id]))
    assert entries(library) == [kept.message_id]
    assert library.rows(written, id=library.channel_id) == before


async def test_a_hole_in_the_numbers_is_passed_at_once(library: Library, database: Database) -> None:
    # What a restore leaves, so that nobody's old position is taken for a new one.
    before = await library.sent(library.admin, "before")
    library.rows(
        "UPDATE conversations SET last_event_seq = last_event_seq + 1000000000 WHERE id = %(id)s", id=library.channel_id
    )
    after = await library.sent(library.admin, "after")
    library.rows("UPDATE search_positions SET event_seq = 0 WHERE conversation_id = %(id)s", id=library.channel_id)
    for _ in range(3):
        await database.transaction(lambda tx: search_entries.follow(tx, conversation_ids=[library.channel_id]))
    await library.settled()
    assert entries(library) == sorted([before.message_id, after.message_id])


async def test_what_nobody_was_woken_for_is_found_once_all_is_looked_at(library: Library) -> None:
    await library.sent(library.admin, "before it")
    await library.settled()
    # As a process would that ends after its commit: nobody is told.
    library.rows(
        "WITH head AS (UPDATE conversations SET last_seq = last_seq + 1, last_event_seq = last_event_seq + 1 "
        "WHERE id = %(id)s RETURNING *) INSERT INTO messages (conversation_id, seq, event_seq, id, sender_member_id, "
        "sender_user_id, client_message_id, text) SELECT id, last_seq, last_event_seq, uuidv7(), %(member)s, %(user)s, "
        "gen_random_uuid(), 'silent words' FROM head",
        id=library.channel_id,
        member=library.admin_member_id,
        user=library.admin.user_id,
    )
    assert list((await library.search(library.admin, "silent")).messages) == []
    # What a listener hears when it comes back to Valkey.
    library.suite.frames["messaging"].wakes.publish("messaging.conversations", "")
    assert await library.found(library.admin, "silent") == ["silent words"]


async def test_what_is_purged_takes_its_entries_along(library: Library) -> None:
    await library.sent(library.admin, "purged")
    await library.settled()
    assert len(entries(library)) == 1
    library.rows("DELETE FROM messages WHERE conversation_id = %(id)s", id=library.channel_id)
    assert entries(library) == []
    library.rows("DELETE FROM participants WHERE conversation_id = %(id)s", id=library.channel_id)
    library.rows("DELETE FROM conversations WHERE id = %(id)s", id=library.channel_id)
    assert library.rows("SELECT FROM search_positions WHERE conversation_id = %(id)s", id=library.channel_id) == []


async def test_an_unknown_conversation_is_passed_over(database: Database) -> None:
    unknown = str(uuid.uuid4())
    assert await database.transaction(lambda tx: search_entries.follow(tx, conversation_ids=[unknown])) == []


@pytest.mark.parametrize("spans", [(1,), (1, 16, 256), (5, 3, 100_000), (1 << 40,), (17, 1)])
def test_windows_follow_one_another_without_a_gap(spans: tuple[int, ...]) -> None:
    end = begin = 435_965_123
    for turn in range(200):
        window = window_before(end, span=spans[turn % len(spans)])
        unit = 1 << (window.bits - SHORTEST)
        assert SHORTEST <= window.bits <= LONGEST
        assert (window.last + 1) * unit == end
        assert 1 <= window.last - window.first + 1 <= 16
        assert unit * (window.last - window.first + 1) <= max(1, spans[turn % len(spans)])
        end = window.begin
        if end <= 0:
            break
    assert end < begin
