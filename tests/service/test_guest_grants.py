"""Grants: which channels a guest sees, until when and from when on, decided by the database clock."""

import uuid
from datetime import timedelta
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from guildhall.guest.v1 import guest_access_service_pb2 as access
from guildhall.guest.v1 import guest_service_pb2 as pb

from services.guest.guests import CHECK
from tests.service.test_guest_expiry import extend
from tests.service.test_guest_invites import HOUR, House
from tests.support.guest_calls import at, call, clock, moment, peer, update_policy
from tests.support.suite import Suite, refused


@pytest.fixture
async def house(suite: Suite) -> House:
    """A workspace of this test's own."""
    return await House.make(suite)


async def grant(house: House, guest: pb.Guest, conversation_id: str, **fields: Any) -> pb.Guest:
    answer = await call(house, "GrantChannel", member_id=guest.member_id, conversation_id=conversation_id, **fields)
    assert isinstance(answer.guest, pb.Guest)
    return answer.guest


async def revoke(house: House, guest: pb.Guest, conversation_id: str, **fields: Any) -> pb.Guest:
    answer = await call(house, "RevokeChannel", member_id=guest.member_id, conversation_id=conversation_id, **fields)
    assert isinstance(answer.guest, pb.Guest)
    return answer.guest


async def verdict(house: House, guest: pb.Guest, conversation_id: str) -> access.GuestVerdict:
    return (await house.check((guest.member_id, conversation_id)))[0]


async def test_a_channel_is_granted_and_taken_away_and_the_others_stay(house: House) -> None:
    person, guest = await house.guest()
    second = await house.channel()
    assert not (await verdict(house, guest, second)).granted
    granted = await grant(house, guest, second)
    assert set(granted.conversation_ids) == {house.channel_id, second}
    assert [channel.conversation_id for channel in granted.channels] == list(granted.conversation_ids)
    assert granted.etag != guest.etag
    assert (await verdict(house, guest, second)).granted
    assert await house.get(person, guest.member_id) == granted
    revoked = await revoke(house, guest, second)
    assert list(revoked.conversation_ids) == [house.channel_id]
    assert not (await verdict(house, guest, second)).granted
    assert (await verdict(house, guest, house.channel_id)).granted
    assert await revoke(house, guest, second) == revoked, "what is not granted stays so"
    assert list((await revoke(house, guest, house.channel_id)).conversation_ids) == []


async def test_a_grant_has_its_own_expiry_and_start_of_history(house: House) -> None:
    _, guest = await house.guest()
    expire_at, start_at = clock(house) + HOUR / 2, clock(house) - HOUR
    granted = await grant(house, guest, house.channel_id, expire_time=at(expire_at), history_start_time=at(start_at))
    (channel,) = granted.channels
    assert (moment(channel.expire_time), moment(channel.history_start_time)) == (expire_at, start_at)
    found = await verdict(house, guest, house.channel_id)
    assert (found.granted, moment(found.history_start_time)) == (True, start_at)
    assert timedelta() < found.holds_for.ToTimedelta() <= HOUR / 2
    answer = await peer(house, "ListGuestChannels", member_id=guest.member_id)
    assert list(answer.channels) == [channel]
    assert timedelta() < answer.holds_for.ToTimedelta() <= HOUR / 2
    whole = await grant(house, guest, house.channel_id)
    assert not whole.channels[0].HasField("expire_time")
    assert not (await verdict(house, guest, house.channel_id)).HasField("history_start_time")
    assert (await verdict(house, guest, house.channel_id)).holds_for.ToTimedelta() > HOUR / 2


@pytest.mark.parametrize(
    ("expire_in", "granted", "holds_for"),
    [("1 microsecond", True, timedelta(microseconds=1)), ("0", False, HOUR), (None, True, HOUR)],
)
async def test_a_grant_ends_at_its_time_and_not_a_microsecond_later(
    house: House, expire_in: str | None, granted: bool, holds_for: timedelta
) -> None:
    _, guest = await house.guest()
    # One statement has one clock: the row is set and asked about at the same instant.
    question = (
        str(CHECK.text)
        .replace("guest_grants.expire_at", "(statement_timestamp() + CAST(:expire_in AS interval))")
        .replace("guests.expire_at", "(statement_timestamp() + interval '1 hour')")
    )
    database = house.suite.frames["guest"].database
    parameters = {
        "workspace_ids": [house.workspace_id],
        "member_ids": [guest.member_id],
        "conversation_ids": [house.channel_id],
        "expire_in": expire_in,
    }

    async def ask(tx: Any) -> Any:
        return (await tx.execute(sa.text(question), parameters)).one()

    row = await database.read(ask)
    assert (row.granted, row.holds_for) == (granted, holds_for)


async def test_a_grant_that_is_over_is_shown_to_nobody_and_can_be_given_again(house: House) -> None:
    _, guest = await house.guest()
    second = await house.channel()
    times = {"expire_time": at(clock(house) + HOUR), "history_start_time": at(clock(house) - HOUR)}
    await grant(house, guest, second, **times)
    house.sql("UPDATE guest_grants SET expire_at = statement_timestamp() WHERE conversation_id = %(id)s", id=second)
    found = await house.get(house.admin, guest.member_id)
    assert list(found.conversation_ids) == [house.channel_id]
    over = await verdict(house, guest, second)
    assert (over.granted, over.HasField("history_start_time"), over.HasField("grant_expire_time")) == (False,) * 3
    answer = await peer(house, "ListGuestChannels", member_id=guest.member_id)
    assert list(answer.conversation_ids) == [house.channel_id]
    assert set((await grant(house, guest, second)).conversation_ids) == {house.channel_id, second}


async def test_an_expiry_must_be_ahead(house: House) -> None:
    _, guest = await house.guest()
    refusal = await refused(
        call(
            house,
            "GrantChannel",
            member_id=guest.member_id,
            conversation_id=house.channel_id,
            expire_time=at(clock(house)),
        )
    )
    assert (refusal.reason, list(refusal.fields)) == ("INVALID_REQUEST", ["expire_time"])
    assert (await grant(house, guest, house.channel_id, expire_time=at(clock(house) + HOUR))).channels


async def test_an_extension_keeps_the_channels_and_their_times(house: House) -> None:
    _, guest = await house.guest()
    granted = await grant(house, guest, house.channel_id, expire_time=at(clock(house) + HOUR / 2))
    assert (await extend(house, guest, clock(house) + 2 * HOUR)).channels == granted.channels


async def test_a_channel_that_the_granting_one_does_not_see_is_unknown(house: House) -> None:
    admin, member = house.admin, (await house.member())[0]
    hidden = await house.channel(member, private=True)
    other = await House.make(house.suite)
    _, guest = await house.guest()
    fields = {"member_id": guest.member_id}
    unknown = await refused(call(house, "GrantChannel", by=admin, conversation_id=str(uuid.uuid4()), **fields))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    for channel_id in (hidden, other.channel_id):
        refusal = await refused(call(house, "GrantChannel", by=admin, conversation_id=channel_id, **fields))
        assert refusal.raw == unknown.raw
    own = await house.channel(private=True)
    assert own in (await grant(house, guest, own)).conversation_ids


async def test_who_may_grant_and_revoke(house: House) -> None:
    await update_policy(house, members_may_invite=True)
    sponsor, sponsor_id = await house.member()
    other, _ = await house.member()
    person = house.outsider()
    guest = await house.redeem(person, (await house.invite(by=sponsor)).token)
    fellow, _ = await house.guest()
    assert (await house.get(house.admin, guest.member_id)).sponsor_member_id == sponsor_id
    second = await house.channel(sponsor)
    elsewhere = await House.make(house.suite)
    for method in ("GrantChannel", "RevokeChannel"):
        fields = {"member_id": guest.member_id, "conversation_id": second}
        missing = await refused(call(house, method, **{**fields, "member_id": str(uuid.uuid4())}))
        assert (missing.code, missing.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        for caller in (other, fellow, house.outsider()):
            assert (await refused(call(house, method, by=caller, **fields))).raw == missing.raw, method
        assert (await refused(call(elsewhere, method, **fields))).raw == missing.raw
        own = await refused(call(house, method, by=person, **fields))
        assert (own.code, own.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert second in (await grant(house, guest, second, by=sponsor)).conversation_ids
    assert second not in (await revoke(house, guest, second, by=sponsor)).conversation_ids
    await update_policy(house, members_may_invite=False)
    fields = {"member_id": guest.member_id, "conversation_id": second}
    assert (await refused(call(house, "GrantChannel", by=sponsor, **fields))).raw == missing.raw
    assert second in (await grant(house, guest, second)).conversation_ids


async def test_a_guest_who_has_ended_is_granted_nothing_and_a_locked_one_is(house: House) -> None:
    _, guest = await house.guest()
    second = await house.channel()
    fields = {"member_id": guest.member_id, "conversation_id": second}
    house.move_times(guest.member_id, expire_in="-24 hours")
    for method in ("GrantChannel", "RevokeChannel"):
        refusal = await refused(call(house, method, **fields))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "GUEST_ENDED")
    house.move_times(guest.member_id, expire_in="-23 hours")
    assert second in (await grant(house, guest, second)).conversation_ids
    assert second not in (await revoke(house, guest, second)).conversation_ids


async def test_etags_and_repetitions_of_grants(house: House) -> None:
    _, guest = await house.guest()
    second, request_id = await house.channel(), str(uuid.uuid4())
    first = await grant(house, guest, second, etag=guest.etag, request_id=request_id)
    assert await grant(house, guest, second, etag=guest.etag, request_id=request_id) == first
    other = {"member_id": guest.member_id, "conversation_id": house.channel_id}
    mismatch = await refused(call(house, "GrantChannel", **other, etag=guest.etag, request_id=request_id))
    assert mismatch.reason == "IDEMPOTENCY_MISMATCH"
    for method in ("GrantChannel", "RevokeChannel"):
        assert (await refused(call(house, method, **other, etag=guest.etag))).reason == "ETAG_MISMATCH"
    request_id = str(uuid.uuid4())
    revoked = await revoke(house, guest, second, etag=first.etag, request_id=request_id)
    await grant(house, guest, second)
    assert await revoke(house, guest, second, etag=first.etag, request_id=request_id) == revoked
    assert (await verdict(house, guest, second)).granted, "the repetition took nothing away again"
