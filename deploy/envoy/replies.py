"""How the gateway's own refusals read: like a service's, with an ErrorInfo, to gRPC and to JSON callers alike.

Envoy's own texts are replaced: some name addresses or certificates of the inside.
"""

import base64
import json
from dataclasses import dataclass

from google.protobuf import any_pb2, json_format
from google.rpc import code_pb2, error_details_pb2, status_pb2

from deploy.envoy.settings import Json, extension

DOMAIN = "guildhall.gateway"


@dataclass(frozen=True)
class Refusal:
    """`condition` is a CEL expression over Envoy's attributes of the request; the first refusal that holds is sent."""

    condition: str
    http_status: int
    grpc_code: int
    reason: str
    message: str

    @property
    def status(self) -> status_pb2.Status:
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN))
        return status_pb2.Status(code=self.grpc_code, message=self.message, details=[detail])


REFUSALS = (
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
        "response.code == 429",
        429,
        code_pb2.RESOURCE_EXHAUSTED,
        "OVERLOADED",
        "Too many calls; try again later.",
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


# The transcoder gives a JSON call the headers of a gRPC call; this one tells it apart. From outside it does not get in.
_IS_GRPC = (
    '("content-type" in request.headers && request.headers["content-type"].startsWith("application/grpc")'
    ' && !("x-envoy-original-path" in request.headers))'
)


def _for_grpc(refusal: Refusal) -> Json:
    """A response of headers alone, which gRPC-Web callers read as well: hence 200, the type, and no body."""
    details = base64.b64encode(refusal.status.SerializeToString(deterministic=True)).decode().rstrip("=")
    return {
        "filter": _when(f"({refusal.condition}) && {_IS_GRPC}"),
        "status_code": 200,
        "headers_to_add": [
            _header("grpc-status", str(refusal.grpc_code)),
            _header("grpc-message", refusal.message),
            _header("grpc-status-details-bin", details),
        ],
        "body_format_override": {"text_format_source": {"inline_string": ""}, "content_type": "application/grpc"},
    }


def _for_json(refusal: Refusal) -> Json:
    body = json.dumps(json_format.MessageToDict(refusal.status), separators=(",", ":"))
    return {
        "filter": _when(f"({refusal.condition}) && !{_IS_GRPC}"),
        "status_code": refusal.http_status,
        "body_format_override": {
            "text_format_source": {"inline_string": body},
            "content_type": "application/json",
        },
    }


def _when(expression: str) -> Json:
    return {
        "extension_filter": extension(
            "envoy.access_loggers.extension_filters.cel",
            "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
            expression=expression,
        )
    }


def _header(key: str, value: str) -> Json:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
