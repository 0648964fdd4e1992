"""Every change through its RPC: what it writes into the log, and whether it raises the revision."""

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from guildhall.membership.v1 import invitation_service_pb2 as invitations
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.options.v1 import access_pb2

from services.chassis import contracts
from services.membership.revisions import CAUSES
from tests.service.test_membership_erasure import rows
from tests.service.test_membership_role_schemes import CREW, roles
from tests.support.membership_world import (
    Make,
    World,
    about_bob,
    add_guest,
    as_guest,
    ban,
    ban_user,
    bump,
    coded,
    confirm,
    delete_person,
    group_ban,
    group_of_bobs,
    invited,
    join_by_account,
    mortal,
    move,
    named_group,
    new_world,
    of,
    of_user_group,
    pending,
    redeem,
    stay,
    suspended,
    token,
    two_groups,
    update_group,
    update_scheme,
    update_title,
    update_user_group,
    update_workspace,
    user_group_with_bob,
    viewer,
    with_token,
)
from tests.support.suite import Suite

WITHOUT_KEY = {"AddGuestMember", "ConfirmGuestMember", "RemoveGuestMember", "ChangeMemberKind", "BumpAccessRevision"}
"""RPCs that change something and have another key than a request id: peers' ones."""
MADE_WITH_THE_WORLD = {"WorkspaceService/CreateWorkspace"}


@dataclass(frozen=True)
class Change:
    """One change: `prepare` makes what `make` needs, and is not looked at."""

    rpc: str
    actions: tuple[str, ...]
    """What it writes, in any order."""
    make: Make
    cause: str | None = None
    """What raises the revision, if anything does."""
    prepare: Callable[[World], Awaitable[Any]] | None = None


FULL = {"kind": members.MEMBER_KIND_FULL, "role": members.ROLE_MEMBER, "actor_user_id": str(uuid.UUID(int=1))}
ITEMS = [invitations.InvitationItem(email=f"{name}@example.com", role=members.ROLE_MEMBER) for name in ("cy", "dee")]
NEW_SCHEME = {"name": "crew", "owning_role": "captain", "roles": roles(*CREW)}
OTHER_ROLES = roles(CREW[0], CREW[2])

CHANGES = {
    "update a workspace": Change("WorkspaceService/UpdateWorkspace", ("workspace.updated",), update_workspace),
    "delete a workspace": Change(
        "WorkspaceService/DeleteWorkspace",
        ("workspace.deleted",),
        of("WorkspaceService/DeleteWorkspace"),
        "workspace_deleted",
    ),
    "add a member": Change("MemberService/AddMember", ("member.joined",), join_by_account),
    "update a member": Change("MemberService/UpdateMember", ("member.updated",), update_title),
    "lower a role": Change(
        "MemberService/UpdateMemberRole",
        ("member.role_updated",),
        about_bob("MemberService/UpdateMemberRole", role=members.ROLE_VIEWER),
        "member_role_lowered",
    ),
    "raise a role": Change(
        "MemberService/UpdateMemberRole",
        ("member.role_updated",),
        lambda world, _: about_bob("MemberService/UpdateMemberRole", role=members.ROLE_ADMIN)(world, None),
        prepare=viewer,
    ),
    "suspend": Change(
        "MemberService/SuspendMember",
        ("member.suspended",),
        about_bob("MemberService/SuspendMember"),
        "member_suspended",
    ),
    "reinstate": Change(
        "MemberService/ReinstateMember",
        ("member.reinstated",),
        about_bob("MemberService/ReinstateMember"),
        prepare=suspended,
    ),
    "remove": Change(
        "MemberService/RemoveMember", ("member.removed",), about_bob("MemberService/RemoveMember"), "member_removed"
    ),
    "leave": Change(
        "MemberService/LeaveWorkspace",
        ("member.left",),
        lambda world, _: world.call("MemberService/LeaveWorkspace", by=world.bob),
        "member_left",
    ),
    "ban a member": Change(
        "MemberService/BanMember", ("member.banned",), about_bob("MemberService/BanMember"), "member_banned"
    ),
    "ban a stranger": Change(
        "MemberService/BanMember", ("member.banned",), of("MemberService/BanMember", user_id=str(uuid.UUID(int=2)))
    ),
    "lift a ban": Change(
        "MemberService/UnbanMember", ("member.unbanned",), of("MemberService/UnbanMember"), prepare=ban
    ),
    "delete a person": Change("", ("member.removed",), delete_person, "user_deleted", mortal),
    "add a guest": Change("MemberService/AddGuestMember", (), add_guest),
    "confirm a guest": Change("MemberService/ConfirmGuestMember", ("member.joined",), confirm, prepare=pending),
    "remove a guest": Change(
        "MemberService/RemoveGuestMember",
        ("member.removed",),
        as_guest("MemberService/RemoveGuestMember"),
        "guest_removed",
        World.guest,
    ),
    "promote a guest": Change(
        "MemberService/ChangeMemberKind",
        ("member.promoted",),
        as_guest("MemberService/ChangeMemberKind", **FULL),
        "guest_promoted",
        World.guest,
    ),
    "invite": Change(
        "InvitationService/CreateInvitation",
        ("invitation.created",),
        of("InvitationService/CreateInvitation", email="cy@example.com", role=members.ROLE_MEMBER),
    ),
    "invite several": Change(
        "InvitationService/BatchCreateInvitations",
        ("invitation.created", "invitation.created"),
        of("InvitationService/BatchCreateInvitations", items=ITEMS),
    ),
    "resend": Change(
        "InvitationService/ResendInvitation",
        ("invitation.resent",),
        of("InvitationService/ResendInvitation"),
        prepare=invited,
    ),
    "revoke an invitation": Change(
        "InvitationService/RevokeInvitation",
        ("invitation.revoked",),
        of("InvitationService/RevokeInvitation"),
        prepare=invited,
    ),
    "accept": Change(
        "InvitationService/AcceptInvitation",
        ("member.joined", "invitation.accepted"),
        with_token("InvitationService/AcceptInvitation"),
        prepare=token,
    ),
    "decline": Change(
        "InvitationService/DeclineInvitation",
        ("invitation.declined",),
        with_token("InvitationService/DeclineInvitation"),
        prepare=token,
    ),
    "create a group": Change(
        "GroupService/CreateGroup", ("group.created",), of("GroupService/CreateGroup", name="Team")
    ),
    "update a group": Change("GroupService/UpdateGroup", ("group.updated",), update_group, prepare=named_group),
    "move a group": Change("GroupService/MoveGroup", ("group.moved",), move, "group_moved", two_groups),
    "move a group to where it is": Change("GroupService/MoveGroup", (), stay, prepare=World.group),
    "delete a group": Change(
        "GroupService/DeleteGroup",
        ("group.deleted",),
        of("GroupService/DeleteGroup"),
        "group_deleted",
        named_group,
    ),
    "transfer a group": Change(
        "GroupService/TransferOwnership",
        ("group.ownership_transferred", "group_member.role_updated"),
        of("GroupService/TransferOwnership"),
        "group_ownership_transferred",
        World.group_with_bob,
    ),
    "add to a group": Change(
        "GroupMemberService/AddGroupMember",
        ("group_member.added",),
        about_bob("GroupMemberService/AddGroupMember", role="member"),
        prepare=named_group,
    ),
    "change a role in a group": Change(
        "GroupMemberService/UpdateGroupMemberRole",
        ("group_member.role_updated",),
        of("GroupMemberService/UpdateGroupMemberRole", role="owner"),
        "group_role_changed",
        World.group_with_bob,
    ),
    "remove from a group": Change(
        "GroupMemberService/RemoveGroupMember",
        ("group_member.removed",),
        of("GroupMemberService/RemoveGroupMember"),
        "group_member_removed",
        World.group_with_bob,
    ),
    "leave a group": Change(
        "GroupMemberService/LeaveGroup",
        ("group_member.left",),
        lambda world, named: world.call("GroupMemberService/LeaveGroup", by=world.bob, **named),
        "group_left",
        group_of_bobs,
    ),
    "make a code": Change(
        "GroupInviteService/CreateGroupInvite",
        ("group_invite.created",),
        of("GroupInviteService/CreateGroupInvite", role="member"),
        prepare=named_group,
    ),
    "revoke a code": Change(
        "GroupInviteService/RevokeGroupInvite",
        ("group_invite.revoked",),
        of("GroupInviteService/RevokeGroupInvite"),
        prepare=coded,
    ),
    "redeem a code": Change(
        "GroupInviteService/RedeemGroupInvite",
        ("member.joined", "group_invite.redeemed"),
        redeem,
        prepare=World.code,
    ),
    "ban from a group": Change(
        "GroupBanService/BanUser", ("group_member.banned",), ban_user, "group_banned", group_of_bobs
    ),
    "lift a ban from a group": Change(
        "GroupBanService/UnbanUser",
        ("group_member.unbanned",),
        of("GroupBanService/UnbanUser"),
        prepare=group_ban,
    ),
    "create a scheme": Change(
        "RoleSchemeService/CreateRoleScheme",
        ("role_scheme.created",),
        of("RoleSchemeService/CreateRoleScheme", **NEW_SCHEME),
    ),
    "change a scheme's roles": Change(
        "RoleSchemeService/UpdateRoleScheme",
        ("role_scheme.updated",),
        update_scheme("roles", roles=OTHER_ROLES),
        "role_scheme_changed",
        World.scheme,
    ),
    "rename a scheme": Change(
        "RoleSchemeService/UpdateRoleScheme",
        ("role_scheme.updated",),
        update_scheme("name", name="another"),
        prepare=World.scheme,
    ),
    "delete a scheme": Change(
        "RoleSchemeService/DeleteRoleScheme",
        ("role_scheme.deleted",),
        of("RoleSchemeService/DeleteRoleScheme"),
        prepare=World.scheme,
    ),
    "create a user group": Change(
        "UserGroupService/CreateUserGroup",
        ("user_group.created",),
        of("UserGroupService/CreateUserGroup", handle="crew", name="Crew"),
    ),
    "update a user group": Change(
        "UserGroupService/UpdateUserGroup", ("user_group.updated",), update_user_group, prepare=World.user_group
    ),
    "add to a user group": Change(
        "UserGroupService/AddUserGroupMember",
        ("user_group.member_added",),
        of_user_group("AddUserGroupMember", whom="member_id"),
        prepare=World.user_group,
    ),
    "remove from a user group": Change(
        "UserGroupService/RemoveUserGroupMember",
        ("user_group.member_removed",),
        of_user_group("RemoveUserGroupMember", whom="member_id"),
        prepare=user_group_with_bob,
    ),
    "set a user group": Change(
        "UserGroupService/SetUserGroupMembers",
        ("user_group.members_set",),
        of_user_group("SetUserGroupMembers", whom="member_ids"),
        prepare=World.user_group,
    ),
    "delete a user group": Change(
        "UserGroupService/DeleteUserGroup",
        ("user_group.deleted",),
        of_user_group("DeleteUserGroup"),
        prepare=World.user_group,
    ),
    "bump": Change("AccessService/BumpAccessRevision", (), bump, "peer_changed"),
}


def written(world: World, after: int) -> list[tuple[str, str]]:
    """What the log holds after a number."""
    query = "SELECT action, outcome FROM activities WHERE workspace_id = %s AND number > %s ORDER BY number"
    return [(row[0], row[1]) for row in rows(world.suite, query, world.id, after)]


@pytest.mark.parametrize("name", sorted(CHANGES))
async def test_a_change_is_in_the_log_and_raises_the_revision_if_it_takes_something_away(
    name: str, suite: Suite
) -> None:
    change, world = CHANGES[name], await new_world(suite)
    prepared = await change.prepare(world) if change.prepare else None
    ((number,),) = rows(suite, "SELECT max(number) FROM activities WHERE workspace_id = %s", world.id)
    revision = await world.place.workspace.revision()

    await change.make(world, prepared)

    assert sorted(written(world, number)) == sorted((action, "done") for action in change.actions)
    assert await world.place.workspace.revision() == revision + (1 if change.cause else 0)


def test_every_cause_of_a_revision_is_tried() -> None:
    causes = [change.cause for change in CHANGES.values() if change.cause]
    assert sorted(causes) == sorted(CAUSES)


def test_every_rpc_that_changes_something_is_tried() -> None:
    ours = [rpc for rpc in contracts.rpcs().values() if rpc.service.startswith("guildhall.membership.")]
    changing = {
        f"{rpc.service.rsplit('.', 1)[1]}/{rpc.method}"
        for rpc in ours
        if "request_id" in contracts.request_class(rpc).DESCRIPTOR.fields_by_name  # type: ignore[attr-defined]
        or rpc.method in WITHOUT_KEY
    }
    assert {rpc for rpc in changing if rpc not in MADE_WITH_THE_WORLD} == {
        change.rpc for change in CHANGES.values() if change.rpc
    }
    peers = {rpc.method for rpc in ours if rpc.lets_in(access_pb2.CALLER_PEER)}
    assert peers > WITHOUT_KEY
