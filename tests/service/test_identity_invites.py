"""What identity knows of open invites: told by membership and guest, in any order."""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from guildhall.events.v1 import event_sink_pb2 as events

from services.chassis.database import Database
from services.chassis.secret import token_hash
from services.identity import invites
from tests.service.test_guest_redemption import until
from tests.support.suite import Suite, refused

LATER = timedelta(days=7)


@pytest.fixture
async def database(suite: Suite) -> AsyncIterator[Database]:
    opened = Database(suite.settings("identity"))
    yield opened
    await opened.close()


def opened(token: str, *, lasts: timedelta = LATER) -> events.Event:
    event = events.Event(event_id=str(uuid.uuid4()), invite_opened=events.InviteOpened(token_hash=token_hash(token)))
    event.invite_opened.expire_time.FromDatetime(datetime.now(UTC) + lasts)
    return event


def closed(token: str) -> events.Event:
    closing = events.InviteClosed(token_hash=token_hash(token))
    return events.Event(event_id=str(uuid.uuid4()), invite_closed=closing)


async def tell(suite: Suite, event: events.Event, *, source: str = "membership") -> None:
    """Delivers an event, and waits until it is applied."""
    await suite.sink("identity", certificate=source).DeliverEvents(events.DeliverEventsRequest(events=[event]))
    with suite.database("identity") as connection:

        async def is_applied() -> bool:
            query = "SELECT applied_at FROM inbox WHERE event_id = %s"
            return connection.execute(query, [event.event_id]).fetchone() not in (None, (None,))

        await until(is_applied, "the event is applied")


def is_open(database: Database, token: str) -> Any:
    return database.read(lambda tx: invites.is_open(tx, token=token))


@pytest.mark.parametrize("source", ["membership", "guest"])
async def test_an_invite_is_open_from_its_opening_to_its_closing(suite: Suite, database: Database, source: str) -> None:
    token = str(uuid.uuid4())
    assert not await is_open(database, token)
    await tell(suite, opened(token), source=source)
    assert await is_open(database, token)
    await tell(suite, closed(token), source=source)
    assert not await is_open(database, token)


async def test_an_opening_that_comes_after_the_closing_opens_nothing(suite: Suite, database: Database) -> None:
    token = str(uuid.uuid4())
    await tell(suite, closed(token))
    await tell(suite, opened(token))
    assert not await is_open(database, token)


async def test_a_groups_code_is_good_in_any_case_and_another_secret_only_as_it_is(
    suite: Suite, database: Database
) -> None:
    code, secret = uuid.uuid4().hex[:20], f"gi_{uuid.uuid4().hex.upper()}"
    for token in (code, secret):
        await tell(suite, opened(token))
    assert await is_open(database, code.upper())
    assert await is_open(database, secret)
    for other in (secret.lower(), secret.upper(), code.upper() + "A"):
        assert not await is_open(database, other)


async def test_an_invite_ends_by_itself_and_the_later_end_counts(suite: Suite, database: Database) -> None:
    token = str(uuid.uuid4())
    await tell(suite, opened(token, lasts=timedelta(seconds=-1)))
    assert not await is_open(database, token)
    await tell(suite, opened(token))
    await tell(suite, opened(token, lasts=timedelta(seconds=-1)))
    assert await is_open(database, token)


async def test_what_has_been_over_for_a_week_is_forgotten(suite: Suite, database: Database) -> None:
    old, recent, still_open = (str(uuid.uuid4()) for _ in range(3))
    await tell(suite, opened(old, lasts=-timedelta(days=7, seconds=1)))
    await tell(suite, opened(recent, lasts=-timedelta(days=6)))
    await tell(suite, opened(still_open))
    while await database.transaction(invites.forget):
        pass
    with suite.database("identity") as connection:
        hashes = [token_hash(token) for token in (old, recent, still_open)]
        rows = connection.execute("SELECT token_hash FROM open_invites WHERE token_hash = ANY(%s)", [hashes])
        assert {bytes(row[0]) for row in rows} == {token_hash(recent), token_hash(still_open)}


async def test_messaging_is_not_believed_about_invites(suite: Suite) -> None:
    request = events.DeliverEventsRequest(events=[opened(str(uuid.uuid4()))])
    stub = suite.sink("identity", certificate="messaging")
    assert (await refused(stub.DeliverEvents(request))).reason == "PEER_NOT_ALLOWED"
