"""Guests' memberships: pending, confirmed, abandoned, and what they may do."""

import asyncio
import uuid

import grpc
import pytest
from guildhall.events.v1 import event_sink_pb2 as events
from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as member_rpc

from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support import guest_rows
from tests.support.deliveries import deliver
from tests.support.suite import Suite, refused


async def test_a_pending_guest_sees_nothing_and_is_seen_by_nobody(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil = await somebody(suite, "Gil")

    pending = await workspace.add_guest(gil)

    assert (pending.state, pending.kind, pending.name) == (members.MEMBER_STATE_PENDING, members.MEMBER_KIND_GUEST, "")
    assert not pending.HasField("join_time")
    by_user, by_member = await workspace.check({"user_id": gil.user_id}, {"member_id": pending.member_id})
    for verdict in (by_user, by_member):
        assert (verdict.allowed, verdict.reason) == (False, access.ACCESS_REASON_NOT_A_MEMBER)
        assert (verdict.member_id, verdict.user_id) == ("", "")
    assert (await refused(workspace.page(gil))).reason == "NOT_FOUND"
    assert await workspace.member_ids(workspace.admin) == [workspace.admin_member_id]


async def test_a_confirmed_guest_is_a_member_who_sees_themselves(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil = await somebody(suite, "Gil")
    pending = await workspace.add_guest(gil)

    confirmed = await workspace.confirm_guest(pending.member_id)
    again = await workspace.confirm_guest(pending.member_id)

    assert confirmed == again
    assert (confirmed.member_id, confirmed.state) == (pending.member_id, members.MEMBER_STATE_ACTIVE)
    assert await workspace.member_ids(gil) == [pending.member_id]
    assert await workspace.member_ids(workspace.admin) == [workspace.admin_member_id, pending.member_id]


async def test_a_guests_list_has_no_second_page(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil = await somebody(suite, "Gil")
    await workspace.confirm_guest((await workspace.add_guest(gil)).member_id)
    await workspace.join(await somebody(suite, "Bob"))

    assert not (await workspace.page(gil, page_size=1)).next_page_token
    assert (await workspace.page(workspace.admin, page_size=1)).next_page_token


@pytest.mark.parametrize(
    ("capability", "allowed"),
    [
        ("workspace.read", True),
        ("messages.send", True),
        ("conversations.create", False),
        ("conversations.manage", False),
        ("messages.moderate", False),
        ("members.invite", False),
        ("members.remove", False),
        ("guests.invite", False),
        ("guests.manage", False),
    ],
)
async def test_a_guest_reads_and_sends_and_nothing_else(suite: Suite, capability: str, allowed: bool) -> None:
    workspace = await new_workspace(suite)
    gil = await somebody(suite, "Gil")
    await workspace.confirm_guest((await workspace.add_guest(gil)).member_id)

    verdict = (await workspace.check({"user_id": gil.user_id}, capability=capability))[0]

    assert (verdict.allowed, verdict.kind) == (allowed, members.MEMBER_KIND_GUEST)


async def test_a_guest_neither_invites_nor_removes(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil = await somebody(suite, "Gil")
    await workspace.confirm_guest((await workspace.add_guest(gil)).member_id)

    assert (await refused(workspace.invite("x@example.com", by=gil))).reason == "PERMISSION_DENIED"
    assert (await refused(workspace.remove(workspace.admin_member_id, by=gil))).reason == "PERMISSION_DENIED"


async def test_whoever_is_a_member_already_is_returned_as_they_are(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, gil = await somebody(suite, "Bob"), await somebody(suite, "Gil")
    bob_id = await workspace.join(bob, members.ROLE_VIEWER)
    pending = await workspace.add_guest(gil)

    full = await workspace.add_guest(bob)
    still_pending = await workspace.add_guest(gil)
    await workspace.confirm_guest(pending.member_id)
    active = await workspace.add_guest(gil)

    assert (full.member_id, full.role, full.kind) == (bob_id, members.ROLE_VIEWER, members.MEMBER_KIND_FULL)
    assert still_pending == pending
    assert (active.member_id, active.state) == (pending.member_id, members.MEMBER_STATE_ACTIVE)


async def test_sixteen_redemptions_at_once_add_one_pending_member(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil = await somebody(suite, "Gil")
    added = await asyncio.gather(*(workspace.add_guest(gil) for _ in range(16)))
    assert len({member.member_id for member in added}) == 1


async def test_a_guest_is_added_with_their_own_token_only(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil, eve = await somebody(suite, "Gil"), await somebody(suite, "Eve")
    stub = suite.stub(member_rpc.MemberServiceStub, certificate="guest")
    request = members.AddGuestMemberRequest(
        workspace_id=workspace.id, user_id=gil.user_id.upper(), redemption_id=str(uuid.uuid4())
    )

    assert (await refused(eve.call(stub.AddGuestMember, request))).reason == "PERMISSION_DENIED"
    assert (await refused(stub.AddGuestMember(request, timeout=10))).reason == "PERMISSION_DENIED"
    assert (await gil.call(stub.AddGuestMember, request)).member.user_id == gil.user_id


async def test_a_redemption_belongs_to_one_person(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    redemption_id = str(uuid.uuid4())
    await workspace.add_guest(await somebody(suite, "Gil"), redemption_id)

    refusal = await refused(workspace.add_guest(await somebody(suite, "Eve"), redemption_id))

    assert (refusal.code, list(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["redemption_id"])


async def test_an_unknown_workspace_or_member_is_not_found(suite: Suite) -> None:
    workspace, other = await new_workspace(suite), await new_workspace(suite)
    gil = await somebody(suite, "Gil")
    unknown = Workspace(suite, gil, str(uuid.uuid4()), "")
    pending = await workspace.add_guest(gil)

    for call in (
        unknown.add_guest(gil),
        unknown.confirm_guest(pending.member_id),
        other.confirm_guest(pending.member_id),
        workspace.confirm_guest(str(uuid.uuid4())),
    ):
        assert (await refused(call)).reason == "NOT_FOUND"


@pytest.mark.parametrize("certificate", ["gateway", "messaging", "identity"])
async def test_only_guest_adds_and_confirms_guests(suite: Suite, certificate: str) -> None:
    workspace = await new_workspace(suite)
    gil = await somebody(suite, "Gil")
    stub = suite.stub(member_rpc.MemberServiceStub, certificate=certificate)
    add = members.AddGuestMemberRequest(workspace_id=workspace.id, user_id=gil.user_id, redemption_id=str(uuid.uuid4()))
    confirm = members.ConfirmGuestMemberRequest(workspace_id=workspace.id, member_id=str(uuid.uuid4()))

    assert (await refused(gil.call(stub.AddGuestMember, add))).reason == "PEER_NOT_ALLOWED"
    assert (await refused(gil.call(stub.ConfirmGuestMember, confirm))).reason == "PEER_NOT_ALLOWED"


async def test_an_event_delivered_three_times_confirms_once(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil = await somebody(suite, "Gil")
    pending = await workspace.add_guest(gil)
    event = events.Event(guest_redeemed=events.GuestRedeemed(workspace_id=workspace.id, member_id=pending.member_id))

    await deliver(suite, event, source="guest", times=3)
    guest_rows.decide(
        suite,
        pending,
        sponsor_member_id=workspace.admin_member_id,
    )

    assert await workspace.member_ids(gil) == [pending.member_id]
    with suite.database("membership") as database:
        count = database.execute("SELECT count(*) FROM inbox WHERE event_id = %s", (event.event_id,)).fetchone()
    assert count == (1,)


async def test_a_late_delivery_does_not_bring_a_removed_guest_back(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil = await somebody(suite, "Gil")
    pending = await workspace.add_guest(gil)
    await workspace.confirm_guest(pending.member_id)
    await workspace.remove(pending.member_id)

    redeemed = events.GuestRedeemed(workspace_id=workspace.id, member_id=pending.member_id)
    await deliver(suite, events.Event(guest_redeemed=redeemed), source="guest")

    assert (await refused(workspace.page(gil))).reason == "NOT_FOUND"


def _abandoned(workspace: Workspace, redemption_id: str) -> events.Event:
    payload = events.GuestRedemptionAbandoned(workspace_id=workspace.id, redemption_id=redemption_id)
    return events.Event(guest_redemption_abandoned=payload)


async def test_an_abandoned_redemption_takes_its_pending_member_away(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil = await somebody(suite, "Gil")
    redemption_id = str(uuid.uuid4())
    pending = await workspace.add_guest(gil, redemption_id)

    await deliver(suite, _abandoned(workspace, redemption_id), source="guest")

    assert (await refused(workspace.confirm_guest(pending.member_id))).reason == "NOT_FOUND"
    assert (await workspace.add_guest(gil)).member_id != pending.member_id


async def test_an_abandoned_redemption_leaves_alone_what_is_in_force_or_was_taken_over(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil, hal = await somebody(suite, "Gil"), await somebody(suite, "Hal")
    of_gil, of_hal = str(uuid.uuid4()), str(uuid.uuid4())
    confirmed, taken_over = await workspace.add_guest(gil, of_gil), await workspace.add_guest(hal, of_hal)
    await workspace.confirm_guest(confirmed.member_id)
    await workspace.add_guest(hal, str(uuid.uuid4()))

    await deliver(suite, _abandoned(workspace, of_gil), source="guest")
    await deliver(suite, _abandoned(workspace, of_hal), source="guest")

    await workspace.confirm_guest(taken_over.member_id)
    assert await workspace.member_ids(workspace.admin) == [
        workspace.admin_member_id,
        confirmed.member_id,
        taken_over.member_id,
    ]


async def test_an_active_guest_who_accepts_an_invitation_stays_a_guest(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil = await somebody(suite, "Gil")
    await workspace.confirm_guest((await workspace.add_guest(gil)).member_id)
    token = await workspace.invite(gil.email)

    assert (await workspace.accept(gil, token)).member.kind == members.MEMBER_KIND_GUEST

    await workspace.remove((await workspace.member_ids(gil))[0])
    assert (await workspace.accept(gil, token)).member.kind == members.MEMBER_KIND_FULL
