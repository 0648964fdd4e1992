"""Users and their addresses: signing up, proving an address, changing it.

What a sign-up says waits in its token's row and becomes the user's only when that very token comes back: nobody can
sign up somebody else's address with a password or name of their own, nor spoil the mail that the owner asked for.
"""

from typing import Any

import uuid_utils
from sqlalchemy import Row, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import emails, outbox
from services.chassis.secret import SecretKey
from services.identity import security, sessions, verification
from services.identity.errors import TokenInvalid
from services.identity.profiles import COLUMNS

PROVING = ("verify_email", "change_email")
EMAIL_SIGN_IN = ("email_sign_in",)
CHANGE_EMAIL = ("change_email",)

# The update locks a known user and returns it, so that known and unknown take the same statements.
ADD = text("""
    INSERT INTO users (id, email, normalized_email, name, is_claim) VALUES (:id, :email, :normalized_email, '', true)
    ON CONFLICT (normalized_email) DO UPDATE
    SET updated_at = CASE WHEN users.is_claim THEN statement_timestamp() ELSE users.updated_at END
    RETURNING id, email_verified_at IS NOT NULL AS is_verified, disabled_at IS NOT NULL AS is_disabled
""")
# Locked, so that nobody deletes the user before the token's row refers to it.
FIND = text("""
    SELECT id, email_verified_at IS NOT NULL AS is_verified, disabled_at IS NOT NULL AS is_disabled,
        statement_timestamp() < created_at + interval '24 hours' AS is_fresh
    FROM users WHERE normalized_email = :normalized_email FOR KEY SHARE
""")
VERIFY = text(f"""
    UPDATE users
    SET email_verified_at = statement_timestamp(), updated_at = statement_timestamp(), revision = revision + 1,
        is_claim = false, password_hash = :password_hash, name = coalesce(:name, name)
    WHERE id = :id
    RETURNING {COLUMNS}
""")
DROP_PASSWORD = text("UPDATE users SET password_hash = NULL, is_claim = false WHERE id = :user_id")
AN_APP_ACTS = text("UPDATE users SET app_acted_at = statement_timestamp() WHERE id = :user_id AND app_acted_at IS NULL")
DROP_ACCOUNTS = text("DELETE FROM accounts WHERE user_id = :user_id")
# Somebody who signed up and never came back to prove it: nothing hangs on such a user but their tokens.
DROP_CLAIM = text("""
    DELETE FROM users
    WHERE normalized_email = :normalized_email AND is_claim AND disabled_at IS NULL
        AND (CAST(:but_id AS uuid) IS NULL OR id <> CAST(:but_id AS uuid))
""")
# What an app does is in the user's log with the service account that did it (adapter.py, imports.py). What an import
# brought is gone once their mailbox has proven the address or reset the password, but not by a change of the password,
# which whoever knew it can make; nor if it may have been another's mailbox by then. It is the first of their entries.
# The others are forgotten after a year, so the user's row has it too, at the latest when they go (security.REMEMBER).
AN_APP_ACTED = text("""
    SELECT EXISTS (SELECT FROM users WHERE id = :user_id AND app_acted_at IS NOT NULL)
    -- Which an app prolongs for as long as it likes, longer than a release that did not remember kept its log.
    OR EXISTS (SELECT FROM sessions WHERE user_id = :user_id AND from_adapter)
    OR EXISTS (
        SELECT FROM security_events
        WHERE user_id = :user_id AND service_account_id IS NOT NULL
            AND kind IN ('signed_in', 'email_changed', 'user_imported')
            AND NOT (
                kind = 'user_imported'
                AND EXISTS (
                    SELECT FROM security_events
                    WHERE user_id = :user_id AND kind IN ('email_verified', 'password_reset')
                )
                AND NOT EXISTS (SELECT FROM security_events WHERE user_id = :user_id AND kind = 'email_changed')
            )
    )
""")
FORGET_CLAIMS = text("""
    DELETE FROM users WHERE id IN (
        SELECT id FROM users
        WHERE is_claim AND disabled_at IS NULL AND updated_at <= statement_timestamp() - interval '7 days'
            AND NOT EXISTS (
                SELECT FROM verification_tokens
                WHERE user_id = users.id AND used_at IS NULL AND statement_timestamp() < expire_at
            )
        LIMIT 1000 FOR UPDATE SKIP LOCKED
    )
""")
FIND_CHANGE = text("""
    SELECT normalized_email, pending_email FROM users
    LEFT JOIN verification_tokens ON user_id = users.id AND purpose = 'change_email' AND used_at IS NULL
        AND statement_timestamp() < verification_tokens.created_at + interval '15 minutes'
    WHERE users.id = :user_id
""")
TAKE_ADDRESS = text(f"""
    UPDATE users
    SET email = :email, normalized_email = :normalized_email, email_verified_at = statement_timestamp(),
        updated_at = statement_timestamp(), revision = revision + 1,
        app_acted_at = coalesce(app_acted_at, (
            SELECT statement_timestamp() FROM security_events WHERE user_id = :id AND kind = 'user_imported' LIMIT 1
        ))
    WHERE id = :id
        AND NOT EXISTS (SELECT FROM users AS other WHERE other.normalized_email = :normalized_email AND other.id <> :id)
    RETURNING {COLUMNS}
""")


async def sign_up(
    tx: AsyncConnection, secret: SecretKey, *, email: str, normalized_email: str, name: str, password_hash: str
) -> None:
    """Notes a sign-up and has a mail sent about it.

    An address that is verified gets a row too, whose token is mailed to nobody. Without it SignIn with the password
    just sent would answer EMAIL_UNVERIFIED for unknown addresses only, and so tell which are known.
    """
    user = await _add(tx, email=email, normalized_email=normalized_email)
    purpose = "known_address" if user.is_verified else "verify_email"
    await verification.issue(tx, secret, purpose, user_id=user.id, password_hash=password_hash, name=name)


async def resend_verification(tx: AsyncConnection, secret: SecretKey, *, normalized_email: str) -> None:
    """Has another mail sent about a sign-up whose address is not proven; the one before is good no more."""
    user = await _find(tx, normalized_email=normalized_email)
    password_hash, name = await verification.take_sign_up(tx, user_id=user.id if user else None)
    if user and not user.is_fresh:  # an earlier sign-up may have run out: the one that is left need not be theirs
        password_hash = name = None
    if user is None or user.is_verified or user.is_disabled:
        await verification.issue(tx, secret, verification.UNKNOWN_ADDRESS, user_id=None)
    else:
        await verification.issue(tx, secret, "verify_email", user_id=user.id, password_hash=password_hash, name=name)


async def start_email_sign_in(
    tx: AsyncConnection, secret: SecretKey, *, email: str, normalized_email: str, may_join: bool
) -> None:
    """Has a link mailed that signs in. `may_join`: an address that nobody has becomes somebody's by it."""
    if may_join:
        user: Row[Any] | None = await _add(tx, email=email, normalized_email=normalized_email)
    else:
        user = await _find(tx, normalized_email=normalized_email)
    await _issue_to(tx, secret, "email_sign_in", user)


async def is_change_due(tx: AsyncConnection, *, user_id: str, normalized_email: str) -> bool:
    """Whether a mail about a change to an address is due: not to their own, nor again soon after the last one.

    After a quarter of an hour another one is: the first may be lost.
    """
    asked = (await tx.execute(FIND_CHANGE, {"user_id": user_id})).one_or_none()
    if asked is None or asked.normalized_email == normalized_email:
        return False
    return asked.pending_email is None or emails.normalize(asked.pending_email) != normalized_email


async def start_email_change(tx: AsyncConnection, secret: SecretKey, *, user_id: str, email: str) -> None:
    """Has a mail written to a new address of a locked user's; the one before counts no more.

    Who has the address is not asked here but by the worker, so that the time tells nothing about it.
    """
    await verification.drop(tx, user_id=user_id, purposes=CHANGE_EMAIL)
    await verification.issue(tx, secret, "change_email", user_id=user_id, email=email)
    await security.record(tx, "email_change_requested", user_id=user_id)


async def request_password_reset(tx: AsyncConnection, secret: SecretKey, *, normalized_email: str) -> None:
    """Has a link mailed with which to choose another password."""
    user = await _find(tx, normalized_email=normalized_email)
    await _issue_to(tx, secret, "reset_password", user)
    await security.record(tx, "password_reset_requested", user_id=str(user.id) if user else None)


async def verify_email(tx: AsyncConnection, user: Row[Any], *, token: str) -> Row[Any]:
    """Uses up the token of a sign-up or of a change of address. `user` is the token's, locked. TOKEN_INVALID."""
    used = await verification.use(tx, token=token, purposes=PROVING)
    if used.purpose == "change_email":
        return await _take_address(tx, used)
    if user.email_verified_at is not None:
        raise TokenInvalid
    if not user.is_claim:  # somebody is there already, and a stranger may have signed up
        return await prove(tx, user, password_hash=None, name=None)
    return await prove(tx, user, password_hash=used.pending_password_hash, name=used.pending_name)


async def complete_email_sign_in(tx: AsyncConnection, user: Row[Any], *, token: str) -> Row[Any]:
    """Uses up the token of a sign-in link, which proves the address too. `user` is the token's, locked. TOKEN_INVALID.

    A new user gets neither password nor name of whoever else signed up with the address.
    """
    await verification.use(tx, token=token, purposes=EMAIL_SIGN_IN)
    return await prove(tx, user, password_hash=None, name=None)


async def prove(tx: AsyncConnection, user: Row[Any], *, password_hash: str | None, name: str | None) -> Row[Any]:
    """The locked user with a proven address; one who has proven it stays as they are.

    Whatever signed in before the proof was not the owner's, as far as anybody knows, and would let a stranger in who
    was there first: an imported password, provider accounts and sessions go.
    """
    if user.email_verified_at is not None:
        return user
    proven = (await tx.execute(VERIFY, {"id": user.id, "password_hash": password_hash, "name": name})).one()
    await sessions.end_all(tx, user_id=str(user.id), reason="revoked")
    await tx.execute(DROP_ACCOUNTS, {"user_id": user.id})
    await verification.retire(tx, user_id=user.id)
    await verification.drop(tx, user_id=str(user.id), purposes=CHANGE_EMAIL)
    await security.record(tx, "email_verified", user_id=str(user.id))
    return proven


async def end_unproven(tx: AsyncConnection, *, user_id: str) -> None:
    """What somebody could have left before a back end had the address proven; its accounts are the app's own."""
    await tx.execute(DROP_PASSWORD, {"user_id": user_id})
    await sessions.end_all(tx, user_id=user_id, reason="revoked")
    await verification.retire(tx, user_id=user_id)
    await verification.drop(tx, user_id=user_id, purposes=CHANGE_EMAIL)


async def remember_an_app_acts(tx: AsyncConnection, *, user_id: str) -> None:
    """Notes for good that an app could sign in as a locked user, for `end_what_an_app_left`."""
    await tx.execute(AN_APP_ACTS, {"user_id": user_id})


async def end_what_an_app_left(tx: AsyncConnection, *, user_id: str) -> bool:
    """If an app ever acted as a locked user, ends whatever signs in but their mailbox; says whether.

    Whoever holds its key could have set the password, started a session, or had a link mailed.
    """
    if not await tx.scalar(AN_APP_ACTED, {"user_id": user_id}):
        return False
    await tx.execute(DROP_PASSWORD, {"user_id": user_id})
    await sessions.end_all(tx, user_id=user_id, reason="revoked")
    await verification.drop(tx, user_id=user_id, purposes=tuple(verification.LIFETIMES))
    return True


async def drop_claim(tx: AsyncConnection, *, normalized_email: str, but_id: str | None = None) -> None:
    """Makes an address free that somebody has signed up with and not proven: whoever can prove it comes first."""
    await tx.execute(DROP_CLAIM, {"normalized_email": normalized_email, "but_id": but_id})


async def forget_claims(tx: AsyncConnection) -> int:
    """Deletes sign-ups that nobody came back to for a week; says how many."""
    return (await tx.execute(FORGET_CLAIMS)).rowcount


async def _take_address(tx: AsyncConnection, used: Row[Any]) -> Row[Any]:
    """Makes a new address the user's; the old one is told. TOKEN_INVALID if somebody else has it by now."""
    row = {
        "id": used.user_id,
        "email": used.pending_email,
        "normalized_email": emails.normalize(used.pending_email),
    }
    await drop_claim(tx, normalized_email=row["normalized_email"])
    try:
        user = (await tx.execute(TAKE_ADDRESS, row)).one_or_none()
    except exc.IntegrityError as error:
        # Somebody took it at the same moment (users_normalized_email_key).
        raise TokenInvalid from error
    if user is None:
        raise TokenInvalid
    # They went to the old address, or are about it.
    await verification.drop(tx, user_id=user.id, purposes=tuple(verification.LIFETIMES))
    await outbox.enqueue(tx, "mail.email_changed", str(used.id))
    await security.record(tx, "email_changed", user_id=str(user.id))
    return user


async def _add(tx: AsyncConnection, *, email: str, normalized_email: str) -> Row[Any]:
    row = {"id": str(uuid_utils.uuid7()), "email": email, "normalized_email": normalized_email}
    return (await tx.execute(ADD, row)).one()


async def _find(tx: AsyncConnection, *, normalized_email: str) -> Row[Any] | None:
    return (await tx.execute(FIND, {"normalized_email": normalized_email})).one_or_none()


async def _issue_to(tx: AsyncConnection, secret: SecretKey, purpose: str, user: Row[Any] | None) -> None:
    """A token to a user who may use it; for nobody and the disabled, a row that no mail is written about."""
    if user is None or user.is_disabled:
        await verification.issue(tx, secret, verification.UNKNOWN_ADDRESS, user_id=None)
    else:
        await verification.issue(tx, secret, purpose, user_id=user.id)
