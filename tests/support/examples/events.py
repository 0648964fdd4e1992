"""Examples of what every service has: the sink of events from the others."""

import hashlib
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tests.support.examples import Example
from tests.support.examples.cast import Caller
from tests.support.examples.world import House, in_days


def event(**payload: Any) -> dict[str, Any]:
    """One event; about things that are nowhere, so that it has no effect."""
    return {"events": [{"event_id": str(uuid.uuid4()), **payload}]}


def opened(_house: House, _caller: Caller) -> dict[str, Any]:
    """A link was made."""
    return event(invite_opened={"token_hash": hashlib.sha256(b"x").digest(), "expire_time": in_days(1)})


def deleted(_house: House, _caller: Caller) -> dict[str, Any]:
    """A user was deleted."""
    return event(user_deleted={"user_id": str(uuid.uuid4())})


def removed(_house: House, _caller: Caller) -> dict[str, Any]:
    """A member was removed."""
    return event(member_removed={key: str(uuid.uuid4()) for key in ("workspace_id", "member_id", "user_id")})


EXAMPLES: Mapping[str, Example] = MappingProxyType(
    {
        "events.EventSink/DeliverEvents@identity": Example(opened, peer="membership", wrong_peer="messaging"),
        "events.EventSink/DeliverEvents@membership": Example(deleted, peer="identity", wrong_peer="guest"),
        "events.EventSink/DeliverEvents@guest": Example(removed, peer="membership", wrong_peer="identity"),
        "events.EventSink/DeliverEvents@messaging": Example(removed, peer="membership", wrong_peer="identity"),
    }
)
