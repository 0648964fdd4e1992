"""The ids in a request, whatever it is of, and the same request with others in their places."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

KINDS = (
    "workspace_id",
    "conversation_id",
    "message_id",
    "file_id",
    "user_group_id",
    "group_id",
    "group_invite_id",
    "invitation_id",
    "invite_id",
    "role_scheme_id",
    "ban_id",
    "member_id",
    "user_id",
    "session_id",
    "account_id",
    "service_account_id",
    "key_id",
)
OPAQUE = frozenset({"token", "code", "session_token", "service_key", "provider_account_id"})
"""What stands for a thing and is no UUID."""
NO_THINGS = frozenset({"request_id", "client_message_id", "event_id", "redemption_id"})
"""What whoever asks makes up."""


def ids(message: Message) -> dict[str, str]:
    """The kind of thing that each id in a message stands for, by the id."""
    return {value: kind for field, value in _texts(message) if value and (kind := _kind(field.name))}


def replaced(message: Message, others: Mapping[str, str]) -> Message:
    """A copy in which other ids stand in the places of some."""
    copy = type(message)()
    copy.CopyFrom(message)
    _replace(copy, lambda value: others.get(value, value))
    return copy


def never_issued(value: str) -> str:
    """An id of the same form that stands for nothing."""
    try:
        uuid.UUID(value)
    except ValueError:
        return (uuid.uuid4().hex * (1 + len(value) // 32))[: len(value)]
    return str(uuid.uuid4())


def _kind(name: str) -> str:
    if name in NO_THINGS:
        return ""
    if name in OPAQUE:
        return name
    fitting = [kind for kind in KINDS if name.removesuffix("s").endswith(kind)]
    return max(fitting, key=len, default="")


def _texts(message: Message) -> Iterator[tuple[FieldDescriptor, str]]:
    for field, value in message.ListFields():
        for item in value if field.is_repeated else (value,):
            if isinstance(item, Message):
                yield from _texts(item)
            elif isinstance(item, str):
                yield field, item


def _replace(message: Any, other: Callable[[str], str]) -> None:
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for part in value if field.is_repeated else (value,):
                _replace(part, other)
        elif field.type == FieldDescriptor.TYPE_STRING and field.is_repeated:
            value[:] = [other(item) for item in value]
        elif field.type == FieldDescriptor.TYPE_STRING:
            setattr(message, field.name, other(value))
