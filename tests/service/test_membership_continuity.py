"""Somebody who runs the workspace and somebody who owns each group, after every path."""

import uuid
from typing import Any

import pytest
import uuid_utils
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as member_rpc
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import Database
from services.membership import continuity, removals, workspaces
from services.membership import members as membership
from services.membership.activities import Activity
from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.suite import Person, Suite

COMMUNITY = "00000000-0000-7000-8000-000000000001"
EDUCATION = "00000000-0000-7000-8000-000000000002"


async def put_in(workspace: Workspace, role: str, *, user_id: str = "") -> str:
    """A member without a mail, of which a thousand would take their time; returns the member id."""
    database: Database = workspace.suite.frames["membership"].database

    async def join(tx: AsyncConnection) -> Any:
        await workspaces.lock(tx, workspace.id)
        return await membership.join(tx, workspace_id=workspace.id, user_id=user_id or str(uuid.uuid4()), role=role)

    row = await database.transaction(join)
    assert row is not None
    return str(row.id)


def group_of(workspace: Workspace, *roles: tuple[str, str], scheme: str = COMMUNITY, parent: str = "") -> str:
    """A group with (member id, role) in it, who joined in this order; returns its id."""
    group_id = str(uuid_utils.uuid7())
    with workspace.suite.database("membership") as database:
        database.execute(
            "INSERT INTO groups (id, workspace_id, path, scheme_id, name)"
            " SELECT %(id)s, %(workspace)s, coalesce(above.path, '{}') || %(id)s::uuid, %(scheme)s, 'Choir'"
            " FROM (SELECT) one LEFT JOIN groups above ON above.id = nullif(%(parent)s, '')::uuid",
            {"id": group_id, "workspace": workspace.id, "scheme": scheme, "parent": parent},
        )
        for member_id, role in roles:
            database.execute(
                "INSERT INTO group_members (id, workspace_id, group_id, member_id, scheme_id, role)"
                " VALUES (%s, %s, %s, %s, %s, %s)",
                (str(uuid_utils.uuid7()), workspace.id, group_id, member_id, scheme, role),
            )
    return group_id


def roles_in(suite: Suite, group_id: str) -> dict[str, str]:
    """Who has which role in a group."""
    with suite.database("membership") as database:
        query = "SELECT member_id::text, role FROM group_members WHERE group_id = %s"
        return dict(database.execute(query, (group_id,)).fetchall())


def is_archived(suite: Suite, table: str, row_id: str) -> bool:
    """Whether a workspace or a group is archived."""
    with suite.database("membership") as database:
        row = database.execute(f"SELECT archived_at IS NOT NULL FROM {table} WHERE id = %s", (row_id,)).fetchone()
    assert row is not None
    return bool(row[0])


def actions_of(workspace: Workspace) -> list[str]:
    """What the workspace's log holds."""
    with workspace.suite.database("membership") as database:
        query = "SELECT action FROM activities WHERE workspace_id = %s ORDER BY number"
        return [row[0] for row in database.execute(query, (workspace.id,)).fetchall()]


ADMINS = (
    "SELECT user_id::text FROM members"
    " WHERE workspace_id = %s AND role = 'admin' AND kind = 'full' AND state = 'active'"
)


def active_admins(suite: Suite, workspace_id: str) -> list[str]:
    """The user ids of those who can run a workspace, counted by SQL."""
    with suite.database("membership") as database:
        return [row[0] for row in database.execute(ADMINS, (workspace_id,)).fetchall()]


async def leaves(workspace: Workspace, person: Person, _other_id: str) -> Any:
    """Leaves by themselves."""
    stub = workspace.suite.stub(member_rpc.MemberServiceStub)
    return await person.call(stub.LeaveWorkspace, members.LeaveWorkspaceRequest(workspace_id=workspace.id))


async def suspends(workspace: Workspace, person: Person, other_id: str) -> Any:
    """Suspends the other one."""
    stub = workspace.suite.stub(member_rpc.MemberServiceStub)
    request = members.SuspendMemberRequest(workspace_id=workspace.id, member_id=other_id)
    return await person.call(stub.SuspendMember, request)


async def bans(workspace: Workspace, person: Person, other_id: str) -> Any:
    """Bans the other one."""
    stub = workspace.suite.stub(member_rpc.MemberServiceStub)
    return await person.call(stub.BanMember, members.BanMemberRequest(workspace_id=workspace.id, member_id=other_id))


# --- who is deleted or disabled is not asked ---


async def go_unasked(workspace: Workspace, member_id: str, *, stay: bool = False) -> list[Activity]:
    """What the deletion of a person does to one membership; `stay` for a person who was disabled."""
    database: Database = workspace.suite.frames["membership"].database
    named = {"workspace_id": workspace.id, "member_id": member_id}

    async def go(tx: AsyncConnection) -> list[Activity]:
        await workspaces.lock(tx, workspace.id)
        row = (await tx.execute(membership.BY_ID, named)).one()
        followed = await continuity.succeed_admin(tx, workspace.id, leaving_member_id=member_id)
        if stay:
            return followed + await continuity.pass_on_groups(tx, workspace.id, member_id=member_id, demote=True)
        return followed + await removals.end_stay(tx, row)

    return await database.transaction(go)


async def test_a_sole_admin_is_succeeded_by_the_highest_rank_then_the_earliest(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    viewer = await put_in(workspace, "viewer")
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    await put_in(workspace, "member", user_id=first)
    await put_in(workspace, "member", user_id=second)

    followed = await go_unasked(workspace, workspace.admin_member_id)

    assert active_admins(suite, workspace.id) == [first]
    assert [(each.action, each.target_user_id) for each in followed] == [("member.succeeded", first)]
    assert followed[0].metadata == {"before": {"role": "member"}, "after": {"role": "admin"}}
    assert not is_archived(suite, "workspaces", workspace.id)
    assert viewer


async def test_a_viewer_succeeds_where_nobody_else_is_and_suspended_ones_and_guests_do_not(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    suspended = await put_in(workspace, "member")
    await suspends(workspace, workspace.admin, suspended)
    await workspace.confirm_guest((await workspace.add_guest(await somebody(suite, "Gil"))).member_id)
    viewer = str(uuid.uuid4())
    await put_in(workspace, "viewer", user_id=viewer)

    await go_unasked(workspace, workspace.admin_member_id)

    assert active_admins(suite, workspace.id) == [viewer]


async def test_nobody_succeeds_while_another_admin_is_there(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    admin = str(uuid.uuid4())
    await put_in(workspace, "admin", user_id=admin)
    member = await put_in(workspace, "member")

    assert await go_unasked(workspace, member) == []
    assert await go_unasked(workspace, workspace.admin_member_id) == []

    assert active_admins(suite, workspace.id) == [admin]


async def test_a_workspace_that_nobody_is_left_in_is_archived(suite: Suite) -> None:
    workspace = await new_workspace(suite)

    followed = await go_unasked(workspace, workspace.admin_member_id)

    assert [(each.action, each.target_id) for each in followed] == [("workspace.archived", workspace.id)]
    assert is_archived(suite, "workspaces", workspace.id)


# --- groups ---


@pytest.mark.parametrize("going", ["removed", "left", "banned", "deleted"])
async def test_a_sole_owners_group_passes_to_the_highest_rank_then_the_earliest(suite: Suite, going: str) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    owner = await workspace.join(bob)
    member, late = await put_in(workspace, "member"), await put_in(workspace, "member")
    early = await put_in(workspace, "member")
    group_id = group_of(workspace, (owner, "owner"), (member, "member"), (early, "moderator"), (late, "moderator"))

    if going == "removed":
        await workspace.remove(owner)
    elif going == "left":
        await leaves(workspace, bob, "")
    elif going == "banned":
        await bans(workspace, workspace.admin, owner)
    else:
        await go_unasked(workspace, owner)

    assert roles_in(suite, group_id) == {member: "member", early: "owner", late: "moderator"}
    assert not is_archived(suite, "groups", group_id)
    if going != "deleted":
        assert "group_member.succeeded" in actions_of(workspace)


async def test_a_group_with_another_owner_stays_as_it_is(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    owner, other, member = [await put_in(workspace, "member") for _ in range(3)]
    group_id = group_of(workspace, (owner, "owner"), (other, "owner"), (member, "member"))

    await workspace.remove(owner)

    assert roles_in(suite, group_id) == {other: "owner", member: "member"}


async def test_many_groups_pass_on_in_one_statement_each_to_its_own(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    owner, a, b = [await put_in(workspace, "member") for _ in range(3)]
    first = group_of(workspace, (owner, "owner"), (a, "admin"), (b, "member"))
    second = group_of(workspace, (owner, "owner"), (b, "member"), parent=first)
    alone = group_of(workspace, (owner, "owner"))
    school = group_of(workspace, (owner, "group_admin"), (a, "student"), (b, "teacher"), scheme=EDUCATION)
    not_owned = group_of(workspace, (owner, "member"), (a, "owner"))

    await workspace.remove(owner)

    assert roles_in(suite, first) == {a: "owner", b: "member"}
    assert roles_in(suite, second) == {b: "owner"}
    assert roles_in(suite, alone) == {}
    assert roles_in(suite, school) == {a: "student", b: "group_admin"}
    assert roles_in(suite, not_owned) == {a: "owner"}
    assert [is_archived(suite, "groups", group) for group in (first, second, alone, school)] == [
        False,
        False,
        True,
        False,
    ]
    assert actions_of(workspace).count("group_member.succeeded") == 3
    assert actions_of(workspace).count("group.archived") == 1


async def test_suspended_and_banned_people_neither_count_as_owners_nor_inherit(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    owner, suspended, banned, ended, member = [await put_in(workspace, "member") for _ in range(5)]
    top = group_of(workspace)
    roles = ((owner, "owner"), (suspended, "owner"), (banned, "owner"), (ended, "moderator"), (member, "member"))
    group_id = group_of(workspace, *roles, parent=top)
    await suspends(workspace, workspace.admin, suspended)
    with suite.database("membership") as database:
        for member_id, until in ((banned, None), (ended, "2020-01-01")):
            database.execute(
                "INSERT INTO group_bans (id, workspace_id, group_id, scheme_id, user_id, expire_at)"
                " SELECT %s, workspace_id, %s, %s, user_id, %s::timestamptz FROM members WHERE id = %s",
                (str(uuid_utils.uuid7()), top, COMMUNITY, until, member_id),
            )

    await workspace.remove(owner)

    assert roles_in(suite, group_id) == {
        suspended: "owner",
        banned: "owner",
        ended: "owner",
        member: "member",
    }


async def test_a_suspended_sole_owner_keeps_the_role_beside_a_second_owner(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    owner, member = await put_in(workspace, "member"), await put_in(workspace, "member")
    shared, alone = group_of(workspace, (owner, "owner"), (member, "member")), group_of(workspace, (owner, "owner"))

    await suspends(workspace, workspace.admin, owner)

    assert roles_in(suite, shared) == {owner: "owner", member: "owner"}
    assert roles_in(suite, alone) == {owner: "owner"}
    assert not is_archived(suite, "groups", alone)


async def test_a_disabled_owner_falls_to_the_next_lower_role(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    owner, member, other = [await put_in(workspace, "member") for _ in range(3)]
    shared = group_of(workspace, (owner, "owner"), (member, "member"))
    with_two = group_of(workspace, (owner, "group_admin"), (other, "group_admin"), scheme=EDUCATION)
    as_member = group_of(workspace, (owner, "moderator"), (other, "owner"))

    await go_unasked(workspace, owner, stay=True)

    assert roles_in(suite, shared) == {owner: "admin", member: "owner"}
    assert roles_in(suite, with_two) == {owner: "teacher", other: "group_admin"}
    assert roles_in(suite, as_member) == {owner: "moderator", other: "owner"}


async def test_a_ban_in_a_group_passes_on_only_what_is_below_it(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    database: Database = suite.frames["membership"].database
    owner, member = await put_in(workspace, "member"), await put_in(workspace, "member")
    top = group_of(workspace, (owner, "member"))
    below = group_of(workspace, (owner, "owner"), (member, "member"), parent=top)
    beside = group_of(workspace, (owner, "owner"), (member, "member"))

    await database.transaction(lambda tx: continuity.pass_on_groups(tx, workspace.id, member_id=owner, below=top))

    assert roles_in(suite, below) == {owner: "owner", member: "owner"}
    assert roles_in(suite, beside) == {owner: "owner", member: "member"}


async def test_each_successor_is_named_by_a_reference_and_the_chain_holds(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    owner, heir = await put_in(workspace, "member"), await put_in(workspace, "member")
    group_id = group_of(workspace, (owner, "owner"), (heir, "member"))
    await workspace.remove(owner)

    with suite.database("membership") as database:
        row = database.execute(
            "SELECT a.target_id::text, p.user_id = m.user_id, a.metadata FROM activities a"
            " JOIN activity_people p ON p.ref = a.target_ref JOIN members m ON m.id = %s"
            " WHERE a.workspace_id = %s AND a.action = 'group_member.succeeded'",
            (heir, workspace.id),
        ).fetchone()
    assert row == (group_id, True, {"before": {"role": "member"}, "after": {"role": "owner"}})


async def test_what_was_ended_with_a_stay_is_told_to_the_log(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    bob_id = await workspace.join(bob, members.ROLE_ADMIN)
    await workspace.invite(f"{uuid.uuid4().hex}@example.com", by=bob)

    await workspace.remove(bob_id)

    assert actions_of(workspace)[-2:] == ["member.removed", "invitation.revoked"]


async def test_the_statements_that_pass_on_look_at_their_own_workspace(suite: Suite) -> None:
    workspace, other = await new_workspace(suite), await new_workspace(suite)
    owner, member = await put_in(workspace, "member"), await put_in(workspace, "member")
    group_id = group_of(workspace, (owner, "owner"), (member, "member"))
    database: Database = suite.frames["membership"].database

    passed = await database.transaction(lambda tx: continuity.pass_on_groups(tx, other.id, member_id=owner))

    assert passed == []
    assert roles_in(suite, group_id) == {owner: "owner", member: "member"}
