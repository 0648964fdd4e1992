"""What a database adapter of Auth.js keeps here: users by its words, its sessions, its verification tokens.

null there is the empty text here, but for the time of verification. Sessions are Guildhall sessions whose token is the
framework's own, kept as a hash; sessions that Guildhall started are none of the adapter's.
"""

from datetime import datetime
from typing import Any

import uuid_utils
from sqlalchemy import Row, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import emails
from services.chassis.call import current_call
from services.chassis.errors import InvalidRequest, NotFound
from services.chassis.secret import token_hash
from services.identity import administrators, security, users, verification
from services.identity.errors import EmailTaken

CREATE_USER = text("""
    INSERT INTO users (id, email, normalized_email, name, email_verified_at, image_url)
    VALUES (:id, :email, :normalized_email, :name, :email_verified_at, :image_url)
    ON CONFLICT (normalized_email) DO UPDATE
    SET email = EXCLUDED.email, name = EXCLUDED.name, image_url = EXCLUDED.image_url, is_claim = false,
        email_verified_at = EXCLUDED.email_verified_at, updated_at = statement_timestamp(),
        revision = users.revision + 1
    WHERE users.is_claim AND users.disabled_at IS NULL
    RETURNING id, email, name, email_verified_at, image_url
""")
FIND_USER = text("SELECT id, email, name, email_verified_at, image_url FROM users WHERE id = :user_id")
FIND_USER_BY_EMAIL = text("""
    SELECT id, email, name, email_verified_at, image_url FROM users
    WHERE normalized_email = :normalized_email AND NOT is_claim
""")
FIND_USER_BY_ACCOUNT = text("""
    SELECT users.id, email, name, email_verified_at, image_url FROM accounts JOIN users ON users.id = user_id
    WHERE provider = :provider AND provider_account_id = :provider_account_id
""")
LOCK_USER = text("SELECT email, normalized_email, email_verified_at FROM users WHERE id = :user_id FOR NO KEY UPDATE")
UPDATE_USER = text("""
    UPDATE users
    SET name = coalesce(:name, name), image_url = coalesce(:image_url, image_url),
        email = coalesce(:email, email), normalized_email = coalesce(:normalized_email, normalized_email),
        email_verified_at = CASE WHEN :sets_verified THEN :email_verified_at ELSE email_verified_at END,
        revision = revision + 1, updated_at = statement_timestamp()
    WHERE id = :user_id
    RETURNING id, email, name, email_verified_at, image_url
""")
# They were mailed to the address before, whose reader may be somebody else.
DROP_MAILED_TOKENS = text("DELETE FROM verification_tokens WHERE user_id = :user_id AND used_at IS NULL")
# Not FOR SHARE: two first sign-ins at once would wait for each other when they note that an app acts.
LOCK_ENABLED_USER = text("SELECT FROM users WHERE id = :user_id AND disabled_at IS NULL FOR NO KEY UPDATE")
CREATE_SESSION = text("""
    INSERT INTO sessions
        (id, user_id, device_label, client_address, user_agent, idle_expire_at, absolute_expire_at, from_adapter)
    VALUES (:id, :user_id, '', :client_address, :user_agent, :expires, :expires, true)
    RETURNING id, user_id, idle_expire_at
""")
ADD_SESSION_TOKEN = text("""
    INSERT INTO session_tokens (token_hash, session_id, generation) VALUES (:token_hash, :session_id, 1)
    ON CONFLICT (token_hash) DO NOTHING
""")
FIND_SESSION = text("""
    SELECT sessions.id AS session_id, user_id, idle_expire_at, statement_timestamp() AS clock,
        users.id, email, name, email_verified_at, image_url
    FROM session_tokens JOIN sessions ON sessions.id = session_id JOIN users ON users.id = user_id
    WHERE token_hash = :token_hash AND from_adapter
        AND ended_at IS NULL AND statement_timestamp() < idle_expire_at AND disabled_at IS NULL
""")
UPDATE_SESSION = text("""
    UPDATE sessions
    SET idle_expire_at = coalesce(:expires, idle_expire_at), absolute_expire_at = coalesce(:expires, absolute_expire_at)
    FROM session_tokens, users
    WHERE token_hash = :token_hash AND sessions.id = session_id AND from_adapter AND users.id = user_id
        AND ended_at IS NULL AND statement_timestamp() < idle_expire_at AND disabled_at IS NULL
    RETURNING sessions.id, user_id, idle_expire_at
""")
END_SESSION = text("""
    UPDATE sessions SET ended_at = statement_timestamp(), ended_reason = 'adapter_deleted'
    FROM session_tokens, users
    WHERE token_hash = :token_hash AND sessions.id = session_id AND from_adapter AND users.id = user_id
        AND ended_at IS NULL AND statement_timestamp() < idle_expire_at AND disabled_at IS NULL
    RETURNING sessions.id, user_id, idle_expire_at
""")
CREATE_TOKEN = text("""
    INSERT INTO adapter_verification_tokens (identifier, token_hash, expire_at)
    VALUES (:identifier, :token_hash, :expires)
    ON CONFLICT (identifier, token_hash) DO UPDATE SET expire_at = EXCLUDED.expire_at
""")
USE_TOKEN = text("""
    DELETE FROM adapter_verification_tokens
    WHERE identifier = :identifier AND token_hash = :token_hash AND statement_timestamp() < expire_at
    RETURNING expire_at
""")
FORGET_TOKENS = text("""
    DELETE FROM adapter_verification_tokens WHERE (identifier, token_hash) IN (
        SELECT identifier, token_hash FROM adapter_verification_tokens
        WHERE expire_at <= statement_timestamp() LIMIT 1000 FOR UPDATE SKIP LOCKED
    )
""")


async def create_user(
    tx: AsyncConnection, *, email: str, name: str, image_url: str, verified_at: datetime | None
) -> Row[Any]:
    """A new user. Errors: EMAIL_TAKEN, INVALID_REQUEST."""
    normalized_email = emails.normalize(email)
    row = {
        "id": str(uuid_utils.uuid7()),
        "email": email.strip(),
        "normalized_email": normalized_email,
        "name": name,
        "image_url": image_url,
        "email_verified_at": verified_at,
    }
    user = (await tx.execute(CREATE_USER, row)).one_or_none()
    if user is None:
        raise EmailTaken
    await verification.retire(tx, user_id=str(user.id))
    return user


async def find_user(tx: AsyncConnection, *, user_id: str) -> Row[Any] | None:
    """The user of an id."""
    return (await tx.execute(FIND_USER, {"user_id": user_id})).one_or_none()


async def find_user_by_email(tx: AsyncConnection, *, email: str) -> Row[Any] | None:
    """The user of an address; nobody has what is no address."""
    try:
        row = {"normalized_email": emails.normalize(email)}
    except InvalidRequest:
        return None
    return (await tx.execute(FIND_USER_BY_EMAIL, row)).one_or_none()


async def find_user_by_account(tx: AsyncConnection, *, provider: str, provider_account_id: str) -> Row[Any] | None:
    """The user whom a provider's account is linked to."""
    row = {"provider": provider, "provider_account_id": provider_account_id}
    return (await tx.execute(FIND_USER_BY_ACCOUNT, row)).one_or_none()


async def update_user(
    tx: AsyncConnection,
    *,
    user_id: str,
    name: str | None,
    image_url: str | None,
    email: str | None,
    sets_verified: bool,
    verified_at: datetime | None,
) -> Row[Any]:
    """Sets what is not None, and the time of verification if it is to be set.

    Errors: NOT_FOUND, EMAIL_TAKEN, PERMISSION_DENIED (an administrator's address, or its proof taken away).
    """
    normalized_email = None if email is None else emails.normalize(email)
    row = {
        "user_id": user_id,
        "name": name,
        "image_url": image_url,
        "email": None if email is None else email.strip(),
        "normalized_email": normalized_email,
        "sets_verified": sets_verified,
        "email_verified_at": verified_at,
    }
    before = (await tx.execute(LOCK_USER, {"user_id": user_id})).one_or_none()
    if before is None:
        raise NotFound
    # Another spelling may be another mailbox. A later time of the same proof is what each sign-in by mail says.
    if row["email"] not in (None, before.email) or (sets_verified and verified_at is None):
        await administrators.require_not_one(tx, user_id=user_id)
    if normalized_email is not None:
        await users.drop_claim(tx, normalized_email=normalized_email, but_id=user_id)
    try:
        user = (await tx.execute(UPDATE_USER, row)).one()
    except exc.IntegrityError as error:
        raise EmailTaken from error
    if normalized_email not in (None, before.normalized_email):
        await tx.execute(DROP_MAILED_TOKENS, {"user_id": user_id})
        await _record(tx, "email_changed", user_id=user_id)
        await users.remember_an_app_acts(tx, user_id=user_id)
    if before.email_verified_at is None and user.email_verified_at is not None:
        await users.end_unproven(tx, user_id=user_id)
        await _record(tx, "email_verified", user_id=user_id)
    return user


async def create_session(tx: AsyncConnection, *, token: str, user_id: str, expires: datetime) -> Row[Any]:
    """A session under the framework's token. Errors: NOT_FOUND (no such user, or disabled), INVALID_REQUEST."""
    if (await tx.execute(LOCK_ENABLED_USER, {"user_id": user_id})).one_or_none() is None:
        raise NotFound
    call = current_call()
    row = {
        "id": str(uuid_utils.uuid7()),
        "user_id": user_id,
        "client_address": call.client_address,
        "user_agent": call.user_agent,
        "expires": expires,
    }
    session = (await tx.execute(CREATE_SESSION, row)).one()
    added = await tx.execute(ADD_SESSION_TOKEN, {"token_hash": token_hash(token), "session_id": session.id})
    if added.rowcount == 0:
        raise InvalidRequest(fields=[("session.session_token", "is in use; a session needs a token of its own")])
    await _record(tx, "signed_in", user_id=user_id, session_id=str(session.id))
    await users.remember_an_app_acts(tx, user_id=user_id)
    return session


async def find_session(tx: AsyncConnection, *, token: str) -> Row[Any] | None:
    """The session and its user, if it is alive at this instant."""
    return (await tx.execute(FIND_SESSION, {"token_hash": token_hash(token)})).one_or_none()


async def update_session(
    tx: AsyncConnection, *, token: str, expires: datetime | None, user_id: str | None
) -> Row[Any] | None:
    """Moves a session's end if one is given; None if it is not alive. INVALID_REQUEST if it is another user's."""
    row = {"token_hash": token_hash(token), "expires": expires}
    session = (await tx.execute(UPDATE_SESSION, row)).one_or_none()
    if session is not None and user_id is not None and str(session.user_id) != user_id.lower():
        raise InvalidRequest(fields=[("user_id", "is not the session's user, who never changes")])
    return session


async def end_session(tx: AsyncConnection, *, token: str) -> Row[Any] | None:
    """Ends a session and returns it as it was; None if it is not alive."""
    session = (await tx.execute(END_SESSION, {"token_hash": token_hash(token)})).one_or_none()
    if session is not None:
        await _record(tx, "signed_out", user_id=str(session.user_id), session_id=str(session.id))
    return session


async def create_token(tx: AsyncConnection, *, identifier: str, token: str, expires: datetime) -> None:
    """Keeps a verification token of the framework's."""
    row = {"identifier": identifier, "token_hash": token_hash(token), "expires": expires}
    await tx.execute(CREATE_TOKEN, row)


async def use_token(tx: AsyncConnection, *, identifier: str, token: str) -> datetime | None:
    """Takes a verification token away and says when it would have ended; None if it is not good."""
    row = {"identifier": identifier, "token_hash": token_hash(token)}
    return (await tx.execute(USE_TOKEN, row)).scalar_one_or_none()


async def forget_tokens(tx: AsyncConnection) -> int:
    """Deletes verification tokens that are past their time; says how many."""
    return (await tx.execute(FORGET_TOKENS)).rowcount


async def _record(tx: AsyncConnection, kind: str, *, user_id: str, session_id: str | None = None) -> None:
    account_id = current_call().service_account_id
    await security.record(tx, kind, user_id=user_id, session_id=session_id, service_account_id=account_id)
