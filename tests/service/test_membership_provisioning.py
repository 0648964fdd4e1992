"""Members who are added by a service account."""

import uuid

import grpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as member_rpc

from tests.service.test_membership_bans import add
from tests.service.test_membership_continuity import is_archived
from tests.service.test_membership_members import guest_in
from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.accounts import service_account
from tests.support.suite import Person, Suite, refused


async def test_a_service_account_adds_a_member_once(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    before = await workspace.revision()

    added = await add(workspace, bob, members.ROLE_VIEWER)
    again = await add(workspace, bob, members.ROLE_ADMIN)

    assert added == again
    assert (added.name, added.role, added.inviter_member_id) == ("Bob", members.ROLE_VIEWER, "")
    assert await workspace.member_ids(bob) == [workspace.admin_member_id, added.member_id]
    assert await workspace.revision() == before
    with suite.database("membership") as database:
        row = database.execute(
            "SELECT actor_ref, actor_account_id IS NOT NULL, metadata FROM activities"
            " WHERE workspace_id = %s AND action = 'member.joined' ORDER BY number DESC LIMIT 1",
            (workspace.id,),
        ).fetchone()
    assert row == (None, True, {"way": "added", "after": {"role": "viewer"}})


async def test_adding_finds_neither_unknown_people_nor_workspaces(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    nobody = Person(str(uuid.uuid4()), "", "", "", "", "")
    nowhere = Workspace(suite, workspace.admin, str(uuid.uuid4()), "")

    assert (await refused(add(workspace, nobody))).reason == "NOT_FOUND"
    assert (await refused(add(nowhere, bob))).reason == "NOT_FOUND"


async def test_only_a_service_account_with_the_scope_and_the_workspace_adds(suite: Suite) -> None:
    workspace, other = await new_workspace(suite), await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    stub = suite.stub(member_rpc.MemberServiceStub)
    request = members.AddMemberRequest(workspace_id=workspace.id, user_id=bob.user_id, role=members.ROLE_MEMBER)
    bound = service_account(suite, "membership.members", workspace_ids=[other.id])

    for caller, reason in (
        (workspace.admin, "CALLER_NOT_ALLOWED"),
        (service_account(suite, "membership.activities"), "CALLER_NOT_ALLOWED"),
        (bound, "NOT_FOUND"),
    ):
        assert (await refused(caller.call(stub.AddMember, request))).reason == reason
    request.workspace_id = other.id
    await bound.call(stub.AddMember, request)


async def test_adding_makes_a_member_of_a_pending_guest_and_leaves_a_guest_a_guest(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil, pia = await somebody(suite, "Gil"), await somebody(suite, "Pia")
    gil_id, pending = await guest_in(workspace, gil), await workspace.add_guest(pia)

    guest, full = await add(workspace, gil), await add(workspace, pia)

    assert (guest.member_id, guest.kind) == (gil_id, members.MEMBER_KIND_GUEST)
    assert (full.member_id, full.kind) == (pending.member_id, members.MEMBER_KIND_FULL)


async def test_adding_stops_at_the_limit_of_members(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, cy = await somebody(suite, "Bob"), await somebody(suite, "Cy")
    with suite.database("membership") as database:
        database.execute(
            "INSERT INTO workspace_limits (workspace_id, name, value) VALUES (%s, 'members', 2)", (workspace.id,)
        )

    await add(workspace, bob)
    refusal = await refused(add(workspace, cy))

    assert (refusal.reason, refusal.metadata["limit"]) == ("LIMIT_REACHED", "members")
    await add(workspace, bob)


async def test_an_archived_workspace_is_brought_back_by_an_admin_and_by_nobody_of_a_lower_role(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, cy = await somebody(suite, "Bob"), await somebody(suite, "Cy")
    with suite.database("membership") as database:
        database.execute("DELETE FROM members WHERE workspace_id = %s", (workspace.id,))
        database.execute("UPDATE workspaces SET archived_at = statement_timestamp() WHERE id = %s", (workspace.id,))

    for role in (members.ROLE_MEMBER, members.ROLE_VIEWER):
        refusal = await refused(add(workspace, cy, role))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LAST_ADMIN")
    assert is_archived(suite, "workspaces", workspace.id)
    await add(workspace, bob, members.ROLE_ADMIN)

    assert not is_archived(suite, "workspaces", workspace.id)
    assert (await add(workspace, cy)).role == members.ROLE_MEMBER
