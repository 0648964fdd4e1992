"""Tokens that go by mail: each for one purpose, good once and for a time, stored as a hash (ADR 2).

The user is locked before a token is: everything that touches both takes them in this order.
"""

from collections.abc import Sequence
from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import outbox
from services.chassis.secret import SecretKey, token_hash
from services.identity.errors import TokenInvalid
from services.identity.profiles import COLUMNS

PREFIX = "ghv"
UNKNOWN_ADDRESS = "unknown_address"
LIFETIMES = {
    "verify_email": "24 hours",
    "known_address": "24 hours",
    "change_email": "24 hours",
    "reset_password": "1 hour",
    "email_sign_in": "15 minutes",
    UNKNOWN_ADDRESS: "15 minutes",
}
"""How long a token of each purpose is good; of the two whose tokens nobody gets, how long the row is kept."""

ADD = text("""
    INSERT INTO verification_tokens
        (id, user_id, purpose, token_hash, pending_password_hash, pending_name, pending_email, expire_at)
    VALUES
        (:id, :user_id, :purpose, :token_hash, :password_hash, :name, :email,
         statement_timestamp() + CAST(:lifetime AS interval))
""")
LOCK_HOLDER = text(f"""
    SELECT {COLUMNS} FROM users
    WHERE disabled_at IS NULL AND id = (
        SELECT user_id FROM verification_tokens WHERE token_hash = :token_hash AND purpose = ANY(:purposes)
    )
    FOR NO KEY UPDATE
""")
# What waited in the row goes with its use, so that no hash of a password is left there.
USE = text("""
    UPDATE verification_tokens
    SET used_at = statement_timestamp(), pending_password_hash = NULL, pending_name = NULL,
        previous_email = CASE WHEN purpose = 'change_email' THEN (SELECT email FROM users WHERE id = user_id) END
    WHERE token_hash = :token_hash AND purpose = ANY(:purposes)
        AND used_at IS NULL AND statement_timestamp() < expire_at
    RETURNING id, user_id, purpose, pending_email, old.pending_password_hash, old.pending_name
""")
IS_GOOD = text("""
    SELECT FROM verification_tokens
    WHERE token_hash = :token_hash AND purpose = ANY(:purposes)
        AND used_at IS NULL AND statement_timestamp() < expire_at
""")
RETIRE = text("""
    UPDATE verification_tokens SET purpose = 'known_address'
    WHERE user_id = :user_id AND purpose = 'verify_email' AND used_at IS NULL
""")
RETIRE_LONGER = text("""
    UPDATE verification_tokens SET purpose = 'known_address', expire_at = statement_timestamp() + interval '24 hours'
    WHERE user_id = :user_id AND purpose IN ('verify_email', 'known_address')
        AND used_at IS NULL AND statement_timestamp() < expire_at
    RETURNING old.purpose, pending_password_hash, pending_name
""")
DROP = text("""
    DELETE FROM verification_tokens WHERE user_id = :user_id AND purpose = ANY(:purposes) AND used_at IS NULL
""")
# Used ones stay as long as a repeated call may ask (idempotency), and until the mail about the change is sent.
FORGET = text("""
    DELETE FROM verification_tokens WHERE id IN (
        SELECT id FROM verification_tokens
        WHERE (used_at IS NULL AND expire_at <= statement_timestamp())
            OR used_at <= statement_timestamp() - interval '48 hours'
        LIMIT 1000 FOR UPDATE SKIP LOCKED
    )
""")


async def issue(
    tx: AsyncConnection,
    secret: SecretKey,
    purpose: str,
    *,
    user_id: str | None,
    password_hash: str | None = None,
    name: str | None = None,
    email: str | None = None,
) -> None:
    """Stores a token and has it mailed. `unknown_address` has no user and gets no mail, by the same statements.

    `password_hash` and `name` wait for a sign-up to be proven, `email` (as written) for a change of address.
    """
    token_id = str(uuid_utils.uuid7())
    row = {
        "id": token_id,
        "user_id": user_id,
        "purpose": purpose,
        "token_hash": token_hash(token_of(secret, token_id)),
        "password_hash": password_hash,
        "name": name,
        "email": email,
        "lifetime": LIFETIMES[purpose],
    }
    await tx.execute(ADD, row)
    await outbox.enqueue(tx, f"mail.{purpose}", token_id)


def token_of(secret: SecretKey, token_id: str) -> str:
    """The token of a row, derived, so that the worker can mail what is stored nowhere."""
    return secret.token(PREFIX, token_id)


async def access_holder(tx: AsyncConnection, *, token: str, purposes: Sequence[str]) -> Row[Any]:
    """The user whom a token was mailed to, locked, be it used or not. TOKEN_INVALID, also for a disabled user's."""
    row = {"token_hash": token_hash(token), "purposes": list(purposes)}
    user = (await tx.execute(LOCK_HOLDER, row)).one_or_none()
    if user is None:
        raise TokenInvalid
    return user


async def use(tx: AsyncConnection, *, token: str, purposes: Sequence[str]) -> Row[Any]:
    """Uses a token up, and returns what waited with it. TOKEN_INVALID. Its user is locked by access_holder."""
    row = {"token_hash": token_hash(token), "purposes": list(purposes)}
    used = (await tx.execute(USE, row)).one_or_none()
    if used is None:
        raise TokenInvalid
    return used


async def is_good(tx: AsyncConnection, *, token: str, purposes: Sequence[str]) -> bool:
    """Whether a token could be used at this instant. One that could not never can again."""
    row = {"token_hash": token_hash(token), "purposes": list(purposes)}
    return (await tx.execute(IS_GOOD, row)).one_or_none() is not None


async def retire(tx: AsyncConnection, *, user_id: str) -> None:
    """Makes the sign-ups that were not the proven one good for nothing.

    They stay until their time, as those of known addresses do: were they gone, whoever made one could tell by SignIn's
    answer to its password that the address has been proven.
    """
    await tx.execute(RETIRE, {"user_id": user_id})


async def take_sign_up(tx: AsyncConnection, *, user_id: str | None) -> tuple[str | None, str | None]:
    """Retires the user's sign-ups, and returns the password hash and name of the only one; of several, nothing.

    With several nobody knows whose password the mail would confirm, and it must not be a stranger's. All live on for
    SignIn's answers as if they were new, for known addresses as for others.
    """
    rows = (await tx.execute(RETIRE_LONGER, {"user_id": user_id})).all()
    waiting = [row for row in rows if row.purpose == "verify_email"]
    return (waiting[0].pending_password_hash, waiting[0].pending_name) if len(waiting) == 1 else (None, None)


async def drop(tx: AsyncConnection, *, user_id: str, purposes: Sequence[str]) -> None:
    """Deletes the user's unused tokens of some purposes."""
    await tx.execute(DROP, {"user_id": user_id, "purposes": list(purposes)})


async def forget(tx: AsyncConnection) -> int:
    """Deletes tokens that are good for nothing any more, with the hashes in them; says how many."""
    return (await tx.execute(FORGET)).rowcount
