"""Messages and enums as JSON Schema: proto3's JSON mapping, as the gateway's transcoder reads and writes it."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from google.protobuf import field_mask_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from deploy.envoy.settings import Json
from deploy.openapi.rules import keywords, message_sentences, required_fields, rules_of, sentences

_SCALARS: Mapping[int, Json] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    # A string: a JavaScript number would lose the last digits.
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}
_WELL_KNOWN: Mapping[str, Json] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    "google.protobuf.FieldMask": {"type": "string"},
}
STATUS = "google.rpc.Status"


def is_plain(field: FieldDescriptor) -> bool:
    """Whether the field's value is no JSON object, so that it can be a parameter."""
    return field.message_type is None or field.message_type.full_name in _WELL_KNOWN


def name_of(described: Descriptor | EnumDescriptor) -> str:
    """Its name among the schemas: the full one, without what all of ours begin with."""
    return str(described.full_name.removeprefix("guildhall."))


class Schemas:
    """Gathers the schemas that others refer to."""

    def __init__(self, comments: Mapping[str, str], answered: Collection[str]) -> None:
        """`answered` are the messages that answers hold: no answer writes a field that has its default value, so none
        of theirs is required, not even where a request must have it."""
        self.components: Json = {}
        self._comments = comments
        self._answered = answered

    def reference(self, described: Descriptor | EnumDescriptor) -> Json:
        """A reference to a message or an enum, whose schema is added if it is new."""
        name = name_of(described)
        if name not in self.components and name != STATUS:  # Status is written by hand, for what its details may be
            self.components[name] = {}  # first, because a message can hold itself
            self.components[name] = (
                self._enum(described) if isinstance(described, EnumDescriptor) else self._message(described)
            )
        return {"$ref": f"#/components/schemas/{name}"}

    def object(self, message: Descriptor, fields: Iterable[FieldDescriptor], *, required: bool) -> Json:
        """An object of some of a message's fields."""
        fields = list(fields)
        text = [self._comments.get(message.full_name, ""), *message_sentences(message)]
        schema: Json = {"type": "object"}
        if any(text):
            schema["description"] = " ".join(filter(None, text))
        if fields:
            schema["properties"] = {field.json_name: self.field(field) for field in fields}
        must = sorted(field.json_name for field in fields if field.name in required_fields(message)) if required else []
        return {**schema, "required": must} if must else schema

    def field(self, field: FieldDescriptor) -> Json:
        """One field, with its comment and its rules."""
        rules = rules_of(field)
        text = " ".join(filter(None, (self._comments.get(field.full_name, ""), *_mask(rules), *sentences(rules))))
        described = {"description": text} if text else {}
        if field.message_type and field.message_type.GetOptions().map_entry:
            return {"type": "object", "additionalProperties": self._value(field.message_type.fields_by_name["value"])}
        value = self._value(field)
        values = tuple(value.name for value in field.enum_type.values) if field.enum_type else ()
        if not field.is_repeated:
            return {**value, **keywords(rules, values), **described}
        items = {**value, **keywords(rules.repeated.items, values)}
        return {"type": "array", "items": items, **keywords(rules), **described}

    def _value(self, field: FieldDescriptor) -> Json:
        if field.enum_type:
            return self.reference(field.enum_type)
        if field.message_type:
            return dict(_WELL_KNOWN.get(field.message_type.full_name) or self.reference(field.message_type))
        return dict(_SCALARS[field.type])

    def _message(self, message: Descriptor) -> Json:
        return self.object(message, message.fields, required=message.full_name not in self._answered)

    def _enum(self, enum: EnumDescriptor) -> Json:
        explained = {value.name: self._comments.get(f"{enum.full_name}.{value.name}", "") for value in enum.values}
        return {
            "type": "string",
            "description": self._comments.get(enum.full_name, ""),
            "enum": list(explained),
            "x-enumDescriptions": explained,
        }


def _mask(rules: Any) -> list[str]:
    """Which paths a FieldMask may hold, spelled as in JSON."""
    paths = field_mask_pb2.FieldMask(paths=getattr(rules.field_mask, "in")).ToJsonString()
    return [f"May hold: {paths.replace(',', ', ')}."] if paths else []


def messages_within(message: Descriptor, found: set[str]) -> None:
    """Adds the names of a message and of all that it can hold."""
    if message.full_name not in found:
        found.add(message.full_name)
        for field in message.fields:
            if field.message_type:
                messages_within(field.message_type, found)
