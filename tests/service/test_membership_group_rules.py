"""The rules of access, written down a second time in a few lines, against the service, on trees made by chance."""

import random
from itertools import product
from typing import Any

import pytest
from guildhall.membership.v1 import access_service_pb2 as access

from tests.service.test_membership_groups import Place, new_place
from tests.support.suite import Suite, refused

OF_ROLE = {
    "owner": {"group.read", "group.delete", "group.moderate", "group.manage", "made.up"},
    "admin": {"group.read", "group.moderate", "group.manage"},
    "moderator": {"group.read", "group.moderate"},
    "member": {"group.read"},
}
OF_WORKSPACE = {"viewer": {"workspace.read"}, "member": {"workspace.read", "conversations.create"}}
CAPABILITIES = ("group.read", "group.moderate", "group.manage", "group.delete", "made.up", "conversations.create")
PEOPLE = {"Bob": "member", "Cy": "viewer", "Ann": "admin"}


class World:
    """A tree of groups, people in it, and what the rules say of them."""

    def __init__(self, place: Place, chance: random.Random) -> None:
        self.place = place
        self.chance = chance
        self.groups: list[Any] = []
        self.above: list[list[int]] = []
        """For each group: itself and those above it, by index."""
        self.roles: dict[tuple[str, int], str] = {}
        self.bans: set[tuple[str, int]] = set()
        self.people: dict[str, tuple[Any, str]] = {}

    async def grow(self) -> None:
        """Seven groups, and a role or a ban in every second place."""
        for name, role in PEOPLE.items():
            self.people[name] = await self.place.newcomer(name, role)
        for index in range(7):
            parent = self.chance.choice([None, *range(index)])
            parent_id = "" if parent is None else self.groups[parent].group_id
            self.groups.append(await self.place.create(f"G{index}", parent_group_id=parent_id))
            self.above.append([index] if parent is None else [*self.above[parent], index])
        for name, index in product(PEOPLE, range(7)):
            if self.chance.random() < 0.3:
                role = self.chance.choice(list(OF_ROLE))
                await self.place.add(self.groups[index], self.people[name][1], role)
                self.roles[name, index] = role
        for name, index in product(PEOPLE, range(7)):
            if self.chance.random() < 0.12:
                user_id = self.people[name][0].user_id
                await self.place.bans("BanUser", group_id=self.groups[index].group_id, user_id=user_id)
                self.roles.pop((name, index), None)
                self.bans.add((name, index))

    def reason(self, name: str, index: int, capability: str) -> access.AccessReason.ValueType:
        """What the rules say, in their order."""
        if any((name, above) in self.bans for above in self.above[index]):
            return access.ACCESS_REASON_BANNED
        if PEOPLE[name] == "admin":
            return access.ACCESS_REASON_WORKSPACE_ADMIN
        held = [self.roles[name, above] for above in self.above[index] if (name, above) in self.roles]
        if any(capability in OF_ROLE[role] for role in held) or "owner" in held:
            return access.ACCESS_REASON_GROUP_ROLE
        if capability in OF_WORKSPACE[PEOPLE[name]]:
            return access.ACCESS_REASON_ROLE
        return access.ACCESS_REASON_ROLE_LACKS_CAPABILITY


@pytest.mark.parametrize("seed", range(6))
async def test_every_verdict_and_every_list_is_what_the_rules_say(suite: Suite, seed: int) -> None:
    place = await new_place(suite)
    world = World(place, random.Random(seed))
    await world.grow()

    for capability in CAPABILITIES:
        asked = list(product(PEOPLE, range(7)))
        verdicts = await place.workspace.check(
            *({"member_id": world.people[name][1], "group_id": world.groups[index].group_id} for name, index in asked),
            capability=capability,
        )
        for (name, index), verdict in zip(asked, verdicts, strict=True):
            assert verdict.reason == world.reason(name, index, capability), (name, index, capability)

    for name, index in product(PEOPLE, range(7)):
        person, group = world.people[name][0], world.groups[index]
        hidden = world.reason(name, index, "group.read") == access.ACCESS_REASON_BANNED
        look = place.group("GetGroup", by=person, group_id=group.group_id)
        if hidden:
            assert (await refused(look)).reason == "NOT_FOUND"
            continue
        assert (await look).group.group_id == group.group_id
        shown = (await place.group("ListDescendants", by=person, group_id=group.group_id)).groups
        below = {
            world.groups[other].group_id
            for other in range(7)
            if other != index
            and index in world.above[other]
            and world.reason(name, other, "group.read") != access.ACCESS_REASON_BANNED
        }
        assert {one.group_id for one in shown} == below
