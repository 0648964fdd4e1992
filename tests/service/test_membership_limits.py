"""Each limit of a workspace: the last one that fits, and the first one that does not."""

import re
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from guildhall.membership.v1 import member_service_pb2 as members

from services.membership.limits import LIMITS
from tests.service.test_membership_erasure import rows
from tests.service.test_membership_role_schemes import CREW, roles
from tests.service.test_membership_workspaces import somebody
from tests.support.accounts import service_account
from tests.support.membership_world import World, new_world
from tests.support.suite import Refusal, Suite, refused

DOCUMENT = Path(__file__).parents[2] / "docs" / "limits.md"
OneMore = Callable[[int], Awaitable[Any]]


async def _members(world: World) -> OneMore:
    account = service_account(world.suite, "membership.members")
    people = [await somebody(world.suite, name) for name in ("Cy", "Dee")]
    fields: dict[str, Any] = {"by": account, "role": members.ROLE_MEMBER}
    return lambda number: world.call("MemberService/AddMember", user_id=people[number].user_id, **fields)


async def _invitations(world: World) -> OneMore:
    return lambda number: world.invitation(f"x{number}@example.com")


async def _groups(world: World) -> OneMore:
    return lambda number: world.group(f"Team {number}")


async def _group_members(world: World) -> OneMore:
    people = [world.bob_id, (await world.place.newcomer("Cy"))[1]]
    add = "GroupMemberService/AddGroupMember"
    group_id = await world.group()
    return lambda number: world.call(add, group_id=group_id, member_id=people[number], role="member")


async def _member_groups(world: World) -> OneMore:
    group_id = await world.group()
    add = "GroupMemberService/AddGroupMember"
    ways = (
        lambda: world.place.create("Own", by=world.bob),
        lambda: world.call(add, group_id=group_id, member_id=world.bob_id, role="member"),
    )
    return lambda number: ways[number]()


async def _codes(world: World) -> OneMore:
    group_id = await world.group()
    return lambda _: world.call("GroupInviteService/CreateGroupInvite", group_id=group_id, role="member")


async def _schemes(world: World) -> OneMore:
    scheme: dict[str, Any] = {"owning_role": "captain", "roles": roles(*CREW)}
    return lambda number: world.call("RoleSchemeService/CreateRoleScheme", name=f"crew {number}", **scheme)


async def _user_groups(world: World) -> OneMore:
    return lambda number: world.call("UserGroupService/CreateUserGroup", handle=f"crew{number}", name="Crew")


async def _user_group_members(world: World) -> OneMore:
    user_group_id, people = await world.user_group(), [world.bob_id, world.admin_id]
    add = "UserGroupService/AddUserGroupMember"
    return lambda number: world.call(add, user_group_id=user_group_id, member_id=people[number])


async def _bans(world: World) -> OneMore:
    return lambda _: world.call("MemberService/BanMember", user_id=str(uuid.uuid4()))


async def _group_bans(world: World) -> OneMore:
    group_id = await world.group()
    return lambda _: world.call("GroupBanService/BanUser", group_id=group_id, user_id=str(uuid.uuid4()))


WAYS = {
    "members": (_members, 3),
    "open_invitations": (_invitations, 1),
    "invitations_a_day": (_invitations, 1),
    "groups": (_groups, 1),
    "group_members": (_group_members, 2),
    "member_groups": (_member_groups, 1),
    "open_group_invites": (_codes, 1),
    "role_schemes": (_schemes, 1),
    "user_groups": (_user_groups, 1),
    "user_group_members": (_user_group_members, 1),
    "bans": (_bans, 1),
    "group_bans": (_group_bans, 1),
}
"""What reaches each limit, and at how many it is set so that just one more fits."""


def allow(world: World, name: str, most: int) -> None:
    """What an operator does for one workspace."""
    with world.suite.database("membership") as database:
        database.execute("INSERT INTO workspace_limits VALUES (%s, %s, %s)", (world.id, name, most))


def retry_after(refusal: Refusal) -> float:
    """The seconds that the refusal tells to wait."""
    info = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(info) for detail in status_pb2.Status.FromString(refusal.raw).details)
    return float(info.retry_delay.ToTimedelta().total_seconds())


@pytest.mark.parametrize("name", sorted(LIMITS))
async def test_the_last_one_fits_and_one_more_is_refused_by_the_limits_name(name: str, suite: Suite) -> None:
    prepare, most = WAYS[name]
    world = await new_world(suite)
    one_more = await prepare(world)
    allow(world, name, most)

    await one_more(0)
    before = rows(suite, "SELECT max(number) FROM activities WHERE workspace_id = %s", world.id)
    refusal = await refused(one_more(1))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
    assert (refusal.metadata["limit"], refusal.metadata["most"]) == (name, str(most))
    assert retry_after(refusal) == LIMITS[name].retry_after_seconds
    assert rows(suite, "SELECT max(number) FROM activities WHERE workspace_id = %s", world.id) == before


@pytest.mark.parametrize("name", sorted(LIMITS))
async def test_what_is_lowered_for_one_workspace_holds_there_only(name: str, suite: Suite) -> None:
    prepare, most = WAYS[name]
    allow(await new_world(suite), name, most)
    one_more = await prepare(await new_world(suite))

    await one_more(0)
    await one_more(1)


async def test_a_workspace_that_is_full_is_full_for_every_way_of_joining(suite: Suite) -> None:
    world = await new_world(suite)
    eve = await somebody(suite, "Eve")
    token, invite = await world.place.workspace.invite(eve.email), await world.code()
    allow(world, "members", 2)

    for call in (
        world.call("InvitationService/AcceptInvitation", by=eve, token=token),
        world.call("GroupInviteService/RedeemGroupInvite", by=eve, code=invite.code),
        world.place.workspace.add_guest(eve),
    ):
        assert (await refused(call)).metadata["limit"] == "members"

    await world.call("MemberService/RemoveMember", member_id=world.bob_id)
    await world.call("InvitationService/AcceptInvitation", by=eve, token=token)


async def test_who_has_a_role_in_too_many_groups_gets_no_other_by_any_way(suite: Suite) -> None:
    world = await new_world(suite)
    invite, other_id = await world.code(), await world.group("Other")
    own = await world.place.create("Own", by=world.bob)
    allow(world, "member_groups", 1)

    for call in (
        world.place.create("Second", by=world.bob),
        world.call("GroupMemberService/AddGroupMember", group_id=other_id, member_id=world.bob_id, role="member"),
        world.call("GroupInviteService/RedeemGroupInvite", by=world.bob, code=invite.code),
    ):
        assert (await refused(call)).metadata["limit"] == "member_groups"

    await world.call("GroupService/DeleteGroup", by=world.bob, group_id=own.group_id)
    await world.call("GroupInviteService/RedeemGroupInvite", by=world.bob, code=invite.code)


def documented(service: str) -> dict[str, tuple[int, str]]:
    """A service's table in the document: how many, of what, by the limit's name."""
    (section,) = re.findall(rf"^## {service}$(.*?)(?=^## |\Z)", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    row = re.compile(r"^\| `(\w+)` \| ([\d  ]+) \| (.+) \|$", re.MULTILINE)
    return {name: (int(re.sub(r"\s", "", most)), what) for name, most, what in row.findall(section)}


def test_the_table_in_the_documents_is_the_code() -> None:
    assert documented("membership") == {name: (limit.most, limit.what) for name, limit in LIMITS.items()}
