"""Requests for any RPC, made from its descriptor and its rules; calls of any shape; and the texts in any message."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import grpc
import protovalidate
from buf.validate import validate_pb2
from google.protobuf import symbol_database
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.rpc import status_pb2
from guildhall.options.v1 import access_pb2

from services.chassis import contracts
from tests.support.suite import Person, Suite

Pool = Mapping[str, Sequence[str]]
"""Values by the name of the field, "member_id" also standing for "sponsor_member_id" and "member_ids"."""
Metadata = Sequence[tuple[str, str]]
"""What is sent beside a request."""

TRIES = 40
DEEPEST = 4
MOST_FRAMES = 60
TEXTS = (
    "",
    "x",
    "member",
    "a@example.com",
    "example.com",
    "https://example.com/x",
    "workspace.read",
    "member.joined",
    "application/pdf",
    "a long enough password",
    "👍",
)
BYTES = (b"", b"x", bytes(24), bytes(32))
NUMBERS = (0, 1, 7, 3600)


class Requests:
    """Makes requests whose ids come from a pool; what else they need is whatever the rules let through."""

    def __init__(self, pool: Pool, chance: random.Random) -> None:
        self._pool = pool
        self._chance = chance
        self._spare = 0.5

    def one(self, rpc: contracts.Rpc, given: Mapping[str, str]) -> Message | None:
        """A valid request that has the given values in the fields of those names; None if none was found."""
        for _ in range(TRIES):
            # Half of the requests have little in them: each filter more leaves less to be shown.
            self._spare = self._chance.choice((0.5, 0.95))
            request: Message = contracts.request_class(rpc)()
            self._fill(request, given, 0)
            try:
                protovalidate.validate(request)
            except protovalidate.ValidationError:
                continue
            return request
        return None

    def values(self, field_name: str) -> Sequence[str]:
        """What a field of that name may be given; nothing for a name that the pool does not know."""
        return next((self._pool[key] for key in _keys(field_name) if key in self._pool), ())

    def named(self, message: Any, depth: int = 0) -> Iterator[str]:
        """The names of the fields, nested ones too, that the pool has values for."""
        for field in message.fields:
            if field.message_type and depth < DEEPEST and not _is_google(field):
                yield from self.named(field.message_type, depth + 1)
            elif field.type == FieldDescriptor.TYPE_STRING and self.values(field.name):
                yield field.name

    def _fill(self, message: Message, given: Mapping[str, str], depth: int) -> None:
        for field in message.DESCRIPTOR.fields:
            oneof = field.containing_oneof
            skipped = oneof is not None and (self._leaves_out() or message.WhichOneof(oneof.name))
            if skipped and field.name not in given:
                continue
            self._set(message, field, given, depth)

    def _set(self, message: Message, field: FieldDescriptor, given: Mapping[str, str], depth: int) -> None:
        if field.message_type:
            self._set_part(message, field, given, depth)
        elif field.is_repeated:
            rules = field.GetOptions().Extensions[validate_pb2.field].repeated
            least = max(rules.min_items, 1 if field.name in given or given.get(field.name.removesuffix("s")) else 0)
            value = [self._value(message, field, given) for _ in range(least or int(not self._leaves_out()))]
            getattr(message, field.name).extend(dict.fromkeys(value))
        else:
            setattr(message, field.name, self._value(message, field, given))

    def _set_part(self, message: Message, field: FieldDescriptor, given: Mapping[str, str], depth: int) -> None:
        required = field.GetOptions().Extensions[validate_pb2.field].required
        if depth >= DEEPEST or (not required and self._leaves_out()):
            return
        part = getattr(message, field.name).add() if field.is_repeated else getattr(message, field.name)
        kind = field.message_type.full_name
        if kind == "google.protobuf.FieldMask":
            part.paths.append(self._chance.choice(_paths(message.DESCRIPTOR, field)))
        elif kind in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
            part.seconds = 3600 if kind.endswith("Duration") else 1_900_000_000
        else:
            self._fill(part, given, depth + 1)
            part.SetInParent()

    def _value(self, message: Message, field: FieldDescriptor, given: Mapping[str, str]) -> Any:
        if field.type == FieldDescriptor.TYPE_STRING:
            key = next((key for key in _keys(field.name) if key in given), None)
            if key is not None and (key == field.name or key == field.name.removesuffix("s")):
                return given[key]
            if field.name in ("request_id", "client_message_id"):
                return str(uuid.uuid4())
            # What may be left out narrows an answer down, or changes it, when it is there.
            if _fits(type(message), field.name, "") and self._leaves_out():
                return ""
            values = [value for value in self.values(field.name) if _fits(type(message), field.name, value)]
            return self._chance.choice(values) if values else _text(type(message), field.name, self._chance)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return _first(type(message), field.name, BYTES, self._chance)
        if field.type == FieldDescriptor.TYPE_ENUM:
            return _first(type(message), field.name, [v.number for v in field.enum_type.values], self._chance)
        if field.type == FieldDescriptor.TYPE_BOOL:
            return not self._leaves_out()
        if self._leaves_out() and _fits(type(message), field.name, 0):
            return 0
        return _first(type(message), field.name, NUMBERS, self._chance)

    def _leaves_out(self) -> bool:
        return self._chance.random() < self._spare


def _keys(field_name: str) -> Iterator[str]:
    """The names under which a pool may have the field's values, the most particular first."""
    for name in (field_name, field_name.removesuffix("s")):
        parts = name.split("_")
        for first in range(len(parts)):
            yield "_".join(parts[first:])


def _is_google(field: FieldDescriptor) -> bool:
    return bool(field.message_type.full_name.startswith("google."))


def _paths(message: Any, mask: FieldDescriptor) -> list[str]:
    """What a mask may name: by its rule, or the fields of the thing beside it."""
    allowed = list(getattr(mask.GetOptions().Extensions[validate_pb2.field].field_mask, "in"))
    beside = [field.message_type for field in message.fields if field.message_type and not _is_google(field)]
    names = [each.name for thing in beside for each in thing.fields if not each.name.endswith(("_id", "etag"))]
    return allowed or names or [each.name for each in message.fields if not each.message_type]


@cache
def _fits(message_class: type[Message], name: str, value: Any) -> bool:
    """Whether a field's own rules let a value through."""
    message = message_class()
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.is_repeated:
        getattr(message, name).append(value)
    else:
        setattr(message, name, value)
    found = protovalidate.collect_violations(message)
    # A rule of the whole message names no field.
    paths = [violation.proto.field for violation in found if violation.proto.field]
    return not any(path.elements and path.elements[0].field_name == name for path in paths)


def _first(message_class: type[Message], name: str, values: Sequence[Any], chance: random.Random) -> Any:
    fitting = [value for value in values if _fits(message_class, name, value)]
    return chance.choice(fitting) if fitting else values[0]


def _text(message_class: type[Message], name: str, chance: random.Random) -> str:
    """Any text that the rules let through; an id that stands for nothing, where they want one."""
    texts = [text for text in TEXTS if _fits(message_class, name, text)]
    if len(texts) > 1 and not texts[0] and not name.endswith(("token", "etag")):
        texts = texts[1:]
    if texts and name.endswith(("token", "etag")):
        return texts[0]
    return chance.choice(texts) if texts else str(uuid.uuid4())


async def do(suite: Suite, person: Person | None, name: str, /, **fields: Any) -> Any:
    """The answer of a unary RPC by its short name, "guest.GuestService/GetGuest"; without a token for nobody."""
    package, service = name.split(".")
    rpc = contracts.rpcs()[f"/guildhall.{package}.v1.{service}"]
    request: Any = contracts.request_class(rpc)(**fields)
    response: Any = symbol_database.Default().GetSymbol(rpc.response)
    call = suite.channel(package).unary_unary(rpc.name, type(request).SerializeToString, response.FromString)
    return await call(request, timeout=30, metadata=person.metadata if person else None)


async def ask(
    suite: Suite,
    rpc: contracts.Rpc,
    request: Message | bytes,
    *,
    metadata: Metadata = (),
    certificate: str = "gateway",
    service: str = "",
    seconds: float = 1.0,
    most: int = MOST_FRAMES,
) -> tuple[list[Message], grpc.aio.AioRpcError | None]:
    """What a call brings: its messages, and the refusal if there is one. Bytes are sent as they are.

    A stream is read until it ends, or `most` messages have come, or for `seconds`. `service` is only needed for what
    every service has.
    """
    channel = suite.channel(service or rpc.service.split(".")[1], certificate=certificate)
    response = symbol_database.Default().GetSymbol(rpc.response)
    shape = f"{'stream' if rpc.client_streaming else 'unary'}_{'stream' if rpc.server_streaming else 'unary'}"
    method = getattr(channel, shape)(rpc.name, _serialized, response.FromString)
    given = _frames(request) if rpc.client_streaming else request
    call = method(given, timeout=10, metadata=metadata)
    found: list[Message] = []
    try:
        if not rpc.server_streaming:
            return [await call], None
        async with asyncio.timeout(seconds):
            async for message in call:
                found.append(message)
                if len(found) == most:
                    break
    except TimeoutError:
        pass
    except grpc.aio.AioRpcError as error:
        return found, error
    finally:
        call.cancel()
    return found, None


async def answers(
    suite: Suite, person: Person, rpc: contracts.Rpc, request: Message, *, seconds: float = 1.0
) -> tuple[list[Message], list[str], bytes]:
    """What a person's call brings: its messages, the texts of its refusal, and the refusal's status as on the wire."""
    found, error = await ask(suite, rpc, request, metadata=person.metadata, seconds=seconds)
    if error is None:
        return found, [], b""
    raw = b"".join(bytes(v) for k, v in error.trailing_metadata() or () if k == "grpc-status-details-bin")
    return found, [error.details() or "", *texts(status_pb2.Status.FromString(raw))], raw


def _serialized(request: Message | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


async def _frames(request: Message | bytes) -> AsyncIterator[Message | bytes]:
    yield request


def texts(message: Message) -> Iterator[str]:
    """All texts in a message, however deep; bytes as text too, for an Any's content is bytes."""
    for field, value in message.ListFields():
        if field.message_type and field.message_type.GetOptions().map_entry:
            for key, item in value.items():
                yield str(key)
                yield from _of(item)
        elif field.is_repeated:
            for item in value:
                yield from _of(item)
        else:
            yield from _of(value)


def _of(value: Any) -> Iterator[str]:
    if isinstance(value, Message):
        yield from texts(value)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield value.decode("utf-8", "replace")


MUTATING = ("Send", "Publish", "Upload", "Start", "Complete", "Refresh", "Exchange", "SignOut")


def mutates(rpc: contracts.Rpc) -> bool:
    """Whether an RPC changes anything: it can be repeated by a key, or is one of those named so."""
    fields = contracts.request_class(rpc).DESCRIPTOR.fields_by_name  # type: ignore[attr-defined]
    return "request_id" in fields or rpc.method.startswith(MUTATING)


def let_in() -> list[contracts.Rpc]:
    """Every RPC that lets in a person, signed in or not."""
    callers = (access_pb2.CALLER_USER, access_pb2.CALLER_OPEN)
    return [rpc for rpc in contracts.rpcs().values() if any(rpc.lets_in(caller) for caller in callers)]
