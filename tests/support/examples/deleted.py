"""Things of a workspace that were there once: by the kind of thing, the id of one that is gone."""

from guildhall.messaging.v1 import conversation_service_pb2 as conversations

from tests.support.examples.world import House
from tests.support.reflected import do


async def deleted_things(house: House) -> dict[str, str]:
    """Makes each, and ends it. Conversations end with their workspace only; this one is archived."""
    found: dict[str, str] = {}
    gone = await do(house.suite, house.boss, "membership.WorkspaceService/CreateWorkspace", name="Gone")
    found["workspace_id"] = str(gone.workspace.workspace_id)
    await do(house.suite, house.boss, "membership.WorkspaceService/DeleteWorkspace", workspace_id=found["workspace_id"])
    found["message_id"] = await house.message()
    await house.call(
        "messaging.MessageService/DeleteMessage", conversation_id=house.channel_id, message_id=found["message_id"]
    )
    found["file_id"] = await house.file()
    await house.call("messaging.FileService/DeleteFile", file_id=found["file_id"])
    found["group_id"] = await house.group()
    await house.call("membership.GroupService/DeleteGroup", group_id=found["group_id"])
    found["user_group_id"] = await house.user_group()
    await house.call("membership.UserGroupService/DeleteUserGroup", user_group_id=found["user_group_id"])
    found["role_scheme_id"] = await house.scheme()
    await house.call("membership.RoleSchemeService/DeleteRoleScheme", role_scheme_id=found["role_scheme_id"])
    found["ban_id"] = await house.ban()
    await house.call("membership.MemberService/UnbanMember", ban_id=found["ban_id"])
    await _private_and_archived(house, found)
    await _people(house, found)
    await _invitations(house, found)
    return found


async def _private_and_archived(house: House, found: dict[str, str]) -> None:
    """A conversation that was archived while nobody but the boss saw it."""
    private = conversations.VISIBILITY_PRIVATE
    made = await house.call("messaging.ConversationService/CreateChannel", name="Past", visibility=private)
    found["conversation_id"] = str(made.conversation.conversation_id)
    await house.call("messaging.ConversationService/ArchiveConversation", conversation_id=found["conversation_id"])


async def _people(house: House, found: dict[str, str]) -> None:
    """A member who was removed, and a user who was deleted."""
    found["member_id"] = await house.member_id()
    await house.call("membership.MemberService/RemoveMember", member_id=found["member_id"])
    person = await house.town.person()
    found["user_id"], found["session_id"] = person.user_id, person.session_id
    await house.town.adapter("DeleteUser", user_id=person.user_id)


async def _invitations(house: House, found: dict[str, str]) -> None:
    """One of each kind, revoked; the tokens stand for the same."""
    found["invitation_id"], found["token"] = await house.invitation()
    await house.call("membership.InvitationService/RevokeInvitation", invitation_id=found["invitation_id"])
    code = await house.group_invite()
    found["group_invite_id"], found["code"] = str(code.group_invite_id), str(code.code)
    named = {"group_id": house.group_id, "group_invite_id": found["group_invite_id"]}
    await house.call("membership.GroupInviteService/RevokeGroupInvite", **named)
    link = await house.guest_invite()
    found["invite_id"] = str(link.invite.invite_id)
    await house.call("guest.GuestInviteService/RevokeGuestInvite", invite_id=found["invite_id"])
