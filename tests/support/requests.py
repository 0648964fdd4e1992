"""Requests made from descriptors: every field filled, the sensitive ones with texts that can be looked for."""

import time
import uuid
from collections.abc import Callable

from buf.validate import validate_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

DEEPEST = 4


def fill(message: Message, text: Callable[[FieldDescriptor], str], depth: int = 0) -> Message:
    """Fills every field: ids with UUIDs, sensitive texts with `text(field)`, of each oneof the first."""
    for field in message.DESCRIPTOR.fields:
        oneof = field.containing_oneof
        if oneof is not None and message.WhichOneof(oneof.name) is not None:
            continue
        _set(message, field, text, depth)
    return message


def _set(message: Message, field: FieldDescriptor, text: Callable[[FieldDescriptor], str], depth: int) -> None:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        if depth >= DEEPEST:
            return
        part = getattr(message, field.name).add() if field.is_repeated else getattr(message, field.name)
        _fill_part(part, text, depth)
        return
    value = _value(field, text)
    if field.is_repeated:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


def _fill_part(part: Message, text: Callable[[FieldDescriptor], str], depth: int) -> None:
    kind = part.DESCRIPTOR.full_name
    if kind == "google.protobuf.Timestamp":
        part.FromSeconds(int(time.time()) + 86400)  # type: ignore[attr-defined]
    elif kind == "google.protobuf.Duration":
        part.FromSeconds(60)  # type: ignore[attr-defined]
    elif kind == "google.protobuf.FieldMask":
        part.paths.append("name")  # type: ignore[attr-defined]
    else:
        fill(part, text, depth + 1)
        part.SetInParent()


def _value(field: FieldDescriptor, text: Callable[[FieldDescriptor], str]) -> object:
    if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        if is_uuid(field):
            return str(uuid.uuid4())
        value = text(field) if field.GetOptions().debug_redact else "x"
        return value if field.type == FieldDescriptor.TYPE_STRING else value.encode()
    if field.type == FieldDescriptor.TYPE_ENUM:
        return field.enum_type.values[min(1, len(field.enum_type.values) - 1)].number
    return field.type == FieldDescriptor.TYPE_BOOL or 1


def is_uuid(field: FieldDescriptor) -> bool:
    """Whether the contract demands a UUID here."""
    rules = field.GetOptions().Extensions[validate_pb2.field]
    return bool(rules.string.uuid or rules.repeated.items.string.uuid)
