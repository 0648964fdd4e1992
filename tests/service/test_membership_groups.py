"""Groups: sight, etags, ends, ownership; also how the other group tests get theirs."""

import uuid
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.membership.v1 import access_service_pb2_grpc as access_rpc
from guildhall.membership.v1 import group_ban_service_pb2 as bans
from guildhall.membership.v1 import group_ban_service_pb2_grpc as ban_rpc
from guildhall.membership.v1 import group_invite_service_pb2 as invites
from guildhall.membership.v1 import group_invite_service_pb2_grpc as invite_rpc
from guildhall.membership.v1 import group_member_service_pb2 as group_members
from guildhall.membership.v1 import group_member_service_pb2_grpc as group_member_rpc
from guildhall.membership.v1 import group_service_pb2 as groups
from guildhall.membership.v1 import group_service_pb2_grpc as group_rpc

from services.membership import members as membership
from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.suite import Person, Suite, refused

EDUCATION = "00000000-0000-7000-8000-000000000002"


@dataclass
class Place:
    """A workspace with groups, seen by its admin unless `by` says otherwise."""

    suite: Suite
    workspace: Workspace

    @property
    def id(self) -> str:
        """The workspace's id."""
        return self.workspace.id

    async def group(self, rpc: str, *, by: Person | None = None, **fields: Any) -> Any:
        """An RPC of GroupService."""
        return await self._call(group_rpc.GroupServiceStub, groups, rpc, by, fields)

    async def people(self, rpc: str, *, by: Person | None = None, **fields: Any) -> Any:
        """An RPC of GroupMemberService."""
        return await self._call(group_member_rpc.GroupMemberServiceStub, group_members, rpc, by, fields)

    async def codes(self, rpc: str, *, by: Person | None = None, **fields: Any) -> Any:
        """An RPC of GroupInviteService."""
        return await self._call(invite_rpc.GroupInviteServiceStub, invites, rpc, by, fields)

    async def bans(self, rpc: str, *, by: Person | None = None, **fields: Any) -> Any:
        """An RPC of GroupBanService."""
        return await self._call(ban_rpc.GroupBanServiceStub, bans, rpc, by, fields)

    async def access(self, rpc: str, *, by: Person | None = None, **fields: Any) -> Any:
        """An RPC of AccessService."""
        return await self._call(access_rpc.AccessServiceStub, access, rpc, by, fields)

    async def _call(self, stub: Any, messages: Any, rpc: str, by: Person | None, fields: dict[str, Any]) -> Any:
        request = getattr(messages, f"{rpc}Request")
        if "workspace_id" in request.DESCRIPTOR.fields_by_name:
            fields = {"workspace_id": self.id, **fields}
        person = by or self.workspace.admin
        return await person.call(getattr(self.suite.stub(stub), rpc), request(**fields))

    async def create(self, name: str = "Team", *, by: Person | None = None, **fields: Any) -> Any:
        """A new group."""
        return (await self.group("CreateGroup", by=by, name=name, **fields)).group

    async def chain(self, depth: int) -> list[Any]:
        """Groups, each below the one before."""
        made: list[Any] = []
        for level in range(depth):
            made.append(await self.create(f"Level {level + 1}", parent_group_id=made[-1].group_id if made else ""))
        return made

    async def add(self, group: Any, member_id: str, role: str, *, by: Person | None = None) -> Any:
        """Somebody, put into a group."""
        answer = await self.people("AddGroupMember", by=by, group_id=group.group_id, member_id=member_id, role=role)
        return answer.group_member

    async def role_of(self, group: Any, member_id: str) -> str | None:
        """What somebody is in a group itself."""
        page = (await self.people("ListGroupMembers", group_id=group.group_id)).group_members
        return next((one.role for one in page if one.member_id == member_id), None)

    async def may(self, capability: str, group: Any, **subject: str) -> Any:
        """The verdict about somebody in a group."""
        fields = {"capability": capability, "group_id": group.group_id, **subject}
        return (await self.access("CheckAccess", **fields)).verdict

    async def newcomer(self, name: str, role: str = "member") -> tuple[Person, str]:
        """Somebody who is a member by now, and their member id; without a mail, of which hundreds take their time."""
        person = await somebody(self.suite, name)
        row = await self.suite.frames["membership"].database.transaction(
            lambda tx: membership.join(tx, workspace_id=self.id, user_id=person.user_id, role=role)
        )
        assert row is not None
        return person, str(row.id)

    def owners(self, group: Any) -> int:
        """How many active owners a group has, counted in the tables."""
        with self.suite.database("membership") as database:
            found = database.execute(
                "SELECT count(*) FROM group_members gm JOIN role_schemes s ON s.id = gm.scheme_id"
                " JOIN members m ON m.id = gm.member_id AND m.state = 'active'"
                " WHERE gm.group_id = %s AND gm.role = s.owning_role",
                [group.group_id],
            ).fetchone()
        assert found is not None
        return int(found[0])


async def new_place(suite: Suite) -> Place:
    """A workspace for groups."""
    return Place(suite, await new_workspace(suite))


async def test_who_creates_a_group_owns_it(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")

    made = await place.create("Choir", by=bob, description="We sing", avatar_url="https://example.com/choir.png")

    assert (made.name, made.description, made.avatar_url) == ("Choir", "We sing", "https://example.com/choir.png")
    assert (made.owner_member_id, made.depth, made.parent_group_id) == (bob_id, 1, "")
    assert made.etag
    assert made.HasField("create_time")
    assert not made.HasField("archive_time")
    assert await place.role_of(made, bob_id) == "owner"
    assert (await place.group("GetGroup", group_id=made.group_id)).group == made


async def test_creating_again_with_the_same_key_makes_one_group(suite: Suite) -> None:
    place, key = await new_place(suite), str(uuid.uuid4())
    first = await place.create("Once", request_id=key)
    assert await place.create("Once", request_id=key) == first
    assert len((await place.group("ListGroups")).groups) == 1


async def test_a_viewer_makes_no_group_and_a_group_below_takes_the_right_to_manage(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    cy, _cy_id = await place.newcomer("Cy", "viewer")
    top = await place.create("Top")

    assert (await refused(place.create(by=cy))).reason == "PERMISSION_DENIED"
    assert (await place.create(by=bob)).depth == 1
    assert (await refused(place.create(by=bob, parent_group_id=top.group_id))).reason == "PERMISSION_DENIED"
    await place.add(top, bob_id, "admin")
    below = await place.create("Below", by=bob, parent_group_id=top.group_id)

    assert (below.depth, below.parent_group_id, below.owner_member_id) == (2, top.group_id, bob_id)


async def test_a_scheme_is_chosen_at_the_top_and_holds_in_the_tree(suite: Suite) -> None:
    place = await new_place(suite)
    top = await place.create("School", role_scheme_id=EDUCATION)
    below = await place.create("Year 7", parent_group_id=top.group_id)

    refusal = await refused(place.create(parent_group_id=top.group_id, role_scheme_id=EDUCATION))
    unknown = await refused(place.create(role_scheme_id=str(uuid.uuid4())))

    assert below.role_scheme_id == top.role_scheme_id == EDUCATION
    assert await place.role_of(below, place.workspace.admin_member_id) == "group_admin"
    assert list(refusal.fields) == ["role_scheme_id"]
    assert unknown.reason == "NOT_FOUND"


async def test_a_group_that_is_hidden_and_one_that_never_was_give_the_same_bytes(suite: Suite) -> None:
    place, other = await new_place(suite), await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    eve = await somebody(suite, "Eve")
    guest = await somebody(suite, "Gil")
    await place.workspace.confirm_guest((await place.workspace.add_guest(guest)).member_id)
    hidden, elsewhere = await place.create("Hidden"), await other.create("Elsewhere")
    await place.add(hidden, bob_id, "member")
    assert (await place.group("GetGroup", by=bob, group_id=hidden.group_id)).group == hidden
    await place.bans("BanUser", group_id=hidden.group_id, user_id=bob.user_id)

    async def lookups(by: Person | None, group_id: str) -> list[bytes]:
        return [
            (await refused(place.group(rpc, by=by, group_id=group_id))).raw
            for rpc in ("GetGroup", "ListAncestors", "ListDescendants", "DeleteGroup")
        ] + [
            (await refused(place.people(rpc, by=by, group_id=group_id))).raw
            for rpc in ("ListGroupMembers", "ListEffectiveMembers", "LeaveGroup")
        ]

    unknown = await lookups(None, str(uuid.uuid4()))
    assert len(set(unknown)) == 1
    for by, group_id in (
        (bob, hidden.group_id),
        (eve, hidden.group_id),
        (guest, hidden.group_id),
        (None, elsewhere.group_id),
    ):
        assert await lookups(by, group_id) == unknown


async def test_groups_are_listed_level_by_level_and_page_by_page(suite: Suite) -> None:
    place = await new_place(suite)
    tops = [await place.create(f"Top {number}") for number in range(3)]
    children = [await place.create(f"Child {number}", parent_group_id=tops[0].group_id) for number in range(3)]

    first = await place.group("ListGroups", page_size=2)
    second = await place.group("ListGroups", page_size=2, page_token=first.next_page_token)
    below = await place.group("ListGroups", parent_group_id=tops[0].group_id)

    assert [*first.groups, *second.groups] == tops
    assert not second.next_page_token
    assert list(below.groups) == children
    assert not (await place.group("ListGroups", parent_group_id=tops[1].group_id)).groups
    foreign = place.group("ListGroups", parent_group_id=tops[0].group_id, page_token=first.next_page_token)
    assert list((await refused(foreign)).fields) == ["page_token"]


async def test_only_what_the_mask_names_is_changed_and_an_old_etag_changes_nothing(suite: Suite) -> None:
    place = await new_place(suite)
    made = await place.create("Before", description="as it was")

    async def update(paths: list[str], **fields: Any) -> Any:
        changed = groups.Group(workspace_id=place.id, group_id=made.group_id, **fields)
        return (await place.group("UpdateGroup", group=changed, update_mask=FieldMask(paths=paths))).group

    renamed = await update(["name"], name="After", description="not named", etag=made.etag)
    stale = await refused(update(["name"], name="Again", etag=made.etag))

    assert (renamed.name, renamed.description) == ("After", "as it was")
    assert renamed.etag != made.etag
    assert (stale.code, stale.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert not (await update(["description"])).description
    for paths in ([], ["*"], ["depth"], ["group_id"], ["name.first"]):
        assert "update_mask" in (await refused(update(paths, name="X"))).fields
    assert list((await refused(update(["name"]))).fields) == ["group.name"]


async def test_a_change_takes_the_right_to_manage_the_group(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    made = await place.create()
    await place.add(made, bob_id, "moderator")
    change = {
        "group": groups.Group(workspace_id=place.id, group_id=made.group_id, name="New"),
        "update_mask": FieldMask(paths=["name"]),
    }

    assert (await refused(place.group("UpdateGroup", by=bob, **change))).reason == "PERMISSION_DENIED"
    assert (await refused(place.group("DeleteGroup", by=bob, group_id=made.group_id))).reason == "PERMISSION_DENIED"
    await place.people("UpdateGroupMemberRole", group_id=made.group_id, member_id=bob_id, role="admin")
    await place.group("UpdateGroup", by=bob, **change)
    assert (await refused(place.group("DeleteGroup", by=bob, group_id=made.group_id))).reason == "PERMISSION_DENIED"


async def test_a_group_with_others_below_goes_with_all_of_them_or_stays(suite: Suite) -> None:
    place = await new_place(suite)
    top, below = await place.chain(2)
    revision = await place.workspace.revision()

    assert (await refused(place.group("DeleteGroup", group_id=top.group_id))).reason == "GROUP_NOT_EMPTY"
    assert (await refused(place.group("DeleteGroup", group_id=top.group_id, etag="0"))).reason == "ETAG_MISMATCH"
    await place.group("DeleteGroup", group_id=top.group_id, force=True, etag=top.etag)

    assert (await refused(place.group("GetGroup", group_id=below.group_id))).reason == "NOT_FOUND"
    assert not (await place.group("ListGroups")).groups
    assert await place.workspace.revision() == revision + 1


async def test_ownership_goes_over_and_leaves_the_next_lower_role(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    cy, cy_id = await place.newcomer("Cy")
    made = await place.create(by=bob)
    await place.add(made, cy_id, "member")
    revision = await place.workspace.revision()
    to_cy = {"group_id": made.group_id, "member_id": cy_id}

    assert (await refused(place.group("TransferOwnership", by=cy, **to_cy))).reason == "PERMISSION_DENIED"
    transferred = (await place.group("TransferOwnership", by=bob, etag=made.etag, **to_cy)).group

    assert transferred.owner_member_id == cy_id
    assert transferred.etag != made.etag
    assert (await place.role_of(made, cy_id), await place.role_of(made, bob_id)) == ("owner", "admin")
    assert await place.workspace.revision() == revision + 1
    back = {"group_id": made.group_id, "member_id": bob_id, "from_member_id": cy_id}
    assert (await refused(place.group("TransferOwnership", by=bob, **back))).reason == "PERMISSION_DENIED"
    assert (await place.group("TransferOwnership", **back)).group.owner_member_id == bob_id


@pytest.mark.parametrize("who", ["stranger to the group", "oneself"])
async def test_ownership_goes_to_another_member_of_the_group_only(suite: Suite, who: str) -> None:
    place = await new_place(suite)
    _bob, bob_id = await place.newcomer("Bob")
    made = await place.create()
    to = bob_id if who == "stranger to the group" else place.workspace.admin_member_id

    refusal = await refused(place.group("TransferOwnership", group_id=made.group_id, member_id=to))

    assert refusal.reason == ("NOT_FOUND" if who == "stranger to the group" else "INVALID_REQUEST")
    await place.add(made, bob_id, "member")
    await place.group("TransferOwnership", group_id=made.group_id, member_id=bob_id)
    assert place.owners(made) == 1
