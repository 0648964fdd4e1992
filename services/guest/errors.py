"""guest's own refusals: one class for each reason in its ErrorReason from 100 on."""

import grpc

from services.chassis.errors import Fault


class GuestInviteInvalid(Fault):
    """Always the same bytes, whatever is wrong with the link."""

    code, reason = grpc.StatusCode.NOT_FOUND, "GUEST_INVITE_INVALID"
    text = "This link does not work, or no longer does; ask for a new one."


class GuestEnded(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "GUEST_ENDED"
    text = (
        "They are no guest any more: the grace is over, or they were removed, suspended or promoted. Unless they are a "
        "member, they come back by a new guest link, or as a full member by an invitation."
    )


class ExpiryNotLater(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "EXPIRY_NOT_LATER"
    text = "An extension must end later than the present expiry, and later than now."


class AlreadyMember(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_MEMBER"
    text = "You are a member of this workspace already and need no guest access."


class GuestInviteForAnother(Fault):
    code, reason = grpc.StatusCode.PERMISSION_DENIED, "GUEST_INVITE_FOR_ANOTHER"
    text = "This link is for somebody else's address; sign in with that one, verified, or ask for a link of your own."


class SponsorUnfit(Fault):
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "SPONSOR_UNFIT"
    text = "A sponsor must be an active full member who may invite guests."
