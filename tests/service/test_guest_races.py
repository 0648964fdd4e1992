"""Races about guests, a hundred rounds each and twice as many of the stale job: one wins, and the other knows."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from guildhall.guest.v1 import guest_service_pb2 as pb
from sqlalchemy import text

from services.chassis.database import Database
from services.guest import guests, policies, tasks
from tests.service.test_guest_expiry import clock, extend
from tests.service.test_guest_invites import HOUR, House
from tests.service.test_guest_redemption import redeem_with_patience, until
from tests.support.guest_calls import call, verdict
from tests.support.suite import Person, Refusal, Suite, refusal_of

ROUNDS = int(os.environ.get("GUILDHALL_TEST_ROUNDS", "100"))
"""`GUILDHALL_TEST_ROUNDS=1000 make test T=…` plays them for longer."""
INTERLEAVINGS = 2 * ROUNDS
"""As many as show what a careless job does."""
SIDE_BY_SIDE = 4

# What the job must not be: it locks whoever looks expired to it, by what it read before.
CARELESS = text("UPDATE guests SET state = 'LOCKED' WHERE member_id = :member_id AND state = 'ACTIVE'")


@pytest.fixture
async def house(suite: Suite) -> House:
    """A workspace of this test's own."""
    return await House.make(suite)


async def attempt(work: Any) -> Any:
    """A call's answer, or its refusal; again when told that the suite is busy."""
    while True:
        try:
            return await work()
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE):
                return refusal_of(error)


async def rounds(play: Any, count: int = ROUNDS) -> None:
    """Plays rounds, a few of them side by side."""
    for _ in range(count // SIDE_BY_SIDE):
        await asyncio.gather(*(play() for _ in range(SIDE_BY_SIDE)))


def expired_rows(house: House, count: int) -> list[tuple[str, str, datetime]]:
    """Guests who have just expired, as rows alone: the member id, the expiry job's, and an hour later."""
    return house.sql(
        "INSERT INTO guests (member_id, workspace_id, user_id, invite_id, sponsor_member_id, expire_at, grace_end_at, "
        "expiry_job_id) SELECT gen_random_uuid(), workspace_id, gen_random_uuid(), id, created_by_member_id, "
        "statement_timestamp(), statement_timestamp() + interval '1 day', gen_random_uuid() "
        "FROM (SELECT * FROM guest_invites WHERE workspace_id = %(workspace_id)s LIMIT 1) link, "
        "generate_series(1, %(count)s) "
        "RETURNING member_id::text, expiry_job_id::text, expire_at + interval '1 hour'",
        count=count,
        workspace_id=house.workspace_id,
    )


@pytest.fixture
async def database(suite: Suite) -> AsyncIterator[Database]:
    """guest's, with a connection for each that has one at the same time: on a busy machine others wait too long."""
    own = Database(suite.settings("guest"), pool_size=3 * SIDE_BY_SIDE)
    yield own
    await own.close()


async def interleave(database: Database, house: House, expired: tuple[str, str, datetime], *, careless: bool) -> None:
    """One extension and one job about it, with each of the job's steps anywhere in between."""
    member_id, job_id, later = expired
    named = {"workspace_id": house.workspace_id, "member_id": member_id}
    # The job is read before, while and after the extension is made.
    pauses = [random.random() * longest for longest in (0.004, 0.004, 0.02, 0.004)]

    async def extending(tx: Any) -> None:
        await policies.hold(tx, house.workspace_id)
        await guests.lock(tx, **named)
        await asyncio.sleep(pauses[0])
        await guests.extend(tx, **named, expire_at=later, etag="")
        await asyncio.sleep(pauses[1])

    async def expiring() -> None:
        await asyncio.sleep(pauses[2])
        job = await database.read(lambda tx: tasks.find_job(tx, job_id=job_id))
        if job is None:
            return
        await asyncio.sleep(pauses[3])
        if careless:

            async def lock(tx: Any) -> None:
                await tx.execute(CARELESS, {"member_id": member_id})

            await database.transaction(lock)
        else:
            await database.transaction(lambda tx: tasks.materialise(tx, job))

    await asyncio.gather(database.transaction(extending), expiring(), expiring())


def locked(house: House) -> int:
    """Guests whose row says LOCKED though their time is not over."""
    found = house.sql(
        "SELECT count(*) FROM guests WHERE workspace_id = %(id)s AND state <> 'ACTIVE' "
        "AND statement_timestamp() < expire_at",
        id=house.workspace_id,
    )
    return int(found[0][0])


async def test_a_stale_job_never_locks_an_extended_guest_in_any_interleaving(house: House, database: Database) -> None:
    await house.invite()
    left = expired_rows(house, INTERLEAVINGS)

    async def play() -> None:
        await interleave(database, house, left.pop(), careless=False)

    await rounds(play, INTERLEAVINGS)
    assert locked(house) == 0
    count = "SELECT count(*) FROM guests WHERE workspace_id = %(id)s AND generation = 2"
    assert house.sql(count, id=house.workspace_id) == [(INTERLEAVINGS,)]


async def test_the_same_interleavings_find_a_job_that_looks_at_no_generation(house: House, database: Database) -> None:
    await house.invite()
    left = expired_rows(house, INTERLEAVINGS)

    async def play() -> None:
        await interleave(database, house, left.pop(), careless=True)

    await rounds(play, INTERLEAVINGS)
    assert locked(house) > 0


async def test_an_extension_against_the_expiry_job_wins_each_time(house: House) -> None:
    _, guest = await house.guest()
    expire = tasks.works(house.suite.frames["guest"].database)[tasks.EXPIRE]
    job = "SELECT expiry_job_id::text FROM guests WHERE member_id = %(id)s"
    for _ in range(ROUNDS):
        house.move_times(guest.member_id, expire_in="0")
        job_id = house.sql(job, id=guest.member_id)[0][0]
        _, extended = await asyncio.gather(expire(job_id, ""), extend(house, guest, clock(house) + HOUR))
        assert extended.state == pb.GUEST_STATE_ACTIVE
        row = house.sql("SELECT state, expire_at FROM guests WHERE member_id = %(id)s", id=guest.member_id)
        assert row == [("ACTIVE", extended.expire_time.ToDatetime(tzinfo=UTC))]


async def test_a_revocation_against_redemptions_lets_in_exactly_those_whom_it_counted(house: House) -> None:
    async def play() -> None:
        made = await house.invite(max_uses=5)
        people = [house.outsider() for _ in range(3)]
        *answers, revoked = await asyncio.gather(
            *(redeem_with_patience(house, person, made.token) for person in people),
            attempt(lambda: call(house, "RevokeGuestInvite", invite_id=made.invite.invite_id)),
        )
        inside = [answer for answer in answers if isinstance(answer, pb.Guest)]
        refused = {answer.reason for answer in answers if isinstance(answer, Refusal)}
        assert refused <= {"GUEST_INVITE_INVALID"}
        assert house.uses(made.invite.invite_id) == len(inside)
        count = "SELECT count(*) FROM guests WHERE invite_id = %(id)s AND ended_at IS NULL"
        assert house.sql(count, id=made.invite.invite_id) == [(len(inside),)]
        assert revoked.invite.uses <= len(inside)
        late = await redeem_with_patience(house, house.outsider(), made.token)
        assert isinstance(late, Refusal)

    house.sql("INSERT INTO workspace_limits VALUES (%(id)s, 'guest_invites_a_day', 10000)", id=house.workspace_id)
    await rounds(play)


async def fresh_guest(house: House, token: str) -> tuple[Person, pb.Guest]:
    person = house.outsider()
    guest = await redeem_with_patience(house, person, token)
    assert isinstance(guest, pb.Guest)
    return person, guest


def ended(house: House, guest: pb.Guest) -> list[tuple[Any, ...]]:
    return house.sql("SELECT end_reason, generation FROM guests WHERE member_id = %(id)s", id=guest.member_id)


async def test_two_promotions_at_once_promote_once(house: House) -> None:
    made = await house.invite()

    async def play() -> None:
        _, guest = await fresh_guest(house, made.token)
        fields = {"member_id": guest.member_id, "role": pb.PROMOTED_ROLE_MEMBER}
        answers = await asyncio.gather(*(attempt(lambda: call(house, "PromoteGuest", **fields)) for _ in range(2)))
        assert all(answer.guest.end_reason == pb.GUEST_END_REASON_PROMOTED for answer in answers), answers
        assert ended(house, guest) == [("promoted", 2)]
        assert (await verdict(house, member_id=guest.member_id, capability="conversations.create")).allowed

    await rounds(play)


async def test_a_promotion_against_a_removal_is_one_or_the_other(house: House) -> None:
    made = await house.invite()

    async def play() -> None:
        _, guest = await fresh_guest(house, made.token)
        named = {"member_id": guest.member_id}
        promoted, removed = await asyncio.gather(
            attempt(lambda: call(house, "PromoteGuest", role=pb.PROMOTED_ROLE_MEMBER, **named)),
            attempt(lambda: call(house, "RemoveGuest", **named)),
        )
        ((reason, generation),) = ended(house, guest)
        assert generation == 2
        loser = removed if reason == "promoted" else promoted
        assert isinstance(loser, Refusal)
        assert loser.reason == "GUEST_ENDED"

        async def is_so() -> bool:
            found = await verdict(house, member_id=guest.member_id, capability="conversations.create")
            return found.allowed if reason == "promoted" else found.member_id == ""

        await until(is_so, f"membership has heard that they are {reason}")

    await rounds(play)
