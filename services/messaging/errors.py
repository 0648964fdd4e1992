"""What only messaging refuses: one class for each reason of its own in ErrorReason."""

import grpc

from services.chassis.errors import Fault


class GuestLocked(Fault):
    """metadata: lock_time and grace_end_time, RFC 3339."""

    code, reason = grpc.StatusCode.PERMISSION_DENIED, "GUEST_LOCKED"
    text = "Your time as a guest is over; you can read until the grace ends. Ask your sponsor to extend it."


class TooManyStreams(Fault):
    code, reason = grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS"
    text = "You have as many open streams as allowed; close one first."
