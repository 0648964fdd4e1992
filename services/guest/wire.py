"""Rows of guest's tables as the protos show them."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.guest.v1 import guest_access_service_pb2 as access
from guildhall.guest.v1 import guest_invite_service_pb2 as invites
from guildhall.guest.v1 import guest_service_pb2 as guests
from sqlalchemy import Row

from services.chassis.errors import InvalidRequest
from services.guest.guests import etag_of


def guest(row: Row[Any]) -> guests.Guest:
    """A guest; the row has the columns guests.GUEST."""
    return guests.Guest(
        member_id=str(row.member_id),
        workspace_id=str(row.workspace_id),
        user_id=str(row.user_id),
        sponsor_member_id=str(row.sponsor_member_id),
        state=state(row.state),
        conversation_ids=map(str, row.conversation_ids),
        expire_time=timestamp(row.expire_at),
        grace_end_time=timestamp(row.grace_end_at),
        etag=etag_of(row.generation),
    )


def invite(row: Row[Any], *, conversation_ids: Iterable[str]) -> invites.GuestInvite:
    """A link without its secret."""
    return invites.GuestInvite(
        invite_id=str(row.id),
        workspace_id=str(row.workspace_id),
        conversation_ids=conversation_ids,
        guest_ttl=duration(row.guest_ttl),
        max_uses=row.max_uses or 0,
        uses=row.uses,
        expire_time=timestamp(row.expire_at),
        create_time=timestamp(row.created_at),
    )


def verdict(row: Row[Any]) -> access.GuestVerdict:
    """An answer to messaging or membership; times are absent for somebody who never was a guest."""
    return access.GuestVerdict(
        state=state(row.state),
        granted=row.granted,
        expire_time=timestamp(row.expire_at) if row.expire_at else None,
        grace_end_time=timestamp(row.grace_end_at) if row.grace_end_at else None,
        holds_for=duration(row.holds_for) if row.holds_for is not None else None,
    )


def state(name: str) -> guests.GuestState.ValueType:
    """A state by the name that the tables use."""
    return guests.GuestState.Value(f"GUEST_STATE_{name}")


def timestamp(at: datetime) -> Timestamp:
    """A time of the database as the wire has it."""
    wired = Timestamp()
    wired.FromDatetime(at)
    return wired


def duration(span: timedelta) -> Duration:
    """A span of the database as the wire has it."""
    wired = Duration()
    wired.FromTimedelta(span)
    return wired


def read_time(wired: Timestamp, *, field: str) -> datetime:
    """The wire's time as the database takes it. INVALID_REQUEST if it is outside the years 1 to 9999."""
    try:
        return wired.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(fields=[(field, "must be a time of the years 1 to 9999")]) from None


def read_duration(wired: Duration, *, field: str) -> timedelta:
    """The wire's span as the database takes it. INVALID_REQUEST if its parts are not those of a positive span."""
    if not 0 <= wired.nanos < 1_000_000_000:
        raise InvalidRequest(fields=[(field, "must have nanos from 0 to 999999999")])
    return wired.ToTimedelta()
