"""What happens in groups is in the activity log: every action once, refusals too, people by reference only."""

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.membership.v1 import group_service_pb2 as groups
from guildhall.membership.v1 import member_service_pb2 as members

from tests.service.test_membership_groups import Place, new_place
from tests.service.test_membership_role_schemes import call, create, update
from tests.service.test_membership_workspaces import somebody
from tests.support.suite import Suite, refused


def logged(place: Place, *, after: int = 0) -> list[tuple[Any, ...]]:
    """Number, action, outcome, target type, thing, person and metadata of a workspace's activities."""
    with place.suite.database("membership") as database:
        return database.execute(
            "SELECT a.number, a.action, a.outcome, a.target_type, a.target_id::text, p.user_id::text, a.metadata"
            " FROM activities a LEFT JOIN activity_people p"
            " ON p.workspace_id = a.workspace_id AND p.ref = a.target_ref"
            " WHERE a.workspace_id = %s AND a.number > %s ORDER BY a.number",
            [place.id, after],
        ).fetchall()


async def test_everything_that_happens_to_a_group_is_recorded_once(suite: Suite) -> None:
    place = await new_place(suite)
    (bob, bob_id), (cy, cy_id) = await place.newcomer("Bob"), await place.newcomer("Cy")
    start = len(logged(place))

    made, top = await place.create("Team"), await place.create("Top")
    named = {"group_id": made.group_id}
    changed = groups.Group(workspace_id=place.id, group_id=made.group_id, name="Crew")
    await place.group("UpdateGroup", group=changed, update_mask=FieldMask(paths=["name"]))
    await place.group("MoveGroup", parent_group_id=top.group_id, **named)
    await place.add(made, bob_id, "member")
    await place.people("UpdateGroupMemberRole", member_id=bob_id, role="admin", **named)
    await place.group("TransferOwnership", member_id=bob_id, **named)
    await place.add(made, cy_id, "member")
    await place.people("RemoveGroupMember", member_id=cy_id, by=bob, **named)
    invite = (await place.codes("CreateGroupInvite", **named)).group_invite
    await place.codes("RedeemGroupInvite", by=cy, code=invite.code)
    await place.codes("RevokeGroupInvite", group_invite_id=invite.group_invite_id, **named)
    await place.people("LeaveGroup", by=cy, **named)
    await place.bans("BanUser", user_id=cy.user_id, reason="noise", **named)
    await place.bans("UnbanUser", user_id=cy.user_id, **named)
    await place.group("DeleteGroup", **named)

    rows = logged(place, after=start)
    admin = place.workspace.admin.user_id
    assert [(row[1], row[3], row[5]) for row in rows] == [
        ("group.created", "group", None),
        ("group.created", "group", None),
        ("group.updated", "group", None),
        ("group.moved", "group", None),
        ("group_member.added", "group", bob.user_id),
        ("group_member.role_updated", "group", bob.user_id),
        ("group.ownership_transferred", "group", bob.user_id),
        ("group_member.role_updated", "group", admin),
        ("group_member.added", "group", cy.user_id),
        ("group_member.removed", "group", cy.user_id),
        ("group_invite.created", "group_invite", None),
        ("group_invite.redeemed", "group_invite", cy.user_id),
        ("group_invite.revoked", "group_invite", None),
        ("group_member.left", "group", cy.user_id),
        ("group_member.banned", "group", cy.user_id),
        ("group_member.unbanned", "group", cy.user_id),
        ("group.deleted", "group", None),
    ]
    assert {row[2] for row in rows} == {"done"}
    assert rows[2][6] == {"before": {"name": "Team"}, "after": {"name": "Crew"}}
    assert rows[5][6] == {"before": {"role": "member"}, "after": {"role": "admin"}}
    told = str([row[6] for row in rows])
    people = (admin, bob.user_id, cy.user_id, bob_id, cy_id, place.workspace.admin_member_id, "noise", invite.code)
    assert not [secret for secret in people if secret in told]


async def test_what_happens_to_schemes_and_who_comes_in_by_a_code_is_recorded(suite: Suite) -> None:
    place = await new_place(suite)
    eve = await somebody(suite, "Eve")
    made = await place.create()
    start = len(logged(place))

    invite = (
        await place.codes("CreateGroupInvite", group_id=made.group_id, workspace_role=members.ROLE_VIEWER)
    ).group_invite
    await place.codes("RedeemGroupInvite", by=eve, code=invite.code)
    scheme = await create(place)
    await update(place, scheme, "name", name="other")
    await call(place, "DeleteRoleScheme", role_scheme_id=scheme.role_scheme_id)

    rows = logged(place, after=start)
    assert [row[1] for row in rows] == [
        "group_invite.created",
        "member.joined",
        "group_invite.redeemed",
        "role_scheme.created",
        "role_scheme.updated",
        "role_scheme.deleted",
    ]
    assert (rows[1][5], rows[1][6]) == (eve.user_id, {"way": "group_invite", "after": {"role": "viewer"}})


async def test_what_a_member_tries_and_may_not_is_recorded_and_what_a_stranger_tries_is_not(suite: Suite) -> None:
    place = await new_place(suite)
    bob, _bob_id = await place.newcomer("Bob")
    eve = await somebody(suite, "Eve")
    made = await place.create()
    start = len(logged(place))

    await refused(place.group("DeleteGroup", by=bob, group_id=made.group_id))
    await refused(place.group("DeleteGroup", by=eve, group_id=made.group_id))
    await refused(place.people("LeaveGroup", group_id=made.group_id))

    assert [(row[1], row[2], row[4], row[6]) for row in logged(place, after=start)] == [
        ("group.deleted", "refused", made.group_id, {"error": "PERMISSION_DENIED"}),
        ("group_member.left", "refused", made.group_id, {"error": "LAST_OWNER"}),
    ]
