"""Notices: planned by the policy, sent once each, to whom and about what; never a name or address on the way."""

import asyncio
from datetime import datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from guildhall.events.v1 import event_sink_pb2 as events
from guildhall.guest.v1 import guest_service_pb2 as pb

from services.guest import guests, notices
from tests.service.test_guest_expiry import extend
from tests.service.test_guest_invites import HOUR, House
from tests.service.test_guest_redemption import until
from tests.support.guest_calls import call, clock, moment, update_policy
from tests.support.suite import Person, Suite

DAY = 24 * HOUR


@pytest.fixture
async def house(suite: Suite) -> House:
    """A workspace of this test's own."""
    return await House.make(suite)


async def known_guest(house: House, *, days: int = 20) -> tuple[Person, pb.Guest]:
    """A guest with a name and an address."""
    person = await house.suite.person("Gus")
    made = await house.invite(guest_ttl=Duration(seconds=days * 86_400))
    return person, await house.redeem(person, made.token)


def planned(house: House, guest: pb.Guest) -> dict[tuple[str, str], datetime]:
    """What waits to be told, and when."""
    rows = house.sql(
        "SELECT kind, recipient, due_at FROM guest_notices WHERE member_id = %(id)s AND queued_at IS NULL",
        id=guest.member_id,
    )
    assert len({row[:2] for row in rows}) == len(rows)
    return {(kind, recipient): due_at for kind, recipient, due_at in rows}


def kinds(house: House, guest: pb.Guest) -> set[str]:
    return {kind for kind, _ in planned(house, guest)}


async def replan(house: House, guest: pb.Guest) -> None:
    """After the times were moved by hand."""
    await house.suite.frames["guest"].database.transaction(lambda tx: notices.plan(tx, [guest.member_id]))


async def queue(house: House) -> None:
    """What the worker's sweep does each minute."""
    await house.suite.frames["guest"].database.transaction(notices.queue_due)


async def subjects(house: House, person: Person) -> list[str]:
    """What guest has written to somebody."""
    found = await house.suite.mails(person.email)
    return [text for text in found if "workspace" in text]


async def until_told(house: House, person: Person, count: int) -> list[str]:
    async def is_told() -> bool:
        return len(await subjects(house, person)) >= count

    await until(is_told, f"{count} mails are written")
    return await subjects(house, person)


async def test_both_are_told_days_before_at_the_lock_and_at_the_end(house: House) -> None:
    _, guest = await known_guest(house)
    expire_at, end_at = moment(guest.expire_time), moment(guest.grace_end_time)
    due = {
        "expiring_14": expire_at - 14 * DAY,
        "expiring_5": expire_at - 5 * DAY,
        "expiring_1": expire_at - DAY,
        "locked": expire_at,
        "ended": end_at,
    }
    assert planned(house, guest) == {(kind, who): at for kind, at in due.items() for who in ("guest", "sponsor")}


async def test_what_would_have_been_due_before_they_came_is_not_planned(house: House) -> None:
    _, guest = await known_guest(house, days=5)
    assert kinds(house, guest) == {"expiring_1", "locked", "ended"}


async def test_without_grace_the_end_is_told_and_no_lock(house: House) -> None:
    await update_policy(house, grace=timedelta(), notice_days=[])
    _, guest = await known_guest(house)
    assert kinds(house, guest) == {"ended"}


async def test_an_extension_replaces_the_plan(house: House) -> None:
    _, guest = await known_guest(house)
    extended = await extend(house, guest, moment(guest.expire_time) + 10 * DAY)
    assert planned(house, guest)[("locked", "guest")] == moment(extended.expire_time)
    assert planned(house, guest)[("expiring_14", "sponsor")] == moment(extended.expire_time) - 14 * DAY
    assert len(planned(house, guest)) == 10


async def planned_anew(house: House) -> None:
    """Waits until a change of the policy has been brought to everybody."""

    async def is_done() -> bool:
        return house.sql("SELECT 1 FROM policy_changes WHERE workspace_id = %(id)s", id=house.workspace_id) == []

    await until(is_done, "the notices are planned anew")


async def test_a_policy_with_other_days_or_times_plans_anew(house: House) -> None:
    _, guest = await known_guest(house)
    await update_policy(house, notice_days=[7, 5])
    await planned_anew(house)
    assert kinds(house, guest) == {"expiring_7", "expiring_5", "locked", "ended"}
    await update_policy(house, grace=HOUR)
    await planned_anew(house)
    assert planned(house, guest)[("ended", "guest")] == moment(guest.expire_time) + HOUR


async def test_other_changes_leave_the_plan_alone(house: House) -> None:
    _, guest = await known_guest(house)
    before = planned(house, guest)
    await call(house, "GrantChannel", member_id=guest.member_id, conversation_id=await house.channel())
    assert planned(house, guest) == before


async def test_each_notice_is_mailed_once_to_each_with_names_as_they_are_then(house: House) -> None:
    person, guest = await known_guest(house)
    house.move_times(guest.member_id, expire_in="-1 second")
    await replan(house, guest)
    with house.suite.database("identity") as database:
        database.execute("UPDATE users SET name = 'Gustav' WHERE id = %s", (person.user_id,))
    await asyncio.gather(*(queue(house) for _ in range(4)))
    (to_guest,) = await until_told(house, person, 1)
    (to_sponsor,) = await until_told(house, house.admin, 1)
    assert '"House"' in to_guest
    assert "You can read there until" in to_guest
    assert "Gustav" in to_sponsor
    await queue(house)
    await replan(house, guest)
    assert ("locked", "guest") not in planned(house, guest)
    sent = "SELECT kind, recipient FROM guest_notices WHERE member_id = %(id)s AND sent_at IS NOT NULL ORDER BY 2"

    async def is_noted() -> bool:
        return house.sql(sent, id=guest.member_id) == [("locked", "guest"), ("locked", "sponsor")]

    # The mail is there a moment before that.
    await until(is_noted, "both are noted as sent")


async def test_a_notice_that_was_queued_before_an_extension_is_not_sent(house: House) -> None:
    person, guest = await known_guest(house)
    house.move_times(guest.member_id, expire_in="-1 second")
    await replan(house, guest)
    (notice_id,) = house.sql(
        "UPDATE guest_notices SET queued_at = statement_timestamp() WHERE member_id = %(id)s AND kind = 'locked' "
        "AND recipient = 'guest' RETURNING id::text",
        id=guest.member_id,
    )[0]
    database = house.suite.frames["guest"].database
    assert await database.read(lambda tx: notices.find_to_send(tx, notice_id)) is not None
    await extend(house, guest, clock(house) + DAY)
    assert await database.read(lambda tx: notices.find_to_send(tx, notice_id)) is None
    assert person.email


async def test_a_removal_is_told_at_once_and_what_was_planned_is_not(house: House) -> None:
    person, guest = await known_guest(house)
    await call(house, "RemoveGuest", member_id=guest.member_id)
    (to_guest,) = await until_told(house, person, 1)
    (to_sponsor,) = await until_told(house, house.admin, 1)
    assert "has ended at" in to_guest
    assert "Gus" in to_sponsor
    await replan(house, guest)
    assert planned(house, guest) == {}


async def test_who_was_told_of_their_end_is_not_told_of_the_removal(house: House) -> None:
    person, guest = await known_guest(house)
    house.move_times(guest.member_id, expire_in="-24 hours")
    await replan(house, guest)
    await call(house, "RemoveGuest", member_id=guest.member_id)
    kinds_there = house.sql("SELECT kind FROM guest_notices WHERE member_id = %(id)s", id=guest.member_id)
    assert ("removed",) not in kinds_there
    assert person.email


async def test_who_was_told_of_their_end_is_not_told_that_membership_removed_them_either(house: House) -> None:
    for expire_in, told in (("1 hour", True), ("-25 hours", False)):
        _, guest = await known_guest(house)
        house.move_times(guest.member_id, expire_in=expire_in)
        gone = events.MemberRemoved(workspace_id=house.workspace_id, member_id=guest.member_id)
        await house.suite.frames["guest"].database.transaction(lambda tx, gone=gone: guests.member_removed(tx, gone))
        found = house.sql("SELECT kind FROM guest_notices WHERE member_id = %(id)s", id=guest.member_id)
        assert (("removed",) in found) == told


async def test_a_promotion_ends_the_plan_without_a_mail(house: House) -> None:
    _, guest = await known_guest(house)
    await call(house, "PromoteGuest", member_id=guest.member_id, role=pb.PROMOTED_ROLE_MEMBER)
    await replan(house, guest)
    assert house.sql("SELECT kind FROM guest_notices WHERE member_id = %(id)s", id=guest.member_id) == []


async def test_no_name_or_address_waits_anywhere(house: House) -> None:
    person, guest = await known_guest(house)
    house.move_times(guest.member_id, expire_in="-1 second")
    await replan(house, guest)
    with house.suite.database("guest") as database, database.transaction():
        # Held, so that the worker cannot be done with them.
        database.execute("SELECT 1 FROM guest_notices WHERE member_id = %s FOR UPDATE", (guest.member_id,)).fetchall()
        rows = database.execute("SELECT outbox::text FROM outbox").fetchall()
        rows += database.execute("SELECT guest_notices::text FROM guest_notices").fetchall()
        assert rows
        for (row,) in rows:
            assert person.email not in row
            assert "Gus" not in row
