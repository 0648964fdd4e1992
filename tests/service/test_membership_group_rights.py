"""No way to more than one's own rank: neither by codes, moves and transfers nor by what happens by itself."""

from typing import Any

import grpc
from guildhall.membership.v1 import member_service_pb2 as members

from tests.service import test_membership_role_schemes as role_schemes
from tests.service.test_membership_groups import EDUCATION, Place, new_place
from tests.service.test_membership_role_schemes import roles
from tests.support.suite import Person, Suite, refused


async def new_scheme(place: Place, lower: str, *capabilities: str) -> Any:
    """A scheme of two roles: the owning one, boss, and a lower one with these capabilities."""
    two = roles(("boss", 300, ["*"]), (lower, 100, list(capabilities)))
    return await role_schemes.create(place, owning_role="boss", roles=two)


async def codes_by_id(place: Place, group: Any, *, by: Person | None = None) -> dict[str, str]:
    """The codes that somebody is shown, by the ids of their invites."""
    page = (await place.codes("ListGroupInvites", by=by, group_id=group.group_id)).group_invites
    return {invite.group_invite_id: invite.code for invite in page}


async def test_a_list_shows_the_codes_that_its_reader_could_have_made_and_of_others_only_that_they_are(
    suite: Suite,
) -> None:
    place = await new_place(suite)
    mod, mod_id = await place.newcomer("Mod")
    made = await place.create()
    await place.add(made, mod_id, "moderator")
    fields: tuple[dict[str, Any], ...] = (
        {"role": "admin"},
        {"role": "member", "workspace_role": members.ROLE_MEMBER},
        {"role": "moderator"},
    )
    higher, outward, equal = [
        (await place.codes("CreateGroupInvite", group_id=made.group_id, **each)).group_invite for each in fields
    ]

    shown = await codes_by_id(place, made, by=mod)

    assert shown == {higher.group_invite_id: "", outward.group_invite_id: "", equal.group_invite_id: equal.code}
    everything = {each.group_invite_id: each.code for each in (higher, outward, equal)}
    assert await codes_by_id(place, made) == everything


async def test_a_code_for_what_has_become_the_owning_role_lets_nobody_in(suite: Suite) -> None:
    place = await new_place(suite)
    (own, _own_id), (_aide, aide_id) = await place.newcomer("Own"), await place.newcomer("Aide")
    (joe, joe_id), (kim, kim_id) = await place.newcomer("Joe"), await place.newcomer("Kim")
    scheme = await new_scheme(place, "aide")
    made = await place.create(by=own, role_scheme_id=scheme.role_scheme_id)
    await place.add(made, aide_id, "aide", by=own)
    invite = (await place.codes("CreateGroupInvite", by=own, group_id=made.group_id, role="aide")).group_invite
    await place.codes("RedeemGroupInvite", by=kim, code=invite.code)
    assert await place.role_of(made, kim_id) == "aide"

    await role_schemes.update(place, scheme, "owning_role", owning_role="aide")

    refusal = await refused(place.codes("RedeemGroupInvite", by=joe, code=invite.code))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "CODE_INVALID")
    assert await place.role_of(made, joe_id) is None


async def test_who_does_not_own_a_group_does_not_move_it_to_where_they_rule(suite: Suite) -> None:
    place = await new_place(suite)
    (own, own_id), (ann, ann_id) = await place.newcomer("Own"), await place.newcomer("Ann")
    made = await place.create(by=own)
    await place.add(made, ann_id, "admin", by=own)
    hers, his = await place.create(by=ann), await place.create(by=own)

    capture = place.group("MoveGroup", by=ann, group_id=made.group_id, parent_group_id=hers.group_id)
    refusal = await refused(capture)

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "RANK_TOO_LOW")
    assert (await place.group("GetGroup", group_id=made.group_id)).group.depth == 1
    moved = (await place.group("MoveGroup", by=own, group_id=made.group_id, parent_group_id=his.group_id)).group
    assert (moved.parent_group_id, moved.owner_member_id) == (his.group_id, own_id)


async def test_taking_a_group_out_takes_the_right_to_manage_the_one_above_it(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    top = await place.create("top")
    await place.add(top, bob_id, "admin")
    below = await place.create("below", by=bob, parent_group_id=top.group_id)
    change = {"group_id": top.group_id, "member_id": bob_id}
    await place.people("UpdateGroupMemberRole", role="member", **change)

    refusal = await refused(place.group("MoveGroup", by=bob, group_id=below.group_id))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    await place.people("UpdateGroupMemberRole", role="admin", **change)
    assert (await place.group("MoveGroup", by=bob, group_id=below.group_id)).group.depth == 1


async def test_no_move_puts_a_groups_only_owner_below_a_ban_of_theirs(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    made, new = await place.create(by=bob), await place.create("new")
    below = await place.create(by=bob, parent_group_id=made.group_id)
    ban = {"group_id": new.group_id, "user_id": bob.user_id}
    await place.bans("BanUser", **ban)
    where = {"group_id": made.group_id, "parent_group_id": new.group_id}

    refusal = await refused(place.group("MoveGroup", **where))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LAST_OWNER")
    await place.bans("UnbanUser", **ban)
    assert (await place.group("MoveGroup", **where)).group.owner_member_id == bob_id
    assert (await place.group("GetGroup", by=bob, group_id=below.group_id)).group.depth == 3


async def test_no_move_leaves_a_group_with_owners_who_are_banned_some_before_it_and_some_by_it(suite: Suite) -> None:
    place = await new_place(suite)
    (bob, bob_id), (eve, eve_id) = await place.newcomer("Bob"), await place.newcomer("Eve")
    moved, new = await place.create("moved"), await place.create("new")
    below = await place.create("below", parent_group_id=moved.group_id)
    for member_id in (bob_id, eve_id):
        await place.add(below, member_id, "owner")
    await place.people("LeaveGroup", group_id=below.group_id)
    await place.bans("BanUser", group_id=moved.group_id, user_id=bob.user_id)
    ban = {"group_id": new.group_id, "user_id": eve.user_id}
    await place.bans("BanUser", **ban)
    where = {"group_id": moved.group_id, "parent_group_id": new.group_id}

    assert (await refused(place.group("MoveGroup", **where))).reason == "LAST_OWNER"

    await place.bans("UnbanUser", **ban)
    assert (await place.group("MoveGroup", **where)).group.depth == 2


async def test_no_scheme_makes_somebody_who_is_banned_a_groups_only_owner(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    _eve, eve_id = await place.newcomer("Eve")
    scheme = await new_scheme(place, "mate")
    top = await place.create("top", role_scheme_id=scheme.role_scheme_id)
    below = await place.create("below", parent_group_id=top.group_id)
    await place.add(top, eve_id, "mate")
    await place.add(below, bob_id, "mate")
    ban = {"group_id": top.group_id, "user_id": bob.user_id}
    await place.bans("BanUser", **ban)
    change = {"owning_role": "mate"}

    assert (await refused(role_schemes.update(place, scheme, "owning_role", **change))).reason == "SCHEME_IN_USE"

    await place.bans("UnbanUser", **ban)
    assert (await role_schemes.update(place, scheme, "owning_role", **change)).owning_role == "mate"


async def test_nobody_inherits_a_group_by_being_lowered_while_another_could(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    (_sys, sys_id), (_tea, tea_id) = await place.newcomer("Sys"), await place.newcomer("Tea")
    shared, alone = [await place.create(by=bob, role_scheme_id=EDUCATION) for _ in range(2)]
    for group in (shared, alone):
        await place.add(group, sys_id, "system_admin")
    await place.add(shared, tea_id, "teacher")
    owning = await place.role_of(shared, bob_id)

    await place.workspace.remove(bob_id)

    assert await place.role_of(shared, sys_id) == "system_admin"
    assert await place.role_of(shared, tea_id) == owning
    assert await place.role_of(alone, sys_id) == owning


async def test_who_may_everything_by_a_lower_role_takes_the_ownership_from_nobody(suite: Suite) -> None:
    place = await new_place(suite)
    (own, own_id), (bot, bot_id) = await place.newcomer("Own"), await place.newcomer("Bot")
    scheme = await new_scheme(place, "bot", "*")
    made = await place.create(by=own, role_scheme_id=scheme.role_scheme_id)
    await place.add(made, bot_id, "bot", by=own)
    transfer = {"group_id": made.group_id, "member_id": bot_id, "from_member_id": own_id}

    refusal = await refused(place.group("TransferOwnership", by=bot, **transfer))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "RANK_TOO_LOW")
    assert await place.role_of(made, own_id) == "boss"
    await place.group("TransferOwnership", **transfer)
    assert (await place.role_of(made, bot_id), await place.role_of(made, own_id)) == ("boss", "bot")
