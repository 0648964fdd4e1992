"""User groups: sets of full members with a handle."""

import asyncio
import uuid
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import user_group_service_pb2 as pb
from guildhall.membership.v1 import user_group_service_pb2_grpc as rpc

from tests.service.test_membership_invitation_batches import lower_limit
from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.suite import Person, Suite, refused


@dataclass
class UserGroups:
    """The user groups of a workspace, as its admin deals with them."""

    workspace: Workspace

    def call(self, method: str, request: Any, by: Person | None = None) -> Any:
        stub = self.workspace.suite.stub(rpc.UserGroupServiceStub)
        return (by or self.workspace.admin).call(getattr(stub, method), request)

    async def create(self, handle: str, *, by: Person | None = None, **fields: str) -> pb.UserGroup:
        fields = {"name": "Designers", "workspace_id": self.workspace.id, **fields}
        answer = await self.call("CreateUserGroup", pb.CreateUserGroupRequest(handle=handle, **fields), by)  # type: ignore[arg-type]
        return answer.user_group  # type: ignore[no-any-return]

    async def get(self, group: pb.UserGroup, *, by: Person | None = None) -> Any:
        request = pb.GetUserGroupRequest(workspace_id=self.workspace.id, user_group_id=group.user_group_id)
        return await self.call("GetUserGroup", request, by)

    async def listed(self, *, by: Person | None = None, **page: Any) -> Any:
        return await self.call("ListUserGroups", pb.ListUserGroupsRequest(workspace_id=self.workspace.id, **page), by)

    async def update(self, group: pb.UserGroup, *paths: str, by: Person | None = None, **changes: str) -> pb.UserGroup:
        changed = pb.UserGroup()
        changed.CopyFrom(group)
        changed.ClearField("etag")
        for name, value in changes.items():
            setattr(changed, name, value)
        mask = FieldMask(paths=paths or [name for name in changes if name != "etag"])
        answer = await self.call("UpdateUserGroup", pb.UpdateUserGroupRequest(user_group=changed, update_mask=mask), by)
        return answer.user_group  # type: ignore[no-any-return]

    async def delete(self, group: pb.UserGroup, *, etag: str = "", by: Person | None = None) -> None:
        request = pb.DeleteUserGroupRequest(
            workspace_id=self.workspace.id, user_group_id=group.user_group_id, etag=etag
        )
        await self.call("DeleteUserGroup", request, by)

    async def add(self, group: pb.UserGroup, member_id: str, *, by: Person | None = None) -> pb.UserGroup:
        request = pb.AddUserGroupMemberRequest(
            workspace_id=self.workspace.id, user_group_id=group.user_group_id, member_id=member_id
        )
        return (await self.call("AddUserGroupMember", request, by)).user_group  # type: ignore[no-any-return]

    async def remove(self, group: pb.UserGroup, member_id: str, *, by: Person | None = None) -> pb.UserGroup:
        request = pb.RemoveUserGroupMemberRequest(
            workspace_id=self.workspace.id, user_group_id=group.user_group_id, member_id=member_id
        )
        return (await self.call("RemoveUserGroupMember", request, by)).user_group  # type: ignore[no-any-return]

    async def set(
        self, group: pb.UserGroup, *member_ids: str, etag: str = "", by: Person | None = None
    ) -> pb.UserGroup:
        request = pb.SetUserGroupMembersRequest(
            workspace_id=self.workspace.id, user_group_id=group.user_group_id, member_ids=member_ids, etag=etag
        )
        return (await self.call("SetUserGroupMembers", request, by)).user_group  # type: ignore[no-any-return]

    async def expand(self, *handles: str) -> Any:
        """What messaging is told."""
        stub = self.workspace.suite.stub(rpc.UserGroupServiceStub, certificate="messaging")
        request = pb.ExpandHandlesRequest(workspace_id=self.workspace.id, handles=handles)
        return (await stub.ExpandHandles(request, timeout=10)).expanded


async def new_user_groups(suite: Suite) -> UserGroups:
    return UserGroups(await new_workspace(suite))


async def add_guest(workspace: Workspace, person: Person) -> str:
    """A guest in force; returns the member id."""
    pending = await workspace.add_guest(person)
    return str((await workspace.confirm_guest(pending.member_id)).member_id)


def set_state(workspace: Workspace, member_id: str, state: str) -> None:
    statement = """UPDATE members SET state = %s,
        suspended_at = CASE WHEN %s = 'suspended' THEN statement_timestamp() END WHERE id = %s"""
    with workspace.suite.database("membership") as database:
        assert database.execute(statement.encode(), (state, state, member_id)).rowcount == 1


async def test_a_user_group_is_made_read_changed_and_removed(suite: Suite) -> None:
    groups = await new_user_groups(suite)

    made = await groups.create("Design", name="Designers", description="Who draws")
    assert (made.handle, made.name, made.description, made.member_count) == ("design", "Designers", "Who draws", 0)
    assert (await groups.get(made)).user_group == made

    changed = await groups.update(made, name="Draughtsmen", description="")
    assert (changed.name, changed.description, changed.handle) == ("Draughtsmen", "", "design")
    assert changed.etag != made.etag
    assert (await groups.get(made)).user_group == changed

    await groups.delete(made)
    unknown = await refused(groups.get(pb.UserGroup(user_group_id=str(uuid.uuid4()))))
    assert (await refused(groups.get(made))).raw == unknown.raw
    assert not (await groups.listed()).user_groups


async def test_making_one_again_with_the_same_key_makes_one(suite: Suite) -> None:
    groups, key = await new_user_groups(suite), str(uuid.uuid4())

    answers = await asyncio.gather(*(groups.create("design", request_id=key) for _ in range(4)))

    assert all(answer == answers[0] for answer in answers)
    assert len((await groups.listed()).user_groups) == 1


async def test_an_update_changes_what_the_mask_names_and_nothing_else(suite: Suite) -> None:
    groups = await new_user_groups(suite)
    made = await groups.create("design", description="Who draws")

    changed = await groups.update(made, "description", name="Other", description="New", handle="other")
    assert (changed.name, changed.description, changed.handle) == ("Designers", "New", "design")

    for path in ("*", "member_count", "user_group.name"):
        assert list((await refused(groups.update(made, path, name="Other"))).fields) == ["update_mask"]
    for path in ("name", "handle"):
        assert list((await refused(groups.update(made, path, **{path: ""}))).fields) == [f"user_group.{path}"]


async def test_a_change_based_on_what_has_changed_since_is_refused(suite: Suite) -> None:
    groups = await new_user_groups(suite)
    made = await groups.create("design")
    current = await groups.add(made, groups.workspace.admin_member_id)

    for late in (
        groups.update(made, name="Late", etag=made.etag),
        groups.set(made, etag=made.etag),
        groups.delete(made, etag=made.etag),
    ):
        refusal = await refused(late)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")

    current = await groups.update(made, name="In time", etag=current.etag)
    current = await groups.set(made, etag=current.etag)
    await groups.delete(made, etag=current.etag)


async def test_members_are_put_in_and_taken_out_as_often_as_asked(suite: Suite) -> None:
    groups = await new_user_groups(suite)
    bob_id = await groups.workspace.join(await somebody(suite, "Bob"))
    made = await groups.create("design")

    added = [await groups.add(made, bob_id) for _ in range(2)]
    assert added[0] == added[1]
    assert (added[0].member_count, (await groups.get(made)).member_ids) == (1, [bob_id])
    assert added[0].etag != made.etag

    removed = [await groups.remove(made, bob_id) for _ in range(2)]
    assert removed[0] == removed[1]
    assert (removed[0].member_count, list((await groups.get(made)).member_ids)) == (0, [])
    assert removed[0].etag not in (made.etag, added[0].etag)


async def test_all_members_are_set_at_once_or_none(suite: Suite) -> None:
    groups = await new_user_groups(suite)
    admin_id = groups.workspace.admin_member_id
    bob_id, cy_id = [await groups.workspace.join(await somebody(suite, name)) for name in ("Bob", "Cy")]
    made = await groups.create("design")

    first = await groups.set(made, bob_id.upper(), admin_id, bob_id)
    assert (first.member_count, list((await groups.get(made)).member_ids)) == (2, sorted([admin_id, bob_id]))
    assert (await groups.set(made, admin_id, bob_id)).etag == first.etag

    assert (await refused(groups.set(made, cy_id, str(uuid.uuid4())))).reason == "NOT_FOUND"
    assert (await groups.get(made)).user_group == first

    assert list((await groups.get(await groups.set(made, cy_id))).member_ids) == [cy_id]
    assert (await groups.set(made)).member_count == 0


async def test_guests_see_no_user_group_and_are_in_none(suite: Suite) -> None:
    groups = await new_user_groups(suite)
    gil, bob = await somebody(suite, "Gil"), await somebody(suite, "Bob")
    guest_id, bob_id = await add_guest(groups.workspace, gil), await groups.workspace.join(bob)
    made = await groups.create("design")

    for call in (groups.add(made, guest_id), groups.set(made, bob_id, guest_id)):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "GUESTS_EXCLUDED")
    assert (await groups.set(made, bob_id)).member_count == 1
    assert (await refused(groups.get(made, by=gil))).reason == "NOT_FOUND"
    assert (await refused(groups.listed(by=gil))).reason == "NOT_FOUND"
    assert (await groups.get(made, by=bob)).member_ids == [bob_id]
    assert len((await groups.listed(by=bob)).user_groups) == 1


@pytest.mark.parametrize("role", [members.ROLE_MEMBER, members.ROLE_VIEWER])
async def test_every_full_member_reads_and_only_admins_change(suite: Suite, role: Any) -> None:
    groups = await new_user_groups(suite)
    bob, eve = await somebody(suite, "Bob"), await somebody(suite, "Eve")
    bob_id = await groups.workspace.join(bob, role)
    made = await groups.create("design")

    assert (await groups.get(made, by=bob)).user_group == made
    for person, reason in ((bob, "PERMISSION_DENIED"), (eve, "NOT_FOUND")):
        for call in (
            groups.create("other", by=person),
            groups.update(made, name="Other", by=person),
            groups.delete(made, by=person),
            groups.add(made, bob_id, by=person),
            groups.remove(made, bob_id, by=person),
            groups.set(made, bob_id, by=person),
        ):
            assert (await refused(call)).reason == reason
    assert (await refused(groups.get(made, by=eve))).reason == "NOT_FOUND"
    assert (await refused(groups.listed(by=eve))).reason == "NOT_FOUND"
    assert (await groups.get(made)).user_group == made


async def test_the_list_is_in_order_page_by_page_and_by_member(suite: Suite) -> None:
    groups = await new_user_groups(suite)
    admin_id = groups.workspace.admin_member_id
    assert not (await groups.listed()).user_groups
    made = [await groups.create(f"group-{number}") for number in range(5)]
    mine = [await groups.add(made[number], admin_id) for number in (1, 3)]

    first = await groups.listed(page_size=3)
    second = await groups.listed(page_size=3, page_token=first.next_page_token)

    listed = [group.user_group_id for group in (*first.user_groups, *second.user_groups)]
    assert listed == [group.user_group_id for group in made]
    assert not second.next_page_token
    assert list((await groups.listed(member_id=admin_id)).user_groups) == mine
    assert not (await groups.listed(member_id=str(uuid.uuid4()))).user_groups
    wrong = await refused(groups.listed(member_id=admin_id, page_token=first.next_page_token))
    assert list(wrong.fields) == ["page_token"]


async def test_another_workspaces_user_groups_and_members_are_unknown(suite: Suite) -> None:
    groups, others = await new_user_groups(suite), await new_user_groups(suite)
    made, theirs = await groups.create("design"), await others.create("design")

    for call in (
        groups.get(theirs),
        groups.delete(theirs),
        groups.add(theirs, groups.workspace.admin_member_id),
        groups.add(made, others.workspace.admin_member_id),
        groups.set(made, others.workspace.admin_member_id),
    ):
        assert (await refused(call)).reason == "NOT_FOUND"
    assert (await others.get(theirs)).user_group == theirs
    assert (await groups.get(made)).user_group == made


async def test_who_leaves_the_workspace_leaves_its_user_groups(suite: Suite) -> None:
    groups = await new_user_groups(suite)
    bob = await somebody(suite, "Bob")
    bob_id = await groups.workspace.join(bob)
    made = await groups.create("design")
    await groups.add(made, bob_id)

    await groups.workspace.remove(bob_id)
    assert (await groups.get(made)).user_group.member_count == 0
    assert not (await groups.expand("design"))[0].members
    await groups.workspace.join(bob)
    assert (await groups.get(made)).user_group.member_count == 0


async def test_a_suspended_member_stays_in_it_and_is_not_mentioned(suite: Suite) -> None:
    groups = await new_user_groups(suite)
    bob_id, cy_id = [await groups.workspace.join(await somebody(suite, name)) for name in ("Bob", "Cy")]
    made = await groups.create("design")
    await groups.set(made, bob_id)
    set_state(groups.workspace, bob_id, "suspended")

    assert list((await groups.get(made)).member_ids) == [bob_id]
    assert not (await groups.expand("design"))[0].members
    assert (await groups.set(made, bob_id, cy_id)).member_count == 2
    assert (await groups.remove(made, bob_id)).member_count == 1
    assert (await refused(groups.add(made, bob_id))).reason == "NOT_FOUND"

    set_state(groups.workspace, bob_id, "active")
    assert (await groups.add(made, bob_id)).member_count == 2
    assert [each.member_id for each in (await groups.expand("design"))[0].members] == sorted([bob_id, cy_id])


async def test_there_is_room_for_so_many_user_groups_and_members_and_no_more(suite: Suite) -> None:
    groups = await new_user_groups(suite)
    admin_id, bob_id = groups.workspace.admin_member_id, await groups.workspace.join(await somebody(suite, "Bob"))
    lower_limit(groups.workspace, "user_groups", 1)
    lower_limit(groups.workspace, "user_group_members", 1)
    made = await groups.create("design")

    refusal = await refused(groups.create("other"))
    assert (refusal.reason, refusal.metadata["limit"]) == ("LIMIT_REACHED", "user_groups")
    await groups.add(made, admin_id)
    await groups.add(made, admin_id)
    for call in (groups.add(made, bob_id), groups.set(made, admin_id, bob_id)):
        refusal = await refused(call)
        assert (refusal.reason, refusal.metadata["limit"]) == ("LIMIT_REACHED", "user_group_members")
    assert list((await groups.get(await groups.set(made, bob_id))).member_ids) == [bob_id]


async def test_changes_are_logged_without_a_handle_or_a_members_id(suite: Suite) -> None:
    groups = await new_user_groups(suite)
    bob_id = await groups.workspace.join(await somebody(suite, "Bob"))
    made = await groups.create("telling")
    await groups.update(made, handle="telling-more")
    await groups.add(made, bob_id)
    await groups.remove(made, bob_id)
    await groups.set(made, bob_id)
    await groups.delete(made)

    with suite.database("membership") as database:
        rows = database.execute(
            "SELECT action, metadata::text, target_ref IS NOT NULL FROM activities"
            " WHERE workspace_id = %s AND target_id = %s ORDER BY number",
            (groups.workspace.id, made.user_group_id),
        ).fetchall()
    assert [(action.removeprefix("user_group."), names_person) for action, _, names_person in rows] == [
        ("created", False),
        ("updated", False),
        ("member_added", True),
        ("member_removed", True),
        ("members_set", False),
        ("deleted", False),
    ]
    assert not [text for _, text, _ in rows if "telling" in text or bob_id in text]


async def test_what_somebody_may_not_do_is_logged_as_tried(suite: Suite) -> None:
    groups = await new_user_groups(suite)
    bob = await somebody(suite, "Bob")
    await groups.workspace.join(bob)
    made = await groups.create("design")

    await refused(groups.delete(made, by=bob))

    with suite.database("membership") as database:
        rows = database.execute(
            "SELECT action, target_id::text FROM activities WHERE workspace_id = %s AND outcome = 'refused'",
            (groups.workspace.id,),
        ).fetchall()
    assert rows == [("user_group.deleted", made.user_group_id)]
    assert (await groups.get(made)).user_group == made
