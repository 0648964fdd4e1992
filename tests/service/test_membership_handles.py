"""Handles: one namespace per workspace, and what becomes of one that is given up."""

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as member_rpc

from services.membership import handles
from services.membership.tasks import forget
from tests.service.test_membership_user_groups import UserGroups, add_guest, new_user_groups, set_state
from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.suite import Person, Suite, refused


async def name_oneself(workspace: Workspace, person: Person, member_id: str, handle: str) -> str:
    """Has a member take a handle, or give theirs up; returns the one that they have then."""
    stub = workspace.suite.stub(member_rpc.MemberServiceStub)
    member = members.Member(workspace_id=workspace.id, member_id=member_id, handle=handle)
    request = members.UpdateMemberRequest(member=member, update_mask=FieldMask(paths=["handle"]))
    return str((await person.call(stub.UpdateMember, request)).member.handle)


async def joined(workspace: Workspace, name: str, handle: str = "") -> tuple[Person, str]:
    """Somebody who is a member, and their member id."""
    person = await somebody(workspace.suite, name)
    member_id = await workspace.join(person)
    if handle:
        await name_oneself(workspace, person, member_id, handle)
    return person, member_id


async def handle_of(workspace: Workspace, member_id: str) -> str:
    listed = (await workspace.page(workspace.admin)).members
    return str(next(member.handle for member in listed if member.member_id == member_id))


def age(workspace: Workspace, handle: str, age: str) -> None:
    """Moves the time at which a handle was given up."""
    with workspace.suite.database("membership") as database:
        moved = database.execute(
            "UPDATE handles SET released_at = statement_timestamp() - CAST(%s AS interval)"
            " WHERE workspace_id = %s AND handle = %s AND released_at IS NOT NULL",
            (age, workspace.id, handle),
        )
        assert moved.rowcount == 1


async def test_people_and_user_groups_share_one_namespace_whatever_the_case(suite: Suite) -> None:
    groups = await new_user_groups(suite)
    bob, bob_id = await joined(groups.workspace, "Bob", "Bob.the-1_st")
    await groups.create("Design")

    assert await handle_of(groups.workspace, bob_id) == "bob.the-1_st"
    for call in (groups.create("BOB.the-1_ST"), name_oneself(groups.workspace, bob, bob_id, "DESIGN")):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "HANDLE_TAKEN")
    assert await handle_of(groups.workspace, bob_id) == "bob.the-1_st"

    elsewhere = UserGroups(await new_workspace(suite))
    assert (await elsewhere.create("bob.the-1_st")).handle == "bob.the-1_st"


@pytest.mark.parametrize("handle", ["here", "Channel", "EVERYONE", "all"])
async def test_what_addresses_everybody_is_nobodys_handle(suite: Suite, handle: str) -> None:
    groups = await new_user_groups(suite)
    bob, bob_id = await joined(groups.workspace, "Bob")

    refusal = await refused(groups.create(handle))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "HANDLE_RESERVED")
    assert list(refusal.fields) == ["handle"]
    refusal = await refused(name_oneself(groups.workspace, bob, bob_id, handle))
    assert (refusal.reason, list(refusal.fields)) == ("HANDLE_RESERVED", ["member.handle"])
    refusal = await refused(groups.update(await groups.create(f"{handle}-1"), handle=handle))
    assert (refusal.reason, list(refusal.fields)) == ("HANDLE_RESERVED", ["user_group.handle"])


@pytest.mark.parametrize("handle", ["a", "a" * 33, "a b", "@ab", "äb", "a/b", "\u212aab"])
async def test_what_has_not_the_form_of_a_handle_is_refused(suite: Suite, handle: str) -> None:
    groups = await new_user_groups(suite)

    assert list((await refused(groups.create(handle))).fields) == ["handle"]
    assert (await groups.create("ab")).handle == "ab"


async def test_a_handle_that_was_given_up_is_kept_for_who_had_it(suite: Suite) -> None:
    groups = await new_user_groups(suite)
    workspace = groups.workspace
    (bob, bob_id), (cy, cy_id) = await joined(workspace, "Bob", "first"), await joined(workspace, "Cy")

    assert await name_oneself(workspace, bob, bob_id, "second") == "second"
    assert (await refused(name_oneself(workspace, cy, cy_id, "first"))).reason == "HANDLE_TAKEN"
    assert (await refused(groups.create("first"))).reason == "HANDLE_TAKEN"
    assert await name_oneself(workspace, bob, bob_id, "FIRST") == "first"
    assert await name_oneself(workspace, bob, bob_id, "first") == "first"
    assert await name_oneself(workspace, bob, bob_id, "") == ""
    assert (await refused(name_oneself(workspace, cy, cy_id, "second"))).reason == "HANDLE_TAKEN"
    assert await name_oneself(workspace, bob, bob_id, "second") == "second"


async def test_a_handle_is_free_thirty_days_after_it_was_given_up_and_not_before(suite: Suite) -> None:
    groups = await new_user_groups(suite)
    workspace = groups.workspace
    (bob, bob_id), (cy, cy_id) = await joined(workspace, "Bob", "first"), await joined(workspace, "Cy")
    await name_oneself(workspace, bob, bob_id, "")

    age(workspace, "first", "29 days 23:59:30")
    assert (await refused(name_oneself(workspace, cy, cy_id, "first"))).reason == "HANDLE_TAKEN"
    age(workspace, "first", "30 days")
    assert await name_oneself(workspace, cy, cy_id, "first") == "first"
    assert (await refused(name_oneself(workspace, bob, bob_id, "first"))).reason == "HANDLE_TAKEN"


@pytest.mark.parametrize(("past", "taken"), [(-1, True), (0, False), (1, False)])
async def test_the_thirty_days_are_over_at_their_instant(suite: Suite, past: int, taken: bool) -> None:
    """To the microsecond: the comparison of the statement itself, with its clock held still."""
    still = "TIMESTAMPTZ '2026-01-31 00:00:00+00'"
    condition = "handles.released_at + interval '30 days'"
    assert f"statement_timestamp() >= {condition}" in str(handles.TAKE)
    with suite.database("membership") as database:
        (is_free,) = database.execute(
            f"SELECT {still} >= {condition} FROM (SELECT {still} - interval '30 days'"
            " - %s * interval '1 microsecond' AS released_at) AS handles",
            (past,),
        ).fetchone() or (None,)
    assert is_free is not taken


async def test_a_user_groups_handle_is_nobodys_for_thirty_days(suite: Suite) -> None:
    groups = await new_user_groups(suite)
    made = await groups.create("first")
    await groups.update(made, handle="second")
    await groups.delete(made)

    for handle in ("first", "second"):
        assert (await refused(groups.create(handle))).reason == "HANDLE_TAKEN"
        age(groups.workspace, handle, "30 days")
        assert (await groups.create(handle)).handle == handle


async def test_who_comes_back_gets_their_handle_back_and_nobody_else_does(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, bob_id = await joined(workspace, "Bob", "older")
    await name_oneself(workspace, bob, bob_id, "newer")
    cy, cy_id = await joined(workspace, "Cy")
    await workspace.remove(bob_id)

    assert (await refused(name_oneself(workspace, cy, cy_id, "newer"))).reason == "HANDLE_TAKEN"
    answer = await workspace.accept(bob, await workspace.invite(bob.email))
    assert (answer.member.handle, answer.member.member_id != bob_id) == ("newer", True)
    assert await handle_of(workspace, cy_id) == ""
    assert await name_oneself(workspace, bob, answer.member.member_id, "older") == "older"


async def test_who_comes_back_after_thirty_days_finds_it_free_or_gone(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, bob_id = await joined(workspace, "Bob", "first")
    await workspace.remove(bob_id)
    age(workspace, "first", "30 days")

    again = await workspace.join(bob)

    assert await handle_of(workspace, again) == ""
    assert await name_oneself(workspace, bob, again, "first") == "first"


async def test_a_forgotten_persons_handle_is_kept_for_nobody(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, bob_id = await joined(workspace, "Bob", "first")
    await name_oneself(workspace, bob, bob_id, "")

    await suite.frames["membership"].database.transaction(lambda tx: handles.forget(tx, bob.user_id))

    assert (await refused(name_oneself(workspace, bob, bob_id, "first"))).reason == "HANDLE_TAKEN"
    age(workspace, "first", "30 days")
    assert await name_oneself(workspace, bob, bob_id, "first") == "first"


@pytest.mark.parametrize(("days", "is_kept"), [("29 days 23 hours", True), ("30 days", False)])
async def test_what_nobody_has_any_more_is_forgotten_after_thirty_days(suite: Suite, days: str, is_kept: bool) -> None:
    workspace = await new_workspace(suite)
    bob, bob_id = await joined(workspace, "Bob", "first")
    await name_oneself(workspace, bob, bob_id, "second")
    age(workspace, "first", days)

    await forget(suite.frames["membership"].database)

    with suite.database("membership") as database:
        rows = database.execute("SELECT handle FROM handles WHERE workspace_id = %s", (workspace.id,)).fetchall()
    assert {handle for (handle,) in rows} == ({"first", "second"} if is_kept else {"second"})


async def test_of_sixteen_who_want_the_same_handle_one_gets_it(suite: Suite) -> None:
    groups = await new_user_groups(suite)

    results = await asyncio.gather(
        *(groups.create("wanted", name=f"Group {number}") for number in range(16)), return_exceptions=True
    )

    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert [group.handle for group in (await groups.listed()).user_groups] == ["wanted"]


def members_of(expanded: Any) -> list[tuple[str, str]]:
    return [(member.member_id, member.user_id) for member in expanded.members]


async def test_handles_stand_for_active_members_in_the_order_asked(suite: Suite) -> None:
    groups = await new_user_groups(suite)
    workspace = groups.workspace
    (bob, bob_id), (cy, cy_id) = await joined(workspace, "Bob", "bob"), await joined(workspace, "Cy", "cy")
    both, nobody = await groups.create("both"), await groups.create("nobody")
    await groups.set(both, bob_id, cy_id)
    await name_oneself(workspace, cy, cy_id, "cyrus")

    expanded = await groups.expand("unknown", "BOTH", "bob", "cy", "Cyrus", "nobody", "bob", "@bob", "")

    everybody = sorted([(bob_id, bob.user_id), (cy_id, cy.user_id)])
    assert [(each.handle, each.user_group_id, members_of(each)) for each in expanded] == [
        ("unknown", "", []),
        ("BOTH", both.user_group_id, everybody),
        ("bob", "", [(bob_id, bob.user_id)]),
        ("cy", "", []),
        ("Cyrus", "", [(cy_id, cy.user_id)]),
        ("nobody", nobody.user_group_id, []),
        ("bob", "", [(bob_id, bob.user_id)]),
        ("@bob", "", []),
        ("", "", []),
    ]
    set_state(workspace, bob_id, "suspended")
    assert [members_of(each) for each in await groups.expand("bob", "both")] == [[], [(cy_id, cy.user_id)]]
    assert not members_of((await UserGroups(await new_workspace(suite)).expand("both"))[0])


async def test_in_a_workspace_that_has_ended_handles_stand_for_nobody(suite: Suite) -> None:
    groups = await new_user_groups(suite)
    await joined(groups.workspace, "Bob", "bob")
    assert members_of((await groups.expand("bob"))[0])

    with suite.database("membership") as database:
        end = "UPDATE workspaces SET deleted_at = statement_timestamp() WHERE id = %s"
        database.execute(end, (groups.workspace.id,))

    assert not members_of((await groups.expand("bob"))[0])


async def test_only_messaging_is_told_whom_handles_stand_for(suite: Suite) -> None:
    from guildhall.membership.v1 import user_group_service_pb2 as pb
    from guildhall.membership.v1 import user_group_service_pb2_grpc as rpc

    request = pb.ExpandHandlesRequest(workspace_id=str(uuid.uuid4()), handles=["bob"])
    for certificate in ("gateway", "guest", "identity"):
        stub = suite.stub(rpc.UserGroupServiceStub, certificate=certificate)
        assert (await refused(stub.ExpandHandles(request, timeout=10))).code == grpc.StatusCode.PERMISSION_DENIED
    stub = suite.stub(rpc.UserGroupServiceStub, certificate="messaging")
    assert len((await stub.ExpandHandles(request, timeout=10)).expanded) == 1


async def test_a_guest_has_no_handle_and_gets_none_back(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil, member_id = await joined(workspace, "Gil", "gil")
    await workspace.remove(member_id)

    guest_id = await add_guest(workspace, gil)

    assert await handle_of(workspace, guest_id) == ""
    assert (await refused(name_oneself(workspace, gil, guest_id, "gil"))).reason == "PERMISSION_DENIED"


async def test_who_keeps_changing_theirs_is_stopped_until_one_is_no_longer_kept_for_them(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, bob_id = await joined(workspace, "Bob", "bob0")
    for number in range(1, handles.MOST_KEPT + 1):
        await name_oneself(workspace, bob, bob_id, f"bob{number}")

    refusal = await refused(name_oneself(workspace, bob, bob_id, "bob6"))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
    assert (refusal.metadata["limit"], refusal.metadata["most"]) == ("handle_changes", "5")
    assert await handle_of(workspace, bob_id) == "bob5"
    assert await name_oneself(workspace, bob, bob_id, "bob5") == "bob5"
    # Back and forth takes nothing from anybody.
    assert await name_oneself(workspace, bob, bob_id, "bob3") == "bob3"
    assert (await refused(name_oneself(workspace, bob, bob_id, "bob6"))).reason == "LIMIT_REACHED"
    _cy, cy_id = await joined(workspace, "Cy", "cy")
    assert await handle_of(workspace, cy_id) == "cy"
    age(workspace, "bob0", "30 days")
    assert await name_oneself(workspace, bob, bob_id, "bob6") == "bob6"
