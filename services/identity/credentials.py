"""Passwords of users: what a sign-in is verified against, and how another one is set."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import outbox
from services.identity import security, sessions, users, verification
from services.identity.profiles import COLUMNS

RESET_PASSWORD = ("reset_password",)

_CREDENTIALS = """
    SELECT id, normalized_email, password_hash, email_verified_at IS NOT NULL AS is_verified,
        disabled_at IS NOT NULL AS is_disabled,
        (
            SELECT pending_password_hash FROM verification_tokens
            WHERE user_id = users.id AND pending_password_hash IS NOT NULL
                AND used_at IS NULL AND statement_timestamp() < expire_at
            ORDER BY created_at DESC, id DESC LIMIT 1
        ) AS pending_password_hash
    FROM users
"""
FIND = text(f"{_CREDENTIALS} WHERE normalized_email = :normalized_email")
FIND_OF_USER = text(f"{_CREDENTIALS} WHERE id = :user_id")
LOCK = text(f"""
    SELECT {COLUMNS} FROM users
    WHERE id = :id AND password_hash IS NOT DISTINCT FROM :password_hash AND disabled_at IS NULL
    FOR NO KEY UPDATE
""")
REHASH = text("UPDATE users SET password_hash = :password_hash WHERE id = :id")
SET_PASSWORD = text("""
    UPDATE users
    SET password_hash = :password_hash, updated_at = statement_timestamp(), revision = revision + 1
    WHERE id = :id
""")


class CredentialsChanged(Exception):
    """The hash that the password was verified against is no longer the user's: verify again."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a password is verified against. Every field but the address is empty if nobody has it."""

    normalized_email: str
    user_id: str | None = None
    password_hash: str | None = None
    is_verified: bool = False
    is_disabled: bool = False
    pending_password_hash: str | None = None
    """Of the newest sign-up with this address in the last 24 h, kept for verified users as well (see users.sign_up)."""


async def find(tx: AsyncConnection, *, normalized_email: str) -> Credentials:
    """What to verify a password against; empty if nobody has the address."""
    row = (await tx.execute(FIND, {"normalized_email": normalized_email})).one_or_none()
    return Credentials(normalized_email) if row is None else _credentials(row)


async def find_of_user(tx: AsyncConnection, *, user_id: str) -> Credentials:
    """A user's own; empty if they were deleted a moment ago."""
    row = (await tx.execute(FIND_OF_USER, {"user_id": user_id})).one_or_none()
    return Credentials("") if row is None else _credentials(row)


def _credentials(row: Row[Any]) -> Credentials:
    return Credentials(
        normalized_email=row.normalized_email,
        user_id=str(row.id),
        password_hash=row.password_hash,
        is_verified=row.is_verified,
        is_disabled=row.is_disabled,
        pending_password_hash=row.pending_password_hash,
    )


async def access(tx: AsyncConnection, *, credentials: Credentials) -> Row[Any]:
    """The user, locked, if what was verified outside of the transaction still holds; else CredentialsChanged.

    The lock makes a password change or a disabling wait, or be seen: no session slips in between.
    """
    row = {"id": credentials.user_id, "password_hash": credentials.password_hash}
    user = (await tx.execute(LOCK, row)).one_or_none()
    if user is None:
        raise CredentialsChanged
    return user


async def rehash(tx: AsyncConnection, *, user_id: str, password_hash: str) -> None:
    """Stores the same password's hash anew. The row is locked by `access`."""
    await tx.execute(REHASH, {"id": user_id, "password_hash": password_hash})


async def change(tx: AsyncConnection, user: Row[Any], *, password_hash: str, keep_session_id: str) -> None:
    """Sets the locked user's password and ends their other sessions."""
    await _set(tx, user, password_hash, keep_session_id=keep_session_id, kind="password_changed")


async def reset(tx: AsyncConnection, user: Row[Any], *, token: str, password_hash: str) -> None:
    """Sets the password by a token, whose user is locked, and ends all sessions. The address is proven by it.

    Errors: TOKEN_INVALID.
    """
    await verification.use(tx, token=token, purposes=RESET_PASSWORD)
    await users.prove(tx, user, password_hash=None, name=None)
    await _set(tx, user, password_hash, keep_session_id=None, kind="password_reset")


async def _set(
    tx: AsyncConnection, user: Row[Any], password_hash: str, *, keep_session_id: str | None, kind: str
) -> None:
    await tx.execute(SET_PASSWORD, {"id": user.id, "password_hash": password_hash})
    await sessions.end_others(tx, user_id=str(user.id), keep_session_id=keep_session_id, reason=kind)
    # A link that was mailed before would undo it.
    await verification.drop(tx, user_id=user.id, purposes=(*RESET_PASSWORD, *users.EMAIL_SIGN_IN, *users.CHANGE_EMAIL))
    await security.record(tx, kind, user_id=str(user.id))
    await outbox.enqueue(tx, "mail.password_changed", str(user.id))
