"""A workspace with a little of everything in it, and each change that can be made there."""

import importlib
import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.events.v1 import event_sink_pb2 as events
from guildhall.membership.v1 import member_service_pb2 as members

from services.membership import members as membership
from tests.service.test_membership_erasure import worked_off
from tests.service.test_membership_groups import Place, new_place
from tests.service.test_membership_role_schemes import CREW, roles
from tests.service.test_membership_workspaces import somebody
from tests.support.accounts import service_account
from tests.support.deliveries import deliver
from tests.support.suite import Person, Suite

Make = Callable[["World", Any], Awaitable[Any]]
"""Makes a change, with what was prepared for it."""


class World:
    """A workspace with Bob in it, and a group, and one below it."""

    def __init__(self, place: Place, bob: Person, bob_id: str) -> None:
        self.place, self.suite, self.id = place, place.suite, place.id
        self.bob, self.bob_id = bob, bob_id
        self.admin, self.admin_id = place.workspace.admin, place.workspace.admin_member_id

    async def call(self, rpc: str, *, by: Person | None = None, certificate: str = "gateway", **fields: Any) -> Any:
        """An RPC, "MemberService/RemoveMember", by the admin unless `by` says otherwise."""
        service, method = rpc.split("/")
        module = "guildhall.membership.v1." + re.sub("(?<!^)(?=[A-Z])", "_", service).lower() + "_pb2"
        request = getattr(importlib.import_module(module), f"{method}Request")
        if "workspace_id" in request.DESCRIPTOR.fields_by_name:
            fields = {"workspace_id": self.id, **fields}
        stub_class = getattr(importlib.import_module(f"{module}_grpc"), f"{service}Stub")
        stub = self.suite.stub(stub_class, certificate=certificate)
        return await (by or self.admin).call(getattr(stub, method), request(**fields))

    async def update(self, rpc: str, *paths: str, **fields: Any) -> Any:
        """An RPC that takes a thing and a mask; the thing is the one field."""
        return await self.call(rpc, update_mask=FieldMask(paths=paths), **fields)

    async def group(self, name: str = "Team", **fields: Any) -> str:
        """A new group of the admin's."""
        return str((await self.place.create(name, **fields)).group_id)

    async def group_with_bob(self, role: str = "member") -> dict[str, Any]:
        """A group that Bob is in: the fields that name them both."""
        named: dict[str, Any] = {"group_id": await self.group(), "member_id": self.bob_id}
        await self.call("GroupMemberService/AddGroupMember", role=role, **named)
        return named

    async def scheme(self) -> dict[str, Any]:
        """A scheme of the workspace's own."""
        made = await self.call(
            "RoleSchemeService/CreateRoleScheme", name="crew", owning_role="captain", roles=roles(*CREW)
        )
        return {"workspace_id": self.id, "role_scheme_id": made.role_scheme.role_scheme_id}

    async def user_group(self) -> str:
        """A user group without members."""
        made = await self.call("UserGroupService/CreateUserGroup", handle="crew", name="Crew")
        return str(made.user_group.user_group_id)

    async def guest(self) -> str:
        """A guest's member id."""
        pending = await self.place.workspace.add_guest(await somebody(self.suite, "Gil"))
        return str((await self.place.workspace.confirm_guest(pending.member_id)).member_id)

    async def invitation(self, address: str = "cy@example.com") -> str:
        """An open invitation's id."""
        made = await self.call("InvitationService/CreateInvitation", email=address, role=members.ROLE_MEMBER)
        return str(made.invitation.invitation_id)

    async def code(self) -> Any:
        """A group invite for anybody, of a group."""
        group_id = await self.group()
        fields: dict[str, Any] = {"group_id": group_id, "role": "member", "workspace_role": members.ROLE_MEMBER}
        return (await self.call("GroupInviteService/CreateGroupInvite", **fields)).group_invite


async def new_world(suite: Suite) -> World:
    """A world of its own for each change."""
    place, bob = await new_place(suite), await somebody(suite, "Bob")
    row = await suite.frames["membership"].database.transaction(
        lambda tx: membership.join(tx, workspace_id=place.id, user_id=bob.user_id, role="member")
    )
    assert row is not None
    return World(place, bob, str(row.id))


def of(rpc: str, **fields: Any) -> Make:
    """A call of the RPC; what was prepared is a mapping of more fields."""
    return lambda world, more: world.call(rpc, **fields, **(more or {}))


def about_bob(rpc: str, **fields: Any) -> Make:
    """A call about Bob."""
    return lambda world, more: world.call(rpc, member_id=world.bob_id, **fields, **(more or {}))


def as_guest(rpc: str, **fields: Any) -> Make:
    """A call of guest, about its guest."""
    return lambda world, member_id: world.call(rpc, certificate="guest", member_id=member_id, **fields)


async def mortal(world: World) -> Person:
    """A member of whom no other test knows."""
    person = await world.suite.person("Moe")
    await world.place.workspace.join(person)
    return person


async def delete_person(world: World, person: Person) -> None:
    """identity deletes somebody who is a member."""
    told = events.UserDeleted(user_id=person.user_id)
    await deliver(world.suite, events.Event(user_deleted=told), source="identity")
    await worked_off(world.suite)


async def join_by_account(world: World, _nothing: Any) -> None:
    """A service account adds somebody."""
    account = service_account(world.suite, "membership.members")
    eve = await somebody(world.suite, "Eve")
    await world.call("MemberService/AddMember", by=account, user_id=eve.user_id, role=members.ROLE_MEMBER)


async def confirm(world: World, pending: Any) -> None:
    """guest confirms."""
    await as_guest("MemberService/ConfirmGuestMember")(world, pending.member_id)


async def pending(world: World) -> Any:
    """A pending guest."""
    return await world.place.workspace.add_guest(await somebody(world.suite, "Gil"))


async def add_guest(world: World, _nothing: Any) -> None:
    """guest adds somebody."""
    await pending(world)


async def token(world: World) -> tuple[Person, str]:
    """Somebody with the token of an invitation for them."""
    eve = await somebody(world.suite, "Eve")
    return eve, await world.place.workspace.invite(eve.email)


def with_token(rpc: str) -> Make:
    """A call by whom an invitation is for."""
    return lambda world, given: world.call(rpc, by=given[0], token=given[1])


async def redeem(world: World, invite: Any) -> None:
    """An outsider comes by a code."""
    await world.call("GroupInviteService/RedeemGroupInvite", by=await somebody(world.suite, "Eve"), code=invite.code)


async def move(world: World, group_ids: tuple[str, str]) -> None:
    """One group goes below another."""
    await world.call("GroupService/MoveGroup", group_id=group_ids[0], parent_group_id=group_ids[1])


async def two_groups(world: World) -> tuple[str, str]:
    """Two groups beside each other."""
    return await world.group("One"), await world.group("Two")


async def stay(world: World, group_id: str) -> None:
    """A group is moved to where it is."""
    await world.call("GroupService/MoveGroup", group_id=group_id)


async def named_group(world: World) -> dict[str, Any]:
    """A group."""
    return {"group_id": await world.group()}


async def group_of_bobs(world: World) -> dict[str, Any]:
    """A group in which Bob is, who can leave it."""
    return {"group_id": (await world.group_with_bob())["group_id"]}


def update_group(world: World, named: dict[str, Any]) -> Awaitable[Any]:
    """A new name."""
    group = {"workspace_id": world.id, "name": "Crew", **named}
    return world.update("GroupService/UpdateGroup", "name", group=group)


def update_scheme(*paths: str, **fields: Any) -> Make:
    """A scheme, changed."""
    return lambda world, named: world.update(
        "RoleSchemeService/UpdateRoleScheme", *paths, role_scheme={**named, **fields}
    )


def update_title(world: World, _nothing: Any) -> Awaitable[Any]:
    """A member gets a handle."""
    member = {"workspace_id": world.id, "member_id": world.bob_id, "handle": "bobby"}
    return world.update("MemberService/UpdateMember", "handle", member=member)


def update_workspace(world: World, _nothing: Any) -> Awaitable[Any]:
    """A new name."""
    return world.update("WorkspaceService/UpdateWorkspace", "name", workspace={"workspace_id": world.id, "name": "X"})


def update_user_group(world: World, user_group_id: str) -> Awaitable[Any]:
    """A new name."""
    changed = {"workspace_id": world.id, "user_group_id": user_group_id, "name": "Other"}
    return world.update("UserGroupService/UpdateUserGroup", "name", user_group=changed)


def of_user_group(rpc: str, *, whom: str = "") -> Make:
    """A call about a user group, and Bob where a field is named for him."""

    async def make(world: World, user_group_id: str) -> None:
        bob: dict[str, Any] = {"member_id": world.bob_id, "member_ids": [world.bob_id]}
        fields = {whom: bob[whom]} if whom else {}
        await world.call(f"UserGroupService/{rpc}", user_group_id=user_group_id, **fields)

    return make


async def user_group_with_bob(world: World) -> str:
    """A user group that Bob is in."""
    user_group_id = await world.user_group()
    await of_user_group("AddUserGroupMember", whom="member_id")(world, user_group_id)
    return user_group_id


async def ban(world: World) -> dict[str, Any]:
    """A ban of a stranger."""
    made = await world.call("MemberService/BanMember", user_id=str(uuid.uuid4()))
    return {"ban_id": made.ban.ban_id}


async def group_ban(world: World) -> dict[str, Any]:
    """A ban of Bob from a group."""
    named: dict[str, Any] = {"group_id": await world.group(), "user_id": world.bob.user_id}
    await world.call("GroupBanService/BanUser", **named)
    return named


async def suspended(world: World) -> None:
    """Bob is suspended."""
    await world.call("MemberService/SuspendMember", member_id=world.bob_id)


async def viewer(world: World) -> None:
    """Bob is a viewer."""
    await world.call("MemberService/UpdateMemberRole", member_id=world.bob_id, role=members.ROLE_VIEWER)


async def invited(world: World) -> dict[str, Any]:
    """An invitation."""
    return {"invitation_id": await world.invitation()}


async def coded(world: World) -> dict[str, Any]:
    """A group invite."""
    made = await world.code()
    return {"group_id": made.group_id, "group_invite_id": made.group_invite_id}


def bump(world: World, _nothing: Any) -> Awaitable[Any]:
    """guest took sight away."""
    return world.call("AccessService/BumpAccessRevision", certificate="guest", event_id=str(uuid.uuid4()))


def ban_user(world: World, named: dict[str, Any]) -> Awaitable[Any]:
    """Bob, from a group."""
    return world.call("GroupBanService/BanUser", user_id=world.bob.user_id, **named)
