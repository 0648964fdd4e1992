"""What messaging is told of groups: one event for each change of who is in them, naming exactly the groups it is in."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as member_rpc

from services.membership.groups import EVENT_SIZE, chunks
from tests.service.test_membership_continuity import suspends
from tests.service.test_membership_group_bans import in_the_future
from tests.service.test_membership_groups import Place, new_place
from tests.service.test_membership_workspaces import somebody
from tests.support.deliveries import until
from tests.support.outboxes import Written, written
from tests.support.suite import Person, Suite

CHANGED, DELETED = "group_membership_changed", "group_deleted"


@pytest.fixture
async def outbox(suite: Suite) -> AsyncIterator[Written]:
    """What membership writes into its outbox: what messaging has taken is deleted there."""
    async with written(suite, "membership") as noted:
        yield noted


class Told:
    """What messaging is told of one workspace's groups, from one look to the next."""

    def __init__(self, place: Place, outbox: Written) -> None:
        self._place, self._outbox, self._seen = place, outbox, 0

    def all(self) -> list[tuple[str, set[str]]]:
        """Everything so far."""
        found = self._outbox.events("o.target = 'messaging' AND o.kind = ANY(%s)", [CHANGED, DELETED])
        bodies = [(str(kind), getattr(event, str(kind))) for event in found if (kind := event.WhichOneof("payload"))]
        return [(kind, set(body.group_ids)) for kind, body in bodies if body.workspace_id == self._place.id]

    def next(self) -> list[tuple[str, set[str]]]:
        """What is new since the last look."""
        found = self.all()[self._seen :]
        self._seen += len(found)
        return found


async def new_tree(suite: Suite, outbox: Written) -> tuple[Place, list[Any], Person, str, Told]:
    """Three groups, each below the one before; Bob in the lower two; nothing of it to be told any more."""
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    tree = await place.chain(3)
    told = Told(place, outbox)
    assert told.next() == [], "nobody keeps anything by a group that was not there"
    for group in tree[1:]:
        await place.add(group, bob_id, "member")
        assert told.next() == [(CHANGED, {group.group_id})]
    return place, tree, bob, bob_id, told


async def test_removing_leaving_and_a_code_tell_of_the_one_group(suite: Suite, outbox: Written) -> None:
    place, tree, bob, bob_id, told = await new_tree(suite, outbox)
    eve = await somebody(suite, "Eve")
    code = (
        await place.codes(
            "CreateGroupInvite", group_id=tree[0].group_id, role="member", workspace_role=members.ROLE_MEMBER
        )
    ).group_invite.code
    assert told.next() == []

    await place.people("RemoveGroupMember", group_id=tree[1].group_id, member_id=bob_id)
    assert told.next() == [(CHANGED, {tree[1].group_id})]
    await place.people("LeaveGroup", by=bob, group_id=tree[2].group_id)
    assert told.next() == [(CHANGED, {tree[2].group_id})]
    for person in (bob, eve):
        await place.codes("RedeemGroupInvite", by=person, code=code)
        assert told.next() == [(CHANGED, {tree[0].group_id})]
    await place.codes("RedeemGroupInvite", by=bob, code=code)
    assert told.next() == [], "who is in already stays as they are"


async def test_a_ban_and_its_end_tell_of_every_group_below_that_they_have_a_role_in(
    suite: Suite, outbox: Written
) -> None:
    place, tree, bob, _, told = await new_tree(suite, outbox)
    lower = {group.group_id for group in tree[1:]}
    eve = await somebody(suite, "Eve")

    await place.bans("BanUser", group_id=tree[0].group_id, user_id=bob.user_id)
    assert told.next() == [(CHANGED, lower)]
    await place.bans("UnbanUser", group_id=tree[0].group_id, user_id=bob.user_id)
    assert told.next() == [(CHANGED, lower)]
    await place.bans("BanUser", group_id=tree[1].group_id, user_id=bob.user_id)
    assert told.next() == [(CHANGED, lower)]
    await place.bans("UnbanUser", group_id=tree[1].group_id, user_id=bob.user_id)
    assert told.next() == [(CHANGED, {tree[2].group_id})], "the role in the group itself was taken"
    await place.bans("BanUser", group_id=tree[0].group_id, user_id=eve.user_id)
    assert told.next() == [], "who is in no group changes none"


async def test_a_ban_that_ends_by_the_clock_is_told_when_it_does(suite: Suite, outbox: Written) -> None:
    place, tree, bob, _, told = await new_tree(suite, outbox)
    lower = {group.group_id for group in tree[1:]}

    await place.bans("BanUser", group_id=tree[0].group_id, user_id=bob.user_id, expire_time=in_the_future(seconds=1))
    assert told.next() == [(CHANGED, lower)]
    await until(lambda: len(told.all()) > 3)

    assert told.next() == [(CHANGED, lower)]
    assert not (await place.bans("ListBans", group_id=tree[0].group_id)).bans


async def test_an_ended_ban_that_the_next_one_finds_is_told_as_well(suite: Suite, outbox: Written) -> None:
    place, tree, bob, _, told = await new_tree(suite, outbox)
    cy, cy_id = await place.newcomer("Cy")
    await place.add(tree[2], cy_id, "member")
    for person in (bob, cy):
        await place.bans(
            "BanUser", group_id=tree[0].group_id, user_id=person.user_id, expire_time=in_the_future(days=1)
        )
    told.next()
    with suite.database("membership") as database:
        query = "UPDATE group_bans SET expire_at = statement_timestamp() WHERE group_id = %s"
        database.execute(query, (tree[0].group_id,))

    await place.bans("BanUser", group_id=tree[0].group_id, user_id=cy.user_id)

    lower = {group.group_id for group in tree[1:]}
    assert told.next() == [(CHANGED, lower), (CHANGED, {tree[2].group_id})], "Bob is in again, Cy is out"


async def test_who_is_suspended_is_in_no_group_until_they_are_reinstated(suite: Suite, outbox: Written) -> None:
    place, tree, _, bob_id, told = await new_tree(suite, outbox)
    lower = {group.group_id for group in tree[1:]}
    admin, stub = place.workspace.admin, suite.stub(member_rpc.MemberServiceStub)

    for _ in range(2):
        await suspends(place.workspace, admin, bob_id)
    assert told.next() == [(CHANGED, lower)]
    for _ in range(2):
        again = members.ReinstateMemberRequest(workspace_id=place.id, member_id=bob_id)
        await admin.call(stub.ReinstateMember, again)
    assert told.next() == [(CHANGED, lower)]


async def test_a_move_tells_of_the_group_and_all_below_it(suite: Suite, outbox: Written) -> None:
    place, tree, _, _, told = await new_tree(suite, outbox)
    await place.group("MoveGroup", group_id=tree[1].group_id)
    assert told.next() == [(CHANGED, {group.group_id for group in tree[1:]})]
    await place.group("MoveGroup", group_id=tree[1].group_id)
    assert told.next() == [], "it was there"


async def test_what_changes_roles_only_is_not_told(suite: Suite, outbox: Written) -> None:
    place, tree, _, bob_id, told = await new_tree(suite, outbox)
    named = {"group_id": tree[1].group_id, "member_id": bob_id}
    await place.people("UpdateGroupMemberRole", role="moderator", **named)
    await place.group("TransferOwnership", **named)
    assert told.next() == []


async def test_the_end_of_a_stay_is_told_as_such_and_the_end_of_groups_as_such(suite: Suite, outbox: Written) -> None:
    place, tree, _, bob_id, told = await new_tree(suite, outbox)
    await place.workspace.remove(bob_id)
    assert told.next() == []
    assert len(outbox.events("o.target = 'messaging' AND o.kind = 'member_removed'")) == 1
    await place.group("DeleteGroup", group_id=tree[1].group_id, force=True)
    assert told.next() == [(DELETED, {group.group_id for group in tree[1:]})]


def test_more_groups_than_an_event_takes_are_told_in_several() -> None:
    ids = [str(number) for number in range(2 * EVENT_SIZE + 1)]
    assert [len(chunk) for chunk in chunks(ids)] == [EVENT_SIZE, EVENT_SIZE, 1]
    assert [each for chunk in chunks(ids) for each in chunk] == ids
