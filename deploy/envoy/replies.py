"""How the gateway's own refusals read: like a service's, with an ErrorInfo, to gRPC and to JSON callers alike.

Envoy's own texts are replaced: some name addresses or certificates of the inside.
"""

import base64
import json
from dataclasses import dataclass

from google.protobuf import duration_pb2, json_format
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from deploy.envoy.settings import Json, extension

DOMAIN = "guildhall.gateway"


@dataclass(frozen=True)
class Refusal:
    """`condition` is a CEL expression over Envoy's attributes of the request; the first refusal that holds is sent.

    It holds as well if Envoy gave the response one of the `flags`, which cost less to look at than an expression.
    """

    condition: str
    http_status: int
    grpc_code: int
    reason: str
    message: str
    flags: tuple[str, ...] = ()
    retry_seconds: int = 0

    @property
    def status(self) -> status_pb2.Status:
        """The same as a service would send: with an ErrorInfo, and a RetryInfo if it says when to come back."""
        details: list[Message] = [error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN)]
        if self.retry_seconds:
            delay = duration_pb2.Duration(seconds=self.retry_seconds)
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        status = status_pb2.Status(code=self.grpc_code, message=self.message)
        for detail in details:
            status.details.add().Pack(detail)
        return status


REFUSALS = (
    # First, because the conditions are tried in turn: in an overload this is the one that must cost little.
    Refusal(
        "",  # the flags say it all
        429,
        code_pb2.RESOURCE_EXHAUSTED,
        "OVERLOADED",
        "Too many calls; try again later.",
        # A cluster's circuit breaker, and the overload manager. Envoy says 503 to both, which callers would take for
        # a service that is away.
        flags=("UO", "OM"),
        retry_seconds=1,
    ),
    Refusal(
        "response.code == 429",  # the flag RL comes too late for this
        429,
        code_pb2.RESOURCE_EXHAUSTED,
        "RATE_LIMITED",
        "Too many calls of this user, or from this address; try again later.",
        retry_seconds=1,  # each bucket gets at least one more
    ),
    Refusal(
        'response.code_details.startsWith("jwt_authn_access_denied{Jwks_remote_fetch")',
        503,
        code_pb2.UNAVAILABLE,
        "KEYS_UNAVAILABLE",
        "The keys that tokens are checked with cannot be had at the moment; try again.",
    ),
    Refusal(
        'response.code_details.startsWith("jwt_authn_access_denied")',
        401,
        code_pb2.UNAUTHENTICATED,
        "UNAUTHENTICATED",
        "The call needs a valid access token in `authorization: Bearer ...`.",
    ),
    Refusal(
        "response.code == 404",
        404,
        code_pb2.UNIMPLEMENTED,
        "NO_SUCH_METHOD",
        "There is no such method.",
    ),
    Refusal(
        "response.code == 400 || response.code == 405 || response.code == 415",
        400,
        code_pb2.INVALID_ARGUMENT,
        "MALFORMED_REQUEST",
        "The request does not fit the method: see its path, query, headers and body.",
    ),
    Refusal(
        "response.code == 413 || response.code == 431",
        413,
        code_pb2.RESOURCE_EXHAUSTED,
        "REQUEST_TOO_LARGE",
        "The request is too large.",
    ),
    Refusal(
        "response.code == 408 || response.code == 504",
        504,
        code_pb2.DEADLINE_EXCEEDED,
        "DEADLINE_EXCEEDED",
        "There was no answer in time.",
    ),
    Refusal(
        "response.code == 502 || response.code == 503",
        503,
        code_pb2.UNAVAILABLE,
        "SERVICE_UNAVAILABLE",
        "The service cannot be reached at the moment; try again.",
    ),
)


def local_replies() -> Json:
    """Envoy's local_reply_config: a mapper for gRPC callers and one for JSON callers, per refusal."""
    return {"mappers": [mapper for refusal in REFUSALS for mapper in (_for_grpc(refusal), _for_json(refusal))]}


_IS_GRPC: tuple[Json, ...] = (
    {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}},
    # The transcoder gives a JSON call the headers of a gRPC call; this one tells it apart. From outside it does not
    # get in.
    {"header_filter": {"header": {"name": "x-envoy-original-path", "present_match": True, "invert_match": True}}},
)


def _for_grpc(refusal: Refusal) -> Json:
    """A response of headers alone, which gRPC-Web callers read as well: hence 200, the type, and no body."""
    details = base64.b64encode(refusal.status.SerializeToString(deterministic=True)).decode().rstrip("=")
    return {
        "filter": {"and_filter": {"filters": [_when(refusal), *_IS_GRPC]}},
        "status_code": 200,
        "headers_to_add": [
            _header("grpc-status", str(refusal.grpc_code)),
            _header("grpc-message", refusal.message),
            _header("grpc-status-details-bin", details),
        ],
        "body_format_override": {"text_format_source": {"inline_string": ""}, "content_type": "application/grpc"},
    }


def _for_json(refusal: Refusal) -> Json:
    """For all that the mapper before it, for gRPC callers, has let pass."""
    body = json.dumps(json_format.MessageToDict(refusal.status), separators=(",", ":"))
    retry = [_header("retry-after", str(refusal.retry_seconds))] if refusal.retry_seconds else []
    return {
        "filter": _when(refusal),
        "status_code": refusal.http_status,
        "headers_to_add": retry,
        "body_format_override": {
            "text_format_source": {"inline_string": body},
            "content_type": "application/json",
        },
    }


def _when(refusal: Refusal) -> Json:
    alternatives: list[Json] = []
    if refusal.flags:
        alternatives.append({"response_flag_filter": {"flags": list(refusal.flags)}})
    if refusal.condition:
        alternatives.append(
            {
                "extension_filter": extension(
                    "envoy.access_loggers.extension_filters.cel",
                    "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                    expression=refusal.condition,
                )
            }
        )
    return alternatives[0] if len(alternatives) == 1 else {"or_filter": {"filters": alternatives}}


def _header(key: str, value: str) -> Json:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
