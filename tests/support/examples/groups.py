"""Examples of membership's RPCs about groups."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.membership.v1 import member_service_pb2 as members

from tests.support.examples import Example
from tests.support.examples.cast import Caller
from tests.support.examples.world import House, word


def group(house: House, _caller: Caller) -> dict[str, Any]:
    """The group at the top."""
    return house.group_fields


def child(house: House, _caller: Caller) -> dict[str, Any]:
    """The group below it."""
    return {**house.workspace, "group_id": house.child_id}


async def new_child(house: House, _caller: Caller) -> dict[str, Any]:
    """A new group below it."""
    return {**house.workspace, "group_id": await house.group(parent_group_id=house.group_id)}


async def moved(house: House, caller: Caller) -> dict[str, Any]:
    """A new group below it, which is to go one down."""
    return {**await new_child(house, caller), "parent_group_id": house.child_id}


async def heir(house: House, caller: Caller) -> dict[str, Any]:
    """A member of the group who is to own it; in the place of the boss where the caller owns nothing."""
    named = await house.group_member()
    return named if caller.column == "owner" else {**named, "from_member_id": house.boss_id}


async def newcomer(house: House, _caller: Caller) -> dict[str, Any]:
    """Somebody who is not in the group."""
    return {**house.group_fields, "member_id": await house.member_id(), "role": "member"}


async def group_member(house: House, _caller: Caller) -> dict[str, Any]:
    """Somebody who is."""
    return await house.group_member()


async def risen(house: House, _caller: Caller) -> dict[str, Any]:
    """Somebody in the group, with a new role."""
    return {**await house.group_member(), "role": "moderator"}


async def invite(house: House, _caller: Caller) -> dict[str, Any]:
    """An open invite."""
    return {**house.group_fields, "group_invite_id": (await house.group_invite()).group_invite_id}


async def user_in_group(house: House, _caller: Caller) -> dict[str, Any]:
    """Somebody to ban from it."""
    user_id, _ = await house.town.user()
    named = {"group_id": house.group_id, "member_id": await house.join(user_id), "role": "member"}
    await house.call("membership.GroupMemberService/AddGroupMember", **named)
    return {**house.group_fields, "user_id": user_id}


async def banned(house: House, _caller: Caller) -> dict[str, Any]:
    """Somebody who is banned from it."""
    return {**house.group_fields, "user_id": await house.group_ban()}


EXAMPLES: Mapping[str, Example] = MappingProxyType(
    {
        "membership.GroupService/CreateGroup": Example(lambda h, c: {**h.workspace, "name": word("group")}),
        "membership.GroupService/CreateGroup (below)": Example(
            lambda h, c: {**h.workspace, "name": word("group"), "parent_group_id": h.group_id}
        ),
        "membership.GroupService/GetGroup": Example(group),
        "membership.GroupService/ListGroups": Example(lambda h, c: h.workspace),
        "membership.GroupService/UpdateGroup": Example(
            lambda h, c: {
                "group": {**h.group_fields, "description": "New"},
                "update_mask": FieldMask(paths=["description"]),
            }
        ),
        "membership.GroupService/MoveGroup": Example(moved),
        "membership.GroupService/DeleteGroup": Example(new_child),
        "membership.GroupService/ListAncestors": Example(child),
        "membership.GroupService/ListDescendants": Example(group),
        "membership.GroupService/TransferOwnership": Example(heir, spends_caller=True, personal=True),
        "membership.GroupMemberService/AddGroupMember": Example(newcomer),
        "membership.GroupMemberService/ListGroupMembers": Example(group),
        "membership.GroupMemberService/ListUserMemberships": Example(
            lambda h, c: {**h.workspace, "user_id": h.boss.user_id}
        ),
        "membership.GroupMemberService/ListUserMemberships (own)": Example(lambda h, c: h.workspace),
        "membership.GroupMemberService/UpdateGroupMemberRole": Example(risen),
        "membership.GroupMemberService/RemoveGroupMember": Example(group_member),
        "membership.GroupMemberService/LeaveGroup": Example(group, spends_caller=True),
        "membership.GroupMemberService/ListEffectiveMembers": Example(group),
        "membership.GroupMemberService/BatchListGroupMembers": Example(
            lambda h, c: {**h.workspace, "group_ids": [h.group_id]}
        ),
        "membership.GroupInviteService/CreateGroupInvite": Example(
            lambda h, c: {**h.group_fields, "role": "member", "workspace_role": members.ROLE_VIEWER}
        ),
        "membership.GroupInviteService/CreateGroupInvite (inside)": Example(
            lambda h, c: {**h.group_fields, "role": "member"}
        ),
        "membership.GroupInviteService/ListGroupInvites": Example(group),
        "membership.GroupInviteService/RevokeGroupInvite": Example(invite),
        "membership.GroupInviteService/PreviewGroupInvite": Example(lambda h, c: {"code": h.code}),
        "membership.GroupInviteService/RedeemGroupInvite": Example(lambda h, c: {"code": h.code}, spends_caller=True),
        "membership.GroupBanService/BanUser": Example(user_in_group),
        "membership.GroupBanService/UnbanUser": Example(banned),
        "membership.GroupBanService/ListBans": Example(group),
    }
)
