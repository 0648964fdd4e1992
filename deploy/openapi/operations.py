"""One RPC as the operations of its HTTP bindings (google.api.http)."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.api import annotations_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from guildhall.options.v1 import access_pb2

from deploy.envoy.settings import Json
from deploy.openapi.errors import refusals
from deploy.openapi.rules import required_fields
from deploy.openapi.schemas import Schemas, is_plain

USER, SERVICE_ACCOUNT = "user", "serviceAccount"
_VARIABLE = re.compile(r"\{([a-z0-9_.]+)\}")


@dataclass(frozen=True)
class Binding:
    """One HTTP binding: `template` is as the contract has it, `names` the dotted paths of the fields in it."""

    verb: str
    template: str
    has_body: bool

    @property
    def names(self) -> list[str]:
        return _VARIABLE.findall(self.template)

    @property
    def path(self) -> str:
        """The template with the names that JSON callers know: {workspace.workspace_id} is {workspaceId}.

        Without the outer message, because /workspaces/{a} and /workspaces/{b.a} would be one path under two names.
        """
        return _VARIABLE.sub(lambda match: f"{{{_json_name(match[1].rpartition('.')[2])}}}", self.template)


def _json_name(name: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)


def bindings(method: MethodDescriptor) -> list[Binding]:
    """The RPC's bindings, the main one first; none if it has no JSON."""
    options = method.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return []
    rule = options.Extensions[annotations_pb2.http]
    return [_binding(method, each) for each in (rule, *rule.additional_bindings)]


def _binding(method: MethodDescriptor, rule: Any) -> Binding:
    verb = rule.WhichOneof("pattern")
    if rule.body not in ("", "*") or rule.response_body or verb == "custom" or method.server_streaming:
        raise ValueError(f"{method.full_name}: this kind of binding is not described yet; teach deploy/openapi")
    return Binding(verb, getattr(rule, verb), rule.body == "*")


def operation_id(method: MethodDescriptor, position: int) -> str:
    """Unique: `Service_Method`, with a number from the second binding on."""
    return f"{method.containing_service.name}_{method.name}{position + 1 if position else ''}"


def operation(
    method: MethodDescriptor, binding: Binding, position: int, schemas: Schemas, comments: Mapping[str, str]
) -> Json:
    """The operation of one binding."""
    comment = comments.get(method.full_name, "")
    found: Json = {
        "operationId": operation_id(method, position),
        "summary": method.name,
        "description": comment,
        "tags": [method.containing_service.name],
        "security": security(method),
        "x-rpc": f"{method.containing_service.full_name}/{method.name}",
    }
    parameters = [_in_path(method.input_type, path, schemas) for path in binding.names]
    rest = [field for field in method.input_type.fields if field.name not in binding.names]
    if binding.has_body:
        found["requestBody"] = _body(method.input_type, rest, binding, schemas)
    else:
        parameters += [one for field in rest for one in _in_query(field, "", schemas)]
    if parameters:
        found["parameters"] = parameters
    answer = {"application/json": {"schema": schemas.reference(method.output_type)}}
    described = comments.get(method.output_type.full_name, "The answer.")
    needs_token = found["security"] != []
    refused = refusals(method, comment, comments, needs_token=needs_token)
    return {**found, "responses": {"200": {"description": described, "content": answer}, **refused}}


def security(method: MethodDescriptor) -> list[Json]:
    """Who may call it: any one of these; empty for everybody."""
    access = method.GetOptions().Extensions[access_pb2.access]
    if access_pb2.CALLER_OPEN in access.callers:
        return []
    users: list[Json] = [{USER: []}] if access_pb2.CALLER_USER in access.callers else []
    return [*users, {SERVICE_ACCOUNT: [access.scope]}] if access.scope else users


def _in_path(message: Descriptor, path: str, schemas: Schemas) -> Json:
    *outer, last = path.split(".")
    for name in outer:
        message = _message_of(message.fields_by_name[name])
    field = message.fields_by_name[last]
    return {"name": field.json_name, "in": "path", "required": True, **_described(schemas.field(field))}


def _message_of(field: FieldDescriptor) -> Descriptor:
    message = field.message_type
    assert message is not None, field.full_name
    return message


def _in_query(field: FieldDescriptor, prefix: str, schemas: Schemas) -> Iterator[Json]:
    """A field as query parameters: a message's fields each as `outer.inner`; a list repeats its parameter."""
    name = prefix + field.json_name
    if not is_plain(field):
        if not field.is_repeated:  # a list of messages has no place in a query
            for inner in _message_of(field).fields:
                yield from _in_query(inner, f"{name}.", schemas)
        return
    required = not prefix and field.name in required_fields(field.containing_type)
    yield {"name": name, "in": "query", **({"required": True} if required else {}), **_described(schemas.field(field))}


def _described(schema: Json) -> Json:
    """A parameter's schema and its description, which stands outside of it."""
    inner = {key: value for key, value in schema.items() if key != "description"}
    return {"description": schema.get("description", ""), "schema": inner}


def _body(message: Descriptor, fields: list[FieldDescriptor], binding: Binding, schemas: Schemas) -> Json:
    """What the path does not hold: of what the body repeats, the path's value is taken."""
    schema = schemas.object(message, fields, required=True)
    for outer, _, inner in (path.rpartition(".") for path in binding.names):
        if outer:
            within = schema["properties"][_json_name(outer)]
            within["description"] += f" Its `{_json_name(inner)}` is the path's."
    body = {"application/json": {"schema": {"title": message.name, **schema}}}
    return {"content": body, "required": bool(schema.get("required"))}
