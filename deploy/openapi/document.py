"""The OpenAPI 3.1 document of every public RPC that has a JSON path."""

import importlib.metadata
from collections.abc import Iterable

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from deploy.envoy.descriptors import public_methods
from deploy.envoy.settings import Json
from deploy.openapi.comments import comments
from deploy.openapi.errors import reason_schemas, status_schema
from deploy.openapi.operations import SERVICE_ACCOUNT, USER, bindings, operation
from deploy.openapi.schemas import STATUS, Schemas, messages_within

_ORDER = ("identity", "membership", "guest", "messaging")
_ABOUT = """\
The JSON API of the Guildhall suite, made from its contracts. The same calls are there as gRPC and gRPC-Web, on the \
same port; `x-rpc` is an operation's name there.

- **Who**: `authorization: Bearer …` with an access token of `POST /v1/auth:signIn`. It lasts five minutes; \
`POST /v1/auth:refreshSession` gives the next.
- **Names**: texts name fields as the contracts do (`client_message_id`); JSON spells them `clientMessageId`. Requests \
may use either.
- **Absent fields**: an answer leaves out what has its default value (empty, 0, false, an enum's first value).
- **Numbers**: 64-bit ones are strings; bytes are base64; times are RFC 3339, durations seconds as in `3.5s`.
- **Repeating**: a `requestId` (a UUID of yours) makes a mutating call safe to repeat.
- **Pages**: `pageSize` (0 means 50, at most 200) and `pageToken`.
- **Errors**: google.rpc.Status, with a reason that programs can use.\
"""


def document() -> Json:
    """The document."""
    methods = sorted(public_methods(), key=_place)
    described = [method for method in methods if bindings(method)]
    schemas = Schemas(comments(), _answered(described))
    paths: Json = {}
    for method in described:
        for position, binding in enumerate(bindings(method)):
            path = paths.setdefault(binding.path, {})
            path[binding.verb] = operation(method, binding, position, schemas, comments())
    refusals = {STATUS: status_schema(schemas), **reason_schemas(described, comments())}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Guildhall",
            "version": importlib.metadata.version("guildhall"),
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [_tag(service, methods) for service in dict.fromkeys(one.containing_service for one in described)],
        "paths": paths,
        "components": {
            "schemas": dict(sorted((schemas.components | refusals).items())),
            "securitySchemes": _security_schemes(),
        },
    }


def _place(method: MethodDescriptor) -> tuple[int, str, int]:
    """Where the reader looks for it: people first, then what they do."""
    service = method.containing_service
    return _ORDER.index(service.full_name.split(".")[1]), service.full_name, method.index


def _answered(methods: Iterable[MethodDescriptor]) -> set[str]:
    found: set[str] = set()
    for method in methods:
        messages_within(method.output_type, found)
    return found


def _tag(service: ServiceDescriptor, methods: Iterable[MethodDescriptor]) -> Json:
    """A service; `x-streams` are those of its RPCs that only gRPC and gRPC-Web have."""
    streams = [
        {
            "x-rpc": f"{service.full_name}/{method.name}",
            "summary": method.name,
            "description": comments().get(method.full_name, ""),
            "client": method.client_streaming,
            "server": method.server_streaming,
        }
        for method in methods
        if method.containing_service == service and not bindings(method)
    ]
    described = {"name": service.name, "description": comments().get(service.full_name, "")}
    return {**described, "x-package": service.file.package, **({"x-streams": streams} if streams else {})}


def _security_schemes() -> Json:
    bearer = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    exchange = "`POST /v1/auth:exchangeServiceKey`"
    return {
        USER: {**bearer, "description": "The access token of a session, five minutes long."},
        SERVICE_ACCOUNT: {**bearer, "description": f"The access token of {exchange}; its key must have the scope."},
    }
