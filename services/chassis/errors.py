"""The errors a client can see, and the one place where they become statuses (AIP-193).

A `Fault` is an answer; any other exception is a defect and reaches the client as INTERNAL with a fixed text.
"""

import math
from collections.abc import Mapping, Sequence

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from sqlalchemy import exc


class Fault(Exception):
    """An answer that refuses. `reason` is the name of the service's ErrorReason without its prefix."""

    code: grpc.StatusCode
    reason: str
    text: str

    def __init__(
        self,
        text: str | None = None,
        *,
        fields: Sequence[tuple[str, str]] = (),
        retry_after_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """`fields` are (path, what is wrong); no argument may hold a secret or personal text."""
        super().__init__(text or self.text)
        self.fields = fields
        self.retry_after_seconds = retry_after_seconds
        self.metadata = dict(metadata or {})


class InvalidRequest(Fault):
    code, reason, text = (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "The request breaks the rules of its fields.",
    )


class MalformedRequest(Fault):
    code, reason = grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST"
    text = "The bytes are not a message of this RPC's request type."


class Unauthenticated(Fault):
    code, reason = grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"
    text = "Send `authorization: Bearer <access token>`; AuthService.SignIn or RefreshSession gives one."


class SessionEnded(Fault):
    code, reason, text = grpc.StatusCode.UNAUTHENTICATED, "SESSION_ENDED", "The session has ended; sign in again."


class PeerNotAllowed(Fault):
    code, reason = grpc.StatusCode.PERMISSION_DENIED, "PEER_NOT_ALLOWED"
    text = "The certificate of the calling service is not on this RPC's list."


class CallerNotAllowed(Fault):
    """A user where only service accounts are let in, or the other way round, or a scope that is missing."""

    code, reason = grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED"
    text = "This kind of caller may not call this RPC."


class NotFound(Fault):
    """Always the same bytes, whether the thing is unknown or hidden."""

    code, reason, text = grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "There is no such thing, or you may not see it."


class PermissionDenied(Fault):
    code, reason, text = grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", "Your role does not allow this."


class IdempotencyMismatch(Fault):
    code, reason = grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_MISMATCH"
    text = "This key was used before with another body; use a new key for a new request."


class EtagMismatch(Fault):
    code, reason, text = grpc.StatusCode.ABORTED, "ETAG_MISMATCH", "It changed since you read it; read it again."


class Overloaded(Fault):
    code, reason, text = (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "OVERLOADED",
        "Too many calls are waiting; come back later.",
    )

    def __init__(self, text: str | None = None, *, retry_after_seconds: float = 1) -> None:
        super().__init__(text, retry_after_seconds=retry_after_seconds)


class LimitReached(Fault):
    """`limit` is the limit's name in the README's table."""

    code, reason, text = grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED", "A limit is reached."

    def __init__(self, limit: str, *, most: int, retry_after_seconds: float | None = None) -> None:
        text = f"The limit of {most} {limit.replace('_', ' ')} is reached."
        super().__init__(text, retry_after_seconds=retry_after_seconds, metadata={"limit": limit, "most": str(most)})


class PeerUnavailable(Fault):
    code, reason = grpc.StatusCode.UNAVAILABLE, "PEER_UNAVAILABLE"
    text = "Another service gave no answer in time, so nothing was decided; try again."


class StorageUnavailable(Fault):
    code, reason = grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE"
    text = "The database gave no answer in time; try again with the same key."


class DeadlineExceeded(Fault):
    code, reason = grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"
    text = "The call's time ran out; allow more of it, and repeat with the same key."


class Internal(Fault):
    code, reason, text = (
        grpc.StatusCode.INTERNAL,
        "INTERNAL",
        "A fault of the service; the request id finds it in the log.",
    )


FRAME_FAULTS: tuple[type[Fault], ...] = (
    InvalidRequest,
    MalformedRequest,
    Unauthenticated,
    SessionEnded,
    PeerNotAllowed,
    CallerNotAllowed,
    NotFound,
    PermissionDenied,
    IdempotencyMismatch,
    EtagMismatch,
    Overloaded,
    LimitReached,
    PeerUnavailable,
    StorageUnavailable,
    DeadlineExceeded,
    Internal,
)


def fault_of(error: BaseException) -> Fault | None:
    """The answer that stands for an exception, or None for a defect."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, TimeoutError):
        return DeadlineExceeded()
    if isinstance(error, exc.TimeoutError):
        return Overloaded("Every database connection is busy; come back later.")
    if isinstance(error, exc.DBAPIError) and (error.connection_invalidated or isinstance(error, exc.OperationalError)):
        return StorageUnavailable()
    return None


def status_of(fault: Fault, *, domain: str, request_id: str) -> status_pb2.Status:
    """The rich status of a fault. The request id is in the answer only where it helps, so that refusals stay equal."""
    details = [error_details_pb2.ErrorInfo(reason=fault.reason, domain=domain, metadata=fault.metadata)]
    if fault.fields:
        violations = [error_details_pb2.BadRequest.FieldViolation(field=f, description=d) for f, d in fault.fields]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if fault.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        # Rounded up: who comes back a moment too early is refused again.
        delay.FromMilliseconds(math.ceil(fault.retry_after_seconds * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(fault, Internal):
        details.append(error_details_pb2.RequestInfo(request_id=request_id))
    status = status_pb2.Status(code=code_pb2.Code.Value(fault.code.name), message=str(fault))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """The reason in a peer's error, with its metadata; empty if it gave none."""
    info = error_details_pb2.ErrorInfo()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return info
    return info
