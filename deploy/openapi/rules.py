"""The rules of buf.validate as JSON Schema; what that cannot say becomes a sentence."""

from functools import cache
from typing import Any

import protovalidate
from buf.validate import validate_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from deploy.envoy.settings import Json

_KEYWORDS = {
    "string": {"min_len": "minLength", "max_len": "maxLength", "pattern": "pattern"},
    "int32": {"gte": "minimum", "lte": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"},
    "repeated": {"min_items": "minItems", "max_items": "maxItems", "unique": "uniqueItems"},
}
_WORDS = {"gte": "at least {}", "lte": "at most {}", "gt": "more than {}", "lt": "less than {}"}
_IN_WORDS = ("int64", "duration")  # strings in JSON, which no keyword compares as numbers


def rules_of(field: FieldDescriptor) -> Any:
    """The field's buf.validate.FieldRules."""
    return field.GetOptions().Extensions[validate_pb2.field]


def keywords(rules: Any, values: tuple[str, ...] = ()) -> Json:
    """The keywords for one value; for a list, those of the list itself. `values` are the names of an enum's numbers."""
    kind = rules.WhichOneof("type")
    if kind is None:
        return {}
    own = getattr(rules, kind)
    known = _KEYWORDS.get(kind, {})
    found: Json = {known[name.name]: value for name, value in own.ListFields() if name.name in known}
    if kind == "string":
        found |= _of_string(own)
    elif kind == "bytes":
        found |= _of_bytes(own)
    elif kind == "enum" and own.not_in:
        found["not"] = {"enum": [values[number] for number in own.not_in]}
    return found


def _of_string(rules: Any) -> Json:
    found: Json = {}
    if rules.uuid:
        found["format"] = "uuid"
    if rules.HasField("len"):
        found["minLength"] = found["maxLength"] = rules.len
    if getattr(rules, "in"):
        found["enum"] = list(getattr(rules, "in"))
    return found


def _of_bytes(rules: Any) -> Json:
    """Lengths of the base64 text, padding included."""
    least, most = (rules.len, rules.len) if rules.HasField("len") else (rules.min_len, rules.max_len)
    limits = {"minLength": least and _base64_length(least), "maxLength": most and _base64_length(most)}
    return {name: length for name, length in limits.items() if length}


def _base64_length(size: int) -> int:
    return -(-size // 3) * 4


def sentences(rules: Any) -> list[str]:
    """What the keywords leave out."""
    found = [rule.message + "." for rule in rules.cel if rule.message]
    kind = rules.WhichOneof("type")
    if kind in _IN_WORDS:
        own = {name.name: value for name, value in getattr(rules, kind).ListFields()}
        limits = [words.format(_number(own[name])) for name, words in _WORDS.items() if name in own]
        found += [" and ".join(limits) + "."] if limits else []
    return [sentence[0].upper() + sentence[1:] for sentence in found]


def _number(value: Any) -> str:
    return str(value.ToJsonString() if hasattr(value, "ToJsonString") else value)


def message_sentences(message: Descriptor) -> list[str]:
    """The rules of a whole message, and which of its fields exclude each other."""
    rules = [rule.message for rule in message.GetOptions().Extensions[validate_pb2.message].cel]
    for oneof in message.oneofs:
        names = [f"`{field.json_name}`" for field in oneof.fields]
        if len(names) > 1:  # one alone is an `optional` field
            required = oneof.GetOptions().Extensions[validate_pb2.oneof].required
            rules.append(f"{'exactly' if required else 'at most'} one of {', '.join(names)} is set")
    return [f"{rule[0].upper()}{rule[1:]}." for rule in rules]


@cache
def required_fields(message: Descriptor) -> frozenset[str]:
    """The fields that a caller cannot leave out: those that the services' own validator misses in an empty message."""
    empty = message_factory.GetMessageClass(message)()
    found = (violation.proto.field for violation in protovalidate.collect_violations(empty))
    paths = [field.elements for field in found if field]
    return frozenset(path[0].field_name for path in paths if path) & set(message.fields_by_name)
