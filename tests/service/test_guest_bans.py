"""Whom a workspace keeps out of its guest links: by a ban of the person or of the address, or because it is full."""

from typing import Any

import grpc
import pytest
from guildhall.guest.v1 import guest_service_pb2 as pb
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as member_rpc

from tests.service.test_guest_invites import House
from tests.service.test_guest_redemption import redemption_refused, states
from tests.support.suite import Suite


@pytest.fixture
async def house(suite: Suite) -> House:
    """A workspace of this test's own."""
    return await House.make(suite)


async def ban(house: House, **subject: Any) -> str:
    """Bans a `user_id` or an `email`; returns the ban's id."""
    stub = house.suite.stub(member_rpc.MemberServiceStub)
    request = members.BanMemberRequest(workspace_id=house.workspace_id, **subject)
    return str((await house.admin.call(stub.BanMember, request)).ban.ban_id)


async def unban(house: House, ban_id: str) -> None:
    """Lifts a ban."""
    stub = house.suite.stub(member_rpc.MemberServiceStub)
    request = members.UnbanMemberRequest(workspace_id=house.workspace_id, ban_id=ban_id)
    await house.admin.call(stub.UnbanMember, request)


async def test_a_ban_by_address_is_answered_as_a_ban_by_person_and_spends_no_use(house: House) -> None:
    made = await house.invite(max_uses=2)
    eve, eva, ann = [await house.suite.person(name) for name in ("Eve", "Eva", "Ann")]
    by_address, by_person = await ban(house, email=eve.email.upper()), await ban(house, user_id=eva.user_id)

    refusals = [await redemption_refused(house, person, made.token) for person in (eve, eva)]

    unknown = await redemption_refused(house, eve, "ghg_unknown")
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "GUEST_INVITE_INVALID")
    assert refusals == [unknown, unknown]
    assert house.uses(made.invite.invite_id) == 0
    assert [states(house, person) for person in (eve, eva)] == [["ABANDONED"], ["ABANDONED"]]
    assert house.sql("SELECT 1 FROM guests WHERE workspace_id = %(id)s", id=house.workspace_id) == []
    assert (await house.redeem(ann, made.token)).state == pb.GUEST_STATE_ACTIVE, "who is not banned gets in"
    await unban(house, by_person)
    assert await redemption_refused(house, eve, made.token) == unknown, "the other's ban was lifted"
    await unban(house, by_address)
    assert (await house.redeem(eve, made.token)).state == pb.GUEST_STATE_ACTIVE
    assert house.uses(made.invite.invite_id) == 2


async def test_a_full_workspace_says_so_and_spends_no_use(house: House) -> None:
    made, person = await house.invite(max_uses=1), house.outsider()
    limit = {"workspace_id": house.workspace_id}
    with house.suite.database("membership") as database:
        database.execute(
            "INSERT INTO workspace_limits (workspace_id, name, value) VALUES (%(workspace_id)s, 'members', 1)", limit
        )
        refusal = await redemption_refused(house, person, made.token)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
        assert refusal.metadata == {"limit": "members", "most": "1"}
        assert (house.uses(made.invite.invite_id), states(house, person)) == (0, ["ABANDONED"])
        database.execute("UPDATE workspace_limits SET value = 2 WHERE workspace_id = %(workspace_id)s", limit)
    assert (await house.redeem(person, made.token)).state == pb.GUEST_STATE_ACTIVE
