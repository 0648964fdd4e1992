"""Examples of membership's RPCs about the workspace and its people."""

import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.membership.v1 import member_service_pb2 as members

from tests.support.examples import FORWARDED, Example
from tests.support.examples.cast import Caller
from tests.support.examples.world import CREW, House, word
from tests.support.reflected import do

TITLED = FieldMask(paths=["title"])
NAMED = FieldMask(paths=["name"])


def place(house: House, _caller: Caller) -> dict[str, Any]:
    """The workspace."""
    return house.workspace


def about_bob(house: House, _caller: Caller) -> dict[str, Any]:
    """Bob in it."""
    return {**house.workspace, "member_id": house.bob_id}


async def new_member(house: House, _caller: Caller) -> dict[str, Any]:
    """Somebody who has just joined."""
    return {**house.workspace, "member_id": await house.member_id()}


async def suspended(house: House, caller: Caller) -> dict[str, Any]:
    """Somebody who is suspended."""
    named = await new_member(house, caller)
    await do(house.suite, house.boss, "membership.MemberService/SuspendMember", **named)
    return named


async def outsider(house: House, _caller: Caller) -> dict[str, Any]:
    """Somebody who is no member yet, to be one."""
    return {**house.workspace, "user_id": (await house.town.user())[0], "role": members.ROLE_MEMBER}


async def ban(house: House, _caller: Caller) -> dict[str, Any]:
    """A ban."""
    return {**house.workspace, "ban_id": await house.ban()}


async def redemption(house: House, _caller: Caller) -> dict[str, Any]:
    """Somebody who redeems a guest link: guest forwards their token."""
    person = await house.town.person()
    attempt = {"user_id": person.user_id, "redemption_id": str(uuid.uuid4()), "normalized_email": person.email}
    return {**house.workspace, **attempt, FORWARDED: person}


async def pending(house: House, caller: Caller) -> dict[str, Any]:
    """A guest who is not confirmed yet."""
    fields = await redemption(house, caller)
    person = fields.pop(FORWARDED)
    rpc = house.suite.channel("membership", certificate="guest").unary_unary(
        "/guildhall.membership.v1.MemberService/AddGuestMember",
        members.AddGuestMemberRequest.SerializeToString,
        members.AddGuestMemberResponse.FromString,
    )
    made = await rpc(members.AddGuestMemberRequest(**fields), timeout=10, metadata=person.metadata)
    return {**house.workspace, "member_id": made.member.member_id}


async def new_guest(house: House, _caller: Caller) -> dict[str, Any]:
    """A guest."""
    return {**house.workspace, "member_id": (await house.new_guest())[1]}


async def promotion(house: House, caller: Caller) -> dict[str, Any]:
    """A guest who is to be a full member."""
    terms = {"kind": members.MEMBER_KIND_FULL, "role": members.ROLE_MEMBER, "actor_user_id": house.boss.user_id}
    return {**await new_guest(house, caller), **terms}


async def invitation(house: House, _caller: Caller) -> dict[str, Any]:
    """An open invitation."""
    return {**house.workspace, "invitation_id": (await house.invitation())[0]}


async def invited(house: House, caller: Caller) -> dict[str, Any]:
    """The token of an invitation: for the caller where it is a stranger, for somebody else where not."""
    mine = caller.person.email if caller.person and caller.column == "stranger" else ""
    return {"token": (await house.invitation(mine))[1]}


async def scheme(house: House, _caller: Caller) -> dict[str, Any]:
    """A role scheme that no group has."""
    return {**house.workspace, "role_scheme_id": await house.scheme()}


async def renamed_scheme(house: House, caller: Caller) -> dict[str, Any]:
    """Another name for one."""
    return {"role_scheme": {**await scheme(house, caller), "name": word("scheme")}, "update_mask": NAMED}


async def user_group(house: House, _caller: Caller) -> dict[str, Any]:
    """A user group."""
    return {**house.workspace, "user_group_id": await house.user_group()}


async def joining_user_group(house: House, _caller: Caller) -> dict[str, Any]:
    """Somebody who is not in the user group yet."""
    return {**house.workspace, "user_group_id": house.user_group_id, "member_id": await house.member_id()}


async def bob_in_user_group(house: House, caller: Caller) -> dict[str, Any]:
    """Bob, who is in a user group."""
    return {**await user_group(house, caller), "member_id": house.bob_id}


def asked_of_bob(house: House) -> dict[str, Any]:
    """Whether Bob may read."""
    return {**house.workspace, "user_id": house.bob.user_id, "capability": "workspace.read"}


EXAMPLES: Mapping[str, Example] = MappingProxyType(
    {
        "membership.WorkspaceService/CreateWorkspace": Example(lambda h, c: {"name": word("house")}),
        "membership.WorkspaceService/GetWorkspace": Example(place),
        "membership.WorkspaceService/ListWorkspaces": Example(lambda h, c: {}),
        "membership.WorkspaceService/UpdateWorkspace": Example(
            lambda h, c: {"workspace": {**h.workspace, "name": "New"}, "update_mask": NAMED}
        ),
        "membership.WorkspaceService/DeleteWorkspace": Example(place),
        "membership.MemberService/AddMember": Example(outsider),
        "membership.MemberService/ListMembers": Example(place),
        "membership.MemberService/GetMember": Example(about_bob),
        "membership.MemberService/UpdateMember": Example(
            lambda h, c: {"member": {**about_bob(h, c), "title": "New"}, "update_mask": TITLED}
        ),
        "membership.MemberService/UpdateMember (own)": Example(
            lambda h, c: {
                "member": {**h.workspace, "member_id": c.member_id or h.bob_id, "title": "New"},
                "update_mask": TITLED,
            },
            personal=True,
        ),
        "membership.MemberService/UpdateMemberRole": Example(
            lambda h, c: _with(new_member(h, c), role=members.ROLE_VIEWER)
        ),
        "membership.MemberService/SuspendMember": Example(new_member),
        "membership.MemberService/ReinstateMember": Example(suspended),
        "membership.MemberService/RemoveMember": Example(new_member),
        "membership.MemberService/LeaveWorkspace": Example(place, spends_caller=True),
        "membership.MemberService/BanMember": Example(new_member),
        "membership.MemberService/UnbanMember": Example(ban),
        "membership.MemberService/ListBannedMembers": Example(place),
        "membership.MemberService/AddGuestMember": Example(redemption),
        "membership.MemberService/ConfirmGuestMember": Example(pending),
        "membership.MemberService/RemoveGuestMember": Example(new_guest),
        "membership.MemberService/ChangeMemberKind": Example(promotion),
        "membership.MemberService/BatchGetMembers": Example(lambda h, c: {**h.workspace, "member_ids": [h.bob_id]}),
        "membership.InvitationService/CreateInvitation": Example(
            lambda h, c: {**h.workspace, "email": f"{word('inv')}@example.com", "role": members.ROLE_MEMBER}
        ),
        "membership.InvitationService/BatchCreateInvitations": Example(
            lambda h, c: {
                **h.workspace,
                "items": [{"email": f"{word('inv')}@example.com", "role": members.ROLE_MEMBER}],
            }
        ),
        "membership.InvitationService/ListInvitations": Example(place),
        "membership.InvitationService/ResendInvitation": Example(invitation),
        "membership.InvitationService/RevokeInvitation": Example(invitation),
        "membership.InvitationService/PreviewInvitation": Example(invited, personal=True),
        "membership.InvitationService/AcceptInvitation": Example(invited, personal=True, spends_caller=True),
        "membership.InvitationService/DeclineInvitation": Example(invited, personal=True),
        "membership.RoleSchemeService/ListRoleSchemes": Example(place),
        "membership.RoleSchemeService/GetRoleScheme": Example(
            lambda h, c: {**h.workspace, "role_scheme_id": h.scheme_id}
        ),
        "membership.RoleSchemeService/CreateRoleScheme": Example(
            lambda h, c: {**h.workspace, "name": word("scheme"), "owning_role": "captain", "roles": CREW}
        ),
        "membership.RoleSchemeService/UpdateRoleScheme": Example(renamed_scheme),
        "membership.RoleSchemeService/DeleteRoleScheme": Example(scheme),
        "membership.UserGroupService/CreateUserGroup": Example(
            lambda h, c: {**h.workspace, "handle": word("ug")[:20], "name": "Crew"}
        ),
        "membership.UserGroupService/GetUserGroup": Example(
            lambda h, c: {**h.workspace, "user_group_id": h.user_group_id}
        ),
        "membership.UserGroupService/ListUserGroups": Example(place),
        "membership.UserGroupService/UpdateUserGroup": Example(
            lambda h, c: {
                "user_group": {**h.workspace, "user_group_id": h.user_group_id, "name": "Other"},
                "update_mask": NAMED,
            }
        ),
        "membership.UserGroupService/DeleteUserGroup": Example(user_group),
        "membership.UserGroupService/AddUserGroupMember": Example(joining_user_group),
        "membership.UserGroupService/RemoveUserGroupMember": Example(bob_in_user_group),
        "membership.UserGroupService/SetUserGroupMembers": Example(
            lambda h, c: {**h.workspace, "user_group_id": h.user_group_id, "member_ids": [h.bob_id]}
        ),
        "membership.UserGroupService/ExpandHandles": Example(lambda h, c: {**h.workspace, "handles": [h.crew]}),
        "membership.ActivityService/ListActivities": Example(place),
        "membership.ActivityService/ExportActivities": Example(place),
        "membership.ActivityService/VerifyActivityChain": Example(place),
        "membership.AccessService/CheckAccess": Example(lambda h, c: asked_of_bob(h)),
        "membership.AccessService/CheckAccess (own)": Example(
            lambda h, c: {**h.workspace, "capability": "workspace.read"}
        ),
        "membership.AccessService/ExplainAccess": Example(lambda h, c: asked_of_bob(h)),
        "membership.AccessService/ExplainAccess (own)": Example(
            lambda h, c: {**h.workspace, "capability": "workspace.read"}
        ),
        "membership.AccessService/WatchMembership": Example(place),
        "membership.AccessService/BatchCheckAccess": Example(lambda h, c: {"questions": [asked_of_bob(h)]}),
        "membership.AccessService/GetAccessRevisions": Example(lambda h, c: {"workspace_ids": [h.id]}),
        "membership.AccessService/BumpAccessRevision": Example(
            lambda h, c: {**h.workspace, "event_id": str(uuid.uuid4())}
        ),
    }
)


async def _with(fields: Any, **more: Any) -> dict[str, Any]:
    return {**await fields, **more}
