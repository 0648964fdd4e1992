"""A guest's times: decided by the database clock at each question, materialised by the worker, moved by extensions."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.guest.v1 import guest_access_service_pb2 as access_pb
from guildhall.guest.v1 import guest_access_service_pb2_grpc as access_rpc
from guildhall.guest.v1 import guest_service_pb2 as pb
from guildhall.guest.v1 import guest_service_pb2_grpc as rpc

from services.chassis.celery import make_app
from services.chassis.worker import sweep_task
from services.guest import tasks
from services.guest.guests import HOLDS_FOR, STATE
from tests.service.test_guest_invites import HOUR, House
from tests.support.suite import Person, Suite, refused

ACTIVE, LOCKED, ENDED = pb.GUEST_STATE_ACTIVE, pb.GUEST_STATE_LOCKED, pb.GUEST_STATE_ENDED


@pytest.fixture
async def house(suite: Suite) -> House:
    """A workspace of this test's own."""
    return await House.make(suite)


def extension(house: House, guest: pb.Guest, expire_at: datetime | Timestamp, **changes: str) -> pb.ExtendGuestRequest:
    request = pb.ExtendGuestRequest(workspace_id=house.workspace_id, member_id=guest.member_id, **changes)
    if isinstance(expire_at, Timestamp):
        request.expire_time.CopyFrom(expire_at)
    else:
        request.expire_time.FromDatetime(expire_at)
    return request


async def extend(
    house: House, guest: pb.Guest, expire_at: datetime, *, by: Person | None = None, **changes: str
) -> pb.Guest:
    stub = house.suite.stub(rpc.GuestServiceStub)
    answer = await (by or house.admin).call(stub.ExtendGuest, extension(house, guest, expire_at, **changes))
    assert isinstance(answer.guest, pb.Guest)
    return answer.guest


def clock(house: House) -> datetime:
    found = house.sql("SELECT statement_timestamp()")[0][0]
    assert isinstance(found, datetime)
    return found


def materialised(house: House, guest: pb.Guest) -> tuple[str, str]:
    """What the row says, and the id of its expiry job."""
    row = house.sql("SELECT state, expiry_job_id::text FROM guests WHERE member_id = %(id)s", id=guest.member_id)[0]
    return row[0], row[1]


async def until(condition: Callable[[], bool], what: str) -> None:
    for _ in range(1500):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise TimeoutError(f"never happened: {what}")


@pytest.mark.parametrize(
    ("expire_in", "grace_end_in", "state", "holds_for"),
    [
        ("1 microsecond", "1 hour", "ACTIVE", timedelta(microseconds=1)),
        ("0", "1 hour", "LOCKED", HOUR),
        ("-1 hour", "1 microsecond", "LOCKED", timedelta(microseconds=1)),
        ("-1 hour", "0", "ENDED", None),
    ],
)
def test_a_state_ends_at_its_time_and_not_a_microsecond_later(
    suite: Suite, expire_in: str, grace_end_in: str, state: str, holds_for: timedelta | None
) -> None:
    row = (
        "SELECT NULL::timestamptz AS ended_at, statement_timestamp() + %s::interval AS expire_at, "
        "statement_timestamp() + %s::interval AS grace_end_at"
    )
    with suite.database("guest") as database:
        found = database.execute(f"SELECT {STATE}, {HOLDS_FOR} FROM ({row}) AS guests", (expire_in, grace_end_in))
        assert found.fetchone() == (state, holds_for)


async def test_a_guest_is_locked_then_ended_by_the_clock_alone(house: House) -> None:
    person, guest = await house.guest()
    question = (guest.member_id, house.channel_id)
    (active,) = await house.check(question)
    assert (active.state, active.granted) == (ACTIVE, True)
    assert timedelta() < active.holds_for.ToTimedelta() <= HOUR
    house.move_times(guest.member_id, expire_in="-1 hour")
    (locked,) = await house.check(question)
    assert (locked.state, locked.granted) == (LOCKED, True)
    assert 22 * HOUR < locked.holds_for.ToTimedelta() < 23 * HOUR
    assert (await house.get(person, guest.member_id)).state == LOCKED
    house.move_times(guest.member_id, expire_in="-24 hours")
    (ended,) = await house.check(question)
    assert (ended.state, ended.granted, ended.HasField("holds_for")) == (ENDED, False, False)
    assert ended.HasField("grace_end_time")
    assert materialised(house, guest)[0] == "ACTIVE", "no worker was needed"


async def test_a_batch_is_answered_in_order_with_duplicates_and_strangers(house: House) -> None:
    second_id = await house.channel()
    _, one = await house.guest()
    _, two = await house.guest(second_id)
    other_house = await House.make(house.suite)
    _, elsewhere = await other_house.guest()
    house.move_times(two.member_id, expire_in="-1 hour")
    verdicts = await house.check(
        (one.member_id, house.channel_id),
        (two.member_id, second_id),
        (one.member_id, second_id),
        (str(uuid.uuid4()), house.channel_id),
        (one.member_id.upper(), house.channel_id.upper()),
        (elsewhere.member_id, other_house.channel_id),
        (two.member_id, ""),
        (house.admin_member_id, house.channel_id),
    )
    assert [(found.state, found.granted) for found in verdicts] == [
        (ACTIVE, True),
        (LOCKED, True),
        (ACTIVE, False),
        (ENDED, False),
        (ACTIVE, True),
        (ENDED, False),
        (LOCKED, False),
        (ENDED, False),
    ]
    assert not verdicts[3].HasField("expire_time")
    assert verdicts[0].expire_time == one.expire_time


async def test_the_channels_of_a_guest_are_listed_until_they_end(house: House) -> None:
    second_id = await house.channel()
    _, guest = await house.guest(house.channel_id, second_id)
    stub = house.suite.stub(access_rpc.GuestAccessServiceStub, certificate="messaging")
    request = access_pb.ListGuestChannelsRequest(workspace_id=house.workspace_id, member_id=guest.member_id)
    answer = await stub.ListGuestChannels(request, timeout=10)
    assert sorted(answer.conversation_ids) == sorted([house.channel_id, second_id])
    assert (answer.state, answer.holds_for.ToTimedelta() <= HOUR) == (ACTIVE, True)
    house.move_times(guest.member_id, expire_in="-1 hour")
    locked = await stub.ListGuestChannels(request, timeout=10)
    assert (locked.state, len(locked.conversation_ids)) == (LOCKED, 2)
    house.move_times(guest.member_id, expire_in="-24 hours")
    nothing = access_pb.ListGuestChannelsResponse(state=ENDED)
    assert await stub.ListGuestChannels(request, timeout=10) == nothing
    request.member_id = str(uuid.uuid4())
    assert await stub.ListGuestChannels(request, timeout=10) == nothing


async def test_only_the_services_on_the_list_may_ask_about_guests(house: House) -> None:
    question = access_pb.GuestQuestion(workspace_id=house.workspace_id, member_id=house.admin_member_id)
    check = access_pb.BatchCheckGuestsRequest(questions=[question])
    channels = access_pb.ListGuestChannelsRequest(workspace_id=house.workspace_id, member_id=house.admin_member_id)
    for certificate in ("gateway", "identity"):
        stub = house.suite.stub(access_rpc.GuestAccessServiceStub, certificate=certificate)
        for call in (stub.BatchCheckGuests(check, timeout=10), stub.ListGuestChannels(channels, timeout=10)):
            refusal = await refused(call)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PEER_NOT_ALLOWED")
    allowed = house.suite.stub(access_rpc.GuestAccessServiceStub, certificate="membership")
    assert (await allowed.BatchCheckGuests(check, timeout=10)).verdicts[0].state == ENDED
    not_membership = await refused(allowed.ListGuestChannels(channels, timeout=10))
    assert not_membership.reason == "PEER_NOT_ALLOWED"


async def test_an_extension_unlocks_at_once(house: House) -> None:
    person, guest = await house.guest()
    house.move_times(guest.member_id, expire_in="-1 hour")
    house.sql("UPDATE guests SET state = 'LOCKED' WHERE member_id = %(id)s", id=guest.member_id)
    assert (await house.check((guest.member_id, "")))[0].state == LOCKED
    expire_at = clock(house) + HOUR
    extended = await extend(house, guest, expire_at)
    assert extended.state == ACTIVE
    assert extended.expire_time.ToDatetime(tzinfo=UTC) == expire_at
    assert extended.grace_end_time.ToDatetime(tzinfo=UTC) == expire_at + 24 * HOUR
    assert extended.etag != guest.etag
    assert (await house.check((guest.member_id, "")))[0].state == ACTIVE
    assert await house.get(person, guest.member_id) == extended
    assert materialised(house, guest)[0] == "ACTIVE"


async def test_an_extension_must_be_later_than_the_expiry_and_the_clock(house: House) -> None:
    stub = house.suite.stub(rpc.GuestServiceStub)
    _, guest = await house.guest()
    present = guest.expire_time.ToDatetime(tzinfo=UTC)
    same = await refused(house.admin.call(stub.ExtendGuest, extension(house, guest, present)))
    assert (same.code, same.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "EXPIRY_NOT_LATER")
    assert (await extend(house, guest, present + timedelta(microseconds=1))).state == ACTIVE
    house.move_times(guest.member_id, expire_in="-2 hours")
    past = clock(house) - HOUR
    assert (await refused(house.admin.call(stub.ExtendGuest, extension(house, guest, past)))).reason == same.reason
    assert (await extend(house, guest, clock(house) + HOUR)).state == ACTIVE


@pytest.mark.parametrize(
    "expire_at",
    [
        datetime(2999, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
        Timestamp(seconds=253_402_300_800),
        Timestamp(seconds=2**63 - 1),
        Timestamp(seconds=-(2**63)),
        Timestamp(seconds=2_000_000_000, nanos=-1),
        Timestamp(seconds=2_000_000_000, nanos=2_000_000_000),
    ],
)
async def test_a_time_out_of_range_is_a_bad_field(house: House, expire_at: datetime | Timestamp) -> None:
    stub = house.suite.stub(rpc.GuestServiceStub)
    _, guest = await house.guest()
    refusal = await refused(house.admin.call(stub.ExtendGuest, extension(house, guest, expire_at)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert list(refusal.fields) == ["expire_time"]


async def test_a_stay_of_366_days_is_allowed_and_not_a_microsecond_more(house: House) -> None:
    stub = house.suite.stub(rpc.GuestServiceStub)
    _, guest = await house.guest()
    longest = guest.create_time.ToDatetime(tzinfo=UTC) + timedelta(days=366)
    longer = extension(house, guest, longest + timedelta(microseconds=1))
    refusal = await refused(house.admin.call(stub.ExtendGuest, longer))
    assert (refusal.reason, list(refusal.fields)) == ("INVALID_REQUEST", ["expire_time"])
    assert (await extend(house, guest, longest)).state == ACTIVE


async def test_an_extension_without_a_time_is_a_bad_field(house: House) -> None:
    stub = house.suite.stub(rpc.GuestServiceStub)
    _, guest = await house.guest()
    request = pb.ExtendGuestRequest(workspace_id=house.workspace_id, member_id=guest.member_id)
    assert list((await refused(house.admin.call(stub.ExtendGuest, request))).fields) == ["expire_time"]


async def test_who_has_ended_cannot_be_extended_and_who_is_locked_can(house: House) -> None:
    stub = house.suite.stub(rpc.GuestServiceStub)
    _, guest = await house.guest()
    later = clock(house) + HOUR
    house.move_times(guest.member_id, expire_in="-24 hours")
    refusal = await refused(house.admin.call(stub.ExtendGuest, extension(house, guest, later)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "GUEST_ENDED")
    house.move_times(guest.member_id, expire_in="-23 hours")
    assert (await extend(house, guest, later)).state == ACTIVE


async def test_an_extension_of_what_has_changed_meanwhile_is_refused(house: House) -> None:
    stub = house.suite.stub(rpc.GuestServiceStub)
    _, guest = await house.guest()
    extended = await extend(house, guest, clock(house) + 2 * HOUR, etag=guest.etag)
    late = extension(house, guest, clock(house) + 3 * HOUR, etag=guest.etag)
    refusal = await refused(house.admin.call(stub.ExtendGuest, late))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert (await extend(house, guest, clock(house) + 3 * HOUR, etag=extended.etag)).state == ACTIVE


async def test_of_concurrent_extensions_by_one_etag_one_wins(house: House) -> None:
    stub = house.suite.stub(rpc.GuestServiceStub)
    _, guest = await house.guest()
    later = clock(house) + 2 * HOUR
    calls = [
        house.admin.call(stub.ExtendGuest, extension(house, guest, later + number * HOUR, etag=guest.etag))
        for number in range(8)
    ]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, pb.ExtendGuestResponse) for answer in answers) == 1


async def test_the_guest_may_not_extend_and_others_find_nobody(house: House) -> None:
    stub = house.suite.stub(rpc.GuestServiceStub)
    person, guest = await house.guest()
    other_guest, _ = await house.guest()
    member, member_id = await house.member()
    request = extension(house, guest, clock(house) + 2 * HOUR)
    own = await refused(person.call(stub.ExtendGuest, request))
    assert (own.code, own.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    unknown = extension(house, pb.Guest(member_id=str(uuid.uuid4())), clock(house) + 2 * HOUR)
    missing = await refused(house.admin.call(stub.ExtendGuest, unknown))
    assert (missing.code, missing.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    for caller in (other_guest, member, house.outsider()):
        assert await refused(caller.call(stub.ExtendGuest, request)) == missing
    themselves = extension(house, pb.Guest(member_id=member_id), clock(house) + 2 * HOUR)
    assert await refused(member.call(stub.ExtendGuest, themselves)) == missing
    assert (await extend(house, guest, clock(house) + 2 * HOUR)).state == ACTIVE


async def test_a_repeated_extension_gets_the_same_answer(house: House) -> None:
    stub = house.suite.stub(rpc.GuestServiceStub)
    _, guest = await house.guest()
    later, request_id = clock(house) + 2 * HOUR, str(uuid.uuid4())
    first = await extend(house, guest, later, request_id=request_id, etag=guest.etag)
    assert await extend(house, guest, later, request_id=request_id, etag=guest.etag) == first
    other = extension(house, guest, later + HOUR, request_id=request_id, etag=guest.etag)
    assert (await refused(house.admin.call(stub.ExtendGuest, other))).reason == "IDEMPOTENCY_MISMATCH"


async def test_the_worker_writes_down_what_the_clock_has_decided(house: House) -> None:
    _, expired = await house.guest()
    _, over = await house.guest()
    _, active = await house.guest()
    house.move_times(expired.member_id, expire_in="-1 second")
    house.move_times(over.member_id, expire_in="-24 hours")
    make_app("guest", house.suite.stack.valkey.url).send_task(sweep_task("guest"), queue="guest")
    await until(lambda: materialised(house, expired)[0] == "LOCKED", "the guest is locked")
    await until(lambda: materialised(house, over)[0] == "ENDED", "the guest is ended")
    assert materialised(house, active)[0] == "ACTIVE"


async def test_an_expiry_job_waits_once_however_often_it_is_swept(house: House) -> None:
    _, guest = await house.guest()
    house.move_times(guest.member_id, expire_in="-1 second")
    database = house.suite.frames["guest"].database
    count = "SELECT count(*) FROM outbox WHERE subject_id = %(id)s"
    with house.suite.database("guest") as holder, holder.transaction():
        # Held, so that the worker cannot be done with it between the sweeps.
        holder.execute("SELECT 1 FROM guests WHERE member_id = %s FOR UPDATE", (guest.member_id,))
        for _ in range(3):
            await database.transaction(tasks.enqueue_due)
        assert house.sql(count, id=materialised(house, guest)[1]) == [(1,)]
    await until(lambda: materialised(house, guest)[0] == "LOCKED", "the guest is locked")


async def test_an_expiry_job_delivered_three_times_locks_once(house: House) -> None:
    _, guest = await house.guest()
    house.move_times(guest.member_id, expire_in="-1 second")
    expire = tasks.works(house.suite.frames["guest"].database)[tasks.EXPIRE]
    job_id = materialised(house, guest)[1]
    updated = "SELECT updated_at FROM guests WHERE member_id = %(id)s"
    await expire(job_id, "")
    assert materialised(house, guest)[0] == "LOCKED"
    first = house.sql(updated, id=guest.member_id)
    await asyncio.gather(expire(job_id, ""), expire(job_id, ""))
    assert (materialised(house, guest)[0], house.sql(updated, id=guest.member_id)) == ("LOCKED", first)


async def test_a_job_that_comes_early_locks_nobody(house: House) -> None:
    _, guest = await house.guest()
    expire = tasks.works(house.suite.frames["guest"].database)[tasks.EXPIRE]
    await expire(materialised(house, guest)[1], "")
    assert materialised(house, guest)[0] == "ACTIVE"


async def test_a_stale_job_never_locks_an_extended_guest(house: House) -> None:
    _, guest = await house.guest()
    house.move_times(guest.member_id, expire_in="-1 second")
    stale_job_id = materialised(house, guest)[1]
    await extend(house, guest, clock(house) + HOUR)
    # Expired again, so that only the job's id is in its way.
    house.move_times(guest.member_id, expire_in="-1 second")
    expire = tasks.works(house.suite.frames["guest"].database)[tasks.EXPIRE]
    await expire(stale_job_id, "")
    assert materialised(house, guest)[0] == "ACTIVE"
    await expire(materialised(house, guest)[1], "")
    assert materialised(house, guest)[0] == "LOCKED"


async def test_a_job_paused_between_read_and_write_loses_to_the_extension(house: House) -> None:
    _, guest = await house.guest()
    house.move_times(guest.member_id, expire_in="-1 second")
    database, job_id = house.suite.frames["guest"].database, materialised(house, guest)[1]
    job = await database.read(lambda tx: tasks.find_job(tx, job_id=job_id))
    assert job is not None
    await extend(house, guest, clock(house) + HOUR)
    house.move_times(guest.member_id, expire_in="-1 second")
    await database.transaction(lambda tx: tasks.materialise(tx, job))
    assert materialised(house, guest)[0] == "ACTIVE"
    fresh = await database.read(lambda tx: tasks.find_job(tx, job_id=materialised(house, guest)[1]))
    assert fresh is not None
    await database.transaction(lambda tx: tasks.materialise(tx, fresh))
    assert materialised(house, guest)[0] == "LOCKED"


async def test_a_job_that_waits_for_the_extensions_lock_locks_nobody(house: House) -> None:
    _, guest = await house.guest()
    house.move_times(guest.member_id, expire_in="-1 second")
    expire = tasks.works(house.suite.frames["guest"].database)[tasks.EXPIRE]
    job_id = materialised(house, guest)[1]
    later = clock(house) + HOUR

    def waiting() -> int:
        found = house.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'guest' AND wait_event_type = 'Lock'")
        return int(found[0][0])

    with house.suite.database("guest") as holder, holder.transaction():
        holder.execute("SELECT 1 FROM guests WHERE member_id = %s FOR UPDATE", (guest.member_id,))
        extending: Awaitable[pb.Guest] = asyncio.ensure_future(extend(house, guest, later))
        await until(lambda: waiting() == 1, "the extension waits")
        expiring = asyncio.ensure_future(expire(job_id, ""))
        await until(lambda: waiting() == 2, "the job waits behind it")
    assert (await extending).state == ACTIVE
    await expiring
    assert materialised(house, guest)[0] == "ACTIVE"
    assert (await house.check((guest.member_id, "")))[0].state == ACTIVE
