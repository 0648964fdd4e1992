"""May X do Y in a group: every capability of both built-in schemes, the order of the rules, and why."""

import uuid
from typing import Any

import grpc
import pytest
from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.membership.v1 import access_service_pb2_grpc as access_rpc
from guildhall.membership.v1 import member_service_pb2 as members

from tests.service.test_membership_groups import EDUCATION, Place, new_place
from tests.service.test_membership_workspaces import somebody
from tests.support.accounts import service_account
from tests.support.suite import Person, Suite, refused

OF_GROUP = (
    *("group.read", "group.manage", "group.delete", "group.members.manage", "group.members.invite"),
    *("group.members.ban", "group.moderate", "group.conversations.create", "group.messages.send"),
)
OF_SCHOOL = ("settings.manage", "tools.create", "tools.use", "assignments.create", "analytics.view")
MODERATION = {"group.members.invite", "group.members.ban", "group.moderate", "group.conversations.create"}
TALK = {"group.read", "group.messages.send"}
TABLES = {
    ("", "owner"): {*OF_GROUP, *OF_SCHOOL},
    ("", "admin"): set(OF_GROUP) - {"group.delete"},
    ("", "moderator"): MODERATION | TALK,
    ("", "member"): TALK,
    (EDUCATION, "system_admin"): {*OF_GROUP, *OF_SCHOOL},
    (EDUCATION, "group_admin"): {*OF_GROUP, *OF_SCHOOL},
    (EDUCATION, "teacher"): {
        *("group.read", "group.moderate", "group.conversations.create", "group.messages.send"),
        *("tools.create", "tools.use", "assignments.create", "analytics.view"),
    },
    (EDUCATION, "student"): {*TALK, "tools.use"},
}


@pytest.mark.parametrize(("scheme", "role"), TABLES)
async def test_each_role_may_what_its_scheme_says_and_nothing_else(suite: Suite, scheme: str, role: str) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob", "viewer")
    top = await place.create(role_scheme_id=scheme)
    below = await place.create(parent_group_id=top.group_id)
    await place.add(top, bob_id, role)

    for group in (top, below):
        for capability in (*OF_GROUP, *OF_SCHOOL):
            fields = {"capability": capability, "group_id": group.group_id}
            verdict = (await place.access("CheckAccess", by=bob, **fields)).verdict
            assert verdict.allowed == (capability in TABLES[scheme, role]), capability
            may, lacks = access.ACCESS_REASON_GROUP_ROLE, access.ACCESS_REASON_ROLE_LACKS_CAPABILITY
            assert verdict.reason == (may if verdict.allowed else lacks)


async def test_a_system_admin_at_the_root_may_everything_everywhere_below_and_nothing_beside(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    root = await place.create(role_scheme_id=EDUCATION)
    leaf = root
    for _ in range(3):
        leaf = await place.create(parent_group_id=leaf.group_id)
    beside = await place.create(role_scheme_id=EDUCATION)
    await place.add(root, bob_id, "system_admin")

    for capability in ("group.delete", "made.up"):
        assert (await place.may(capability, leaf, user_id=bob.user_id)).allowed
        assert not (await place.may(capability, beside, user_id=bob.user_id)).allowed
    await place.group("DeleteGroup", by=bob, group_id=leaf.group_id)


async def test_roles_on_the_way_down_add_up(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob", "viewer")
    top = await place.create(role_scheme_id=EDUCATION)
    below = await place.create(parent_group_id=top.group_id)
    await place.add(top, bob_id, "teacher")
    await place.add(below, bob_id, "student")

    assert (await place.may("assignments.create", below, user_id=bob.user_id)).allowed
    await place.people("RemoveGroupMember", group_id=top.group_id, member_id=bob_id)
    assert not (await place.may("assignments.create", below, user_id=bob.user_id)).allowed
    assert (await place.may("tools.use", below, user_id=bob.user_id)).allowed


def _suspend(place: Place, member_id: str) -> None:
    with place.suite.database("membership") as database:
        database.execute(
            "UPDATE members SET state = 'suspended', suspended_at = statement_timestamp() WHERE id = %s", [member_id]
        )


async def test_the_rules_decide_in_their_order(suite: Suite) -> None:
    """Suspended, then banned, then workspace admin, then group roles, then the workspace role."""
    place = await new_place(suite)
    ann, ann_id = await place.newcomer("Ann", "admin")
    made = await place.create()
    await place.add(made, ann_id, "admin")

    async def reason(capability: str) -> Any:
        return (await place.may(capability, made, member_id=ann_id)).reason

    def lower() -> None:
        with suite.database("membership") as database:
            database.execute("UPDATE members SET role = 'member' WHERE id = %s", [ann_id])

    assert await reason("made.up") == access.ACCESS_REASON_WORKSPACE_ADMIN
    lower()
    assert await reason("group.manage") == access.ACCESS_REASON_GROUP_ROLE
    assert await reason("conversations.create") == access.ACCESS_REASON_ROLE
    assert await reason("made.up") == access.ACCESS_REASON_ROLE_LACKS_CAPABILITY
    with suite.database("membership") as database:
        database.execute("UPDATE members SET role = 'admin' WHERE id = %s", [ann_id])
    await place.bans("BanUser", group_id=made.group_id, user_id=ann.user_id)
    assert await reason("group.read") == access.ACCESS_REASON_BANNED
    _suspend(place, ann_id)
    assert await reason("group.read") == access.ACCESS_REASON_SUSPENDED


async def test_a_verdict_says_who_is_in_the_group_itself(suite: Suite) -> None:
    place = await new_place(suite)
    (bob, bob_id), (cy, cy_id), (ann, _) = [
        await place.newcomer(name, role) for name, role in (("Bob", "member"), ("Cy", "member"), ("Ann", "admin"))
    ]
    top = await place.create()
    below = await place.create(parent_group_id=top.group_id)
    await place.add(top, bob_id, "admin")
    await place.add(top, cy_id, "member")

    async def is_in(group: Any, person: Person) -> bool:
        return bool((await place.may("group.read", group, user_id=person.user_id)).in_group)

    assert [await is_in(top, person) for person in (bob, cy, ann)] == [True, True, False]
    assert not await is_in(below, bob), "a role from above puts nobody into it"
    _suspend(place, bob_id)
    await place.bans("BanUser", group_id=top.group_id, user_id=cy.user_id)
    assert [await is_in(top, person) for person in (bob, cy, ann)] == [False, False, False]


async def test_a_ban_from_a_group_takes_nothing_outside_of_it(suite: Suite) -> None:
    place = await new_place(suite)
    bob, _bob_id = await place.newcomer("Bob")
    made = await place.create()
    await place.bans("BanUser", group_id=made.group_id, user_id=bob.user_id)

    inside = (await place.access("CheckAccess", by=bob, capability="messages.send", group_id=made.group_id)).verdict
    outside = (await place.access("CheckAccess", by=bob, capability="messages.send")).verdict

    assert (inside.allowed, inside.reason) == (False, access.ACCESS_REASON_BANNED)
    assert (outside.allowed, outside.reason) == (True, access.ACCESS_REASON_ROLE)


async def test_guests_and_unknown_groups_are_answered_alike(suite: Suite) -> None:
    place, other = await new_place(suite), await new_place(suite)
    gil = await somebody(suite, "Gil")
    await place.workspace.confirm_guest((await place.workspace.add_guest(gil)).member_id)
    made, elsewhere = await place.create(), await other.create()

    async def reason(by: Any, group_id: str) -> Any:
        fields = {"capability": "group.read", "group_id": group_id}
        return (await place.access("CheckAccess", by=by, **fields)).verdict.reason

    assert await reason(gil, made.group_id) == access.ACCESS_REASON_NO_SUCH_GROUP
    assert await reason(None, elsewhere.group_id) == access.ACCESS_REASON_NO_SUCH_GROUP
    assert await reason(None, str(uuid.uuid4())) == access.ACCESS_REASON_NO_SUCH_GROUP
    assert await reason(None, made.group_id) == access.ACCESS_REASON_WORKSPACE_ADMIN


async def test_others_are_asked_about_by_who_manages_members(suite: Suite) -> None:
    place = await new_place(suite)
    (bob, bob_id), (cy, cy_id) = await place.newcomer("Bob"), await place.newcomer("Cy")
    eve = await somebody(suite, "Eve")
    made = await place.create()
    await place.add(made, bob_id, "admin")
    in_group = {"capability": "group.read", "group_id": made.group_id}

    assert (await place.access("CheckAccess", by=bob, member_id=cy_id, **in_group)).verdict.user_id == cy.user_id
    assert (await place.access("CheckAccess", by=cy, user_id=cy.user_id, **in_group)).verdict.member_id == cy_id
    for by, fields, reason in (
        (cy, {"member_id": bob_id, **in_group}, "PERMISSION_DENIED"),
        (bob, {"member_id": cy_id, "capability": "messages.send"}, "PERMISSION_DENIED"),
        (bob, {"member_id": cy_id, **in_group, "group_id": str(uuid.uuid4())}, "PERMISSION_DENIED"),
        (eve, {"member_id": cy_id, **in_group}, "NOT_FOUND"),
        (eve, in_group, "NOT_FOUND"),
    ):
        for rpc in ("CheckAccess", "ExplainAccess"):
            assert (await refused(place.access(rpc, by=by, **fields))).reason == reason
    assert (await place.access("CheckAccess", user_id=cy.user_id, capability="messages.send")).verdict.allowed
    stranger = (await place.access("CheckAccess", user_id=eve.user_id, capability="messages.send")).verdict
    assert stranger.reason == access.ACCESS_REASON_NOT_A_MEMBER


async def test_nobody_is_asked_about_in_a_group_that_the_asker_does_not_see(suite: Suite) -> None:
    place = await new_place(suite)
    ann, _ann_id = await place.newcomer("Ann", "admin")
    _bob, bob_id = await place.newcomer("Bob")
    made = await place.create()
    about = {"capability": "group.read", "member_id": bob_id}
    assert (await place.access("CheckAccess", by=ann, group_id=made.group_id, **about)).verdict.member_id == bob_id

    await place.bans("BanUser", group_id=made.group_id, user_id=ann.user_id)

    hidden = await refused(place.access("CheckAccess", by=ann, group_id=made.group_id, **about))
    unknown = await refused(place.access("CheckAccess", by=ann, group_id=str(uuid.uuid4()), **about))
    assert hidden.raw == unknown.raw
    assert hidden.reason == "NOT_FOUND"


async def test_a_suspended_member_asks_nothing_and_peers_are_not_told_that_they_are_there(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    _suspend(place, bob_id)

    asked = await refused(place.access("CheckAccess", by=bob, capability="workspace.read"))
    (for_peers,) = await place.workspace.check({"member_id": bob_id})
    about = (await place.access("CheckAccess", member_id=bob_id, capability="workspace.read")).verdict

    assert asked.reason == "NOT_FOUND"
    assert for_peers == access.AccessVerdict(reason=access.ACCESS_REASON_NOT_A_MEMBER, access_revision=1)
    assert (about.allowed, about.reason) == (False, access.ACCESS_REASON_SUSPENDED)


async def test_a_batch_may_mix_groups_people_and_workspaces(suite: Suite) -> None:
    place, other = await new_place(suite), await new_place(suite)
    bob, bob_id = await place.newcomer("Bob", "viewer")
    top, below = await place.chain(2)
    elsewhere = await other.create()
    await place.add(top, bob_id, "moderator")

    verdicts = await place.workspace.check(
        {"member_id": bob_id, "group_id": below.group_id},
        {"user_id": bob.user_id},
        {"user_id": bob.user_id, "group_id": elsewhere.group_id},
        {"user_id": bob.user_id, "group_id": elsewhere.group_id, "workspace_id": other.id},
        {"user_id": place.workspace.admin.user_id, "group_id": below.group_id},
        {"member_id": bob_id.upper(), "group_id": top.group_id.upper()},
        capability="group.moderate",
    )

    assert [verdict.reason for verdict in verdicts] == [
        access.ACCESS_REASON_GROUP_ROLE,
        access.ACCESS_REASON_ROLE_LACKS_CAPABILITY,
        access.ACCESS_REASON_NO_SUCH_GROUP,
        access.ACCESS_REASON_NOT_A_MEMBER,
        access.ACCESS_REASON_WORKSPACE_ADMIN,
        access.ACCESS_REASON_GROUP_ROLE,
    ]


async def test_a_service_account_asks_about_anybody_in_its_workspaces_and_must_say_whom(suite: Suite) -> None:
    place, other = await new_place(suite), await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    robot = service_account(suite, "membership.access", workspace_ids=[place.id])
    stub = suite.stub(access_rpc.AccessServiceStub)

    async def ask(place: Place, **fields: str) -> Any:
        request = access.CheckAccessRequest(workspace_id=place.id, capability="messages.send", **fields)
        return (await robot.call(stub.CheckAccess, request)).verdict

    assert (await ask(place, user_id=bob.user_id)).member_id == bob_id
    nameless = await refused(ask(place))
    assert (nameless.code, list(nameless.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["subject"])
    assert (await refused(ask(other, user_id=bob.user_id))).reason == "NOT_FOUND"
    explained = access.ExplainAccessRequest(workspace_id=place.id, capability="x", user_id=bob.user_id)
    assert (await refused(robot.call(stub.ExplainAccess, explained))).reason == "CALLER_NOT_ALLOWED"


async def explain(place: Place, **fields: Any) -> list[tuple[Any, bool, str]]:
    """The steps, short: reason, whether it decided, words."""
    answer = await place.access("ExplainAccess", **fields)
    assert [step.decides for step in answer.steps] == [False] * (len(answer.steps) - 1) + [True]
    assert answer.steps[-1].reason == answer.verdict.reason
    return [(step.reason, step.decides, step.explanation) for step in answer.steps]


async def test_an_explanation_goes_through_the_rules_up_to_the_role_that_decided(suite: Suite) -> None:
    place = await new_place(suite)
    _bob, bob_id = await place.newcomer("Bob")
    school = await place.create("Year 7", role_scheme_id=EDUCATION)
    form = await place.create("Form 7b", parent_group_id=school.group_id)
    await place.add(school, bob_id, "student")
    await place.add(form, bob_id, "teacher")
    about = {"member_id": bob_id, "group_id": form.group_id}

    steps = await explain(place, capability="assignments.create", **about)
    assert [words for _reason, _decides, words in steps] == [
        'they are a member of the workspace, with the role "member"',
        "they are not suspended",
        'the group is "Form 7b"',
        "no ban in the group or above it",
        "they are no workspace admin",
        'the role "student" in the group above, "Year 7", does not let them "assignments.create"',
        'the role "teacher" in the group itself, "Form 7b", lets them "assignments.create"',
    ]
    inherited = await place.access("ExplainAccess", capability="tools.use", **about)
    assert (inherited.steps[-1].group_id, inherited.steps[-1].role) == (school.group_id, "student")
    lacking = (await explain(place, capability="group.delete", **about))[-1]
    assert lacking[0] == access.ACCESS_REASON_ROLE_LACKS_CAPABILITY
    assert lacking[2] == 'the workspace role "member" does not let them "group.delete"'
    by_workspace = (await explain(place, capability="messages.send", **about))[-1]
    assert by_workspace[2] == 'the workspace role "member" lets them "messages.send"'


async def test_an_explanation_names_what_stands_in_the_way(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    gil, eve = await somebody(suite, "Gil"), await somebody(suite, "Eve")
    guest = await place.workspace.add_guest(gil)
    await place.workspace.confirm_guest(guest.member_id)
    top, below = await place.chain(2)
    read = {"capability": "group.read", "group_id": below.group_id}
    await place.bans("BanUser", group_id=top.group_id, user_id=bob.user_id)

    for subject, reason, words in (
        ({}, access.ACCESS_REASON_WORKSPACE_ADMIN, "an admin of the workspace may do everything in its groups"),
        (
            {"member_id": bob_id},
            access.ACCESS_REASON_BANNED,
            'the ban from the group above, "Level 1", leaves them nothing there',
        ),
        ({"member_id": guest.member_id}, access.ACCESS_REASON_NO_SUCH_GROUP, "guests are in no groups"),
        ({"user_id": eve.user_id}, access.ACCESS_REASON_NOT_A_MEMBER, "they are no member of the workspace"),
    ):
        assert (await explain(place, **subject, **read))[-1] == (reason, True, words)
    own = await place.access("ExplainAccess", by=bob, **read)
    assert own.steps[-1].group_id == below.group_id
    assert "Level" not in str(own)
    _suspend(place, bob_id)
    suspended = (await explain(place, member_id=bob_id, **read))[-1]
    assert suspended == (access.ACCESS_REASON_SUSPENDED, True, "they are suspended, so they may do nothing")


async def test_an_explanation_about_the_workspace_ends_with_the_role_there(suite: Suite) -> None:
    place = await new_place(suite)
    bob, _bob_id = await place.newcomer("Bob", "viewer")

    steps = await explain(place, by=bob, capability="messages.send")

    assert [words for _reason, _decides, words in steps] == [
        'they are a member of the workspace, with the role "viewer"',
        "they are not suspended",
        'the workspace role "viewer" does not let them "messages.send"',
    ]
    answer = await place.access("ExplainAccess", by=bob, capability="workspace.read")
    assert (answer.verdict.allowed, answer.verdict.role) == (True, members.ROLE_VIEWER)


async def test_who_is_suspended_is_not_there_for_those_who_do_not_suspend(suite: Suite) -> None:
    place = await new_place(suite)
    (bob, bob_id), (_cy, cy_id), (_dan, dan_id) = [await place.newcomer(name) for name in ("Bob", "Cy", "Dan")]
    made = await place.create(by=bob)
    await place.add(made, cy_id, "member", by=bob)
    _suspend(place, cy_id)
    _suspend(place, dan_id)
    admin, named = place.workspace.admin, {"group_id": made.group_id, "member_id": cy_id}
    unknown = await refused(place.add(made, str(uuid.uuid4()), "member", by=bob))
    for call in (
        place.add(made, dan_id, "member", by=bob),
        place.group("TransferOwnership", by=bob, **named),
        place.people("UpdateGroupMemberRole", by=bob, role="moderator", **named),
        place.people("RemoveGroupMember", by=bob, **named),
    ):
        assert (await refused(call)).raw == unknown.raw
    assert unknown.reason == "NOT_FOUND"
    assert (await refused(place.add(made, dan_id, "member"))).reason == "MEMBER_SUSPENDED"

    async def listed(by: Person, **page: Any) -> Any:
        return await place.people("ListGroupMembers", by=by, group_id=made.group_id, **page)

    assert [one.member_id for one in (await listed(bob, page_size=1)).group_members] == [bob_id]
    assert not (await listed(bob, page_size=1)).next_page_token
    assert [one.member_id for one in (await listed(admin)).group_members] == sorted([bob_id, cy_id])
    for rpc in ("CheckAccess", "ExplainAccess"):
        asked = {"capability": "group.read", **named}
        hidden = await place.access(rpc, by=bob, **asked)
        assert hidden.verdict.reason == access.ACCESS_REASON_NOT_A_MEMBER
        assert (hidden.verdict.member_id, hidden.verdict.role) == ("", members.ROLE_UNSPECIFIED)
        assert "suspended" not in str(hidden)
        told = (await place.access(rpc, by=admin, **asked)).verdict
        assert (told.reason, told.member_id) == (access.ACCESS_REASON_SUSPENDED, cy_id)
    await place.people("RemoveGroupMember", **named)
