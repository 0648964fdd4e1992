"""What identity is told of guest links: in the transaction of its cause, so that only the invited may sign up."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from guildhall.membership.v1 import member_service_pb2 as members

from services.chassis.secret import token_hash
from services.guest import purges
from tests.service.test_guest_invites import House
from tests.service.test_guest_redemption import redemption_refused
from tests.support.deliveries import until
from tests.support.outboxes import Written
from tests.support.outboxes import written as noting
from tests.support.suite import Suite


@pytest.fixture
async def house(suite: Suite) -> House:
    """A workspace of this test's own."""
    return await House.make(suite)


@pytest.fixture
async def written(suite: Suite) -> AsyncIterator[Written]:
    """What guest writes into its outbox."""
    async with noting(suite, "guest") as noted:
        yield noted


def told_with(written: Written, invite_id: str) -> list[tuple[str, bytes]]:
    """What identity is told by the transaction that changed a link last."""
    found = written.events(
        "o.target = 'identity' AND o.writer = (SELECT xmin FROM guest_invites WHERE id = %s)", invite_id
    )
    return [(kind, getattr(event, kind).token_hash) for event in found if (kind := event.WhichOneof("payload"))]


def told(written: Written) -> list[tuple[str, bytes]]:
    """All that identity is told, in order."""
    found = written.events("o.target = 'identity'")
    return [(kind, getattr(event, kind).token_hash) for event in found if (kind := event.WhichOneof("payload"))]


def open_until(suite: Suite, token: str) -> list[tuple[bool, bool]]:
    """Whether identity has a link as closed, and whether its time lies ahead."""
    with suite.database("identity") as database:
        query = "SELECT closed, statement_timestamp() < expire_at FROM open_invites WHERE token_hash = %s"
        return database.execute(query, (token_hash(token),)).fetchall()


async def test_a_link_is_opened_in_the_transaction_that_makes_it(house: House, written: Written) -> None:
    made = await house.invite()
    assert told_with(written, made.invite.invite_id) == [("invite_opened", token_hash(made.token))]
    (event,) = written.events("o.kind = 'invite_opened'")
    assert event.invite_opened.expire_time == made.invite.expire_time
    await until(lambda: open_until(house.suite, made.token) == [(False, True)])


async def test_a_repeated_request_opens_one_link(house: House, written: Written) -> None:
    request_id = str(uuid.uuid4())
    made, again = await house.invite(request_id=request_id), await house.invite(request_id=request_id)
    assert made == again
    assert told(written) == [("invite_opened", token_hash(made.token))]


async def test_the_last_use_closes_a_link_and_no_earlier_one_does(house: House, written: Written) -> None:
    made = await house.invite(max_uses=2)
    await house.redeem(house.outsider(), made.token)
    assert told_with(written, made.invite.invite_id) == []
    await house.redeem(house.outsider(), made.token)
    assert told_with(written, made.invite.invite_id) == [("invite_closed", token_hash(made.token))]
    await until(lambda: open_until(house.suite, made.token) == [(True, False)])


async def test_a_link_without_a_limit_stays_open_however_often_it_is_used(house: House, written: Written) -> None:
    made = await house.invite()
    for _ in range(2):
        await house.redeem(house.outsider(), made.token)
    assert told(written) == [("invite_opened", token_hash(made.token))]


async def test_who_is_refused_the_last_use_closes_nothing(house: House, written: Written) -> None:
    made, (member, _) = await house.invite(max_uses=1), await house.member(members.ROLE_VIEWER)
    assert (await redemption_refused(house, member, made.token)).reason == "ALREADY_MEMBER"
    assert told(written) == [("invite_opened", token_hash(made.token))]
    people = [house.outsider() for _ in range(4)]
    await asyncio.gather(*(house.redeem(person, made.token) for person in people), return_exceptions=True)
    assert told(written)[1:] == [("invite_closed", token_hash(made.token))]


async def test_the_links_of_a_member_who_is_gone_are_closed_and_nobody_elses(house: House, written: Written) -> None:
    admin, member_id = await house.member(members.ROLE_ADMIN)
    theirs, used_up, ours = await house.invite(by=admin), await house.invite(by=admin, max_uses=1), await house.invite()
    await house.redeem(house.outsider(), used_up.token)
    before = told(written)

    await house.remove(member_id)

    await until(lambda: told(written) != before)
    assert told(written) == [*before, ("invite_closed", token_hash(theirs.token))]
    assert told_with(written, theirs.invite.invite_id) == [("invite_closed", token_hash(theirs.token))]
    person = house.outsider()
    assert (await redemption_refused(house, person, theirs.token)).reason == "GUEST_INVITE_INVALID"
    assert (await house.redeem(person, ours.token)).workspace_id == house.workspace_id


async def test_a_purge_closes_the_links_that_were_open(house: House, written: Written) -> None:
    still_open, used_up, over = await house.invite(), await house.invite(max_uses=1), await house.invite()
    await house.redeem(house.outsider(), used_up.token)
    house.sql("UPDATE guest_invites SET expire_at = statement_timestamp() WHERE id = %(id)s", id=over.invite.invite_id)
    before = told(written)
    database = house.suite.frames["guest"].database
    while await database.transaction(lambda tx: purges.purge(tx, house.workspace_id)):
        pass
    assert told(written) == [*before, ("invite_closed", token_hash(still_open.token))]
