"""What the protos must say: who may call, comments, request ids, what is never logged; and that they break nobody."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from guildhall.options.v1 import access_pb2

from services.chassis import contracts
from tests.rules.sources import ROOT, report

READS = (
    *("Get", "List", "BatchGet", "BatchCheck", "BatchList", "Check", "Subscribe", "Preview", "Explain", "Search"),
    *("Expand", "Export", "Watch", "Download", "Filter"),
)
"""How the names of RPCs that change nothing begin."""

WITHOUT_REQUEST_ID = {
    "identity.v1.AuthService.RefreshSession": "its token is used up by it: the token is the key",
    "identity.v1.AuthService.SignOut": "ending a session that has ended is the same",
    "messaging.v1.MessageService.SendMessage": "client_message_id is its key, for ever",
    "messaging.v1.MessageService.PublishMessages": "each message has its client_message_id",
    "messaging.v1.FileService.UploadFile": "file_id and offset are its key: what is stored already is skipped",
    "messaging.v1.FileService.UploadChunk": "file_id and offset are its key: what is stored already is skipped",
    "membership.v1.MemberService.AddGuestMember": "redemption_id is its key, for ever",
    "membership.v1.MemberService.ConfirmGuestMember": "confirming a confirmed member is the same",
    "events.v1.EventSink.DeliverEvents": "each event has an id of its own",
    "membership.v1.MemberService.RemoveGuestMember": "member_id is its key, for ever: it is never used again",
    "membership.v1.MemberService.ChangeMemberKind": "making a full member a full member is the same",
    "membership.v1.AccessService.BumpAccessRevision": "event_id is its key",
    "membership.v1.ActivityService.VerifyActivityChain": "it only reads",
    "messaging.v1.MessageService.ResolveMentions": "it only reads",
    "identity.v1.AuthService.ExchangeServiceKey": "changes but the time of last use; each answer is another token",
    "identity.v1.AdapterService.CreateAccessToken": "stores nothing; each answer is another token",
}

ASKS_AGAIN = {
    "Subscribe": "the hub asks for all streams each second",
    "WatchMembership": "the watches ask for all streams each second",
    "PublishMessages": "each batch of messages asks",
    "ExportActivities": "asked after each page was read",
    "DownloadFile": "asked after each stretch was read",
    "UploadFile": "asked again with the permission",
}
"""Streams, and how each comes to know that its session has ended: the interceptors ask before it begins only."""

SECRET_WORDS = {"password", "token", "email", "text", "url", "secret"}
OPEN_FIELDS = {"page_token", "next_page_token"}
"""Tokens that authenticate a position in a list, and open nothing."""
PERSONAL_FIELDS = {"device_label", "user_agent", "client_address"}
NAMES_OF_PEOPLE = {
    "SignUpRequest",
    "User",
    "UpdateUserRequest",
    "ImportUserRequest",
    "AdapterUser",
    "AdapterServiceCreateUserRequest",
    "AdapterServiceUpdateUserRequest",
    "Member",
    "VisibleMember",
}
NAMES_OF_THINGS = {
    "CreateServiceAccountRequest",
    "ServiceAccount",
    "CreateWorkspaceRequest",
    "Workspace",
    "CreateChannelRequest",
    "CreateGroupConversationRequest",
    "Conversation",
    "CreateGroupRequest",
    "Group",
    "CreateRoleSchemeRequest",
    "RoleScheme",
    "CreateUserGroupRequest",
    "UserGroup",
}
NAMES_OF_FILES = {"CreateUploadRequest", "File"}
"""A thing's, but they tell what people write about."""
RELEASED = sorted((ROOT / "protos" / "released").glob("*.binpb"))


def buf(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs buf, offline, with the project's configuration."""
    program = shutil.which("buf", path=str(Path(sys.executable).parent)) or "buf"
    command = [program, *arguments, "--config", str(ROOT / "buf.yaml"), "--path", "guildhall"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def messages(within: Descriptor | None = None) -> Iterator[Descriptor]:
    """Every message of the contracts, nested ones too."""
    if within is not None:
        nested = list(within.nested_types)
    else:
        nested = [message for file in contracts.files() for message in file.message_types_by_name.values()]
    for message in nested:
        if message.full_name.startswith("guildhall."):
            yield message
            yield from messages(message)


def without_access(rpcs: dict[str, contracts.Rpc]) -> list[str]:
    """RPCs that do not say who may call them."""
    return [
        name
        for name, rpc in rpcs.items()
        if not rpc.access.callers or access_pb2.CALLER_UNSPECIFIED in rpc.access.callers
    ]


def is_mutating(method: str) -> bool:
    """Whether an RPC of that full name changes something."""
    method = method.rpartition(".")[2]
    return not any(method.startswith(read) and not method[len(read) :][:1].islower() for read in READS)


def request_fields() -> dict[str, set[str]]:
    """The fields of each RPC's request, by its full name without `guildhall.`: some names are several services'."""
    return {
        method.full_name.removeprefix("guildhall."): {field.name for field in method.input_type.fields}
        for service in contracts.services()
        for method in service.methods
    }


def without_request_id(methods: dict[str, set[str]]) -> list[str]:
    """RPCs that change something and have no key to repeat them by; `methods` gives the request's fields of each."""
    return [
        f"{method} changes something: give its request a request_id (AIP-155), or a reason in WITHOUT_REQUEST_ID"
        for method, fields in methods.items()
        if is_mutating(method) and "request_id" not in fields and method not in WITHOUT_REQUEST_ID
    ]


def is_sensitive(message: str, field: str) -> bool:
    """Whether a field of text holds a secret or something about a person."""
    if field in OPEN_FIELDS:
        return False
    if field == "name":
        return message in NAMES_OF_PEOPLE | NAMES_OF_FILES
    return field in PERSONAL_FIELDS or field.rpartition("_")[2] in SECRET_WORDS


def unredacted(message: Descriptor) -> list[str]:
    """Fields that would be logged and must not be; names of which nobody has said whose they are."""
    found = []
    for field in message.fields:
        if field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            continue
        where = f"{message.file.name}: {message.name}.{field.name}"
        if is_sensitive(message.name, field.name) and not field.GetOptions().debug_redact:
            found.append(f"{where} is secret or personal: give it debug_redact = true")
        if field.name == "name" and message.name not in NAMES_OF_PEOPLE | NAMES_OF_FILES | NAMES_OF_THINGS:
            found.append(f"{where}: a person's name or a thing's? Add the message to one of the lists")
    return found


def test_every_rpc_says_who_may_call_it() -> None:
    assert len(contracts.rpcs()) > 1
    assert not (faults := without_access(contracts.rpcs())), report(faults)


def test_an_rpc_that_lets_nobody_in_is_found() -> None:
    access = access_pb2.Access()
    rpc = contracts.Rpc("/a.B/C", access, False, False, "a.R", "a.S")

    assert without_access({"/a.B/C": rpc}) == ["/a.B/C"]
    access.callers.append(access_pb2.CALLER_OPEN)
    assert not without_access({"/a.B/C": rpc})


def test_names_and_comments_of_the_contracts_are_in_order(image: Path) -> None:
    linted = buf("lint", str(image))

    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize("removed", ["message", "field", "service", "rpc", "enum value"])
def test_a_missing_comment_is_found(files: FileDescriptorSet, tmp_path: Path, removed: str) -> None:
    paths = {
        "message": [4, 0],
        "field": [4, 0, 2, 0],
        "service": [6, 0],
        "rpc": [6, 0, 2, 0],
        "enum value": [5, 0, 2, 0],
    }
    wanted = "membership/v1/member_service.proto"
    (file,) = (file for file in files.file if file.name.endswith(wanted))
    for location in file.source_code_info.location:
        if list(location.path) == paths[removed]:
            location.ClearField("leading_comments")

    linted = buf("lint", str(written(files, tmp_path / "spoilt.binpb")))

    assert linted.returncode != 0
    assert wanted in linted.stdout
    assert "comment" in linted.stdout


@pytest.mark.skipif(not RELEASED, reason="nothing has been released yet")
@pytest.mark.parametrize("base", RELEASED, ids=lambda path: path.stem)
def test_the_contracts_break_nobody_who_was_built_against_a_release(image: Path, base: Path) -> None:
    compared = buf("breaking", str(image), "--against", str(base))

    assert compared.returncode == 0, compared.stdout + compared.stderr


@pytest.mark.parametrize("spoil", ["rpc removed", "field removed", "field retyped"])
def test_a_breaking_change_is_found(files: FileDescriptorSet, image: Path, tmp_path: Path, spoil: str) -> None:
    (file,) = (file for file in files.file if file.name.endswith("identity/v1/user_service.proto"))
    (user,) = (message for message in file.message_type if message.name == "User")
    if spoil == "rpc removed":
        del file.service[0].method[0]
    elif spoil == "field removed":
        del user.field[-1]
    else:
        user.field[0].type = FieldDescriptorProto.TYPE_INT64

    compared = buf("breaking", str(written(files, tmp_path / "spoilt.binpb")), "--against", str(image))

    assert compared.returncode != 0
    assert "user_service.proto" in compared.stdout


def test_contracts_that_did_not_change_break_nobody(files: FileDescriptorSet, image: Path, tmp_path: Path) -> None:
    compared = buf("breaking", str(written(files, tmp_path / "same.binpb")), "--against", str(image))

    assert compared.returncode == 0, compared.stdout + compared.stderr


def test_every_rpc_that_changes_something_can_be_repeated() -> None:
    methods = request_fields()

    assert len(methods) == len(contracts.rpcs())
    assert not (faults := without_request_id(methods)), report(faults)
    stale = {name for name in WITHOUT_REQUEST_ID if "request_id" in methods.get(name, {"request_id"})}
    assert not stale, f"take off the list what is gone or has a request_id by now: {sorted(stale)}"


def test_of_every_stream_it_is_known_how_it_ends_with_its_session() -> None:
    streams = {
        rpc.method
        for rpc in contracts.rpcs().values()
        if rpc.needs_token and (rpc.server_streaming or rpc.client_streaming)
    }

    assert streams == set(ASKS_AGAIN), "a stream must ask about its session as it goes; say in ASKS_AGAIN how"


def test_an_rpc_that_cannot_be_repeated_is_found() -> None:
    methods = {"a.CreateThing": {"name"}, "a.ListThings": set(), "a.BatchCreateThings": {"x"}, "a.Listen": set()}

    found = without_request_id(methods)

    assert [fault.partition(" ")[0] for fault in found] == ["a.CreateThing", "a.BatchCreateThings", "a.Listen"]
    sign_out = "identity.v1.AuthService.SignOut"
    assert not without_request_id({"a.CreateThing": {"name", "request_id"}, sign_out: set()})
    found = without_request_id({"a.CreateThing": {"request_id"}, "b.CreateThing": set(), "b.SignOut": set()})
    assert [fault.partition(" ")[0] for fault in found] == ["b.CreateThing", "b.SignOut"]


def test_secrets_and_personal_text_are_never_logged() -> None:
    assert not (faults := [fault for message in messages() for fault in unredacted(message)]), report(faults)


def test_a_field_that_would_be_logged_is_found() -> None:
    from google.protobuf import descriptor_pool

    text, one = FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.LABEL_OPTIONAL
    names = ["session_token", "page_token", "normalized_email", "name", "invite_id", "text"]
    fields = [FieldDescriptorProto(name=n, number=i, type=text, label=one) for i, n in enumerate(names, 1)]
    fields[-1].options.debug_redact = True
    file = FileDescriptorProto(name="spoilt.proto", message_type=[DescriptorProto(name="Spoilt", field=fields)])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)

    found = unredacted(pool.FindMessageTypeByName("Spoilt"))

    assert [fault.split(".")[2].split()[0].rstrip(":") for fault in found] == [
        "session_token",
        "normalized_email",
        "name",
    ]


def test_the_lists_of_names_hold_only_messages_that_exist() -> None:
    assert {message.name for message in messages()} >= NAMES_OF_PEOPLE | NAMES_OF_FILES | NAMES_OF_THINGS
    assert not (NAMES_OF_PEOPLE | NAMES_OF_FILES) & NAMES_OF_THINGS


def written(files: FileDescriptorSet, path: Path) -> Path:
    """The descriptor set as a file."""
    path.write_bytes(files.SerializeToString())
    return path
