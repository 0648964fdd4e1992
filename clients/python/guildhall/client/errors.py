"""What a call is refused with, as exceptions: one class for each thing that a caller may want to do about it."""

from collections.abc import Iterable, Mapping
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

_DETAILS = "grpc-status-details-bin"


class GuildhallError(Exception):
    """A refusal. The class says what kind, `reason` which (a package's `error_reason.proto`, without its prefix).

    `fields` has what is wrong with each field of the request, by its path; `metadata` what the reason says of itself,
    such as the name of a limit; `retry_after_seconds` when to come back, None if it says nothing of it.
    """

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        info, fields, retry_after_seconds = _read(error.trailing_metadata() or ())
        self.code: grpc.StatusCode = error.code()
        self.reason: str = info.reason
        self.domain: str = info.domain
        self.metadata: Mapping[str, str] = dict(info.metadata)
        self.fields: Mapping[str, str] = fields
        self.retry_after_seconds: float | None = retry_after_seconds
        self.message: str = error.details() or ""
        named = "; ".join(f"{field} {what}" for field, what in fields.items())
        super().__init__(f"{self.reason or self.code.name}: {self.message}" + (f" ({named})" if named else ""))


class InvalidRequest(GuildhallError):
    """The request breaks a rule, and will whenever it is sent: see `fields`."""


class NotSignedIn(GuildhallError):
    """The session has ended, or the credentials are wrong: sign in again."""


class NotAllowed(GuildhallError):
    """The caller's role does not allow it."""


class NotFound(GuildhallError):
    """There is no such thing, or the caller may not see it."""


class Conflict(GuildhallError):
    """What is there stands in the way: it exists already, has changed since it was read, or is in the wrong state."""


class TooMuch(GuildhallError):
    """A limit was reached, or the server is full: come back after `retry_after_seconds`."""


class Unavailable(GuildhallError):
    """No answer, or not in time, although the call was repeated while its time lasted."""


_KINDS: Mapping[grpc.StatusCode, type[GuildhallError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.UNIMPLEMENTED: InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: NotSignedIn,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowed,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.FAILED_PRECONDITION: Conflict,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TooMuch,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
}


def error_of(error: grpc.aio.AioRpcError) -> GuildhallError:
    """The exception that stands for a refusal; GuildhallError itself for a fault of the server."""
    made = _KINDS.get(error.code(), GuildhallError)(error)
    if type(made) is GuildhallError and not made.reason:
        # Not the server's word, who gives its reason, but that of a connection that broke on the way.
        return Unavailable(error)
    return made


def _read(trailers: Iterable[Any]) -> tuple[error_details_pb2.ErrorInfo, Mapping[str, str], float | None]:
    """What google.rpc.Status says beyond the code and the text; nothing for what is not from Guildhall."""
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    seconds = None
    for key, value in trailers:
        if key != _DETAILS:
            continue
        for detail in status_pb2.Status.FromString(value).details:
            detail.Unpack(info)
            detail.Unpack(bad)
            if detail.Unpack(retry):
                seconds = retry.retry_delay.ToTimedelta().total_seconds()
    return info, {violation.field: violation.description for violation in bad.field_violations}, seconds
