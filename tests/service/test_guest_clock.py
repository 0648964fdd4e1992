"""A guest's whole way by the clock alone, guest's worker stopped: each edge is where the database puts it."""

from datetime import datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from guildhall.guest.v1 import guest_service_pb2 as pb

from tests.service.test_guest_expiry import materialised
from tests.service.test_guest_invites import House
from tests.support.guest_calls import at, call, clock, moment, peer, update_policy
from tests.support.suite import Suite

pytestmark = pytest.mark.usefixtures("no_guest_worker")


@pytest.fixture
async def house(suite: Suite) -> House:
    """A workspace of this test's own."""
    return await House.make(suite)


async def test_a_guest_walks_to_the_end_with_no_worker_and_no_beat(house: House) -> None:
    await update_policy(house, grace=timedelta(seconds=2))
    second = await house.channel()
    guest = await house.redeem(
        house.outsider(), (await house.invite(house.channel_id, second, guest_ttl=Duration(seconds=2))).token
    )
    expire_at, end_at = moment(guest.expire_time), moment(guest.grace_end_time)
    middle = expire_at - (expire_at - clock(house)) / 2
    fields = {"member_id": guest.member_id, "conversation_id": second, "expire_time": at(middle)}
    await call(house, "GrantChannel", **fields)
    seen: list[int] = []
    while True:
        before = clock(house)
        first, granted = await house.check((guest.member_id, house.channel_id), (guest.member_id, second))
        channels = await peer(house, "ListGuestChannels", member_id=guest.member_id)
        after = clock(house)
        expected = {_state(instant, expire_at, end_at) for instant in (before, after)}
        # Between two readings of the clock an edge may lie; where none does, there is one right answer.
        if len(expected) == 1:
            assert {first.state, channels.state} == expected, (before, after)
        if after < middle:
            assert granted.granted
        if before >= middle:
            assert not granted.granted
            assert second not in channels.conversation_ids
        if not seen or seen[-1] != first.state:
            seen.append(first.state)
        if before >= end_at:
            break
    assert seen == [pb.GUEST_STATE_ACTIVE, pb.GUEST_STATE_LOCKED, pb.GUEST_STATE_ENDED]
    assert materialised(house, guest)[0] == "ACTIVE", "nothing was written down by anybody"


def _state(instant: datetime, expire_at: datetime, end_at: datetime) -> int:
    if instant < expire_at:
        return pb.GUEST_STATE_ACTIVE
    return pb.GUEST_STATE_LOCKED if instant < end_at else pb.GUEST_STATE_ENDED
