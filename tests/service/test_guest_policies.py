"""Policies: what holds for all guests of a workspace, and what becomes of them when it is tightened."""

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.guest.v1 import guest_service_pb2 as pb

from tests.service.test_guest_expiry import extend, extension, materialised, rpc
from tests.service.test_guest_invites import HOUR, House
from tests.support.guest_calls import call, clock, moment, update_policy
from tests.support.suite import Suite, refused

DAY = 24 * HOUR
ACTIVE, LOCKED, ENDED = pb.GUEST_STATE_ACTIVE, pb.GUEST_STATE_LOCKED, pb.GUEST_STATE_ENDED


@pytest.fixture
async def house(suite: Suite) -> House:
    """A workspace of this test's own."""
    return await House.make(suite)


async def policy(house: House, **fields: Any) -> pb.GuestPolicy:
    answer = await call(house, "GetGuestPolicy", **fields)
    assert isinstance(answer.policy, pb.GuestPolicy)
    return answer.policy


async def test_a_new_workspace_has_the_usual_policy(house: House) -> None:
    found = await policy(house)
    assert (found.grace.ToTimedelta(), found.maximum_stay.ToTimedelta()) == (DAY, 366 * DAY)
    assert (list(found.notice_days), found.members_may_invite, found.etag) == ([14, 5, 1], False, "1")


async def test_only_what_the_mask_names_is_changed(house: House) -> None:
    before = await policy(house)
    request = pb.GuestPolicy(
        workspace_id=house.workspace_id, grace=Duration(seconds=60), notice_days=[3, 30], members_may_invite=True
    )
    answer = await call(house, "UpdateGuestPolicy", policy=request, update_mask=FieldMask(paths=["notice_days"]))
    assert list(answer.policy.notice_days) == [30, 3]
    assert (answer.policy.grace, answer.policy.members_may_invite) == (before.grace, False)
    assert await policy(house) == answer.policy
    assert list((await update_policy(house, notice_days=[])).policy.notice_days) == []


@pytest.mark.parametrize(
    ("fields", "paths", "named"),
    [
        ({}, [], "update_mask"),
        ({}, ["*"], "update_mask"),
        ({}, ["etag"], "update_mask"),
        ({}, ["grace.seconds"], "update_mask"),
        ({"workspace_id": None}, ["workspace_id"], "update_mask"),
        ({}, ["grace"], "policy.grace"),
        ({}, ["maximum_stay"], "policy.maximum_stay"),
        ({"grace": Duration(seconds=-1)}, ["grace"], "policy.grace"),
        ({"grace": Duration(seconds=2_592_001)}, ["grace"], "policy.grace"),
        ({"maximum_stay": Duration()}, ["maximum_stay"], "policy.maximum_stay"),
        ({"maximum_stay": Duration(seconds=31_622_401)}, ["maximum_stay"], "policy.maximum_stay"),
        ({"notice_days": [1, 1]}, ["notice_days"], "policy.notice_days"),
        ({"notice_days": [1, 2, 3, 4, 5, 6]}, ["notice_days"], "policy.notice_days"),
    ],
)
async def test_a_mask_or_value_out_of_range_is_a_bad_field(
    house: House, fields: dict[str, Any], paths: list[str], named: str
) -> None:
    values = {"workspace_id": house.workspace_id, **{name: value for name, value in fields.items() if value}}
    refusal = await refused(
        call(house, "UpdateGuestPolicy", policy=pb.GuestPolicy(**values), update_mask=FieldMask(paths=paths))
    )
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert list(refusal.fields) == [named]
    assert (await policy(house)).etag == "1"


@pytest.mark.parametrize("days", [0, 61])
async def test_a_notice_is_sent_one_to_sixty_days_before(house: House, days: int) -> None:
    assert (await refused(update_policy(house, notice_days=[days]))).reason == "INVALID_REQUEST"
    assert list((await update_policy(house, notice_days=[1, 60])).policy.notice_days) == [60, 1]


async def test_who_reads_and_who_changes_the_policy(house: House) -> None:
    member, _ = await house.member()
    guest, _ = await house.guest()
    assert (await policy(house, by=member)).etag == "1"
    for caller in (member, guest):
        refusal = await refused(update_policy(house, by=caller, members_may_invite=True))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert (await refused(call(house, "GetGuestPolicy", by=guest))).reason == "PERMISSION_DENIED"
    stranger, elsewhere = house.outsider(), str(uuid.uuid4())
    missing = await refused(call(house, "GetGuestPolicy", workspace_id=elsewhere))
    assert (missing.code, missing.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert (await refused(call(house, "GetGuestPolicy", by=stranger))).raw == missing.raw
    assert (await refused(update_policy(house, by=stranger, members_may_invite=True))).raw == missing.raw
    assert (await update_policy(house, members_may_invite=True)).policy.members_may_invite


async def test_a_policy_that_changed_meanwhile_is_not_overwritten_and_a_repetition_gets_the_same(house: House) -> None:
    before, request_id = await policy(house), str(uuid.uuid4())
    first = await update_policy(house, grace=HOUR, etag=before.etag, request_id=request_id)
    assert await update_policy(house, grace=HOUR, etag=before.etag, request_id=request_id) == first
    mismatch = await refused(update_policy(house, grace=2 * HOUR, etag=before.etag, request_id=request_id))
    assert mismatch.reason == "IDEMPOTENCY_MISMATCH"
    late = await refused(update_policy(house, grace=2 * HOUR, etag=before.etag))
    assert (late.code, late.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert (await update_policy(house, grace=2 * HOUR, etag=first.policy.etag)).policy.etag == "3"


async def test_a_new_guest_has_the_grace_of_the_policy_and_so_has_an_extended_one(house: House) -> None:
    await update_policy(house, grace=2 * HOUR)
    _, guest = await house.guest()
    assert moment(guest.grace_end_time) - moment(guest.expire_time) == 2 * HOUR
    await update_policy(house, grace=3 * HOUR)
    assert await house.get(house.admin, guest.member_id) == guest, "a longer grace changes nobody"
    extended = await extend(house, guest, moment(guest.expire_time) + HOUR)
    assert moment(extended.grace_end_time) - moment(extended.expire_time) == 3 * HOUR


async def test_a_shorter_grace_holds_for_those_who_are_there(house: House) -> None:
    _, active = await house.guest()
    _, locked = await house.guest()
    house.move_times(locked.member_id, expire_in="-2 hours")
    assert (await house.check((locked.member_id, "")))[0].state == LOCKED
    await update_policy(house, grace=HOUR)
    shorter = await house.get(house.admin, active.member_id)
    assert moment(shorter.grace_end_time) - moment(shorter.expire_time) == HOUR
    assert (shorter.expire_time, shorter.state) == (active.expire_time, ACTIVE)
    assert shorter.etag != active.etag
    assert (await house.check((locked.member_id, "")))[0].state == ENDED
    await update_policy(house, grace=timedelta())
    none = await house.get(house.admin, active.member_id)
    assert none.grace_end_time == none.expire_time


async def test_a_shorter_stay_locks_who_has_been_there_longer_at_once_and_makes_the_job_stale(house: House) -> None:
    await update_policy(house, maximum_stay=30 * DAY)
    _, young = await house.guest()
    _, old = await house.guest()
    house.sql(
        "UPDATE guests SET created_at = created_at - interval '10 days' WHERE member_id = %(id)s", id=old.member_id
    )
    job_id = materialised(house, old)[1]
    before = clock(house)
    await update_policy(house, maximum_stay=10 * DAY)
    found = await house.get(house.admin, old.member_id)
    assert found.state == LOCKED
    assert before <= moment(found.expire_time) <= clock(house)
    assert moment(found.grace_end_time) - moment(found.expire_time) == DAY
    assert materialised(house, old)[1] != job_id
    assert (await house.get(house.admin, young.member_id)) == young
    await update_policy(house, maximum_stay=20 * DAY)
    assert (await house.get(house.admin, old.member_id)) == found, "looser again, and nobody is brought back by that"


async def test_an_extension_stays_within_the_policys_stay(house: House) -> None:
    _, guest = await house.guest()
    await update_policy(house, maximum_stay=2 * HOUR)
    longest = moment(guest.create_time) + 2 * HOUR
    stub = house.suite.stub(rpc.GuestServiceStub)
    refusal = await refused(
        house.admin.call(stub.ExtendGuest, extension(house, guest, longest + timedelta(microseconds=1)))
    )
    assert (refusal.reason, list(refusal.fields)) == ("INVALID_REQUEST", ["expire_time"])
    assert moment((await extend(house, guest, longest)).expire_time) == longest


async def test_nobody_slips_through_while_the_policy_is_tightened(house: House) -> None:
    made = await house.invite(guest_ttl=Duration(seconds=7200))
    people = [house.outsider() for _ in range(12)]
    await asyncio.gather(
        *(house.redeem(person, made.token) for person in people[:6]),
        update_policy(house, maximum_stay=HOUR, grace=HOUR),
        *(house.redeem(person, made.token) for person in people[6:]),
    )
    stays = house.sql(
        "SELECT expire_at - created_at, grace_end_at - expire_at FROM guests WHERE workspace_id = %(id)s",
        id=house.workspace_id,
    )
    assert stays == [(HOUR, HOUR)] * 12
