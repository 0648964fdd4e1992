"""Rows of guest's tables as the protos show them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.guest.v1 import guest_access_service_pb2 as access
from guildhall.guest.v1 import guest_invite_service_pb2 as invites
from guildhall.guest.v1 import guest_service_pb2 as guests
from sqlalchemy import Row

from services.chassis.errors import InvalidRequest
from services.guest import policies
from services.guest.guests import etag_of


def guest(row: Row[Any]) -> guests.Guest:
    """A guest; the row has the columns guests.GUEST."""
    wired = guests.Guest(
        member_id=str(row.member_id),
        workspace_id=str(row.workspace_id),
        user_id=str(row.user_id),
        sponsor_member_id=str(row.sponsor_member_id),
        state=state(row.state),
        expire_time=timestamp(row.expire_at),
        grace_end_time=timestamp(row.grace_end_at),
        etag=etag_of(row.generation),
        orphaned=row.sponsor_gone_at is not None,
        create_time=timestamp(row.created_at),
    )
    if row.ended_at is None:
        wired.channels.extend(grants(row))
        wired.conversation_ids.extend(map(str, row.conversation_ids))
    else:
        # An older release ended guests without saying why, and only removal could.
        wired.end_reason = _end_reason(row.end_reason or "removed")
    return wired


def _end_reason(name: str) -> guests.GuestEndReason.ValueType:
    return guests.GuestEndReason.Value(f"GUEST_END_REASON_{name.upper()}")


def grants(row: Row[Any]) -> list[guests.GuestChannel]:
    """The channels granted to a guest; the row has the columns guests.GUEST."""
    return [
        guests.GuestChannel(
            conversation_id=str(conversation_id),
            expire_time=optional_timestamp(expire_at),
            history_start_time=optional_timestamp(history_start_at),
        )
        for conversation_id, expire_at, history_start_at in zip(
            row.conversation_ids, row.channel_expire_ats, row.history_start_ats, strict=True
        )
    ]


def invite(row: Row[Any]) -> invites.GuestInvite:
    """A link without its secret; the row has the columns invites.INVITE."""
    return invites.GuestInvite(
        invite_id=str(row.id),
        workspace_id=str(row.workspace_id),
        conversation_ids=map(str, row.conversation_ids),
        guest_ttl=duration(row.guest_ttl),
        max_uses=row.max_uses or 0,
        uses=row.uses,
        expire_time=timestamp(row.expire_at),
        create_time=timestamp(row.created_at),
        inviter_member_id=str(row.created_by_member_id),
        state=invites.GuestInviteState.Value(f"GUEST_INVITE_STATE_{row.state}"),
        email=row.bound_email or "",
        domain=row.bound_domain or "",
        wrong_presenters=row.wrong_presenters,
    )


def policy(row: Row[Any]) -> guests.GuestPolicy:
    """A policy; the row has the columns policies.COLUMNS."""
    return guests.GuestPolicy(
        workspace_id=str(row.workspace_id),
        grace=duration(row.grace),
        maximum_stay=duration(row.maximum_stay),
        notice_days=row.notice_days,
        members_may_invite=row.members_may_invite,
        etag=policies.etag_of(row.version),
    )


def verdict(row: Row[Any]) -> access.GuestVerdict:
    """An answer to messaging or membership; times are absent for somebody who never was a guest."""
    return access.GuestVerdict(
        state=state(row.state),
        granted=row.granted,
        expire_time=optional_timestamp(row.expire_at),
        grace_end_time=optional_timestamp(row.grace_end_at),
        holds_for=duration(row.holds_for) if row.holds_for is not None else None,
        history_start_time=optional_timestamp(row.history_start_at),
        grant_expire_time=optional_timestamp(row.grant_expire_at),
        end_reason=_end_reason(row.end_reason or "unspecified"),
    )


def state(name: str) -> guests.GuestState.ValueType:
    """A state by the name that the tables use."""
    return guests.GuestState.Value(f"GUEST_STATE_{name}")


def state_name(wired: guests.GuestState.ValueType) -> str | None:
    """The name that the tables use for a state; None for none."""
    return guests.GuestState.Name(wired).removeprefix("GUEST_STATE_") if wired else None


def timestamp(at: datetime) -> Timestamp:
    """A time of the database as the wire has it."""
    wired = Timestamp()
    wired.FromDatetime(at)
    return wired


def optional_timestamp(at: datetime | None) -> Timestamp | None:
    """A time that may be absent."""
    return None if at is None else timestamp(at)


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
