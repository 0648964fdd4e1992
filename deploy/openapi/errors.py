"""Refusals as JSON: google.rpc.Status with the reasons of each package, and the HTTP status that each comes with."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2

from deploy.envoy.replies import DOMAIN, REFUSALS
from deploy.envoy.settings import Json
from deploy.openapi.schemas import STATUS, Schemas, name_of

# As the gateway's transcoder turns a gRPC status into an HTTP one.
HTTP_STATUSES: Mapping[str, int] = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_DETAILS = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.RetryInfo,
    error_details_pb2.RequestInfo,
)
_PREFIX = "ERROR_REASON_"
_REASON_TEXT = re.compile(r"([A-Z_]+): (.*)", re.DOTALL)
# What the frame can answer to any call; the rest is named by the RPC's own comment.
_ALWAYS = (
    *("INVALID_REQUEST", "MALFORMED_REQUEST", "OVERLOADED", "INTERNAL"),
    *("PEER_UNAVAILABLE", "STORAGE_UNAVAILABLE", "DEADLINE_EXCEEDED"),
)
_WITH_TOKEN = ("UNAUTHENTICATED", "SESSION_ENDED", "CALLER_NOT_ALLOWED")


@dataclass(frozen=True)
class Reason:
    """A reason that a client can see, the HTTP status it comes with, and what it means."""

    name: str
    http_status: int
    text: str


def reasons_of(method: MethodDescriptor, comments: Mapping[str, str]) -> Mapping[str, Reason]:
    """Every reason of the package that the RPC is in, by its name."""
    file = method.containing_service.file
    enum = file.pool.FindEnumTypeByName(f"{file.package}.ErrorReason")
    found = {}
    for value in enum.values:
        name = value.name.removeprefix(_PREFIX)
        if match := _REASON_TEXT.fullmatch(comments.get(f"{enum.full_name}.{value.name}", "")):
            found[name] = Reason(name, HTTP_STATUSES[match[1]], match[2])
    return found


def named_reasons(comment: str) -> list[str]:
    """The reasons that an RPC's comment names after `Errors:`."""
    _, _, named = comment.partition("Errors:")
    return re.findall(r"\b[A-Z][A-Z_]{3,}\b", named)


def refusals(method: MethodDescriptor, comment: str, comments: Mapping[str, str], *, needs_token: bool) -> Json:
    """The answers of an operation that are refusals, by HTTP status."""
    known = reasons_of(method, comments)
    keyed = ("IDEMPOTENCY_MISMATCH",) if "request_id" in method.input_type.fields_by_name else ()
    names = dict.fromkeys((*named_reasons(comment), *_ALWAYS, *(_WITH_TOKEN if needs_token else ()), *keyed))
    by_status: dict[int, list[Reason]] = {}
    for reason in sorted((known[name] for name in names if name in known), key=lambda one: one.http_status):
        by_status.setdefault(reason.http_status, []).append(reason)
    return {str(status): _answer(reasons) for status, reasons in by_status.items()}


def _answer(reasons: Iterable[Reason]) -> Json:
    text = "\n".join(f"- `{reason.name}`: {reason.text}" for reason in reasons)
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{STATUS}"}}}
    return {"description": text, "content": content, "x-reasons": [reason.name for reason in reasons]}


def reason_schemas(methods: Iterable[MethodDescriptor], comments: Mapping[str, str]) -> Json:
    """The reasons of each package and of the gateway, as they stand in an ErrorInfo; and ErrorInfo itself."""
    found: Json = {}
    for method in methods:
        texts = {name: reason.text for name, reason in reasons_of(method, comments).items()}
        package = method.containing_service.file.package.removeprefix("guildhall.")
        found[f"{package}.ErrorInfo.reason"] = _reason_schema(f"guildhall.{package.split('.')[0]}", texts)
    found["gateway.ErrorInfo.reason"] = _reason_schema(
        DOMAIN, {refusal.reason: refusal.message for refusal in REFUSALS}
    )
    reason = {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in found]}
    info = error_details_pb2.ErrorInfo.DESCRIPTOR
    found[name_of(info)] = {
        "type": "object",
        "description": "Why, for programs.",
        "properties": {
            "reason": {**reason, "description": "One of the domain's reasons."},
            "domain": {"type": "string", "description": "Whose reason it is."},
            "metadata": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "Numbers and times that the reason speaks of.",
            },
        },
        "required": ["reason", "domain"],
    }
    return found


def _reason_schema(domain: str, texts: Mapping[str, str]) -> Json:
    description = f"The reasons of the domain {domain}."
    return {"type": "string", "description": description, "enum": list(texts), "x-enumDescriptions": dict(texts)}


def status_schema(schemas: Schemas) -> Json:
    """google.rpc.Status (AIP-193) with the details that it can hold."""
    details = [
        {
            "allOf": [
                {"properties": {"@type": {"const": f"type.googleapis.com/{kind.DESCRIPTOR.full_name}"}}},
                schemas.reference(kind.DESCRIPTOR),
            ],
            "required": ["@type"],
        }
        for kind in _DETAILS
    ]
    return {
        "type": "object",
        "description": (
            "Every refusal. `details` always holds an ErrorInfo with the reason; a BadRequest names each wrong field, "
            "and a RetryInfo says when waiting helps."
        ),
        "properties": {
            "code": {"type": "integer", "format": "int32", "description": "A number of google.rpc.Code."},
            "message": {"type": "string", "description": "For developers, in English; not to be shown or parsed."},
            "details": {"type": "array", "items": {"anyOf": details}, "description": "What programs can use."},
        },
        "required": ["code"],
    }
