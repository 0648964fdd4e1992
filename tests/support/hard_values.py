"""Hypothesis strategies over message descriptors: requests with values in them that are hard on whoever reads them.

Such a request begins as a good one, and one to three places in it are made hard: so the rest of it passes, and what is
behind the validation is met with the hard value as well. `mutated` damages the bytes of a request instead.
"""

import unicodedata
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

DEEPEST = 4
MOST_PLACES = 3
LARGE = 900 * 1024
"""As much as goes into one request beside the rest of it."""
YEAR_1, YEAR_9999 = -62_135_596_800, 253_402_300_799
LONGEST_SECONDS = 315_576_000_000
LETTER = "é"
NESTED = 110
"""Deeper than parsers of protobuf go."""

TEXTS = (
    "",
    "\0",
    "before\0after",
    "x" * LARGE,
    "\u202eright to left\u202c",
    unicodedata.normalize("NFC", LETTER),
    unicodedata.normalize("NFD", LETTER),
    "ﷺ" * 40,
    "👩‍👩‍👧‍👦" * 30,
    "\ufdd0\uffff\U0010ffff",
    "\u2028\u2029\u0085",
    " \t\r\n",
    "%s %(x)s {0} {x!r} $1 :x",
    "' OR 1=1; --",
    "\\x00\\u0000\\",
    "*",
    "a.b",
    "../../etc/passwd",
    "ı̇ İ ß ﬁ",
    "xn--a@xn--b",
    "a@b",
    str(uuid.UUID(int=0)),
    str(uuid.UUID(int=2**128 - 1)),
    str(uuid.uuid5(uuid.NAMESPACE_DNS, "upper")).upper(),
    "{" + str(uuid.UUID(int=1)) + "}",
    uuid.UUID(int=1).urn,
    "AAAA",
    "QUFBQUFBQUFBQUFBQUFBQVsxXQ==",
    "QUFBQUFBQUFBQUFBQUFBQVtudWxsLCB7fV0=",
    "9" * 400,
    "-1",
    "NaN",
)
"""The last ones are page tokens, as somebody would forge them, and numbers where none belong."""
BYTES = (b"", b"\0", b"\xff" * 24, bytes(31), bytes(32), bytes(33), b"\x80" * LARGE)
NUMBERS = {
    32: (0, 1, -1, 2**31 - 1, -(2**31), 200, 201, 1_000_000),
    64: (0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**63 - 8),
}
UNSIGNED = {32: (0, 2**32 - 1), 64: (0, 2**64 - 1)}
FLOATS = (float("nan"), float("inf"), float("-inf"), -0.0, 1e308, 5e-324)
ENUMS = (0, 99, -1, 2**31 - 1, -(2**31))
SECONDS = (
    *(YEAR_1, YEAR_1 - 1, YEAR_9999, YEAR_9999 + 1, 0, -1, 1, 3_600, 4_102_444_800),
    *(LONGEST_SECONDS, -LONGEST_SECONDS, LONGEST_SECONDS + 1, 2**63 - 1, -(2**63)),
)
NANOS = (0, 1, 999, 999_999_999, 1_000_000_000, -1, -999_999_999, 2**31 - 1, -(2**31))
PATHS = (
    *([], ["*"], [""], ["no_such_field"], ["name.first"]),
    *(["workspace_id"], ["name", "name"], ["etag"], ["x"] * 2_000),
)

Place = tuple[Message, FieldDescriptor]


@st.composite
def hard_requests(draw: st.DrawFn, good: Message) -> Message:
    """A good request in which some places are hard."""
    request = type(good)()
    request.CopyFrom(good)
    for _ in range(draw(st.integers(1, MOST_PLACES))):
        places = list(_places(request))
        if not places:
            break
        holder, field = draw(st.sampled_from(places))
        _harden(draw, holder, field)
    return request


@st.composite
def mutated(draw: st.DrawFn, good: Message) -> bytes:
    """The bytes of a good request, damaged."""
    data = good.SerializeToString()
    for _ in range(draw(st.integers(1, 2))):
        data = _damage(draw, data, draw(st.integers(0, max(0, len(data) - 1))))
    return data


def _places(message: Message, depth: int = 0) -> Iterator[Place]:
    """Every field, of the parts too, whether they are there or not."""
    for field in message.DESCRIPTOR.fields:
        yield message, field
        if field.message_type and depth < DEEPEST and not field.message_type.full_name.startswith("google."):
            parts = getattr(message, field.name)
            for part in list(parts)[:2] if field.is_repeated else [parts] if message.HasField(field.name) else []:
                yield from _places(part, depth + 1)


def _harden(draw: st.DrawFn, holder: Any, field: FieldDescriptor) -> None:
    """Puts a hard value into a field, or takes what is there away."""
    if draw(st.integers(0, 9)) == 0:
        holder.ClearField(field.name)
    elif field.message_type:
        _harden_part(draw, holder, field)
    elif field.is_repeated:
        values = getattr(holder, field.name)
        amount = draw(st.sampled_from((1, 1, 2, 3, 1_001)))
        item = draw(_scalars(field))
        # What is large is there once: requests have a limit of their own.
        values.extend([item] * (1 if _is_large(item) else amount))
    else:
        setattr(holder, field.name, draw(_scalars(field)))


def _harden_part(draw: st.DrawFn, holder: Any, field: FieldDescriptor) -> None:
    part = getattr(holder, field.name).add() if field.is_repeated else getattr(holder, field.name)
    kind = field.message_type.full_name
    if kind in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
        part.seconds, part.nanos = draw(st.sampled_from(SECONDS)), draw(st.sampled_from(NANOS))
    elif kind == "google.protobuf.FieldMask":
        del part.paths[:]
        part.paths.extend(draw(st.sampled_from(PATHS)))
    elif draw(st.booleans()) and field.message_type.fields:
        _harden(draw, part, draw(st.sampled_from(list(field.message_type.fields))))
    if not field.is_repeated:
        part.SetInParent()  # there, and perhaps empty


def _scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    kinds = FieldDescriptor
    if field.type == kinds.TYPE_STRING:
        return st.one_of(st.sampled_from(TEXTS), st.text(max_size=40))
    if field.type == kinds.TYPE_BYTES:
        return st.sampled_from(BYTES)
    if field.type == kinds.TYPE_ENUM:
        return st.sampled_from([*ENUMS, *(value.number for value in field.enum_type.values)])
    if field.type == kinds.TYPE_BOOL:
        return st.booleans()
    if field.cpp_type in (kinds.CPPTYPE_DOUBLE, kinds.CPPTYPE_FLOAT):
        return st.sampled_from(FLOATS)
    bits = 64 if field.cpp_type in (kinds.CPPTYPE_INT64, kinds.CPPTYPE_UINT64) else 32
    signed = field.cpp_type in (kinds.CPPTYPE_INT64, kinds.CPPTYPE_INT32)
    return st.sampled_from(NUMBERS[bits] if signed else UNSIGNED[bits])


def _is_large(item: Any) -> bool:
    return isinstance(item, str | bytes) and len(item) > 1_000


def _damage(draw: st.DrawFn, data: bytes, at: int) -> bytes:
    """One kind of damage at a position."""
    before, after = data[:at], data[at:]
    kind = draw(st.sampled_from(DAMAGES))
    if kind == "flip" and after:
        return before + bytes([after[0] ^ (1 << draw(st.integers(0, 7)))]) + after[1:]
    if kind == "cut":
        return before
    if kind == "drop":
        return before + after[draw(st.integers(1, 9)) :]
    if kind == "double":
        return data + after
    if kind == "text" and len(after) > 3:
        return before + b"\xed\xa0\x80" + after[3:]  # a lone surrogate, where no text can have one
    if kind == "insert":
        return before + draw(st.binary(min_size=1, max_size=12)) + after
    return _appended(draw, data, kind)


def _appended(draw: st.DrawFn, data: bytes, kind: str) -> bytes:
    """Damage at the end: a field that nobody knows, nesting without end, a length that is not there."""
    number = draw(st.sampled_from((1, 2, 3, 19_000, 2**29 - 1)))
    if kind == "unknown":
        return data + _tag(number, 2) + _varint(5) + b"\xff" * 5
    if kind == "groups":
        return data + _tag(number, 3) * NESTED + _tag(number, 4) * NESTED
    if kind == "nested":
        inner = b""
        for _ in range(NESTED):
            inner = _tag(number, 2) + _varint(len(inner)) + inner
        return data + inner
    if kind == "length":
        return data + _tag(number, 2) + _varint(draw(st.sampled_from((2**31 - 1, 2**32, 2**63))))
    return data + _tag(number, draw(st.integers(0, 7))) + b"\xff" * 10


DAMAGES: Sequence[str] = (
    *("flip", "flip", "flip", "cut", "drop", "double", "text", "insert"),
    *("unknown", "groups", "nested", "length", "varint"),
)


def _tag(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
