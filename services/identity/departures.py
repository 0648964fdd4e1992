"""Deletions: nothing that identity holds of a person outlives them (R18, R52)."""

from collections.abc import Sequence
from typing import Any

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import outbox
from services.chassis.database import Database
from services.chassis.secret import SecretKey
from services.chassis.worker import Work
from services.identity import administrators, profiles
from services.identity.errors import ReauthenticationRequired

ERASE_ANSWERS = "erase.answers"

IS_RECENT = text("""
    SELECT statement_timestamp() < created_at + interval '10 minutes' FROM sessions
    WHERE id = :session_id AND user_id = :user_id
""")
FORGET_WORK = text("""
    DELETE FROM outbox WHERE subject_id IN (
        SELECT CAST(:user_id AS uuid) UNION ALL SELECT id FROM verification_tokens WHERE user_id = :user_id
    )
""")
FORGET_IDENTIFIERS = text("""
    DELETE FROM adapter_verification_tokens WHERE identifier = ANY(CAST(:addresses AS text[]))
""")
# What they did about others stays in the others' logs.
FORGET_ACTOR = text("""
    UPDATE security_events SET actor_id = NULL, client_address = '', user_agent = '' WHERE actor_id = :user_id
""")
FORGET_OWN_ANSWERS = text("DELETE FROM idempotency_keys WHERE caller = ANY(CAST(:callers AS text[]))")
# Sessions, tokens, provider accounts and the security log go with the row.
DELETE = text("DELETE FROM users WHERE id = :user_id")
# A part of the table at a time: an answer names whom it is about nowhere but in its bytes.
FORGET_ANSWERS = text("""
    WITH part AS (
        SELECT caller, method, key_hash, answer FROM idempotency_keys
        WHERE (caller, method, key_hash) > (:caller, :method, :key_hash)
        ORDER BY caller, method, key_hash LIMIT 10000
    ), forgotten AS (
        DELETE FROM idempotency_keys USING part
        WHERE (idempotency_keys.caller, idempotency_keys.method, idempotency_keys.key_hash)
                = (part.caller, part.method, part.key_hash)
            AND position(convert_to(:user_id, 'UTF8') IN part.answer) > 0
    )
    SELECT caller, method, key_hash FROM part ORDER BY caller DESC, method DESC, key_hash DESC LIMIT 1
""")


async def require_recent_session(tx: AsyncConnection, *, user_id: str, session_id: str) -> None:
    """REAUTHENTICATION_REQUIRED unless the session was started within the last 10 minutes, by the database's clock."""
    if not await tx.scalar(IS_RECENT, {"user_id": user_id, "session_id": session_id}):
        raise ReauthenticationRequired


async def delete(tx: AsyncConnection, secret: SecretKey, *, user_id: str, etag: str, erase_messages: bool) -> None:
    """Deletes a user and has the other services told. NOT_FOUND; ETAG_MISMATCH; LAST_ADMINISTRATOR.

    Answers that others were given about them (to a system administrator, a back end) are erased by the worker.
    """
    await administrators.lock(tx, user_id=user_id)
    user = await profiles.lock(tx, user_id=user_id)
    profiles.require_etag(user, etag)
    await administrators.require_another(tx, user_id=user_id)
    named = {"user_id": user_id}
    callers = [user_id, secret.mac("caller", user.normalized_email.encode()).hex()]
    await tx.execute(FORGET_WORK, named)
    await tx.execute(FORGET_IDENTIFIERS, {"addresses": _spellings(user)})
    await tx.execute(FORGET_ACTOR, named)
    await tx.execute(FORGET_OWN_ANSWERS, {"callers": callers})
    await tx.execute(DELETE, named)
    deleted = events.UserDeleted(user_id=user_id, erase_messages=erase_messages)
    # messaging learns of the end of each stay from membership; of the person only if what they wrote is to go.
    targets = ["membership", "messaging"] if erase_messages else ["membership"]
    await outbox.emit(tx, targets, events.Event(user_deleted=deleted))
    await outbox.enqueue(tx, ERASE_ANSWERS, user_id)


def _spellings(user: Row[Any]) -> Sequence[str]:
    return [user.email, user.email.lower(), user.normalized_email]


def eraser(database: Database) -> Work:
    """The work `erase.answers`: erases the stored answers that tell of somebody who is gone."""

    async def erase(user_id: str, _row_id: str) -> None:
        key = {"caller": "", "method": "", "key_hash": b""}

        async def forget(tx: AsyncConnection) -> Row[Any] | None:
            return (await tx.execute(FORGET_ANSWERS, {**key, "user_id": user_id})).one_or_none()

        while (last := await database.transaction(forget)) is not None:
            key = {"caller": last.caller, "method": last.method, "key_hash": last.key_hash}

    return erase
