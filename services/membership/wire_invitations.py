"""Invitations as messages."""

from typing import Any

from guildhall.membership.v1 import error_reason_pb2 as reasons
from guildhall.membership.v1 import invitation_service_pb2 as pb
from sqlalchemy import Row

from services.chassis.errors import Fault
from services.membership.wire import ROLES, timestamp

STATES = {
    "open": pb.INVITATION_STATE_OPEN,
    "accepted": pb.INVITATION_STATE_ACCEPTED,
    "declined": pb.INVITATION_STATE_DECLINED,
    "revoked": pb.INVITATION_STATE_REVOKED,
    "expired": pb.INVITATION_STATE_EXPIRED,
}
STATE_NAMES = {number: name for name, number in STATES.items()}


def invitation(row: Row[Any]) -> pb.Invitation:
    """An invitation, without its token: that goes by mail only."""
    return pb.Invitation(
        invitation_id=str(row.id),
        workspace_id=str(row.workspace_id),
        email=row.email or "",
        role=ROLES[row.invited_role],
        inviter_member_id=str(row.inviter_member_id or ""),
        expire_time=timestamp(row.expire_at),
        create_time=timestamp(row.created_at),
        state=STATES[row.state],
        resend_count=row.rotation,
        accept_time=timestamp(row.accepted_at) if row.accepted_at else None,
    )


def result(made: Row[Any] | Fault) -> pb.InvitationResult:
    """What came of one of many."""
    if isinstance(made, Fault):
        words = "; ".join(f"{field} {what}" for field, what in made.fields) or str(made)
        reason = reasons.ErrorReason.Value(f"ERROR_REASON_{made.reason}")
        return pb.InvitationResult(refusal=pb.InvitationRefusal(reason=reason, message=words))
    return pb.InvitationResult(invitation=invitation(made))


def preview(row: Row[Any]) -> pb.PreviewInvitationResponse:
    """What a link leads to; nothing about whom it was sent to."""
    return pb.PreviewInvitationResponse(
        workspace_name=row.workspace_name, role=ROLES[row.invited_role], expire_time=timestamp(row.expire_at)
    )
