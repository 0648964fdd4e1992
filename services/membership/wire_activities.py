"""Rows of the activity log as messages, and filters as they are read."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.membership.v1 import activity_service_pb2 as pb
from sqlalchemy import Row

from services.membership.activities import canonical
from services.membership.activity_reads import Filter
from services.membership.wire import read_time

OUTCOMES = {"done": pb.ACTIVITY_OUTCOME_DONE, "refused": pb.ACTIVITY_OUTCOME_REFUSED}
OUTCOME_NAMES = {number: name for name, number in OUTCOMES.items()}


def activity(row: Row[Any], *, names: Mapping[str, str] | None = None) -> pb.Activity:
    """An activity; without names it names nobody."""
    actor, target = str(row.actor_user_id or ""), str(row.target_user_id or "")
    by, about = row.actor_details or {}, row.target_details or {}
    personal = about.get("personal")
    return pb.Activity(
        number=row.number,
        workspace_id=str(row.workspace_id),
        activity_time=_timestamp(row.happened_at),
        action=row.action,
        outcome=OUTCOMES[row.outcome],
        actor_user_id=actor,
        actor_name=(names or {}).get(actor, ""),
        actor_account_id=str(row.actor_account_id or ""),
        target_type=row.target_type,
        target_id=str(row.target_id or ""),
        target_user_id=target,
        metadata_json=canonical(row.metadata),
        reason=about.get("reason", ""),
        personal_json=canonical(personal) if personal else "",
        request_id=row.request_id,
        session_id=by.get("session_id", ""),
        client_address=by.get("client_address", ""),
        user_agent=by.get("user_agent", ""),
        hash=bytes(row.hash),
    )


def change(row: Row[Any]) -> access.MembershipChange:
    """An activity that changed who belongs to a workspace, or what they may do."""
    return access.MembershipChange(
        number=row.number,
        change_time=_timestamp(row.happened_at),
        action=row.action,
        user_id=str(row.user_id or ""),
        target_type=row.target_type,
        target_id=str(row.target_id or ""),
        metadata_json=canonical(row.metadata),
    )


def read_filter(wired: pb.ActivityFilter) -> Filter:
    """The wire's filter. InvalidRequest for a time outside the years 1 to 9999."""
    exact = [action for action in wired.actions if not action.endswith("*")]
    prefixes = [action.removesuffix("*") for action in wired.actions if action.endswith("*")]
    return Filter(
        actor_user_id=_id(wired.actor_user_id),
        target_user_id=_id(wired.target_user_id),
        actions=exact if wired.actions else None,
        prefixes=prefixes,
        target_type=wired.target_type or None,
        target_id=_id(wired.target_id),
        start_at=_read(wired, "start_time"),
        end_at=_read(wired, "end_time"),
        outcome=OUTCOME_NAMES.get(wired.outcome),
    )


def _id(wired: str) -> str | None:
    return str(UUID(wired)) if wired else None


def _read(wired: pb.ActivityFilter, field: Literal["start_time", "end_time"]) -> datetime | None:
    return read_time(getattr(wired, field), field=f"filter.{field}") if wired.HasField(field) else None


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
