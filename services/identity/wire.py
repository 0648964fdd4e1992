"""Rows as messages."""

from typing import Any

from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import session_service_pb2, user_service_pb2
from sqlalchemy import Row

from services.identity.keys import AccessToken


def user(row: Row[Any]) -> user_service_pb2.User:
    """A user as they see themselves."""
    message = user_service_pb2.User(user_id=str(row.id), email=row.email, name=row.name)
    message.create_time.FromDatetime(row.created_at)
    if row.email_verified_at is not None:
        message.email_verify_time.FromDatetime(row.email_verified_at)
    return message


def peer_user(row: Row[Any]) -> user_service_pb2.User:
    """A user as other services see them: with the form of the address that they compare by."""
    message = user(row)
    message.normalized_email = row.normalized_email
    return message


def session(row: Row[Any]) -> session_service_pb2.Session:
    """A session."""
    message = session_service_pb2.Session(
        session_id=str(row.id), user_id=str(row.user_id), device_label=row.device_label
    )
    message.create_time.FromDatetime(row.created_at)
    message.expire_time.FromDatetime(row.idle_expire_at)
    return message


def tokens(session_token: str, access_token: AccessToken) -> auth.SessionTokens:
    """A session's two secrets."""
    message = auth.SessionTokens(session_token=session_token, access_token=access_token.text)
    message.access_token_expire_time.FromDatetime(access_token.expires_at)
    return message
