"""Any call as JSON, made from the RPC's google.api.http; and what an answer of either kind comes to."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import grpc
import httpx
from google.api import annotations_pb2, http_pb2
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services.chassis import contracts

_VARIABLE = re.compile(r"\{([a-z0-9_.]+)\}")
# google/rpc/code.proto says which HTTP status each code has.
HTTP_STATUS = {
    code_pb2.OK: 200,
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.OUT_OF_RANGE: 400,
    code_pb2.UNAUTHENTICATED: 401,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.NOT_FOUND: 404,
    code_pb2.ALREADY_EXISTS: 409,
    code_pb2.ABORTED: 409,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.CANCELLED: 499,
    code_pb2.INTERNAL: 500,
    code_pb2.UNKNOWN: 500,
    code_pb2.UNIMPLEMENTED: 501,
    code_pb2.UNAVAILABLE: 503,
    code_pb2.DEADLINE_EXCEEDED: 504,
}

# Of the gateway's own refusals, two have a status that says more.
HTTP_STATUS_OF_REASON = {"NO_SUCH_METHOD": 404, "REQUEST_TOO_LARGE": 413}


@dataclass(frozen=True)
class Verdict:
    """What a caller is told: the code, the reason and who gives it, and which fields are wrong."""

    code: int
    reason: str = ""
    domain: str = ""
    fields: tuple[str, ...] = ()
    retry_seconds: int = 0

    def __str__(self) -> str:
        return f"{code_pb2.Code.Name(self.code)} {self.reason} of {self.domain} {list(self.fields)}"


def verdict_of(status: status_pb2.Status) -> Verdict:
    """What a status says."""
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status.details:
        for known in (info, bad, retry):
            detail.Unpack(known)
    fields = tuple(sorted(violation.field for violation in bad.field_violations))
    return Verdict(status.code, info.reason, info.domain, fields, retry.retry_delay.seconds)


def http_rule(rpc: contracts.Rpc) -> http_pb2.HttpRule | None:
    """How the RPC is called as JSON; None if it is not."""
    [method] = [
        method
        for service in contracts.services()
        if service.full_name == rpc.service
        for method in service.methods
        if method.name == rpc.method
    ]
    extensions = method.GetOptions().Extensions
    return extensions[annotations_pb2.http] if method.GetOptions().HasExtension(annotations_pb2.http) else None


def path_variables(rpc: contracts.Rpc) -> list[str]:
    """The names of the fields in the RPC's path, without what they are in."""
    rule = http_rule(rpc)
    template = getattr(rule, rule.WhichOneof("pattern") or "") if rule else ""
    return [name.rpartition(".")[2] for name in _VARIABLE.findall(template)]


def as_json(rpc: contracts.Rpc, request: Message) -> tuple[str, str, Any]:
    """The HTTP method, the path with its query, and the body (None for none) that say the same as the request."""
    rule = http_rule(rpc)
    assert rule is not None, f"{rpc.name} has no JSON"
    method = rule.WhichOneof("pattern") or ""
    rest: dict[str, Any] = json_format.MessageToDict(request, preserving_proto_field_name=True)

    def fill(variable: re.Match[str]) -> str:
        return quote(str(_take(rest, variable[1].split("."))), safe="")

    path = _VARIABLE.sub(fill, getattr(rule, method))
    body = rest if rule.body == "*" else rest.pop(rule.body, {}) if rule.body else None
    query = "&".join(f"{key}={quote(value)}" for key, value in _query(rest)) if rule.body != "*" else ""
    return method.upper(), f"{path}?{query}" if query else path, body


def call_json(client: httpx.Client, rpc: contracts.Rpc, request: Message, token: str = "") -> Verdict:
    """Call as JSON. The status of HTTP must be that of the code."""
    method, path, body = as_json(rpc, request)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    answer = (
        client.request(method, path, json=body, headers=headers)
        if body is not None
        else client.request(method, path, headers=headers)
    )
    return json_verdict(answer)


def json_verdict(answer: httpx.Response) -> Verdict:
    """What an answer in JSON comes to."""
    if answer.status_code == 200:
        return Verdict(code_pb2.OK)
    found = verdict_of(json_format.Parse(answer.text, status_pb2.Status()))
    expected = HTTP_STATUS_OF_REASON.get(found.reason, HTTP_STATUS[found.code])
    assert answer.status_code == expected, f"{answer.status_code} with {found}"
    return found


def call_grpc(channel: grpc.Channel, rpc: contracts.Rpc, request: Message, token: str = "") -> Verdict:
    """Call as gRPC."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    try:
        channel.unary_unary(rpc.name)(request.SerializeToString(), timeout=10, metadata=metadata)
    except grpc.RpcError as error:
        return grpc_verdict(error)
    return Verdict(code_pb2.OK)


def grpc_verdict(error: grpc.RpcError) -> Verdict:
    """What a refusal by gRPC comes to."""
    assert isinstance(error, grpc.Call)
    code: int = error.code().value[0]
    raw = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    assert isinstance(raw, bytes)
    found = verdict_of(status_pb2.Status.FromString(raw)) if raw else Verdict(code)
    assert found.code == code, f"{error.code()} with {found}"
    return found


def _take(fields: dict[str, Any], path: list[str]) -> Any:
    for name in path[:-1]:
        fields = fields.get(name, {})
    return fields.pop(path[-1], "")


def _query(fields: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _query(value, f"{prefix}{name}.")
        else:
            for item in value if isinstance(value, list) else [value]:
                yield f"{prefix}{name}", str(item).lower() if isinstance(item, bool) else str(item)
