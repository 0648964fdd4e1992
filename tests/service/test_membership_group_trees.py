"""Trees of groups: lists up and down, moves with all that is below, no cycles, 32 levels."""

import asyncio
from typing import Any

import grpc

from tests.service.test_membership_groups import EDUCATION, new_place
from tests.support.suite import Suite, refused


async def test_ancestors_come_topmost_first_and_descendants_as_a_tree_is_drawn(suite: Suite) -> None:
    place = await new_place(suite)
    top = await place.create("top")
    left, right = [await place.create(name, parent_group_id=top.group_id) for name in ("left", "right")]
    leaf = await place.create("leaf", parent_group_id=left.group_id)
    other = await place.create("other")

    ancestors = (await place.group("ListAncestors", group_id=leaf.group_id)).groups
    listed, token = [], ""
    while True:
        page = await place.group("ListDescendants", group_id=top.group_id, page_size=1, page_token=token)
        listed += page.groups
        token = page.next_page_token
        if not token:
            break

    assert list(ancestors) == [top, left]
    assert listed == [left, leaf, right]
    assert not (await place.group("ListAncestors", group_id=top.group_id)).groups
    assert not (await place.group("ListDescendants", group_id=other.group_id)).groups


async def test_what_one_is_banned_from_is_missing_in_every_list(suite: Suite) -> None:
    place = await new_place(suite)
    bob, _bob_id = await place.newcomer("Bob")
    top = await place.create("top")
    middle = await place.create("middle", parent_group_id=top.group_id)
    await place.create("leaf", parent_group_id=middle.group_id)
    assert len((await place.group("ListDescendants", by=bob, group_id=top.group_id)).groups) == 2

    await place.bans("BanUser", group_id=middle.group_id, user_id=bob.user_id)

    assert not (await place.group("ListDescendants", by=bob, group_id=top.group_id)).groups
    assert not (await place.group("ListGroups", by=bob, parent_group_id=top.group_id)).groups
    assert len((await place.group("ListGroups", by=bob)).groups) == 1
    await place.bans("BanUser", group_id=top.group_id, user_id=bob.user_id)
    assert not (await place.group("ListGroups", by=bob)).groups


async def test_a_move_carries_everything_below_and_the_rights_from_above(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    old, new = await place.create("old"), await place.create("new")
    group = await place.create("group", parent_group_id=old.group_id)
    leaf = await place.create("leaf", parent_group_id=group.group_id)
    await place.add(old, bob_id, "moderator")
    assert (await place.may("group.moderate", leaf, user_id=bob.user_id)).allowed
    revision = await place.workspace.revision()

    moved = (await place.group("MoveGroup", group_id=group.group_id, parent_group_id=new.group_id)).group

    assert (moved.parent_group_id, moved.depth) == (new.group_id, 2)
    assert [one.name for one in (await place.group("ListAncestors", group_id=leaf.group_id)).groups] == ["new", "group"]
    assert not (await place.may("group.moderate", leaf, user_id=bob.user_id)).allowed
    assert await place.workspace.revision() == revision + 1
    top = (await place.group("MoveGroup", group_id=group.group_id)).group
    assert (top.parent_group_id, top.depth) == ("", 1)
    assert (await place.group("GetGroup", group_id=leaf.group_id)).group.depth == 2


async def test_a_move_to_where_the_group_is_changes_nothing(suite: Suite) -> None:
    place = await new_place(suite)
    top, below = await place.chain(2)
    revision = await place.workspace.revision()

    moved = (await place.group("MoveGroup", group_id=below.group_id, parent_group_id=top.group_id)).group

    assert moved == below
    assert await place.workspace.revision() == revision


async def test_a_move_takes_the_right_to_manage_both_places(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    own, other = await place.create("own", by=bob), await place.create("other")

    async def move() -> Any:
        return await place.group("MoveGroup", by=bob, group_id=own.group_id, parent_group_id=other.group_id)

    assert (await refused(move())).reason == "PERMISSION_DENIED"
    back = place.group("MoveGroup", by=bob, group_id=other.group_id, parent_group_id=own.group_id)
    assert (await refused(back)).reason == "PERMISSION_DENIED"
    await place.add(other, bob_id, "admin")
    assert (await move()).group.parent_group_id == other.group_id


async def test_no_group_comes_below_itself_or_below_a_tree_with_another_scheme(suite: Suite) -> None:
    place = await new_place(suite)
    top, middle, leaf = await place.chain(3)
    school = await place.create("School", role_scheme_id=EDUCATION)

    for below in (top, middle, leaf):
        cycle = place.group("MoveGroup", group_id=top.group_id, parent_group_id=below.group_id)
        assert (await refused(cycle)).reason == "GROUP_CYCLE"
    mixed = place.group("MoveGroup", group_id=leaf.group_id, parent_group_id=school.group_id)
    assert (await refused(mixed)).reason == "SCHEME_MISMATCH"
    stale = place.group("MoveGroup", group_id=leaf.group_id, etag="0")
    assert (await refused(stale)).reason == "ETAG_MISMATCH"


async def test_two_moves_that_would_form_a_cycle_end_with_one_of_them(suite: Suite) -> None:
    place = await new_place(suite)
    for _ in range(10):
        one, two = await place.create("one"), await place.create("two")

        results = await asyncio.gather(
            place.group("MoveGroup", group_id=one.group_id, parent_group_id=two.group_id),
            place.group("MoveGroup", group_id=two.group_id, parent_group_id=one.group_id),
            return_exceptions=True,
        )

        lost = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
        assert len(lost) == 1
        assert lost[0].code() == grpc.StatusCode.FAILED_PRECONDITION
        depths = [(await place.group("GetGroup", group_id=each.group_id)).group.depth for each in (one, two)]
        assert sorted(depths) == [1, 2]


async def test_the_thirty_second_level_is_the_last(suite: Suite) -> None:
    place = await new_place(suite)
    chain = await place.chain(32)
    spare = await place.create("spare")
    below = await place.create("below", parent_group_id=spare.group_id)

    assert (await refused(place.create(parent_group_id=chain[-1].group_id))).reason == "GROUP_TOO_DEEP"
    too_deep = place.group("MoveGroup", group_id=spare.group_id, parent_group_id=chain[30].group_id)
    assert (await refused(too_deep)).reason == "GROUP_TOO_DEEP"
    moved = await place.group("MoveGroup", group_id=spare.group_id, parent_group_id=chain[29].group_id)
    assert moved.group.depth == 31
    assert (await place.group("GetGroup", group_id=below.group_id)).group.depth == 32
    assert len((await place.group("ListAncestors", group_id=below.group_id)).groups) == 31
    page = await place.group("ListDescendants", group_id=chain[0].group_id, page_size=31)
    rest = await place.group("ListDescendants", group_id=chain[0].group_id, page_token=page.next_page_token)
    assert (len(page.groups), len(rest.groups)) == (31, 2)


async def test_a_group_of_another_workspace_is_no_place_to_be(suite: Suite) -> None:
    place, other = await new_place(suite), await new_place(suite)
    own, elsewhere = await place.create(), await other.create()
    foreign = {"parent_group_id": elsewhere.group_id}

    for call in (
        place.create(**foreign),
        place.group("MoveGroup", group_id=own.group_id, **foreign),
        place.group("MoveGroup", group_id=elsewhere.group_id, parent_group_id=own.group_id),
        place.group("ListGroups", **foreign),
        place.people("ListEffectiveMembers", group_id=elsewhere.group_id),
    ):
        assert (await refused(call)).reason == "NOT_FOUND"
    assert (await other.create(**foreign)).depth == 2
