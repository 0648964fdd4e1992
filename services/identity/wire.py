"""Rows as messages."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.identity.v1 import (
    account_service_pb2,
    service_account_service_pb2,
    session_service_pb2,
    user_service_pb2,
)
from guildhall.identity.v1 import adapter_service_pb2 as adapter
from guildhall.identity.v1 import auth_service_pb2 as auth
from sqlalchemy import Row

from services.chassis.errors import InvalidRequest
from services.identity import profiles
from services.identity.keys import AccessToken


def user(row: Row[Any]) -> user_service_pb2.User:
    """A user as they see themselves; the row has profiles.COLUMNS."""
    message = listed_user(row)
    message.has_password = row.has_password
    return message


def listed_user(row: Row[Any]) -> user_service_pb2.User:
    """A user as system administrators and a product's back ends see them; the row has profiles.COLUMNS."""
    message = _identified(row)
    message.image_url = row.image_url
    message.update_time.FromDatetime(row.updated_at)
    message.etag = profiles.etag_of(row)
    message.system_admin = row.is_administrator
    if row.disabled_at is not None:
        message.disable_time.FromDatetime(row.disabled_at)
    return message


def peer_user(row: Row[Any], administrator_id: str | None) -> user_service_pb2.User:
    """A user as other services see them: with the form of the address that they compare by.

    `administrator_id` is who calls there as a system administrator: nobody else is one to another service.
    """
    message = _identified(row)
    message.normalized_email = row.normalized_email
    message.system_admin = str(row.id) == administrator_id
    return message


def _identified(row: Row[Any]) -> user_service_pb2.User:
    message = user_service_pb2.User(user_id=str(row.id), email=row.email, name=row.name)
    message.create_time.FromDatetime(row.created_at)
    if row.email_verified_at is not None:
        message.email_verify_time.FromDatetime(row.email_verified_at)
    return message


def session(row: Row[Any], *, current: bool = False) -> session_service_pb2.Session:
    """A session; `current` if the call is made with it."""
    message = session_service_pb2.Session(
        session_id=str(row.id),
        user_id=str(row.user_id),
        device_label=row.device_label,
        client_address=row.client_address,
        user_agent=row.user_agent,
        current=current,
    )
    message.create_time.FromDatetime(row.created_at)
    message.expire_time.FromDatetime(row.idle_expire_at)
    message.absolute_expire_time.FromDatetime(row.absolute_expire_at)
    message.last_use_time.FromDatetime(row.last_used_at)
    return message


def security_event(row: Row[Any]) -> session_service_pb2.SecurityEvent:
    """An entry of the security log."""
    message = session_service_pb2.SecurityEvent(
        event_id=str(row.id),
        kind=session_service_pb2.SecurityEventKind.Value(f"SECURITY_EVENT_KIND_{row.kind.upper()}"),
        session_id=str(row.session_id or ""),
        client_address=row.client_address,
        user_agent=row.user_agent,
        service_account_id=str(row.service_account_id or ""),
    )
    message.create_time.FromDatetime(row.created_at)
    return message


def service_account(row: Row[Any], keys: Sequence[Row[Any]] = ()) -> service_account_service_pb2.ServiceAccount:
    """A service account with its live keys."""
    message = service_account_service_pb2.ServiceAccount(
        service_account_id=str(row.id),
        name=row.name,
        scopes=row.scopes,
        workspace_ids=[str(workspace_id) for workspace_id in row.workspace_ids],
        keys=[service_key(key) for key in keys],
    )
    message.create_time.FromDatetime(row.created_at)
    return message


def service_key(row: Row[Any]) -> service_account_service_pb2.ServiceKey:
    """What is known of a key of a service account."""
    message = service_account_service_pb2.ServiceKey(key_id=str(row.id))
    message.create_time.FromDatetime(row.created_at)
    if row.last_used_at is not None:
        message.last_use_time.FromDatetime(row.last_used_at)
    if row.revoked_at is not None:
        message.revoke_time.FromDatetime(row.revoked_at)
    return message


def tokens(session_token: str, access_token: AccessToken) -> auth.SessionTokens:
    """A session's two secrets."""
    message = auth.SessionTokens(session_token=session_token, access_token=access_token.text)
    message.access_token_expire_time.FromDatetime(access_token.expires_at)
    return message


def account(row: Row[Any]) -> account_service_pb2.Account:
    """A provider's account as its user sees it."""
    message = account_service_pb2.Account(
        account_id=str(row.id),
        user_id=str(row.user_id),
        type=row.type,
        provider=row.provider,
        provider_account_id=row.provider_account_id,
        scope=row.scope or "",
    )
    message.create_time.FromDatetime(row.created_at)
    return message


def adapter_account(row: Row[Any]) -> adapter.AdapterAccount:
    """The same as Auth.js has it, but for its tokens."""
    return adapter.AdapterAccount(
        user_id=str(row.user_id),
        type=row.type,
        provider=row.provider,
        provider_account_id=row.provider_account_id,
        expires_at=row.expires_at,
        token_type=row.token_type,
        scope=row.scope,
        session_state=row.session_state,
    )


def adapter_user(row: Row[Any]) -> adapter.AdapterUser:
    """A user as Auth.js has one: what is empty here is null there."""
    message = adapter.AdapterUser(id=str(row.id), email=row.email, name=row.name or None, image=row.image_url or None)
    if row.email_verified_at is not None:
        message.email_verified.FromDatetime(row.email_verified_at)
    return message


def adapter_session(row: Row[Any]) -> adapter.AdapterSession:
    """A session as Auth.js has one, without its token, which only the caller knows."""
    message = adapter.AdapterSession(user_id=str(row.user_id))
    message.expires.FromDatetime(row.idle_expire_at)
    return message


def read_time(wired: Timestamp, *, field: str) -> datetime:
    """The wire's time as the database takes it. INVALID_REQUEST if it is outside the years 1 to 9999."""
    try:
        return wired.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(fields=[(field, "must be a time of the years 1 to 9999")]) from None
