"""Bans from groups: they hold below, beat every way in, end by the database's clock, and come before any right."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.membership.v1 import member_service_pb2 as members

from services.membership import group_bans
from tests.service.test_membership_continuity import suspends
from tests.service.test_membership_groups import new_place
from tests.service.test_membership_workspaces import somebody
from tests.support.deliveries import until
from tests.support.suite import Person, Suite, refused


def in_the_future(**ahead: int) -> Timestamp:
    """A time after now."""
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC) + timedelta(**ahead))
    return stamp


async def test_a_ban_takes_the_role_and_the_sight_there_and_below_and_nothing_elsewhere(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    top, middle, leaf = await place.chain(3)
    for group in (top, middle, leaf):
        await place.add(group, bob_id, "moderator")
    revision = await place.workspace.revision()

    answer = await place.bans("BanUser", group_id=middle.group_id, user_id=bob.user_id, reason="spam")

    assert (answer.ban.user_id, answer.ban.user_name, answer.ban.reason) == (bob.user_id, "Bob", "spam")
    assert answer.ban.banned_by_member_id == place.workspace.admin_member_id
    assert not answer.ban.HasField("expire_time")
    assert await place.workspace.revision() == revision + 1
    for group, reason in (
        (top, access.ACCESS_REASON_GROUP_ROLE),
        (middle, access.ACCESS_REASON_BANNED),
        (leaf, access.ACCESS_REASON_BANNED),
    ):
        assert (await place.may("group.moderate", group, user_id=bob.user_id)).reason == reason
    assert (await refused(place.group("GetGroup", by=bob, group_id=leaf.group_id))).reason == "NOT_FOUND"
    assert await place.role_of(middle, bob_id) is None
    assert await place.role_of(leaf, bob_id) == "moderator"


async def test_an_unban_gives_the_roles_below_back_and_not_the_one_that_was_taken(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    top, below = await place.chain(2)
    for group in (top, below):
        await place.add(group, bob_id, "moderator")
    banned = {"group_id": top.group_id, "user_id": bob.user_id}
    await place.bans("BanUser", **banned)
    assert (await refused(place.bans("UnbanUser", group_id=below.group_id, user_id=bob.user_id))).reason == "NOT_FOUND"

    await place.bans("UnbanUser", **banned)

    assert not (await place.may("group.moderate", top, user_id=bob.user_id)).allowed
    assert (await place.may("group.moderate", below, user_id=bob.user_id)).allowed
    assert (await refused(place.bans("UnbanUser", **banned))).reason == "NOT_FOUND"


async def test_who_is_no_member_can_be_banned_and_a_second_ban_replaces_reason_and_end(suite: Suite) -> None:
    place = await new_place(suite)
    eve = await somebody(suite, "Eve")
    made = await place.create()
    revision = await place.workspace.revision()

    first = (await place.bans("BanUser", group_id=made.group_id, user_id=eve.user_id, reason="one")).ban
    until = in_the_future(days=1)
    second = await place.bans(
        "BanUser", group_id=made.group_id, user_id=eve.user_id.upper(), reason="two", expire_time=until
    )
    nobody = str(uuid.uuid4())
    await place.bans("BanUser", group_id=made.group_id, user_id=nobody)

    assert (second.ban.ban_id, second.ban.reason) == (first.ban_id, "two")
    assert second.ban.expire_time.ToMicroseconds() == until.ToMicroseconds()
    assert await place.workspace.revision() == revision
    page = await place.bans("ListBans", group_id=made.group_id, page_size=1)
    rest = await place.bans("ListBans", group_id=made.group_id, page_token=page.next_page_token)
    assert [(ban.user_id, ban.user_name) for ban in [*page.bans, *rest.bans]] == [(nobody, ""), (eve.user_id, "")]


async def test_a_ban_names_only_who_was_a_member_that_the_banner_saw(suite: Suite) -> None:
    place = await new_place(suite)
    (ann, ann_id), (bob, _), (cy, cy_id) = [await place.newcomer(name) for name in ("Ann", "Bob", "Cy")]
    eve, made = await somebody(suite, "Eve"), await place.create()
    await place.add(made, ann_id, "admin")
    await suspends(place.workspace, place.workspace.admin, cy_id)
    named, expected = {}, {bob.user_id: "Bob", cy.user_id: "", eve.user_id: ""}

    for person in (bob, cy, eve):
        banned = (await place.bans("BanUser", by=ann, group_id=made.group_id, user_id=person.user_id)).ban
        named[banned.user_id] = banned.user_name

    page = (await place.bans("ListBans", by=ann, group_id=made.group_id)).bans
    assert named == {ban.user_id: ban.user_name for ban in page} == expected
    await place.bans("BanUser", group_id=made.group_id, user_id=cy.user_id)
    (seen,) = [ban for ban in (await place.bans("ListBans", group_id=made.group_id)).bans if ban.user_id == cy.user_id]
    assert (seen.user_name, seen.was_member) == ("Cy", True)


async def test_a_ban_that_is_over_makes_room_for_the_next_one_in_its_group(suite: Suite) -> None:
    place = await new_place(suite)
    made, other = await place.create(), await place.create("Other")
    with suite.database("membership") as database:
        database.execute("INSERT INTO workspace_limits VALUES (%s, 'group_bans', 1)", [place.id])
    first = (await place.bans("BanUser", group_id=made.group_id, user_id=str(uuid.uuid4()))).ban

    refusal = await refused(place.bans("BanUser", group_id=made.group_id, user_id=str(uuid.uuid4())))
    assert (refusal.reason, refusal.metadata["limit"]) == ("LIMIT_REACHED", "group_bans")
    await place.bans("BanUser", group_id=made.group_id, user_id=first.user_id, reason="again")
    await place.bans("BanUser", group_id=other.group_id, user_id=str(uuid.uuid4()))

    with suite.database("membership") as database:
        database.execute("UPDATE group_bans SET expire_at = statement_timestamp() WHERE id = %s", [first.ban_id])
    await place.bans("BanUser", group_id=made.group_id, user_id=str(uuid.uuid4()))


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize("way", ["add", "code", "code of an outsider", "ownership"])
async def test_a_ban_beats_every_way_in(suite: Suite, way: str, above: bool) -> None:
    place = await new_place(suite)
    top, below = await place.chain(2)
    outside = way == "code of an outsider"
    bob = await somebody(suite, "Bob")
    bob_id = "" if outside else (await place.newcomer("Bob"))[1]
    code = await place.codes(
        "CreateGroupInvite",
        group_id=below.group_id,
        max_uses=1,
        workspace_role=members.ROLE_MEMBER if outside else members.ROLE_UNSPECIFIED,
    )
    if way == "ownership":
        await place.add(below, bob_id, "member")
    ban = {"group_id": (top if above else below).group_id, "user_id": bob.user_id}

    async def come_in() -> Any:
        if way == "add":
            return await place.add(below, bob_id, "member")
        if way == "ownership":
            return await place.group("TransferOwnership", group_id=below.group_id, member_id=bob_id)
        return await place.codes("RedeemGroupInvite", by=bob, code=code.group_invite.code)

    await place.bans("BanUser", **ban)
    refusal = await refused(come_in())
    if way == "ownership" and not above:
        assert refusal.reason == "NOT_FOUND"
        return
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "BANNED")
    invites = (await place.codes("ListGroupInvites", group_id=below.group_id)).group_invites
    assert [invite.uses for invite in invites] == [0]

    await place.bans("UnbanUser", **ban)
    await come_in()


async def test_a_ban_ends_by_the_databases_clock(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    made = await place.create()
    ban = {"group_id": made.group_id, "user_id": bob.user_id}
    await place.bans("BanUser", expire_time=in_the_future(days=1), **ban)
    assert (await refused(place.add(made, bob_id, "member"))).reason == "BANNED"
    assert len((await place.bans("ListBans", group_id=made.group_id)).bans) == 1

    with suite.database("membership") as database:
        database.execute("UPDATE group_bans SET expire_at = statement_timestamp() WHERE group_id = %s", [made.group_id])

    assert (await place.group("GetGroup", by=bob, group_id=made.group_id)).group == made
    assert not (await place.bans("ListBans", group_id=made.group_id)).bans
    assert (await refused(place.bans("UnbanUser", **ban))).reason == "NOT_FOUND"
    assert (await place.add(made, bob_id, "member")).role == "member"


async def test_a_ban_that_would_be_over_is_refused(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    made = await place.create()
    await place.add(made, bob_id, "member")
    ban = {"group_id": made.group_id, "user_id": bob.user_id}

    refusal = await refused(place.bans("BanUser", expire_time=in_the_future(seconds=-1), **ban))

    assert list(refusal.fields) == ["expire_time"]
    assert await place.role_of(made, bob_id) == "member"
    await place.bans("BanUser", expire_time=in_the_future(minutes=1), **ban)


async def test_a_ban_takes_the_capability_and_the_rank(suite: Suite) -> None:
    place = await new_place(suite)
    (bob, bob_id), (cy, cy_id), (dan, dan_id) = [await place.newcomer(name) for name in ("Bob", "Cy", "Dan")]
    made = await place.create()
    for member_id, role in ((bob_id, "moderator"), (cy_id, "moderator"), (dan_id, "member")):
        await place.add(made, member_id, role)

    async def ban(by: Person, user_id: str) -> Any:
        return await place.bans("BanUser", by=by, group_id=made.group_id, user_id=user_id)

    assert (await refused(ban(dan, cy.user_id))).reason == "PERMISSION_DENIED"
    assert (await refused(place.bans("ListBans", by=dan, group_id=made.group_id))).reason == "PERMISSION_DENIED"
    assert (await refused(ban(bob, cy.user_id))).reason == "RANK_TOO_LOW"
    assert (await refused(ban(bob, bob.user_id))).reason == "RANK_TOO_LOW"
    assert (await refused(ban(bob, place.workspace.admin.user_id))).reason == "RANK_TOO_LOW"
    assert (await ban(bob, dan.user_id)).ban.banned_by_member_id == bob_id
    unban = {"group_id": made.group_id, "user_id": dan.user_id}
    assert (await refused(place.bans("UnbanUser", by=await somebody(suite, "Eve"), **unban))).reason == "NOT_FOUND"
    await place.bans("UnbanUser", by=cy, **unban)


async def test_a_workspace_admin_who_is_banned_may_nothing_there(suite: Suite) -> None:
    place = await new_place(suite)
    ann, _ann_id = await place.newcomer("Ann", "admin")
    made = await place.create()
    assert (await place.group("GetGroup", by=ann, group_id=made.group_id)).group == made

    await place.bans("BanUser", group_id=made.group_id, user_id=ann.user_id)

    verdict = (await place.access("CheckAccess", by=ann, capability="group.read", group_id=made.group_id)).verdict
    assert (verdict.allowed, verdict.reason) == (False, access.ACCESS_REASON_BANNED)
    assert (await refused(place.group("DeleteGroup", by=ann, group_id=made.group_id))).reason == "NOT_FOUND"


async def test_what_only_the_banned_owned_below_goes_to_the_highest_rank_there(suite: Suite) -> None:
    place = await new_place(suite)
    (bob, bob_id), (_cy, cy_id), (dan, dan_id) = [await place.newcomer(name) for name in ("Bob", "Cy", "Dan")]
    top = await place.create()
    await place.add(top, bob_id, "admin")
    shared, alone = [await place.create(by=bob, parent_group_id=top.group_id) for _ in range(2)]
    elsewhere = await place.create(by=bob)
    await place.add(shared, cy_id, "member")
    await place.add(shared, dan_id, "moderator")
    await place.add(elsewhere, cy_id, "member")

    await place.bans("BanUser", group_id=top.group_id, user_id=bob.user_id)

    assert await place.role_of(shared, dan_id) == "owner"
    assert await place.role_of(shared, cy_id) == "member"
    assert (await place.group("GetGroup", group_id=alone.group_id)).group.HasField("archive_time")
    assert not (await place.group("GetGroup", group_id=shared.group_id)).group.HasField("archive_time")
    assert await place.role_of(elsewhere, cy_id) == "member"
    assert (await refused(place.people("LeaveGroup", by=dan, group_id=shared.group_id))).reason == "LAST_OWNER"


def stored_bans(suite: Suite, group: Any) -> set[str]:
    """Who is banned from a group itself, and who was and is not forgotten yet."""
    with suite.database("membership") as database:
        query = "SELECT user_id::text FROM group_bans WHERE group_id = %s"
        return {user_id for (user_id,) in database.execute(query, (group.group_id,)).fetchall()}


async def test_a_ban_whose_time_is_over_is_forgotten_by_the_worker_and_a_longer_one_is_not(suite: Suite) -> None:
    place = await new_place(suite)
    made = await place.create()
    eve, gus, hal = [await somebody(suite, name) for name in ("Eve", "Gus", "Hal")]
    await place.bans("BanUser", group_id=made.group_id, user_id=eve.user_id, expire_time=in_the_future(seconds=1))
    await place.bans("BanUser", group_id=made.group_id, user_id=gus.user_id, expire_time=in_the_future(seconds=1))
    longer = in_the_future(days=1)
    await place.bans("BanUser", group_id=made.group_id, user_id=gus.user_id, expire_time=longer)
    await place.bans("BanUser", group_id=made.group_id, user_id=hal.user_id)

    await until(lambda: eve.user_id not in stored_bans(suite, made))
    with suite.database("membership") as database:
        query = "SELECT id::text FROM group_bans WHERE group_id = %s"
        ids = [ban_id for (ban_id,) in database.execute(query, (made.group_id,)).fetchall()]
    for ban_id in [*ids, str(uuid.uuid4())]:
        # As the end of the shorter ban does, or does once more.
        await suite.frames["membership"].database.transaction(lambda tx, ban_id=ban_id: group_bans.end(tx, ban_id))

    assert stored_bans(suite, made) == {gus.user_id, hal.user_id}
