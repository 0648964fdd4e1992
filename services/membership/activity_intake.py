"""What other services did in a workspace: told by events, and kept in the same log as membership's own."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound
from services.membership import activities, workspaces
from services.membership.activities import Activity, Origin

UNREADABLE = {"unreadable": True}


async def apply_recorded(tx: AsyncConnection, payload: events.ActivityRecorded) -> None:
    """Appends an activity; of a workspace that is unknown or deleted nothing is kept."""
    try:
        await workspaces.get(tx, payload.workspace_id)
    except NotFound:
        return
    activity = Activity(
        action=payload.action,
        target_type=payload.target_type,
        target_id=payload.target_id or None,
        target_user_id=payload.target_user_id or None,
        metadata=_metadata(payload.metadata_json),
        reason=payload.reason,
        outcome="refused" if payload.refused else "done",
        happened_at=_moment(payload),
    )
    origin = Origin(
        payload.actor_user_id,
        request_id=payload.request_id,
        session_id=payload.session_id,
        client_address=payload.client_address,
        user_agent=payload.user_agent,
    )
    await activities.record(tx, payload.workspace_id, [activity], origin=origin)


def _metadata(wired: str) -> Mapping[str, Any]:
    """The sender's metadata, if it has one spelling only; a row that cannot be hashed anew would break the chain."""
    try:
        value = json.loads(wired or "{}")
        # Neither half a character nor a NUL can be stored.
        if isinstance(value, dict) and b"\\u0000" not in activities.canonical(value).encode():
            return value
    except (ValueError, RecursionError):
        pass
    return UNREADABLE


def _moment(payload: events.ActivityRecorded) -> datetime | None:
    """When it was done; None, for the clock, if that is not said, or cannot be hashed: it counts from 1970."""
    if not payload.HasField("activity_time") or payload.activity_time.seconds < 0:
        return None
    try:
        return payload.activity_time.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
