"""The refusals that only membership gives; the rest are the frame's."""

import grpc

from services.chassis.errors import Fault


class InvitationInvalid(Fault):
    """One answer for unknown, used, revoked, expired, and for a sender who may no longer invite."""

    code, reason = grpc.StatusCode.NOT_FOUND, "INVITATION_INVALID"
    text = "This invitation cannot be used: it is unknown, used, revoked or past its time. Ask for a new one."


class InvitationForAnother(Fault):
    code, reason = grpc.StatusCode.PERMISSION_DENIED, "INVITATION_FOR_ANOTHER"
    text = "This invitation is for another e-mail address; sign in with the verified address that it was sent to."


class LastAdmin(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "LAST_ADMIN"
    text = "The workspace would be left without an admin; make somebody else an admin first."


class LastOwner(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "LAST_OWNER"
    text = "The group would be left without anybody in its owning role; transfer the ownership first."


class AlreadyMember(Fault):
    code, reason = grpc.StatusCode.ALREADY_EXISTS, "ALREADY_MEMBER"
    text = "They are in the group already; UpdateGroupMemberRole changes their role."


class Banned(Fault):
    code, reason = grpc.StatusCode.PERMISSION_DENIED, "BANNED"
    text = "A ban, here or above, keeps them out; it has to be lifted first."


class RankTooLow(Fault):
    code, reason = grpc.StatusCode.PERMISSION_DENIED, "RANK_TOO_LOW"
    text = "This is for somebody of higher rank than the member, and the role, that it is about; and not about oneself."


class GroupCycle(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "GROUP_CYCLE"
    text = "A group cannot be moved below itself."


class GroupTooDeep(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "GROUP_TOO_DEEP"
    text = "A group may have 31 others above it, and no more."


class CodeInvalid(Fault):
    """One answer for every code that is of no use to the caller."""

    code, reason = grpc.StatusCode.NOT_FOUND, "CODE_INVALID"
    text = (
        "This code cannot be used: it is unknown, revoked, used up, past its time, or not for you. Ask for a new one."
    )


class HandleTaken(Fault):
    code, reason = grpc.StatusCode.ALREADY_EXISTS, "HANDLE_TAKEN"
    text = "Somebody has this handle, or gave it up less than 30 days ago; choose another."


class HandleReserved(Fault):
    """`field` is the handle's path in the request."""

    code, reason = grpc.StatusCode.INVALID_ARGUMENT, "HANDLE_RESERVED"
    text = "This handle has a meaning of its own; choose another."

    def __init__(self, field: str) -> None:
        super().__init__(fields=[(field, "is reserved")])


class SchemeInUse(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "SCHEME_IN_USE"
    text = "Groups have this scheme, or people or invites a role of it that would be gone."


class SchemeMismatch(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "SCHEME_MISMATCH"
    text = "A tree of groups has one role scheme, and these two have different ones."


class GroupNotEmpty(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "GROUP_NOT_EMPTY"
    text = "There are groups below it; move them away, or delete them too with `force`."


class MemberSuspended(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "MEMBER_SUSPENDED"
    text = "They are a suspended member of the workspace; ReinstateMember ends that."


class GuestsExcluded(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "GUESTS_EXCLUDED"
    text = "Guests cannot be in groups or be given roles; promote them to members first."


class NameTaken(Fault):
    code, reason = grpc.StatusCode.ALREADY_EXISTS, "NAME_TAKEN"
    text = "Another one in the workspace has this name; choose another."


class InvitationEnded(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "INVITATION_ENDED"
    text = "The invitation was accepted, declined or revoked; make a new one."


class GuestLocked(Fault):
    """metadata: lock_time and grace_end_time, RFC 3339."""

    code, reason = grpc.StatusCode.PERMISSION_DENIED, "GUEST_LOCKED"
    text = "Your time as a guest is over; you can read until the grace ends. Ask your sponsor to extend it."
