"""Bans from a workspace: whom they keep out, by which ways, and until when."""

import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.membership.v1 import group_invite_service_pb2 as group_invites
from guildhall.membership.v1 import group_invite_service_pb2_grpc as group_invite_rpc
from guildhall.membership.v1 import group_service_pb2 as groups
from guildhall.membership.v1 import group_service_pb2_grpc as group_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as member_rpc

from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.accounts import service_account
from tests.support.suite import Person, Suite, refused

COMMUNITY = "00000000-0000-7000-8000-000000000001"
PAST = datetime(2020, 1, 1, tzinfo=UTC)


async def ban(workspace: Workspace, *, by: Person | None = None, until: datetime | None = None, **subject: Any) -> Any:
    """Bans a `member_id`, a `user_id` or an `email`; returns the ban."""
    stub = workspace.suite.stub(member_rpc.MemberServiceStub)
    request = members.BanMemberRequest(workspace_id=workspace.id, **subject)
    if until is not None:
        request.expire_time.FromDatetime(until)
    return (await (by or workspace.admin).call(stub.BanMember, request)).ban


async def unban(workspace: Workspace, ban_id: str, *, by: Person | None = None) -> None:
    """Lifts a ban."""
    stub = workspace.suite.stub(member_rpc.MemberServiceStub)
    request = members.UnbanMemberRequest(workspace_id=workspace.id, ban_id=ban_id)
    await (by or workspace.admin).call(stub.UnbanMember, request)


async def listed(workspace: Workspace, *, by: Person | None = None, **page: Any) -> Any:
    """What ListBannedMembers answers."""
    stub = workspace.suite.stub(member_rpc.MemberServiceStub)
    request = members.ListBannedMembersRequest(workspace_id=workspace.id, **page)
    return await (by or workspace.admin).call(stub.ListBannedMembers, request)


async def add(workspace: Workspace, person: Person, role: Any = members.ROLE_MEMBER) -> Any:
    """Has a service account add somebody."""
    stub = workspace.suite.stub(member_rpc.MemberServiceStub)
    account = service_account(workspace.suite, "membership.members")
    request = members.AddMemberRequest(workspace_id=workspace.id, user_id=person.user_id, role=role)
    return (await account.call(stub.AddMember, request)).member


async def invitation(workspace: Workspace, person: Person) -> Callable[[], Awaitable[Any]]:
    """The way in by an invitation that is sent now."""
    token = await workspace.invite(person.email)
    return lambda: workspace.accept(person, token)


async def provisioning(workspace: Workspace, person: Person) -> Callable[[], Awaitable[Any]]:
    """The way in by a service account."""
    return lambda: add(workspace, person)


async def group_code(workspace: Workspace, person: Person) -> Callable[[], Awaitable[Any]]:
    """The way in by a group's code for outsiders."""
    group_stub = workspace.suite.stub(group_rpc.GroupServiceStub)
    made = groups.CreateGroupRequest(workspace_id=workspace.id, name="Choir", role_scheme_id=COMMUNITY)
    group = (await workspace.admin.call(group_stub.CreateGroup, made)).group
    stub = workspace.suite.stub(group_invite_rpc.GroupInviteServiceStub)
    request = group_invites.CreateGroupInviteRequest(
        workspace_id=workspace.id, group_id=group.group_id, role="member", workspace_role=members.ROLE_MEMBER
    )
    code = (await workspace.admin.call(stub.CreateGroupInvite, request)).group_invite.code
    return lambda: person.call(stub.RedeemGroupInvite, group_invites.RedeemGroupInviteRequest(code=code))


async def redemption(workspace: Workspace, person: Person) -> Callable[[], Awaitable[Any]]:
    """The way in as a guest."""
    stub = workspace.suite.stub(member_rpc.MemberServiceStub, certificate="guest")
    request = members.AddGuestMemberRequest(
        workspace_id=workspace.id,
        user_id=person.user_id,
        redemption_id=str(uuid.uuid4()),
        normalized_email=person.email,
    )
    return lambda: person.call(stub.AddGuestMember, request)


WAYS = [invitation, provisioning, group_code, redemption]


def end_ban(suite: Suite, ban_id: str, *, hours: int) -> None:
    """Moves a ban's end: 0 hours from the database's clock is over already, since ends are half open."""
    with suite.database("membership") as database:
        database.execute(
            "UPDATE workspace_bans SET expire_at = statement_timestamp() + make_interval(hours => %s) WHERE id = %s",
            (hours, ban_id),
        )


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("by_address", [False, True], ids=["person", "address"])
async def test_a_ban_beats_every_way_of_joining_until_its_very_end(suite: Suite, way: Any, by_address: bool) -> None:
    workspace = await new_workspace(suite)
    eve = await suite.person("Eve")
    subject: dict[str, Any] = {"email": eve.email.upper()} if by_address else {"user_id": eve.user_id}
    banned = await ban(workspace, until=datetime.now(UTC) + timedelta(hours=1), **subject)
    # While no ban holds: one that is set revokes what was sent before, and an address that is banned is sent nothing.
    end_ban(suite, banned.ban_id, hours=0)
    enter = await way(workspace, eve)
    end_ban(suite, banned.ban_id, hours=1)

    refusal = await refused(enter())

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "BANNED")
    assert (await workspace.check({"user_id": eve.user_id}))[0].member_id == ""
    end_ban(suite, banned.ban_id, hours=0)
    await enter()


async def test_a_ban_without_an_end_holds_until_it_is_lifted(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    eve = await suite.person("Eve")
    banned = await ban(workspace, user_id=eve.user_id)
    token = await workspace.invite(eve.email)
    assert (await refused(workspace.accept(eve, token))).reason == "BANNED"
    assert not banned.HasField("expire_time")

    await unban(workspace, banned.ban_id)

    assert (await workspace.accept(eve, token)).member.user_id == eve.user_id
    assert (await refused(unban(workspace, banned.ban_id))).reason == "NOT_FOUND"


@pytest.mark.parametrize("by_member_id", [True, False])
async def test_banning_a_member_ends_their_stay_and_raises_the_revision(suite: Suite, by_member_id: bool) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    member_id = await workspace.join(bob)
    before = await workspace.revision()

    subject: dict[str, Any] = {"member_id": member_id} if by_member_id else {"user_id": bob.user_id}
    banned = await ban(workspace, **subject)

    assert (banned.user_id, banned.user_name, banned.email) == (bob.user_id, "Bob", "")
    assert banned.banned_by_member_id == workspace.admin_member_id
    assert (await refused(workspace.page(bob))).reason == "NOT_FOUND"
    assert await workspace.revision() == before + 1
    assert (await refused(add(workspace, bob))).reason == "BANNED"


async def test_banning_who_is_no_member_leaves_the_revision_alone(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    before = await workspace.revision()

    await ban(workspace, user_id=str(uuid.uuid4()))
    await ban(workspace, email="somebody@example.com")

    assert await workspace.revision() == before


async def test_a_ban_of_an_address_leaves_a_member_who_owns_it_where_they_are(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    member_id = await workspace.join(bob)

    await ban(workspace, email=bob.email)

    assert member_id in await workspace.member_ids(bob)
    assert (await add(workspace, bob)).member_id == member_id


async def test_a_ban_revokes_what_was_sent_to_them_and_by_them(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, cy, eve = await somebody(suite, "Bob"), await somebody(suite, "Cy"), await suite.person("Eve")
    bob_id = await workspace.join(bob, members.ROLE_ADMIN)
    of_bob, to_eve = await workspace.invite(cy.email, by=bob), await workspace.invite(eve.email)

    await ban(workspace, member_id=bob_id)
    lifted = await ban(workspace, user_id=eve.user_id)
    await unban(workspace, lifted.ban_id)

    assert (await refused(workspace.accept(cy, of_bob))).reason == "INVITATION_INVALID"
    assert (await refused(workspace.accept(eve, to_eve))).reason == "INVITATION_INVALID"


async def test_a_pending_guest_who_is_banned_is_not_confirmed(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil = await somebody(suite, "Gil")
    pending = await workspace.add_guest(gil)

    await ban(workspace, user_id=gil.user_id)

    assert (await refused(workspace.confirm_guest(pending.member_id))).reason == "NOT_FOUND"


async def test_rank_decides_who_is_banned(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, cy = await somebody(suite, "Bob"), await somebody(suite, "Cy")
    bob_id, cy_id = await workspace.join(bob, members.ROLE_ADMIN), await workspace.join(cy)

    assert (await refused(ban(workspace, member_id=workspace.admin_member_id))).reason == "RANK_TOO_LOW"
    assert (await refused(ban(workspace, member_id=cy_id, by=cy))).reason == "PERMISSION_DENIED"
    assert (await refused(ban(workspace, member_id=str(uuid.uuid4())))).reason == "NOT_FOUND"
    stranger = await somebody(suite, "Eve")
    assert (await refused(ban(workspace, member_id=cy_id, by=stranger))).reason == "NOT_FOUND"
    await ban(workspace, member_id=cy_id, by=bob)
    await ban(workspace, member_id=bob_id)


async def test_an_end_that_is_past_is_refused_by_the_databases_clock(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    with suite.database("membership") as database:
        row = database.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    subject: dict[str, Any] = {"user_id": str(uuid.uuid4())}

    for until in (PAST, row[0]):
        refusal = await refused(ban(workspace, until=until, **subject))
        assert (refusal.code, list(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["expire_time"])
    assert not (await listed(workspace)).bans
    assert (await ban(workspace, until=row[0] + timedelta(minutes=1), **subject)).HasField("expire_time")


async def test_a_time_that_no_calendar_has_is_refused(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    stub = suite.stub(member_rpc.MemberServiceStub)
    request = members.BanMemberRequest(
        workspace_id=workspace.id, user_id=str(uuid.uuid4()), expire_time=Timestamp(seconds=10**15)
    )
    refusal = await refused(workspace.admin.call(stub.BanMember, request))
    assert (refusal.code, list(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["expire_time"])


async def test_a_second_ban_of_the_same_replaces_reason_and_end(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    eve = str(uuid.uuid4())
    later = datetime.now(UTC) + timedelta(days=1)
    first = await ban(workspace, user_id=eve, reason="spam", until=later)
    of_address = await ban(workspace, email="Eve@Example.com")

    second = await ban(workspace, user_id=eve, reason="worse")
    again = await ban(workspace, email="eve@example.COM", reason="spam")

    assert (second.ban_id, second.reason, second.HasField("expire_time")) == (first.ban_id, "worse", False)
    assert (again.ban_id, again.email) == (of_address.ban_id, "eve@example.COM")
    assert len((await listed(workspace)).bans) == 2


async def test_bans_are_listed_page_by_page_newest_first_for_those_who_ban(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    await workspace.join(bob)
    made = [(await ban(workspace, user_id=str(uuid.uuid4()))).ban_id for _ in range(3)]
    ended = await ban(workspace, user_id=str(uuid.uuid4()), until=datetime.now(UTC) + timedelta(hours=1))
    end_ban(suite, ended.ban_id, hours=0)

    first = await listed(workspace, page_size=2)
    second = await listed(workspace, page_size=2, page_token=first.next_page_token)

    assert [each.ban_id for each in (*first.bans, *second.bans)] == made[::-1]
    assert not second.next_page_token
    assert (await refused(listed(workspace, by=bob))).reason == "PERMISSION_DENIED"
    assert (await refused(listed(workspace, by=await somebody(suite, "Eve")))).reason == "NOT_FOUND"
    assert (await refused(unban(workspace, ended.ban_id))).reason == "NOT_FOUND"


async def test_a_ban_of_another_workspace_is_not_lifted(suite: Suite) -> None:
    workspace, other = await new_workspace(suite), await new_workspace(suite)
    banned = await ban(other, user_id=str(uuid.uuid4()))

    hidden = await refused(unban(workspace, banned.ban_id))

    assert hidden.raw == (await refused(unban(workspace, str(uuid.uuid4())))).raw
    await unban(other, banned.ban_id)


async def test_the_same_key_bans_once(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    member_id, key = await workspace.join(bob), str(uuid.uuid4())
    first = await ban(workspace, member_id=member_id, request_id=key)
    revision = await workspace.revision()

    assert await ban(workspace, member_id=member_id, request_id=key) == first
    assert await workspace.revision() == revision


async def test_the_log_of_a_banned_address_does_not_name_it(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    await ban(workspace, email="secret.address@example.com")
    with suite.database("membership_owner") as database:
        rows = database.execute(
            "SELECT row_to_json(a)::text || coalesce(string_agg(row_to_json(d)::text, ''), '')"
            " FROM activities a LEFT JOIN activity_details d USING (workspace_id, number)"
            " WHERE workspace_id = %s AND action = 'member.banned' GROUP BY a.*",
            (workspace.id,),
        ).fetchall()
    assert len(rows) == 1
    assert "secret.address" not in rows[0][0]


async def test_a_ban_names_only_who_was_a_member(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, eve = await somebody(suite, "Bob"), await somebody(suite, "Eve")
    await workspace.join(bob)

    bans = [await ban(workspace, user_id=person.user_id) for person in (bob, eve)]
    again = await ban(workspace, user_id=bob.user_id, reason="again")

    expected = {bob.user_id: ("Bob", True), eve.user_id: ("", False)}
    for told in ([again, bans[1]], bans, (await listed(workspace)).bans):
        assert {each.user_id: (each.user_name, each.was_member) for each in told} == expected
