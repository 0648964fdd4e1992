"""Guests whose time is over, as members: they may come back as full members, and do not count for ever."""

import asyncio
from typing import Any

import pytest
from guildhall.guest.v1 import guest_service_pb2 as pb
from guildhall.membership.v1 import invitation_service_pb2 as invitations
from guildhall.membership.v1 import invitation_service_pb2_grpc as invitations_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as members_rpc

from services.guest import departures, guests, redemptions
from services.membership import guest_members, workspaces
from tests.service.test_guest_invites import House
from tests.service.test_guest_recovery import add_pending, attempt
from tests.service.test_guest_redemption import until
from tests.support.accounts import service_account
from tests.support.guest_calls import call, verdict
from tests.support.reflected import do
from tests.support.suite import Person, Suite, refused

FULL, GUEST = members.MEMBER_KIND_FULL, members.MEMBER_KIND_GUEST


@pytest.fixture
async def house(suite: Suite) -> House:
    """A workspace of this test's own."""
    return await House.make(suite)


async def mailed(house: House, person: Person) -> str:
    """The token of an invitation that was mailed to somebody."""
    stub = house.suite.stub(invitations_rpc.InvitationServiceStub)
    request = invitations.CreateInvitationRequest(
        workspace_id=house.workspace_id, email=person.email, role=members.ROLE_MEMBER
    )
    await house.admin.call(stub.CreateInvitation, request)
    # The first mail to them was the one that verified their address.
    return await house.suite.mailed_token(person.email, count=2)


async def accept(house: House, person: Person, token: str) -> members.Member:
    """AcceptInvitation."""
    stub = house.suite.stub(invitations_rpc.InvitationServiceStub)
    answer = await person.call(stub.AcceptInvitation, invitations.AcceptInvitationRequest(token=token))
    assert isinstance(answer.member, members.Member)
    return answer.member


async def add(house: House, person: Person) -> members.Member:
    """AddMember, by a service account."""
    stub = house.suite.stub(members_rpc.MemberServiceStub)
    request = members.AddMemberRequest(
        workspace_id=house.workspace_id, user_id=person.user_id, role=members.ROLE_MEMBER
    )
    account = service_account(house.suite, "membership.members", workspace_ids=[house.workspace_id])
    answer = await account.call(stub.AddMember, request)
    assert isinstance(answer.member, members.Member)
    return answer.member


def states(house: House, member_id: str) -> list[tuple[object, ...]]:
    """How guest has somebody."""
    query = "SELECT ended_at IS NOT NULL, end_reason FROM guests WHERE member_id = %(id)s"
    return house.sql(query, id=member_id)


async def until_removed(house: House, member_id: str) -> None:
    """Waits until guest knows that the stay is over."""

    async def is_removed() -> bool:
        return states(house, member_id) == [(True, "removed")]

    await until(is_removed, "the guest's stay is over")


async def test_an_ended_guest_who_accepts_an_invitation_becomes_a_full_member(house: House) -> None:
    person, guest = await known_guest(house)
    before = (await verdict(house, member_id=house.admin_member_id)).access_revision
    token = await mailed(house, person)
    house.move_times(guest.member_id, expire_in="-25 hours")

    joined = await accept(house, person, token)

    assert (joined.kind, joined.role) == (FULL, members.ROLE_MEMBER)
    # Another stay, with nothing of the one before.
    assert joined.member_id != guest.member_id
    assert (await verdict(house, member_id=guest.member_id)).member_id == ""
    found = await verdict(house, member_id=joined.member_id, capability="conversations.create")
    assert found.allowed
    assert found.access_revision > before
    await house.channel(person)
    await until_removed(house, guest.member_id)
    # The invitation is used up: accepted again, it says who they are, and somebody else finds nothing.
    assert (await accept(house, person, token)).member_id == joined.member_id
    query = "SELECT accepted_at IS NOT NULL FROM invitations WHERE workspace_id = %(id)s"
    assert house.suite.rows("membership", query, {"id": house.workspace_id}) == [(True,)]


async def test_a_guest_whose_time_is_not_over_stays_one_and_keeps_the_invitation(house: House) -> None:
    person, guest = await known_guest(house)
    token = await mailed(house, person)
    for expire_in in ("1 hour", "-1 hour"):
        house.move_times(guest.member_id, expire_in=expire_in)
        for found in (await accept(house, person, token), await add(house, person)):
            assert (found.kind, found.member_id) == (GUEST, guest.member_id)
    house.move_times(guest.member_id, expire_in="-25 hours")
    assert (await accept(house, person, token)).kind == FULL


async def test_an_invitation_that_is_of_no_use_ends_no_stay(house: House) -> None:
    person, guest = await known_guest(house)
    token = await mailed(house, person)
    house.suite.rows(
        "membership",
        "UPDATE invitations SET expire_at = statement_timestamp() WHERE workspace_id = %(id)s",
        {"id": house.workspace_id},
    )
    house.move_times(guest.member_id, expire_in="-25 hours")
    assert (await refused(accept(house, person, token))).reason == "INVITATION_INVALID"
    assert (await verdict(house, member_id=guest.member_id)).member_id == guest.member_id


async def test_an_ended_guest_who_is_added_becomes_a_full_member(house: House) -> None:
    person, guest = await known_guest(house)
    house.move_times(guest.member_id, expire_in="-25 hours")
    added = await add(house, person)
    assert added.kind == FULL
    assert added.member_id != guest.member_id
    assert (await verdict(house, member_id=added.member_id, capability="conversations.create")).allowed
    await until_removed(house, guest.member_id)
    assert await add(house, person) == added


async def promoted_unheard(house: House, guest: pb.Guest) -> None:
    """guest has decided on a promotion, of which membership does not know yet."""
    named = {"workspace_id": house.workspace_id, "member_id": guest.member_id}

    async def decide(tx: Any) -> None:
        await guests.lock(tx, **named)
        await departures.promote(tx, **named, role="viewer", actor_user_id=house.admin.user_id, etag="")
        await tx.exec_driver_sql("DELETE FROM outbox WHERE kind = 'guest_promoted' AND target = 'membership'")

    await house.suite.frames["guest"].database.transaction(decide)


async def test_who_was_just_promoted_is_not_begun_anew_by_another_way(house: House) -> None:
    person, guest = await known_guest(house)
    token = await mailed(house, person)
    await promoted_unheard(house, guest)

    for found in (await accept(house, person, token), await add(house, person)):
        assert (found.kind, found.member_id) == (GUEST, guest.member_id)

    # What the manager decided on is what they become, in the same stay.
    await call(house, "PromoteGuest", member_id=guest.member_id, role=members.ROLE_VIEWER)
    found = await add(house, person)
    assert (found.kind, found.member_id, found.role) == (FULL, guest.member_id, members.ROLE_VIEWER)


async def test_who_begins_anew_while_they_are_added_goes_on_as_the_guest_whom_they_were_told_of(house: House) -> None:
    person, guest = await known_guest(house)
    house.move_times(guest.member_id, expire_in="-25 hours")
    made = await house.invite()
    membership, database = (house.suite.frames[name].database for name in ("membership", "guest"))
    link = attempt(house, made, person)
    redemption_id = await database.transaction(lambda tx: redemptions.begin(tx, **link))
    assert await add_pending(house, person, redemption_id) == guest.member_id
    decided = {"redemption_id": redemption_id, "member_id": guest.member_id, **link}
    query = "SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = 'membership' AND wait_event_type = 'Lock'"

    async def is_waited_for() -> bool:
        return house.suite.rows("membership", query, {}) == [(True,)]

    async def confirm(tx: Any) -> asyncio.Task[members.Member]:
        await workspaces.lock(tx, house.workspace_id)
        adding = asyncio.create_task(add(house, person))
        await until(is_waited_for, "guest has said that their time is over, and the workspace is waited for")
        await database.transaction(lambda tx: redemptions.decide(tx, **decided))
        await guest_members.confirm(tx, workspace_id=house.workspace_id, member_id=guest.member_id)
        return adding

    added = await (await membership.transaction(confirm))

    assert (added.kind, added.member_id) == (GUEST, guest.member_id)
    assert (await house.get(person, guest.member_id)).state == pb.GUEST_STATE_ACTIVE


async def test_an_ended_guest_comes_back_by_a_code_into_the_workspace_and_by_no_other(house: House) -> None:
    person, guest = await known_guest(house)
    place = {"workspace_id": house.workspace_id}
    group = (await do(house.suite, house.admin, "membership.GroupService/CreateGroup", name="Choir", **place)).group
    codes = {}
    for role in (members.ROLE_UNSPECIFIED, members.ROLE_VIEWER):
        terms = {"group_id": group.group_id, "workspace_role": role, "role": "member", "max_uses": 1}
        made = await do(house.suite, house.admin, "membership.GroupInviteService/CreateGroupInvite", **place, **terms)
        codes[role] = made.group_invite.code
    redeem = "membership.GroupInviteService/RedeemGroupInvite"
    into_group, into_both = codes.values()
    assert (await refused(do(house.suite, person, redeem, code=into_both))).reason == "GUESTS_EXCLUDED"
    house.move_times(guest.member_id, expire_in="-25 hours")
    assert (await refused(do(house.suite, person, redeem, code=into_group))).reason == "GUESTS_EXCLUDED"
    before = (await verdict(house, member_id=house.admin_member_id)).access_revision

    came = await do(house.suite, person, redeem, code=into_both)

    assert (came.member.kind, came.member.role) == (FULL, members.ROLE_VIEWER)
    assert came.group_member.member_id == came.member.member_id != guest.member_id
    assert (await verdict(house, member_id=guest.member_id)).member_id == ""
    assert (await verdict(house, member_id=came.member.member_id)).access_revision > before
    await until_removed(house, guest.member_id)


async def test_a_guest_whose_grace_was_over_a_month_ago_is_no_member_any_more(house: House) -> None:
    long_over, over = (await house.guest())[1], (await house.guest())[1]
    house.move_times(long_over.member_id, expire_in="-32 days")
    house.move_times(over.member_id, expire_in="-30 days")
    for guest in (long_over, over):
        materialise(house, guest.member_id)
    database = house.suite.frames["guest"].database
    await database.transaction(departures.remove_long_over)

    async def is_gone() -> bool:
        return (await verdict(house, member_id=long_over.member_id)).member_id == ""

    await until(is_gone, "membership has ended the stay")
    assert states(house, long_over.member_id) == [(True, "removed")]
    assert states(house, over.member_id) == [(False, None)]
    assert (await verdict(house, member_id=over.member_id)).member_id == over.member_id
    # By nobody.
    query = (
        "SELECT actor_ref IS NULL FROM activities WHERE workspace_id = %(id)s AND action = 'member.removed'"
        " ORDER BY number DESC LIMIT 1"
    )
    assert house.suite.rows("membership", query, {"id": house.workspace_id}) == [(True,)]


async def test_who_was_removed_after_a_month_comes_in_again_by_a_new_link(house: House) -> None:
    person, guest = await house.guest()
    house.move_times(guest.member_id, expire_in="-32 days")
    materialise(house, guest.member_id)
    await house.suite.frames["guest"].database.transaction(departures.remove_long_over)

    async def is_gone() -> bool:
        return (await verdict(house, member_id=guest.member_id)).member_id == ""

    await until(is_gone, "membership has ended the stay")
    again = await house.redeem(person, (await house.invite()).token)
    assert (again.state, again.member_id != guest.member_id) == (pb.GUEST_STATE_ACTIVE, True)


async def known_guest(house: House) -> tuple[Person, pb.Guest]:
    """A guest with an address that is proved."""
    person = await house.suite.person("Gil")
    return person, await house.redeem(person, (await house.invite()).token)


def materialise(house: House, member_id: str) -> None:
    """Has the row say what the clock says, as the worker does within a minute or two."""
    house.sql("UPDATE guests SET state = 'ENDED' WHERE member_id = %(id)s", id=member_id)
