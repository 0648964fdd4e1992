"""Members: read, changed, suspended, added, leaving and coming back."""

import uuid
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as member_rpc
from guildhall.membership.v1 import user_group_service_pb2 as user_groups
from guildhall.membership.v1 import user_group_service_pb2_grpc as user_group_rpc

from tests.service.test_membership_bans import add
from tests.service.test_membership_continuity import actions_of, group_of, is_archived, leaves, put_in, suspends
from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.suite import Person, Suite, refused


async def get(workspace: Workspace, member_id: str, *, by: Person | None = None) -> Any:
    """What GetMember shows."""
    stub = workspace.suite.stub(member_rpc.MemberServiceStub)
    request = members.GetMemberRequest(workspace_id=workspace.id, member_id=member_id)
    return (await (by or workspace.admin).call(stub.GetMember, request)).member


async def update(
    workspace: Workspace, member_id: str, *, by: Person, mask: list[str] | None = None, **values: Any
) -> Any:
    """Has somebody change a member; the mask names what is given."""
    stub = workspace.suite.stub(member_rpc.MemberServiceStub)
    changed = members.Member(workspace_id=workspace.id, member_id=member_id, **values)
    paths = sorted(values.keys() - {"etag"}) if mask is None else mask
    request = members.UpdateMemberRequest(member=changed, update_mask=FieldMask(paths=paths))
    return (await by.call(stub.UpdateMember, request)).member


async def update_role(workspace: Workspace, member_id: str, role: Any, *, by: Person | None = None, **more: str) -> Any:
    """Has somebody give a member another role."""
    stub = workspace.suite.stub(member_rpc.MemberServiceStub)
    request = members.UpdateMemberRoleRequest(workspace_id=workspace.id, member_id=member_id, role=role, **more)
    return (await (by or workspace.admin).call(stub.UpdateMemberRole, request)).member


async def reinstate(workspace: Workspace, member_id: str, *, by: Person | None = None) -> Any:
    """Ends a suspension."""
    stub = workspace.suite.stub(member_rpc.MemberServiceStub)
    request = members.ReinstateMemberRequest(workspace_id=workspace.id, member_id=member_id)
    return (await (by or workspace.admin).call(stub.ReinstateMember, request)).member


async def guest_in(workspace: Workspace, person: Person) -> str:
    """Makes somebody a guest; returns the member id."""
    pending = await workspace.add_guest(person)
    return str((await workspace.confirm_guest(pending.member_id)).member_id)


async def test_a_member_sees_every_other_one_with_their_name(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    bob_id = await workspace.join(bob)

    seen = await get(workspace, workspace.admin_member_id, by=bob)
    own = await get(workspace, bob_id, by=bob)

    assert (seen.name, seen.role, seen.user_id) == ("Admin", members.ROLE_ADMIN, workspace.admin.user_id)
    assert (own.inviter_member_id, bool(own.invitation_id)) == (workspace.admin_member_id, True)
    assert own.etag
    assert own.HasField("update_time")


async def test_who_is_hidden_and_who_is_unknown_give_the_same_bytes(suite: Suite) -> None:
    workspace, other = await new_workspace(suite), await new_workspace(suite)
    gil, eve = await somebody(suite, "Gil"), await somebody(suite, "Eve")
    gil_id = await guest_in(workspace, gil)
    unknown = (await refused(get(workspace, str(uuid.uuid4())))).raw

    assert (await get(workspace, gil_id, by=gil)).member_id == gil_id
    assert (await refused(get(workspace, workspace.admin_member_id, by=gil))).raw == unknown
    assert (await refused(get(workspace, other.admin_member_id))).raw == unknown
    assert (await refused(get(workspace, gil_id, by=eve))).raw == unknown


async def test_members_change_their_own_handle_and_title(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    bob_id = await workspace.join(bob)

    changed = await update(workspace, bob_id, by=bob, handle="Bob.The-Builder", title="Builder")
    assert (changed.handle, changed.title, changed.name) == ("bob.the-builder", "Builder", "Bob")
    only_title = await update(workspace, bob_id, by=bob, mask=["title"], handle="ignored", title="Architect")
    assert (only_title.handle, only_title.title) == ("bob.the-builder", "Architect")
    without = await update(workspace, bob_id, by=bob, handle="")

    assert (without.handle, without.title) == ("", "Architect")
    assert await get(workspace, bob_id) == without


async def test_admins_change_others_and_members_do_not(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, cy = await somebody(suite, "Bob"), await somebody(suite, "Cy")
    bob_id, cy_id = await workspace.join(bob), await workspace.join(cy)

    assert (await update(workspace, bob_id, by=workspace.admin, title="Builder")).title == "Builder"
    assert (await refused(update(workspace, bob_id, by=cy, title="Fool"))).reason == "PERMISSION_DENIED"
    assert (await refused(update(workspace, str(uuid.uuid4()), by=cy, title="Fool"))).reason == "NOT_FOUND"
    assert (await refused(update(workspace, cy_id, by=await somebody(suite, "Eve"), title="x"))).reason == "NOT_FOUND"
    assert (await get(workspace, bob_id)).title == "Builder"


async def test_guests_have_titles_and_no_handles(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil = await somebody(suite, "Gil")
    gil_id = await guest_in(workspace, gil)

    assert (await update(workspace, gil_id, by=gil, title="Auditor")).title == "Auditor"
    assert (await refused(update(workspace, gil_id, by=gil, handle="gil"))).reason == "PERMISSION_DENIED"
    assert (await refused(update(workspace, gil_id, by=workspace.admin, handle="gil"))).reason == "PERMISSION_DENIED"
    refusal = await refused(update(workspace, workspace.admin_member_id, by=gil, title="x"))
    assert refusal.reason == "NOT_FOUND"


@pytest.mark.parametrize("mask", [[], ["*"], ["name"], ["role"], ["title", "user_id"], ["title.x"]])
async def test_a_mask_names_what_can_change_and_nothing_else(suite: Suite, mask: list[str]) -> None:
    workspace = await new_workspace(suite)
    refusal = await refused(
        update(workspace, workspace.admin_member_id, by=workspace.admin, mask=mask, title="Head", name="Mallory")
    )
    assert (refusal.code, list(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["update_mask"])
    assert (await get(workspace, workspace.admin_member_id)).title == ""


async def test_an_etag_is_good_once(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob_id = await workspace.join(await somebody(suite, "Bob"))
    etag = (await get(workspace, bob_id)).etag

    await update(workspace, bob_id, by=workspace.admin, title="Builder", etag=etag)
    refusal = await refused(update(workspace, bob_id, by=workspace.admin, title="Fool", etag=etag))
    of_role = await refused(update_role(workspace, bob_id, members.ROLE_VIEWER, etag=etag))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert of_role.reason == "ETAG_MISMATCH"
    now = await get(workspace, bob_id)
    assert (now.title, now.role) == ("Builder", members.ROLE_MEMBER)
    await update_role(workspace, bob_id, members.ROLE_VIEWER, etag=now.etag)


async def test_handle_and_title_stand_beside_the_log_and_not_in_it(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    await update(workspace, workspace.admin_member_id, by=workspace.admin, handle="boss-lady", title="Boss Lady")
    with suite.database("membership_owner") as database:
        row = database.execute(
            "SELECT row_to_json(a)::text, d.body FROM activities a JOIN activity_details d USING (workspace_id, number)"
            " WHERE workspace_id = %s AND action = 'member.updated' AND about = 'target'",
            (workspace.id,),
        ).fetchone()
    assert row is not None
    assert "boss" not in row[0].lower()
    assert row[1]["personal"] == {
        "before": {"handle": "", "title": ""},
        "after": {"handle": "boss-lady", "title": "Boss Lady"},
    }


@pytest.mark.parametrize(
    ("actor", "target", "role", "reason"),
    [
        ("admin", "viewer", members.ROLE_ADMIN, ""),
        ("admin", "admin", members.ROLE_VIEWER, ""),
        ("admin", "member", members.ROLE_VIEWER, ""),
        ("admin", "self", members.ROLE_MEMBER, "RANK_TOO_LOW"),
        ("admin", "guest", members.ROLE_MEMBER, "GUESTS_EXCLUDED"),
        ("member", "viewer", members.ROLE_MEMBER, "PERMISSION_DENIED"),
        ("viewer", "member", members.ROLE_VIEWER, "PERMISSION_DENIED"),
    ],
)
async def test_who_gives_whom_which_role(suite: Suite, actor: str, target: str, role: Any, reason: str) -> None:
    workspace = await new_workspace(suite)
    caller, caller_id = workspace.admin, workspace.admin_member_id
    if actor != "admin":
        caller = await somebody(suite, "Bob")
        caller_id = await put_in(workspace, actor, user_id=caller.user_id)
    if target == "guest":
        target_id = await guest_in(workspace, await somebody(suite, "Gil"))
    else:
        target_id = caller_id if target == "self" else await put_in(workspace, target)
    before = await workspace.revision()

    if reason:
        assert (await refused(update_role(workspace, target_id, role, by=caller))).reason == reason
        assert await workspace.revision() == before
        return
    changed = await update_role(workspace, target_id, role, by=caller)

    lowered = target in ("admin", "member")
    assert changed.role == role
    assert await workspace.revision() == before + lowered
    assert (await workspace.check({"member_id": target_id}))[0].role == role


async def test_the_same_role_again_changes_nothing(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob_id = await workspace.join(await somebody(suite, "Bob"))
    before = await get(workspace, bob_id)

    assert await update_role(workspace, bob_id, members.ROLE_MEMBER) == before


async def test_a_suspended_member_finds_nothing_and_is_seen_by_those_who_suspend(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, cy = await somebody(suite, "Bob"), await somebody(suite, "Cy")
    bob_id, _ = await workspace.join(bob), await workspace.join(cy)
    before = await workspace.revision()

    suspended = (await suspends(workspace, workspace.admin, bob_id)).member
    again = (await suspends(workspace, workspace.admin, bob_id)).member

    assert suspended == again
    assert (suspended.state, suspended.HasField("suspend_time")) == (members.MEMBER_STATE_SUSPENDED, True)
    assert await workspace.revision() == before + 1
    assert (await refused(workspace.page(bob))).reason == "NOT_FOUND"
    assert (await workspace.check({"user_id": bob.user_id}))[0].member_id == ""
    assert bob_id not in await workspace.member_ids(workspace.admin)
    only = await workspace.page(workspace.admin, state=members.MEMBER_STATE_SUSPENDED)
    assert [each.member_id for each in only.members] == [bob_id]
    denied = await refused(workspace.page(cy, state=members.MEMBER_STATE_SUSPENDED))
    assert denied.reason == "PERMISSION_DENIED"
    assert (await get(workspace, bob_id)).member_id == bob_id
    assert (await refused(get(workspace, bob_id, by=cy))).reason == "NOT_FOUND"
    assert (await refused(workspace.page(workspace.admin, state=members.MEMBER_STATE_PENDING))).code == (
        grpc.StatusCode.INVALID_ARGUMENT
    )


async def test_who_is_reinstated_is_as_they_were(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    bob_id = await workspace.join(bob, members.ROLE_ADMIN)
    before = await update(workspace, bob_id, by=bob, handle="bob", title="Builder")
    await suspends(workspace, workspace.admin, bob_id)
    revision = await workspace.revision()

    await reinstate(workspace, bob_id)
    back = await reinstate(workspace, bob_id)

    assert (back.member_id, back.role, back.handle, back.title) == (bob_id, before.role, "bob", "Builder")
    assert (back.state, back.HasField("suspend_time")) == (members.MEMBER_STATE_ACTIVE, False)
    assert await workspace.revision() == revision
    assert bob_id in await workspace.member_ids(bob)


async def test_rank_decides_who_suspends_and_reinstates(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    bob_id = await workspace.join(bob)
    admin = await put_in(workspace, "admin")

    own = await refused(suspends(workspace, workspace.admin, workspace.admin_member_id))
    assert (own.code, own.reason) == (grpc.StatusCode.PERMISSION_DENIED, "RANK_TOO_LOW")
    assert (await refused(suspends(workspace, bob, admin))).reason == "PERMISSION_DENIED"
    assert (await refused(reinstate(workspace, bob_id, by=bob))).reason == "PERMISSION_DENIED"
    assert (await refused(suspends(workspace, workspace.admin, str(uuid.uuid4())))).reason == "NOT_FOUND"
    await suspends(workspace, workspace.admin, admin)
    await reinstate(workspace, admin)


async def test_a_suspended_member_joins_by_no_way_and_can_be_removed(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    bob_id = await workspace.join(bob)
    token = await workspace.invite(bob.email)
    await suspends(workspace, workspace.admin, bob_id)

    for refusal in (await refused(workspace.accept(bob, token)), await refused(add(workspace, bob))):
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MEMBER_SUSPENDED")
    await workspace.remove(bob_id)
    await workspace.accept(bob, token)


async def test_leaving_is_repeatable_and_final(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    await workspace.join(bob)
    before, key = await workspace.revision(), str(uuid.uuid4())
    stub = suite.stub(member_rpc.MemberServiceStub)
    request = members.LeaveWorkspaceRequest(workspace_id=workspace.id, request_id=key)

    await bob.call(stub.LeaveWorkspace, request)
    await bob.call(stub.LeaveWorkspace, request)

    assert await workspace.revision() == before + 1
    assert (await refused(leaves(workspace, bob, ""))).reason == "NOT_FOUND"
    assert (await refused(workspace.page(bob))).reason == "NOT_FOUND"
    assert actions_of(workspace)[-1] == "member.left"


async def test_a_guest_leaves_too(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil = await somebody(suite, "Gil")
    await guest_in(workspace, gil)

    await leaves(workspace, gil, "")

    assert (await refused(workspace.page(gil))).reason == "NOT_FOUND"


async def test_who_was_removed_and_comes_back_starts_with_nothing_but_their_handle(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    first = await workspace.join(bob, members.ROLE_ADMIN)
    await update(workspace, first, by=bob, handle="bob", title="Builder")
    group_id = group_of(workspace, (first, "owner"), (workspace.admin_member_id, "member"))
    stub = suite.stub(user_group_rpc.UserGroupServiceStub)
    made = await workspace.admin.call(
        stub.CreateUserGroup,
        user_groups.CreateUserGroupRequest(workspace_id=workspace.id, handle="night", name="Night shift"),
    )
    of_group = {"workspace_id": workspace.id, "user_group_id": made.user_group.user_group_id}
    await workspace.admin.call(
        stub.AddUserGroupMember, user_groups.AddUserGroupMemberRequest(**of_group, member_id=first)
    )
    await workspace.remove(first)

    second = await workspace.join(bob, members.ROLE_VIEWER)

    now = await get(workspace, second)
    assert second != first
    assert (now.role, now.title, now.handle) == (members.ROLE_VIEWER, "", "bob")
    with suite.database("membership") as database:
        for table in ("group_members", "user_group_members"):
            query = f"SELECT count(*) FROM {table} WHERE workspace_id = %s AND member_id = ANY(%s::uuid[])"
            assert database.execute(query, (workspace.id, [first, second])).fetchone() == (0,)
    assert not is_archived(suite, "groups", group_id)
