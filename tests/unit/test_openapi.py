"""The OpenAPI document: what is in it, and that it says what proto3's JSON and the services say."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from guildhall.options.v1 import access_pb2
from openapi_spec_validator import OpenAPIV31SpecValidator

from deploy.openapi import operations, rules
from deploy.openapi.comments import comments
from deploy.openapi.document import document
from deploy.openapi.errors import HTTP_STATUSES, named_reasons, reasons_of
from services.chassis import contracts

Json = dict[str, Any]
STREAMING = {"server_streaming": True}


@pytest.fixture(scope="module")
def described() -> Json:
    return document()


@pytest.fixture(scope="module")
def by_id(described: Json) -> dict[str, Json]:
    return {operation["operationId"]: operation for _, _, operation in each_operation(described)}


def each_operation(described: Json) -> Iterator[tuple[str, str, Json]]:
    for path, item in described["paths"].items():
        for verb, operation in item.items():
            yield path, verb, operation


def public_methods() -> Iterator[Any]:
    """The public RPCs, counted here anew: the document's own list could leave one out."""
    for service in contracts.services():
        for method in service.methods:
            if access_pb2.CALLER_PEER not in method.GetOptions().Extensions[access_pb2.access].callers:
                yield method


def body_of(operation: Json) -> Json:
    found: Json = operation["requestBody"]["content"]["application/json"]["schema"]
    return found


def parameter(operation: Json, name: str) -> Json:
    [found] = [one for one in operation["parameters"] if one["name"] == name]
    return dict(found)


def test_the_document_is_valid_openapi_3_1(described: Json) -> None:
    assert described["openapi"] == "3.1.0"
    assert [error.message for error in OpenAPIV31SpecValidator(described).iter_errors()] == []


def test_the_validator_finds_what_is_wrong(described: Json) -> None:
    broken = {**described, "paths": {"/v1/{nobody}": next(iter(described["paths"].values()))}}

    assert list(OpenAPIV31SpecValidator(broken).iter_errors())


def test_every_public_rpc_with_a_path_is_in_it_with_all_its_bindings(described: Json) -> None:
    wanted: Counter[tuple[str, str, str]] = Counter()
    for method in public_methods():
        if method.GetOptions().HasExtension(annotations_pb2.http):
            main = method.GetOptions().Extensions[annotations_pb2.http]
            for rule in (main, *main.additional_bindings):
                verb = rule.WhichOneof("pattern")
                path = re.sub(r"\{[^}]*\}", "{}", getattr(rule, verb))
                wanted[f"{method.containing_service.full_name}/{method.name}", verb, path] += 1
    found = Counter(
        (operation["x-rpc"], verb, re.sub(r"\{[^}]*\}", "{}", path))
        for path, verb, operation in each_operation(described)
    )

    assert len(wanted) > 150
    assert found == wanted


def test_every_other_public_rpc_is_among_the_streams(described: Json) -> None:
    wanted = {
        f"{method.containing_service.full_name}/{method.name}"
        for method in public_methods()
        if not method.GetOptions().HasExtension(annotations_pb2.http)
    }
    streams = [stream for tag in described["tags"] for stream in tag.get("x-streams", ())]

    assert "guildhall.messaging.v1.EventService/Subscribe" in wanted
    assert {stream["x-rpc"] for stream in streams} == wanted
    assert all(stream["description"] for stream in streams)


def test_no_rpc_for_peers_is_in_it(described: Json) -> None:
    peers = {rpc.name.removeprefix("/") for rpc in contracts.rpcs().values() if rpc.lets_in(access_pb2.CALLER_PEER)}

    assert len(peers) > 10
    assert not peers & {operation["x-rpc"] for _, _, operation in each_operation(described)}


def test_no_two_paths_differ_in_the_names_of_their_variables_only(described: Json) -> None:
    counts = Counter(re.sub(r"\{[^}]*\}", "{}", path) for path in described["paths"])

    assert [path for path, count in counts.items() if count > 1] == []


def test_operation_ids_are_unique(described: Json) -> None:
    counts = Counter(operation["operationId"] for _, _, operation in each_operation(described))

    assert [name for name, count in counts.items() if count > 1] == []
    assert {"UserService_DeleteUser", "UserService_DeleteUser2"} <= set(counts)


def test_everything_of_ours_is_explained(described: Json) -> None:
    silent = [operation["operationId"] for _, _, operation in each_operation(described) if not operation["description"]]
    for _, _, operation in each_operation(described):
        silent += [
            f"{operation['operationId']} {one['name']}"
            for one in operation.get("parameters", ())
            if not one["description"]
        ]
    schemas = {name: one for name, one in described["components"]["schemas"].items() if not name.startswith("google.")}
    schemas |= {i: body_of(one) for _, i, one in each_body(described)}
    for name, schema in schemas.items():
        silent += [] if schema.get("description") else [name]
        silent += [
            f"{name}.{key}" for key, value in schema.get("properties", {}).items() if not value.get("description")
        ]
        silent += [f"{name}.{key}" for key, text in schema.get("x-enumDescriptions", {}).items() if not text]

    assert silent == []


def each_body(described: Json) -> Iterator[tuple[str, str, Json]]:
    for path, _, operation in each_operation(described):
        if "requestBody" in operation:
            yield path, operation["operationId"], operation


def test_comments_are_unwrapped_into_paragraphs() -> None:
    text = comments()["guildhall.membership.v1.AccessService"]

    assert text.startswith("AccessService decides.\n\nIn this order: ")
    assert "\n" not in text.split("\n\n")[1]


@pytest.mark.parametrize(
    ("schema", "name", "expected"),
    [
        ("messaging.v1.Message", "seq", {"type": "string", "format": "int64"}),
        ("messaging.v1.Message", "createTime", {"type": "string", "format": "date-time"}),
        ("messaging.v1.Message", "files", {"type": "array"}),
        ("messaging.v1.EncryptedPayload", "header", {"contentEncoding": "base64", "maxLength": 5464}),
        ("membership.v1.Workspace", "messageEditWindow", {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"}),
        ("membership.v1.Workspace", "workspaceId", {"type": "string", "format": "uuid"}),
        ("guest.v1.GuestPolicy", "membersMayInvite", {"type": "boolean"}),
        ("messaging.v1.ReactionCount", "count", {"type": "integer", "format": "int32"}),
        ("membership.v1.Member", "role", {"$ref": "#/components/schemas/membership.v1.Role"}),
    ],
)
def test_fields_have_the_types_that_proto3_gives_them_in_json(
    described: Json, schema: str, name: str, expected: Json
) -> None:
    found = described["components"]["schemas"][schema]["properties"][name]

    assert {key: found.get(key) for key in expected} == expected


def test_enums_are_their_names_each_explained(described: Json) -> None:
    role = described["components"]["schemas"]["membership.v1.Role"]

    assert role["enum"] == ["ROLE_UNSPECIFIED", "ROLE_VIEWER", "ROLE_MEMBER", "ROLE_ADMIN"]
    assert role["x-enumDescriptions"]["ROLE_VIEWER"] == "Reads."


def test_a_body_holds_what_the_path_does_not(by_id: dict[str, Json]) -> None:
    operation = by_id["MessageService_SendMessage"]

    assert [one["name"] for one in operation["parameters"]] == ["workspaceId", "conversationId"]
    assert {"clientMessageId", "text", "fileIds"} <= set(body_of(operation)["properties"])
    assert not {"workspaceId", "conversationId"} & set(body_of(operation)["properties"])


def test_a_variable_inside_a_message_is_named_by_its_last_part(described: Json, by_id: dict[str, Json]) -> None:
    operation = by_id["WorkspaceService_UpdateWorkspace"]

    assert described["paths"]["/v1/workspaces/{workspaceId}"]["patch"] is operation
    assert [one["name"] for one in operation["parameters"]] == ["workspaceId"]
    assert "Its `workspaceId` is the path's." in body_of(operation)["properties"]["workspace"]["description"]


def test_without_a_body_the_rest_is_in_the_query(by_id: dict[str, Json]) -> None:
    search = by_id["MessageService_SearchMessages"]
    listing = by_id["ActivityService_ListActivities"]

    assert "requestBody" not in search
    assert parameter(search, "sentAfter")["schema"]["format"] == "date-time"
    assert parameter(search, "conversationIds")["schema"]["type"] == "array"
    assert parameter(listing, "filter.startTime")["in"] == "query"
    assert parameter(by_id["MessageService_DeleteMessage"], "etag")["in"] == "query"


@pytest.mark.parametrize(
    ("operation_id", "required"),
    [
        ("MessageService_SendMessage", ["clientMessageId"]),
        ("AuthService_SignUp", ["email", "name", "password"]),
        ("WorkspaceService_CreateWorkspace", ["name"]),
        ("WorkspaceService_UpdateWorkspace", ["updateMask", "workspace"]),
        ("ConversationService_CreateChannel", ["name", "visibility"]),
        ("ReadStateService_MarkRead", None),
    ],
)
def test_a_request_requires_what_the_services_miss(by_id: dict[str, Json], operation_id: str, required: object) -> None:
    assert body_of(by_id[operation_id]).get("required") == required


def test_required_parameters_of_a_query_are_marked(by_id: dict[str, Json]) -> None:
    operation = by_id["GuestService_ExplainVisibility"]

    assert parameter(operation, "subjectMemberId")["required"] is True
    assert "required" not in parameter(by_id["MessageService_SearchMessages"], "query")


def test_nothing_is_required_of_an_answer(described: Json, by_id: dict[str, Json]) -> None:
    schemas = described["components"]["schemas"]
    todo = [
        operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"] for operation in by_id.values()
    ]
    seen: set[str] = set()
    while todo:
        name = todo.pop().rpartition("/")[2]
        if name not in seen and not name.startswith("google."):
            seen.add(name)
            todo += re.findall(r"#/components/schemas/[\w.]+", repr(schemas[name]))

    assert len(seen) > 150
    assert [name for name in seen if "required" in schemas[name]] == []
    assert "required" in schemas["membership.v1.InvitationItem"]  # which only a request holds


@pytest.mark.parametrize(
    ("operation_id", "security"),
    [
        ("AuthService_SignIn", []),
        ("UserService_GetUser", [{"user": []}]),
        ("AdapterService_GetUser", [{"serviceAccount": ["identity.adapter"]}]),
        ("AccessService_CheckAccess", [{"user": []}, {"serviceAccount": ["membership.access"]}]),
    ],
)
def test_who_may_call_is_said(by_id: dict[str, Json], operation_id: str, security: object) -> None:
    assert by_id[operation_id]["security"] == security


def test_refusals_stand_under_their_http_status(by_id: dict[str, Json]) -> None:
    responses = by_id["MessageService_SendMessage"]["responses"]

    assert {"GUEST_LOCKED", "PERMISSION_DENIED"} <= set(responses["403"]["x-reasons"])
    assert "CONVERSATION_ARCHIVED" in responses["400"]["x-reasons"]
    assert responses["404"]["x-reasons"] == ["NOT_FOUND"]
    assert "LIMIT_REACHED" in responses["429"]["x-reasons"]
    assert "401" not in by_id["AuthService_GetJwks"]["responses"]


def test_every_reason_that_a_comment_names_is_one_of_its_package() -> None:
    unknown = [
        f"{method.full_name}: {name}"
        for method in public_methods()
        for name in named_reasons(comments().get(method.full_name, ""))
        if name not in reasons_of(method, comments())
    ]

    assert unknown == []


def test_every_reason_has_an_http_status() -> None:
    for method in public_methods():
        reasons = reasons_of(method, comments())
        file = method.containing_service.file
        enum = file.pool.FindEnumTypeByName(f"{file.package}.ErrorReason")
        assert len(reasons) == len(enum.values) - 1, file.package  # all but UNSPECIFIED
        assert {reason.http_status for reason in reasons.values()} <= set(HTTP_STATUSES.values())


@pytest.mark.parametrize(
    "change",
    [{"body": "name"}, {"response_body": "name"}, STREAMING],
    ids=lambda change: next(iter(change)),
)
def test_a_binding_that_is_not_understood_stops_the_document(change: Json) -> None:
    streaming = change == STREAMING
    change = {} if streaming else change
    method = made_method(http_pb2.HttpRule(post="/v1/things", **change), streaming=streaming)

    with pytest.raises(ValueError, match="not described yet"):
        operations.bindings(method)


def made_method(rule: Any, *, streaming: bool) -> Any:
    """The descriptor of an RPC with this HTTP rule."""
    options = descriptor_pb2.MethodOptions()
    options.Extensions[annotations_pb2.http].CopyFrom(rule)
    file = descriptor_pb2.FileDescriptorProto(name="made.proto", package="made", syntax="proto3")
    file.message_type.add(name="Thing")
    method = file.service.add(name="Things").method.add(name="Make", server_streaming=streaming)
    method.input_type = method.output_type = ".made.Thing"
    method.options.CopyFrom(options)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindServiceByName("made.Things").methods_by_name["Make"]


def test_required_fields_come_from_the_validator() -> None:
    message = contracts.request_class(contracts.rpcs()["/guildhall.identity.v1.AuthService/SignIn"]).DESCRIPTOR  # type: ignore[attr-defined]

    assert rules.required_fields(message) == {"email", "password"}
