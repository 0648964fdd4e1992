"""Users: signing up, proving an address, and what is checked when one signs in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import outbox
from services.chassis.errors import NotFound
from services.chassis.secret import SecretKey, token_hash
from services.identity.errors import TokenInvalid

VERIFICATION_PREFIX = "ghv"

# The empty update locks a known user and returns it, so that known and unknown take the same statements.
ADD = text("""
    INSERT INTO users (id, email, normalized_email, name) VALUES (:id, :email, :normalized_email, :name)
    ON CONFLICT (normalized_email) DO UPDATE SET updated_at = users.updated_at
    RETURNING id, CASE WHEN email_verified_at IS NULL THEN 'verify_email' ELSE 'known_address' END AS purpose
""")
ADD_TOKEN = text("""
    INSERT INTO verification_tokens
        (id, user_id, purpose, token_hash, pending_password_hash, pending_name, expire_at)
    VALUES
        (:id, :user_id, :purpose, :token_hash, :password_hash, :name, statement_timestamp() + interval '24 hours')
""")
USE_TOKEN = text("""
    UPDATE verification_tokens SET used_at = statement_timestamp()
    WHERE token_hash = :token_hash AND purpose = 'verify_email'
        AND used_at IS NULL AND statement_timestamp() < expire_at
    RETURNING user_id, pending_password_hash, pending_name
""")
VERIFY = text("""
    UPDATE users
    SET email_verified_at = statement_timestamp(), updated_at = statement_timestamp(),
        password_hash = :password_hash, name = :name
    WHERE id = :id AND email_verified_at IS NULL
    RETURNING id, email, name, email_verified_at, created_at
""")
FIND_CREDENTIALS = text("""
    SELECT id, password_hash, email_verified_at IS NOT NULL AS is_verified, disabled_at IS NOT NULL AS is_disabled,
        (
            SELECT pending_password_hash FROM verification_tokens
            WHERE user_id = users.id AND used_at IS NULL AND statement_timestamp() < expire_at
            ORDER BY created_at DESC, id DESC LIMIT 1
        ) AS pending_password_hash
    FROM users WHERE normalized_email = :normalized_email
""")
LOCK_CREDENTIALS = text("""
    SELECT id, email, name, email_verified_at, created_at FROM users
    WHERE id = :id AND password_hash = :password_hash AND email_verified_at IS NOT NULL AND disabled_at IS NULL
    FOR NO KEY UPDATE
""")
REHASH = text("UPDATE users SET password_hash = :password_hash WHERE id = :id")
GET = text("""
    SELECT id, email, normalized_email, name, email_verified_at, created_at FROM users
    WHERE id = ANY(CAST(:ids AS uuid[]))
""")
FIND_MAIL = text("""
    SELECT users.email, verification_tokens.created_at FROM verification_tokens
    JOIN users ON users.id = verification_tokens.user_id
    WHERE verification_tokens.id = :id AND purpose = :purpose
        AND used_at IS NULL AND statement_timestamp() < expire_at
""")
FORGET_TOKENS = text("""
    DELETE FROM verification_tokens WHERE id IN (
        SELECT id FROM verification_tokens
        WHERE used_at IS NOT NULL OR expire_at <= statement_timestamp() LIMIT 1000 FOR UPDATE SKIP LOCKED
    )
""")


class CredentialsChanged(Exception):
    """The hash that the password was verified against is no longer the user's: verify again."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a password is verified against. Every field is empty for an address that nobody has."""

    user_id: str = ""
    password_hash: str | None = None
    is_verified: bool = False
    is_disabled: bool = False
    pending_password_hash: str | None = None
    """Of the newest sign-up with this address in the last 24 h, kept for verified users as well (see sign_up)."""


async def sign_up(
    tx: AsyncConnection, secret: SecretKey, *, email: str, normalized_email: str, name: str, password_hash: str
) -> None:
    """Notes a sign-up and has a mail written about it.

    Password and name wait in the token's row and become the user's only when that very token comes back: nobody can
    sign up somebody else's address with a password of their own, nor spoil the mail that the owner asked for.

    An address that is verified gets a row too, whose token is mailed to nobody. Without it SignIn with the password
    just sent would answer EMAIL_UNVERIFIED for unknown addresses only, and so tell which are known.
    """
    row = {"id": str(uuid_utils.uuid7()), "email": email, "normalized_email": normalized_email, "name": name}
    user = (await tx.execute(ADD, row)).one()
    token_id = str(uuid_utils.uuid7())
    token = {
        "id": token_id,
        "user_id": user.id,
        "purpose": user.purpose,
        "token_hash": token_hash(verification_token(secret, token_id)),
        "password_hash": password_hash,
        "name": name,
    }
    await tx.execute(ADD_TOKEN, token)
    await outbox.enqueue(tx, f"mail.{user.purpose}", token_id)


def verification_token(secret: SecretKey, token_id: str) -> str:
    """The token of a row, derived, so that the worker can mail what is stored nowhere."""
    return secret.token(VERIFICATION_PREFIX, token_id)


async def verify_email(tx: AsyncConnection, *, token: str) -> Row[Any]:
    """Uses the token up and makes its password and name the user's. TOKEN_INVALID, also once a sibling was used."""
    used = (await tx.execute(USE_TOKEN, {"token_hash": token_hash(token)})).one_or_none()
    if used is None:
        raise TokenInvalid
    row = {"id": used.user_id, "password_hash": used.pending_password_hash, "name": used.pending_name}
    user = (await tx.execute(VERIFY, row)).one_or_none()
    if user is None:
        raise TokenInvalid
    return user


async def find_credentials(tx: AsyncConnection, *, normalized_email: str) -> Credentials:
    """What to verify a password against; empty if nobody has the address."""
    row = (await tx.execute(FIND_CREDENTIALS, {"normalized_email": normalized_email})).one_or_none()
    if row is None:
        return Credentials()
    return Credentials(
        user_id=str(row.id),
        password_hash=row.password_hash,
        is_verified=row.is_verified,
        is_disabled=row.is_disabled,
        pending_password_hash=row.pending_password_hash,
    )


async def access_credentials(tx: AsyncConnection, *, credentials: Credentials) -> Row[Any]:
    """The user, locked, if what was verified outside of the transaction still holds; else CredentialsChanged.

    The lock makes a password change or a disabling wait, or be seen: no session slips in between.
    """
    row = {"id": credentials.user_id, "password_hash": credentials.password_hash}
    user = (await tx.execute(LOCK_CREDENTIALS, row)).one_or_none()
    if user is None:
        raise CredentialsChanged
    return user


async def rehash(tx: AsyncConnection, *, user_id: str, password_hash: str) -> None:
    """Stores the same password's hash anew. The row is locked by access_credentials."""
    await tx.execute(REHASH, {"id": user_id, "password_hash": password_hash})


async def access_user(tx: AsyncConnection, *, user_id: str) -> Row[Any]:
    """The user; NOT_FOUND if there is none."""
    user = (await tx.execute(GET, {"ids": [user_id]})).one_or_none()
    if user is None:
        raise NotFound
    return user


async def list_users(tx: AsyncConnection, *, user_ids: Sequence[str]) -> Sequence[Row[Any]]:
    """Those of the users that exist, each once."""
    return (await tx.execute(GET, {"ids": list(user_ids)})).all()


async def find_mail(tx: AsyncConnection, *, token_id: str, purpose: str) -> Row[Any] | None:
    """Whom a mail goes to and when it was asked for, if there is still a point in writing it."""
    return (await tx.execute(FIND_MAIL, {"id": token_id, "purpose": purpose})).one_or_none()


async def forget_tokens(tx: AsyncConnection) -> int:
    """Deletes verification tokens that are good for nothing any more, with the hashes in them; says how many."""
    return (await tx.execute(FORGET_TOKENS)).rowcount
