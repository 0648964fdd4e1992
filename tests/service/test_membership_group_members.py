"""Who is in a group: rank, the last owner, roles from above, and what goes along when somebody goes."""

import asyncio
import os
import uuid
from typing import Any

import grpc
import pytest

from tests.service.test_membership_groups import EDUCATION, Place, new_place
from tests.service.test_membership_workspaces import somebody
from tests.support.suite import Person, Suite, refused

ROUNDS = int(os.environ.get("GUILDHALL_TEST_ROUNDS", "100"))
SIDE_BY_SIDE = 4


async def test_who_is_added_is_listed_and_told_to_messaging(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    made = await place.create()

    added = await place.add(made, bob_id, "moderator")
    first = await place.people("ListGroupMembers", group_id=made.group_id, page_size=1)
    second = await place.people("ListGroupMembers", by=bob, group_id=made.group_id)

    assert (added.user_id, added.user_name, added.role, added.etag) == (bob.user_id, "Bob", "moderator", "1")
    assert [one.member_id for one in first.group_members] == [place.workspace.admin_member_id]
    assert first.next_page_token
    assert list(second.group_members)[1] == added


async def test_a_page_of_members_goes_on_after_the_last_one(suite: Suite) -> None:
    place = await new_place(suite)
    made = await place.create()
    ids = [place.workspace.admin_member_id]
    for name in ("Bob", "Cy"):
        _person, member_id = await place.newcomer(name)
        ids.append(member_id)
        await place.add(made, member_id, "member")

    first = await place.people("ListGroupMembers", group_id=made.group_id, page_size=2)
    rest = await place.people("ListGroupMembers", group_id=made.group_id, page_token=first.next_page_token)

    assert [one.member_id for one in [*first.group_members, *rest.group_members]] == sorted(ids)
    assert not rest.next_page_token


async def test_nobody_is_added_twice_nor_a_guest_nor_who_is_suspended(suite: Suite) -> None:
    place = await new_place(suite)
    made, other = await place.create(), await new_place(suite)
    _bob, bob_id = await place.newcomer("Bob")
    _cy, cy_id = await place.newcomer("Cy")
    _dan, foreign_id = await other.newcomer("Dan")
    guest = await place.workspace.add_guest(await somebody(suite, "Gil"))
    assert (await refused(place.add(made, guest.member_id, "member"))).reason == "NOT_FOUND"
    await place.workspace.confirm_guest(guest.member_id)
    _suspend(place, cy_id)

    await place.add(made, bob_id, "member")

    assert (await refused(place.add(made, bob_id, "admin"))).reason == "ALREADY_MEMBER"
    assert (await refused(place.add(made, guest.member_id, "member"))).reason == "GUESTS_EXCLUDED"
    assert (await refused(place.add(made, cy_id, "member"))).reason == "MEMBER_SUSPENDED"
    assert (await refused(place.add(made, foreign_id, "member"))).reason == "NOT_FOUND"
    assert (await refused(place.add(made, str(uuid.uuid4()), "member"))).reason == "NOT_FOUND"


def _suspend(place: Place, member_id: str) -> None:
    with place.suite.database("membership") as database:
        database.execute(
            "UPDATE members SET state = 'suspended', suspended_at = statement_timestamp() WHERE id = %s", [member_id]
        )


async def test_people_are_put_in_and_out_by_who_manages_members_only(suite: Suite) -> None:
    place = await new_place(suite)
    (bob, bob_id), (_cy, cy_id), (_dan, dan_id) = [await place.newcomer(name) for name in ("Bob", "Cy", "Dan")]
    made = await place.create()
    await place.add(made, bob_id, "moderator")
    await place.add(made, cy_id, "member")
    others = {"by": bob, "group_id": made.group_id, "member_id": cy_id}

    assert (await refused(place.add(made, dan_id, "member", by=bob))).reason == "PERMISSION_DENIED"
    for call in (
        place.people("UpdateGroupMemberRole", role="moderator", **others),
        place.people("RemoveGroupMember", **others),
    ):
        assert (await refused(call)).reason == "PERMISSION_DENIED"
    await place.people("UpdateGroupMemberRole", group_id=made.group_id, member_id=bob_id, role="admin")
    await place.add(made, dan_id, "member", by=bob)
    await place.people("RemoveGroupMember", **others)


async def test_a_role_of_another_scheme_is_none(suite: Suite) -> None:
    place = await new_place(suite)
    _bob, bob_id = await place.newcomer("Bob")
    school = await place.create(role_scheme_id=EDUCATION)

    assert list((await refused(place.add(school, bob_id, "moderator"))).fields) == ["role"]
    assert (await place.add(school, bob_id, "teacher")).role == "teacher"


async def test_a_change_of_role_takes_rights_at_once_and_the_same_role_changes_nothing(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    made = await place.create()
    added = await place.add(made, bob_id, "admin")
    revision = await place.workspace.revision()

    async def update(role: str, etag: str = "") -> Any:
        fields = {"group_id": made.group_id, "member_id": bob_id, "role": role, "etag": etag}
        return (await place.people("UpdateGroupMemberRole", **fields)).group_member

    same = await update("admin", added.etag)
    assert (same.etag, await place.workspace.revision()) == (added.etag, revision)
    lowered = await update("member", added.etag)
    assert (await refused(update("admin", added.etag))).reason == "ETAG_MISMATCH"
    assert list((await refused(update("teacher"))).fields) == ["role"]
    assert (lowered.role, lowered.user_name) == ("member", "Bob")
    assert await place.workspace.revision() == revision + 1
    assert not (await place.may("group.manage", made, user_id=bob.user_id)).allowed


async def test_who_is_removed_or_leaves_loses_this_role_and_no_other(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    top, below = await place.chain(2)
    for group in (top, below):
        await place.add(group, bob_id, "moderator")
    revision = await place.workspace.revision()

    await place.people("RemoveGroupMember", group_id=below.group_id, member_id=bob_id)
    again = await refused(place.people("RemoveGroupMember", group_id=below.group_id, member_id=bob_id))
    assert again.reason == "NOT_FOUND"
    assert (await place.may("group.moderate", below, user_id=bob.user_id)).allowed
    await place.people("LeaveGroup", by=bob, group_id=top.group_id)

    assert not (await place.may("group.moderate", below, user_id=bob.user_id)).allowed
    assert await place.workspace.revision() == revision + 2
    assert (await refused(place.people("LeaveGroup", by=bob, group_id=top.group_id))).reason == "NOT_FOUND"


RANKS = [
    # actor, target, new role, refused
    ("owner", "owner", "admin", False),
    ("owner", "admin", "moderator", False),
    ("admin", "owner", "member", True),
    ("admin", "admin", "member", True),
    ("admin", "moderator", "member", False),
    ("admin", "moderator", "admin", False),
    ("admin", "moderator", "owner", True),
    ("admin", "member", "owner", True),
    ("workspace admin", "owner", "member", False),
    ("owner", "workspace admin", "member", True),
]


@pytest.mark.parametrize(("actor", "target", "role", "refused_"), RANKS)
async def test_nobody_acts_upwards_and_only_the_highest_rank_on_its_equals(
    suite: Suite, actor: str, target: str, role: str, refused_: bool
) -> None:
    place = await new_place(suite)
    made = await place.create()
    people: dict[str, tuple[Person, str]] = {}
    for name, rank in (("Bob", actor), ("Cy", target)):
        workspace_role = "admin" if rank == "workspace admin" else "member"
        people[name] = await place.newcomer(name, workspace_role)
        if name == "Cy" or rank != "workspace admin":
            await place.add(made, people[name][1], "member" if rank == "workspace admin" else rank)
    (bob, _bob_id), (_cy, cy_id) = people["Bob"], people["Cy"]
    change = place.people("UpdateGroupMemberRole", by=bob, group_id=made.group_id, member_id=cy_id, role=role)

    if refused_:
        refusal = await refused(change)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "RANK_TOO_LOW")
        assert await place.role_of(made, cy_id) == ("member" if target == "workspace admin" else target)
    else:
        assert (await change).group_member.role == role


async def test_nobody_acts_on_themselves_nor_gives_more_than_they_have(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    _cy, cy_id = await place.newcomer("Cy")
    made = await place.create()
    await place.add(made, bob_id, "admin")
    own = {"group_id": made.group_id, "member_id": bob_id}

    assert (await refused(place.people("RemoveGroupMember", by=bob, **own))).reason == "RANK_TOO_LOW"
    assert (await refused(place.people("UpdateGroupMemberRole", by=bob, role="member", **own))).reason == "RANK_TOO_LOW"
    assert (await refused(place.add(made, cy_id, "owner", by=bob))).reason == "RANK_TOO_LOW"
    assert (await place.add(made, cy_id, "admin", by=bob)).role == "admin"


async def test_a_rank_from_above_protects_below(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    _cy, cy_id = await place.newcomer("Cy")
    top, below = await place.chain(2)
    await place.add(below, bob_id, "admin")
    await place.add(top, cy_id, "owner")
    await place.add(below, cy_id, "member")
    remove = {"by": bob, "group_id": below.group_id, "member_id": cy_id}

    assert (await refused(place.people("RemoveGroupMember", **remove))).reason == "RANK_TOO_LOW"
    await place.people("UpdateGroupMemberRole", group_id=top.group_id, member_id=cy_id, role="member")
    await place.people("RemoveGroupMember", **remove)


async def test_the_last_owner_stays_on_every_path_and_the_last_but_one_may_go(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    _cy, cy_id = await place.newcomer("Cy")
    made = await place.create(by=bob)
    named = {"group_id": made.group_id, "member_id": bob_id}

    async def paths() -> list[str]:
        return [
            (await refused(call)).reason
            for call in (
                place.people("LeaveGroup", by=bob, group_id=made.group_id),
                place.people("RemoveGroupMember", **named),
                place.people("UpdateGroupMemberRole", role="admin", **named),
                place.bans("BanUser", group_id=made.group_id, user_id=bob.user_id),
            )
        ]

    assert await paths() == ["LAST_OWNER"] * 4
    await place.add(made, cy_id, "owner")
    _suspend(place, cy_id)
    assert await paths() == ["LAST_OWNER"] * 4
    with suite.database("membership") as database:
        database.execute("UPDATE members SET state = 'active', suspended_at = NULL WHERE id = %s", [cy_id])
    await place.people("LeaveGroup", by=bob, group_id=made.group_id)
    assert place.owners(made) == 1


async def test_two_owners_who_demote_each_other_or_leave_never_leave_none(suite: Suite) -> None:
    place = await new_place(suite)
    (bob, bob_id), (cy, cy_id) = await place.newcomer("Bob"), await place.newcomer("Cy")
    groups = [await place.create(by=bob) for _ in range(SIDE_BY_SIDE)]
    for group in groups:
        await place.add(group, cy_id, "owner", by=bob)

    async def one_round(group: Any, number: int) -> None:
        if number % 2:
            calls = [place.people("LeaveGroup", by=person, group_id=group.group_id) for person in (bob, cy)]
        else:
            demotion = {"group_id": group.group_id, "role": "admin"}
            calls = [
                place.people("UpdateGroupMemberRole", by=bob, member_id=cy_id, **demotion),
                place.people("UpdateGroupMemberRole", by=cy, member_id=bob_id, **demotion),
            ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        lost = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
        assert len(lost) == 1
        assert lost[0].code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.PERMISSION_DENIED)

    def restore() -> None:
        with suite.database("membership") as database:
            database.execute(
                "INSERT INTO group_members (id, workspace_id, group_id, member_id, scheme_id, role)"
                " SELECT gen_random_uuid(), g.workspace_id, g.id, m.id, g.scheme_id, 'owner' FROM groups g, members m"
                " WHERE g.workspace_id = %s AND m.workspace_id = %s AND m.id = ANY(%s::uuid[])"
                " ON CONFLICT (group_id, member_id) DO UPDATE SET role = 'owner'",
                [place.id, place.id, [bob_id, cy_id]],
            )

    for number in range(ROUNDS // SIDE_BY_SIDE):
        await asyncio.gather(*(one_round(group, number) for group in groups))
        assert [place.owners(group) for group in groups] == [1] * SIDE_BY_SIDE
        restore()


async def test_a_person_sees_their_own_groups_and_others_those_that_both_see(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    cy, _cy_id = await place.newcomer("Cy")
    one, two = await place.create(), await place.create()
    for group in (one, two):
        await place.add(group, bob_id, "member")
    await place.bans("BanUser", group_id=two.group_id, user_id=cy.user_id)

    async def seen(by: Person, **fields: Any) -> list[str]:
        page = await place.people("ListUserMemberships", by=by, **fields)
        return [member.group_id for member in page.group_members]

    assert await seen(bob) == sorted([one.group_id, two.group_id])
    assert await seen(cy, user_id=bob.user_id) == [one.group_id]
    assert not await seen(cy)
    first = await place.people("ListUserMemberships", by=bob, page_size=1)
    assert first.group_members[0].user_name == "Bob"
    assert await seen(bob, page_token=first.next_page_token) == [max(one.group_id, two.group_id)]
    stranger = await somebody(suite, "Eve")
    assert (await refused(seen(bob, user_id=stranger.user_id))).reason == "NOT_FOUND"
    assert (await refused(seen(stranger))).reason == "NOT_FOUND"


async def test_effective_members_are_those_with_a_role_here_or_above(suite: Suite) -> None:
    place = await new_place(suite)
    (_bob, bob_id), (cy, cy_id), (_dan, dan_id) = [await place.newcomer(name) for name in ("Bob", "Cy", "Dan")]
    top, below = await place.chain(2)
    await place.add(top, bob_id, "member")
    await place.add(below, bob_id, "moderator")
    await place.add(below, cy_id, "member")
    await place.add(top, dan_id, "member")

    async def listed(group: Any, **page: Any) -> Any:
        return (await place.people("ListEffectiveMembers", group_id=group.group_id, **page)).effective_members

    found = {one.member_id: one for one in await listed(below)}
    assert set(found) == {place.workspace.admin_member_id, bob_id, cy_id, dan_id}
    assert list(found) == sorted(found)
    assert [(role.group_id, role.role) for role in found[bob_id].roles] == [
        (top.group_id, "member"),
        (below.group_id, "moderator"),
    ]
    assert {"group.read", "group.messages.send", "group.moderate"} < set(found[bob_id].capabilities)
    assert list(found[dan_id].capabilities) == ["group.messages.send", "group.read"]
    assert list(found[place.workspace.admin_member_id].capabilities) == ["*"]
    assert {one.member_id for one in await listed(top)} == {place.workspace.admin_member_id, bob_id, dan_id}

    _suspend(place, dan_id)
    await place.bans("BanUser", group_id=top.group_id, user_id=cy.user_id)
    assert [one.member_id for one in await listed(below)] == sorted([place.workspace.admin_member_id, bob_id])
    page = await place.people("ListEffectiveMembers", group_id=below.group_id, page_size=1)
    rest = await listed(below, page_token=page.next_page_token)
    assert [one.member_id for one in [*page.effective_members, *rest]] == sorted(
        [place.workspace.admin_member_id, bob_id]
    )


async def test_who_is_removed_from_the_workspace_and_comes_back_is_in_no_group(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    made = await place.create()
    await place.add(made, bob_id, "admin")

    await place.workspace.remove(bob_id)
    _bob, again = await place.newcomer("Bob")

    assert again != bob_id
    assert not (await place.people("ListUserMemberships", by=bob)).group_members


async def test_a_new_owner_revives_a_group_that_was_archived(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    _cy, cy_id = await place.newcomer("Cy")
    made = await place.create(by=bob)
    await place.workspace.remove(bob_id)
    archived = (await place.group("GetGroup", group_id=made.group_id)).group
    assert archived.HasField("archive_time")
    assert not archived.owner_member_id

    await place.add(made, cy_id, "admin")
    assert (await place.group("GetGroup", group_id=made.group_id)).group.HasField("archive_time")
    await place.people("UpdateGroupMemberRole", group_id=made.group_id, member_id=cy_id, role="owner")

    revived = (await place.group("GetGroup", group_id=made.group_id)).group
    assert not revived.HasField("archive_time")
    assert revived.owner_member_id == cy_id
