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
