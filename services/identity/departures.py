"""Deletions: nothing that identity holds of a person outlives them."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import outbox
from services.chassis.database import Database
from services.chassis.secret import SecretKey
from services.chassis.worker import Work, forgetting
from services.identity import administrators, profiles, sessions
from services.identity.errors import ReauthenticationRequired

ERASE_ANSWERS = "erase.answers"
ERASE_SESSIONS = "erase.sessions"

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
# Mailed tokens, provider accounts and the security log go with the row. Not the sessions: all their tokens at once, one
# for each exchange, would take longer than a statement may.
DELETE = text("DELETE FROM users WHERE id = :user_id")
# A part of the table at a time: an answer names whom it is about nowhere but in its bytes.
FORGET_ANSWERS = text("""
    WITH part AS (
        SELECT caller, method, key_hash, answer FROM idempotency_keys
        WHERE (caller, method, key_hash) > (:caller, :method, :key_hash)
        ORDER BY caller, method, key_hash LIMIT :size
    ), forgotten AS (
        DELETE FROM idempotency_keys USING part
        WHERE (idempotency_keys.caller, idempotency_keys.method, idempotency_keys.key_hash)
                = (part.caller, part.method, part.key_hash)
            AND position(convert_to(:user_id, 'UTF8') IN part.answer) > 0
    )
    SELECT caller, method, key_hash FROM part ORDER BY caller DESC, method DESC, key_hash DESC LIMIT 1
""")
PART = 10_000
# In the row of the work, which lasts as long as it does; work that gets on is not given up after so many tries.
PLACE = text("SELECT payload FROM outbox WHERE id = :row_id")
IS_TO_GO_ON = text("""
    SELECT EXISTS (SELECT FROM sessions WHERE idle_expire_at <= statement_timestamp() - interval '30 days')
        AND NOT EXISTS (
            SELECT FROM outbox WHERE target = 'worker' AND kind = :kind AND NOT dead AND id > CAST(:row_id AS uuid)
        )
""")
MOVE_ON = text("UPDATE outbox SET payload = :payload, attempts = 0 WHERE id = :row_id")


async def require_recent_session(tx: AsyncConnection, *, user_id: str, session_id: str) -> None:
    """REAUTHENTICATION_REQUIRED unless the session was started within the last 10 minutes, by the database's clock."""
    if not await tx.scalar(IS_RECENT, {"user_id": user_id, "session_id": session_id}):
        raise ReauthenticationRequired


async def delete(tx: AsyncConnection, secret: SecretKey, *, user_id: str, etag: str, erase_messages: bool) -> None:
    """Deletes a user and has the other services told. NOT_FOUND; ETAG_MISMATCH; LAST_ADMINISTRATOR.

    Answers that others were given about them (to a system administrator, a back end) are erased by the worker, and so
    are their sessions, in which nothing is left of them.
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
    await sessions.disown(tx, user_id=user_id)
    await tx.execute(DELETE, named)
    deleted = events.UserDeleted(user_id=user_id, erase_messages=erase_messages)
    # messaging learns of the end of each stay from membership; of the person only if what they wrote is to go.
    targets = ["membership", "messaging"] if erase_messages else ["membership"]
    await outbox.emit(tx, targets, events.Event(user_deleted=deleted))
    await outbox.enqueue(tx, ERASE_ANSWERS, user_id)
    await outbox.enqueue(tx, ERASE_SESSIONS, user_id)


def _spellings(user: Row[Any]) -> Sequence[str]:
    return [user.email, user.email.lower(), user.normalized_email]


def works(database: Database) -> Mapping[str, Work]:
    """What the worker does about somebody who is gone.

    `erase.sessions` does the sweeps' work at once, in turns until nothing is left: nothing names a session's user any
    more. There may be too much for one turn, and what somebody else has locked is passed over.
    """
    sweeps = forgetting(database, {"tokens": sessions.forget_tokens, "sessions": sessions.forget})

    async def erase_sessions(user_id: str, row_id: str) -> None:
        for sweep in sweeps.values():
            await sweep()
        await database.transaction(partial(go_on, user_id=user_id, row_id=row_id))

    return {ERASE_ANSWERS: eraser(database), ERASE_SESSIONS: erase_sessions}


async def go_on(tx: AsyncConnection, *, user_id: str, row_id: str) -> None:
    """Has another turn follow that of a row if something is left, and none is to come already: one does for all."""
    if await tx.scalar(IS_TO_GO_ON, {"kind": ERASE_SESSIONS, "row_id": row_id}):
        await outbox.enqueue(tx, ERASE_SESSIONS, user_id, delay_seconds=1)


def eraser(database: Database, *, size: int = PART) -> Work:
    """The work `erase.answers`: erases the stored answers that tell of somebody who is gone.

    It goes through all of them, `size` at a time; if its time is over before, the next try goes on where it stopped.
    """

    async def erase(user_id: str, row_id: str) -> None:
        place = await database.read(lambda tx: _place(tx, row_id))

        async def forget(tx: AsyncConnection) -> Row[Any] | None:
            last = (await tx.execute(FORGET_ANSWERS, {**place, "user_id": user_id, "size": size})).one_or_none()
            if last is not None:
                payload = json.dumps([last.caller, last.method, last.key_hash.hex()]).encode()
                await tx.execute(MOVE_ON, {"row_id": row_id, "payload": payload})
            return last

        while (last := await database.transaction(forget)) is not None:
            place = {"caller": last.caller, "method": last.method, "key_hash": last.key_hash}

    return erase


async def _place(tx: AsyncConnection, row_id: str) -> dict[str, object]:
    """The key of the last answer that an earlier try has looked at."""
    payload = await tx.scalar(PLACE, {"row_id": row_id})
    caller, method, key_hash = json.loads(payload) if payload else ("", "", "")
    return {"caller": caller, "method": method, "key_hash": bytes.fromhex(key_hash)}
