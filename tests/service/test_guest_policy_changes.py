"""How a change of the policy reaches the guests who are there: in batches, all of them before it is answered."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from services.guest import policies, policy_changes
from tests.service.test_guest_invites import HOUR, House
from tests.service.test_guest_notices import planned_anew
from tests.service.test_guest_redemption import until
from tests.support.guest_calls import moment, revision, update_policy
from tests.support.suite import Suite

CROWD = 2 * policy_changes.BATCH + 1


@pytest.fixture
async def house(suite: Suite) -> House:
    """A workspace of this test's own."""
    return await House.make(suite)


async def crowd(house: House, count: int) -> list[str]:
    """Guests for ten days and one of grace, as rows alone: their member ids, in their order."""
    await house.invite()
    rows = house.sql(
        "INSERT INTO guests (member_id, workspace_id, user_id, invite_id, sponsor_member_id, expire_at, grace_end_at, "
        "expiry_job_id) SELECT uuidv7(), workspace_id, gen_random_uuid(), id, created_by_member_id, "
        "statement_timestamp() + interval '240 hours', statement_timestamp() + interval '264 hours', gen_random_uuid() "
        "FROM (SELECT * FROM guest_invites WHERE workspace_id = %(id)s LIMIT 1) link, generate_series(1, %(count)s) "
        "RETURNING member_id::text",
        id=house.workspace_id,
        count=count,
    )
    return sorted(member_id for (member_id,) in rows)


def graces(house: House) -> list[tuple[timedelta, int, int]]:
    """How many guests have which grace, at which generation."""
    return house.sql(
        "SELECT grace_end_at - expire_at, generation, count(*) FROM guests WHERE workspace_id = %(id)s "
        "GROUP BY 1, 2 ORDER BY 1",
        id=house.workspace_id,
    )


def sizes(house: House, table: str) -> list[int]:
    """How many rows of the house each transaction has written, among those that are there now."""
    query = f"SELECT count(*) FROM {table} WHERE workspace_id = %(id)s GROUP BY xmin::text ORDER BY 1"
    return [count for (count,) in house.sql(query, id=house.workspace_id)]


@contextmanager
def held(house: House, member_id: str) -> Iterator[None]:
    """A guest whom somebody else is changing."""
    with house.suite.database("guest") as holder, holder.transaction():
        holder.execute("SELECT 1 FROM guests WHERE member_id = %s FOR UPDATE", (member_id,))
        yield


async def until_waiting(house: House) -> None:
    """Until guest waits for a row."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'guest' AND wait_event_type = 'Lock'"

    async def is_waiting() -> bool:
        return house.sql(waiting) == [(1,)]

    await until(is_waiting, "guest waits for the guest's row")


async def change_and_die(house: House, **changes: Any) -> None:
    """What UpdateGuestPolicy commits first, without what comes after it."""

    async def change(tx: AsyncConnection) -> None:
        await policies.update(tx, await policies.lock(tx, house.workspace_id), changes=changes, etag="")

    await house.suite.frames["guest"].database.transaction(change)


async def test_a_shorter_grace_holds_for_a_crowd_once_it_is_answered_and_no_transaction_is_large(house: House) -> None:
    await crowd(house, CROWD)
    before = await revision(house)

    await update_policy(house, grace=HOUR)

    assert graces(house) == [(HOUR, 2, CROWD)]
    assert sizes(house, "guests") == [1, policy_changes.BATCH, policy_changes.BATCH]
    assert await revision(house) == before + 1
    await planned_anew(house)
    told = "SELECT count(*) FROM guest_notices notice JOIN guests USING (member_id) WHERE guests.workspace_id = %(id)s"
    of_end = f"{told} AND kind = 'ended' AND due_at = grace_end_at"
    assert house.sql(of_end, id=house.workspace_id) == [(2 * CROWD,)]
    assert len(sizes(house, "guest_notices")) == 3


async def test_people_come_in_while_a_tighter_policy_reaches_those_who_are_there(house: House) -> None:
    made, (_, last) = await house.invite(), await crowd(house, 2)
    with held(house, last):
        changing = asyncio.ensure_future(update_policy(house, grace=HOUR))
        await until_waiting(house)
        # As a redemption takes it; it would wait, and get in when the batch's own time to wait is over.
        house.sql("SELECT FROM guest_policies WHERE workspace_id = %(id)s FOR KEY SHARE NOWAIT", id=house.workspace_id)
        guest = await house.redeem(house.outsider(), made.token)
        assert not changing.done(), "it is answered once it holds for everybody"
    await changing
    assert moment(guest.grace_end_time) - moment(guest.expire_time) == HOUR
    assert graces(house) == [(HOUR, 1, 1), (HOUR, 2, 2)]


async def test_a_change_waits_until_the_one_before_holds_for_everybody(house: House) -> None:
    *_, last = await crowd(house, 3)
    await change_and_die(house, grace=HOUR)
    version = "SELECT version FROM guest_policies WHERE workspace_id = %(id)s"
    with held(house, last):
        changing = asyncio.ensure_future(update_policy(house, grace=48 * HOUR))
        await until_waiting(house)
        assert house.sql(version, id=house.workspace_id) == [(2,)]
        assert not changing.done()
    assert (await changing).policy.etag == "3"
    assert graces(house) == [(HOUR, 2, 3)], "and the looser one gives nobody more"


async def test_what_was_done_of_a_change_is_not_done_again_when_it_is_gone_on_with(house: House) -> None:
    await crowd(house, 5)
    database = house.suite.frames["guest"].database
    await change_and_die(house, grace=HOUR)

    assert await database.transaction(lambda tx: policy_changes.tighten(tx, house.workspace_id, batch=2))
    assert graces(house) == [(HOUR, 2, 2), (24 * HOUR, 1, 3)]
    # What the worker does, which waits for as long as the call may last.
    apply = policy_changes.applier(database)
    await asyncio.gather(*(apply(house.workspace_id, "") for _ in range(3)))

    assert graces(house) == [(HOUR, 2, 5)]
    assert sorted(sizes(house, "guests")) == [2, 3]
    await planned_anew(house)


async def test_whose_time_is_over_before_the_notices_are_planned_is_told_so_all_the_same(house: House) -> None:
    (member_id,) = await crowd(house, 1)
    late = "UPDATE guests SET expire_at = expire_at - {}, grace_end_at = grace_end_at - {} WHERE workspace_id = '{}'"

    async def change(tx: AsyncConnection) -> None:
        await policies.update(tx, await policies.lock(tx, house.workspace_id), changes={"grace": HOUR}, etag="")
        await policy_changes.tighten(tx, house.workspace_id)
        # The worker looks as late as that.
        shift = "interval '242 hours'"
        await tx.exec_driver_sql(late.format(shift, shift, house.workspace_id))

    await house.suite.frames["guest"].database.transaction(change)
    await planned_anew(house)

    query = "SELECT kind, recipient FROM guest_notices WHERE member_id = %(id)s ORDER BY 1, 2"
    assert house.sql(query, id=member_id) == [
        ("ended", "guest"),
        ("ended", "sponsor"),
        ("locked", "guest"),
        ("locked", "sponsor"),
    ]


async def test_a_change_whose_workspace_was_purged_meanwhile_is_done_without_a_trace(house: House) -> None:
    await crowd(house, 2)
    await change_and_die(house, grace=HOUR)
    house.sql("DELETE FROM policy_changes WHERE workspace_id = %(id)s", id=house.workspace_id)
    house.sql("DELETE FROM guest_policies WHERE workspace_id = %(id)s", id=house.workspace_id)

    await policy_changes.applier(house.suite.frames["guest"].database)(house.workspace_id, "")

    assert graces(house) == [(24 * HOUR, 1, 2)]
    assert house.sql("SELECT 1 FROM guest_policies WHERE workspace_id = %(id)s", id=house.workspace_id) == []
