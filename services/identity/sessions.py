"""Sessions: started by credentials, prolonged by exchanging tokens, alive or not at this instant."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.errors import NotFound
from services.chassis.secret import SecretKey, new_token, token_hash
from services.identity import security

TOKEN_PREFIX = "ghs"  # noqa: S105
LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"

START = text("""
    INSERT INTO sessions
        (id, user_id, device_label, client_address, user_agent, idle_expire_at, absolute_expire_at)
    VALUES
        (:id, :user_id, :device_label, :client_address, :user_agent,
         statement_timestamp() + interval '7 days', statement_timestamp() + interval '30 days')
    RETURNING id, user_id, device_label, client_address, user_agent, created_at, last_used_at, idle_expire_at,
        absolute_expire_at, statement_timestamp() AS clock
""")
ADD_TOKEN = text("""
    INSERT INTO session_tokens (token_hash, session_id, generation) VALUES (:token_hash, :session_id, :generation)
""")
LOCK = text("""
    SELECT sessions.id, session_tokens.generation
    FROM session_tokens JOIN sessions ON sessions.id = session_tokens.session_id
    WHERE token_hash = :token_hash AND NOT from_adapter
    FOR UPDATE OF sessions
""")
CLAIM = text("""
    UPDATE session_tokens SET claimed_at = statement_timestamp()
    FROM sessions JOIN users ON users.id = sessions.user_id
    WHERE token_hash = :token_hash AND claimed_at IS NULL
        AND sessions.id = session_id AND ended_at IS NULL AND statement_timestamp() < idle_expire_at
        AND disabled_at IS NULL
""")
PROLONG = text("""
    UPDATE sessions
    SET refreshed_at = statement_timestamp(), last_used_at = statement_timestamp(),
        client_address = :client_address, user_agent = :user_agent,
        idle_expire_at = least(statement_timestamp() + interval '7 days', absolute_expire_at)
    WHERE id = :id
    RETURNING id, user_id, device_label, client_address, user_agent, created_at, last_used_at, idle_expire_at,
        absolute_expire_at, statement_timestamp() AS clock
""")
FIND_CLAIMED = text("""
    SELECT sessions.id, user_id, device_label, client_address, user_agent, sessions.created_at, last_used_at,
        idle_expire_at, absolute_expire_at, statement_timestamp() AS clock,
        statement_timestamp() < claimed_at + interval '10 seconds' AS is_retry
    FROM session_tokens
    JOIN sessions ON sessions.id = session_id
    JOIN users ON users.id = user_id
    WHERE token_hash = :token_hash AND claimed_at IS NOT NULL
        AND ended_at IS NULL AND statement_timestamp() < idle_expire_at AND disabled_at IS NULL
""")
END = text("""
    UPDATE sessions SET ended_at = statement_timestamp(), ended_reason = :reason WHERE id = :id AND ended_at IS NULL
""")
END_OTHERS = text("""
    UPDATE sessions SET ended_at = statement_timestamp(), ended_reason = :reason
    WHERE user_id = :user_id AND ended_at IS NULL AND id IS DISTINCT FROM CAST(:keep_session_id AS uuid)
        AND statement_timestamp() < idle_expire_at
    RETURNING id
""")
GET = text("""
    SELECT id, user_id, device_label, client_address, user_agent, created_at, last_used_at, idle_expire_at,
        absolute_expire_at
    FROM sessions WHERE id = :id AND user_id = :user_id
""")
LIST = text("""
    SELECT id, user_id, device_label, client_address, user_agent, created_at, last_used_at, idle_expire_at,
        absolute_expire_at
    FROM sessions
    WHERE user_id = :user_id AND ended_at IS NULL AND statement_timestamp() < idle_expire_at
        AND id < CAST(:before AS uuid)
    ORDER BY id DESC LIMIT :size
""")
IS_FROM_NETWORK = text("""
    SELECT EXISTS (
        SELECT FROM users JOIN sessions ON user_id = users.id
        WHERE normalized_email = :normalized_email AND CASE WHEN pg_input_is_valid(client_address, 'inet')
            THEN CAST(client_address AS inet) <<= CAST(:network AS inet) END
    )
""")
# idle_expire_at is never past absolute_expire_at (sessions_idle_check).
CHECK = text("""
    SELECT users.id IS NOT NULL OR EXISTS (
        SELECT FROM service_keys WHERE service_keys.id = asked.id AND revoked_at IS NULL
    )
    FROM unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS asked (id, place)
    LEFT JOIN sessions
        ON sessions.id = asked.id AND ended_at IS NULL AND statement_timestamp() < idle_expire_at
    LEFT JOIN users ON users.id = user_id AND disabled_at IS NULL
    ORDER BY place
""")
# Whoever holds a row's lock is about to write more of it than this.
NOTE_USE = text("""
    UPDATE sessions SET last_used_at = statement_timestamp() WHERE id IN (
        SELECT id FROM sessions
        WHERE id = ANY(CAST(:ids AS uuid[])) AND ended_at IS NULL
            AND last_used_at < statement_timestamp() - interval '1 minute'
        FOR NO KEY UPDATE SKIP LOCKED
    )
""")
# Long over for all that looks at them, and nobody's.
DISOWN = text("""
    UPDATE sessions
    SET user_id = NULL, device_label = '', client_address = '', user_agent = '',
        idle_expire_at = least(idle_expire_at, statement_timestamp() - interval '30 days')
    WHERE user_id = :user_id
""")
# A token may be presented again as long as its session lives, and then ends nothing any more.
LOCK_OVER = text("""
    SELECT id FROM sessions WHERE has_tokens AND idle_expire_at <= statement_timestamp()
    ORDER BY idle_expire_at LIMIT 100 FOR NO KEY UPDATE SKIP LOCKED
""")
# By where they are: by their hashes, a batch might be joined with all of the table. Who writes them locks the session.
FORGET_TOKENS = text("""
    DELETE FROM session_tokens WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM session_tokens WHERE session_id = ANY(CAST(:ids AS uuid[])) LIMIT :most
    ))
""")
HAVE_NO_TOKENS = text("UPDATE sessions SET has_tokens = false WHERE id = ANY(CAST(:ids AS uuid[]))")
# After their tokens: there may be thousands of one, which would all have to go with it at once.
FORGET = text("""
    DELETE FROM sessions WHERE id IN (
        SELECT id FROM sessions
        WHERE idle_expire_at <= statement_timestamp() - interval '30 days' AND NOT has_tokens
        LIMIT 1000 FOR UPDATE SKIP LOCKED
    )
""")
MOST_TOKENS = 1000


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What presenting a session token came to. No session: it has ended, here and now if the token was reused."""

    session: Row[Any] | None
    token: str = ""
    reused_session_id: str = ""


ENDED = Refreshed(None)


async def start(
    tx: AsyncConnection, *, user_id: str, device_label: str, client_address: str, user_agent: str
) -> tuple[Row[Any], str]:
    """A new session and its first token. The security log has it as signed_in."""
    row = {
        "id": str(uuid_utils.uuid7()),
        "user_id": user_id,
        "device_label": device_label,
        "client_address": client_address,
        "user_agent": user_agent,
    }
    session = (await tx.execute(START, row)).one()
    token = new_token(TOKEN_PREFIX)
    await tx.execute(ADD_TOKEN, {"token_hash": token_hash(token), "session_id": session.id, "generation": 1})
    await security.record(tx, "signed_in", user_id=user_id, session_id=str(session.id))
    return session, token


async def refresh(tx: AsyncConnection, secret: SecretKey, *, token: str) -> Refreshed:
    """Exchanges a token for its successor, moves the idle expiry, and notes where the session is used from.

    The successor is derived from the token, so that a retry whose first answer was lost gets the same one, for 10 s.
    Whoever comes later with a token that was exchanged is not the only one who has it: the session ends. The caller
    must commit that and refuse afterwards.
    """
    key = {"token_hash": token_hash(token)}
    held = (await tx.execute(LOCK, key)).one_or_none()
    if held is None:
        return ENDED
    # Statements of their own from here on: what the first one read beside the locked row may be from before its wait.
    successor = secret.token(TOKEN_PREFIX, token, str(held.generation + 1))
    if (await tx.execute(CLAIM, key)).rowcount:
        row = {"token_hash": token_hash(successor), "session_id": held.id, "generation": held.generation + 1}
        await tx.execute(ADD_TOKEN, row)
        call = current_call()
        use = {"id": held.id, "client_address": call.client_address, "user_agent": call.user_agent}
        return Refreshed((await tx.execute(PROLONG, use)).one(), successor)
    claimed = (await tx.execute(FIND_CLAIMED, key)).one_or_none()
    if claimed is None:
        return ENDED
    if claimed.is_retry:
        return Refreshed(claimed, successor)
    await end(tx, session_id=str(held.id), reason="token_reuse")
    await security.record(tx, "token_reused", user_id=str(claimed.user_id), session_id=str(held.id))
    return Refreshed(None, reused_session_id=str(held.id))


async def end(tx: AsyncConnection, *, session_id: str, reason: str) -> bool:
    """Ends a session; one that has ended keeps its time and reason. Says whether it was alive."""
    return bool((await tx.execute(END, {"id": session_id, "reason": reason})).rowcount)


async def sign_out(tx: AsyncConnection, *, user_id: str, session_id: str) -> None:
    """Ends a session by its own bearer's wish."""
    if await end(tx, session_id=session_id, reason="signed_out"):
        await security.record(tx, "signed_out", user_id=user_id, session_id=session_id)


async def revoke(tx: AsyncConnection, *, user_id: str, session_id: str) -> None:
    """Ends one of the user's sessions from another one."""
    if await end(tx, session_id=session_id, reason="revoked"):
        await security.record(tx, "session_revoked", user_id=user_id, session_id=session_id)


async def revoke_others(tx: AsyncConnection, *, user_id: str, keep_session_id: str | None) -> int:
    """Ends the user's sessions but the one to keep, each with its entry in the security log; says how many."""
    ended = await _end_others(tx, user_id=user_id, keep_session_id=keep_session_id, reason="revoked")
    for session_id in ended:
        await security.record(tx, "session_revoked", user_id=user_id, session_id=session_id)
    return len(ended)


async def end_others(tx: AsyncConnection, *, user_id: str, keep_session_id: str | None, reason: str) -> int:
    """Ends the user's sessions that are alive, but for the one to keep; says how many. Logs nothing."""
    return len(await _end_others(tx, user_id=user_id, keep_session_id=keep_session_id, reason=reason))


async def _end_others(tx: AsyncConnection, *, user_id: str, keep_session_id: str | None, reason: str) -> Sequence[str]:
    row = {"user_id": user_id, "keep_session_id": keep_session_id, "reason": reason}
    return [str(session_id) for session_id in (await tx.execute(END_OTHERS, row)).scalars()]


async def end_all(tx: AsyncConnection, *, user_id: str, reason: str) -> int:
    """Ends all of the user's sessions that are alive; says how many. Logs nothing."""
    return await end_others(tx, user_id=user_id, keep_session_id=None, reason=reason)


async def check(tx: AsyncConnection, *, session_ids: Sequence[str]) -> Sequence[bool]:
    """Which sessions are alive at this instant, in the order asked; one asked twice is answered twice."""
    return (await tx.execute(CHECK, {"ids": list(session_ids)})).scalars().all()


async def access(tx: AsyncConnection, *, user_id: str, session_id: str) -> Row[Any]:
    """One of the user's sessions, alive or not; NOT_FOUND if it is nobody's or another's."""
    session = (await tx.execute(GET, {"id": session_id, "user_id": user_id})).one_or_none()
    if session is None:
        raise NotFound
    return session


async def is_from_network(tx: AsyncConnection, *, normalized_email: str, network: str) -> bool:
    """Whether a session of whoever has an address, alive or over for less than a month, was last used in a network."""
    row = {"normalized_email": normalized_email, "network": network or None}
    return bool(await tx.scalar(IS_FROM_NETWORK, row))


async def list_page(tx: AsyncConnection, *, user_id: str, before: str | None, size: int) -> Sequence[Row[Any]]:
    """The user's sessions that are alive, newest first, from the one after `before` on."""
    page = {"user_id": user_id, "before": before or LAST, "size": size}
    return (await tx.execute(LIST, page)).all()


async def note_use(tx: AsyncConnection, *, session_ids: Sequence[str]) -> None:
    """Notes that sessions were in use a moment ago, unless the minute before has been noted."""
    await tx.execute(NOTE_USE, {"ids": list(session_ids)})


async def disown(tx: AsyncConnection, *, user_id: str) -> None:
    """Ends all sessions of somebody who is about to be deleted, and leaves nothing of them in it but its id."""
    await tx.execute(DISOWN, {"user_id": user_id})


async def forget_tokens(tx: AsyncConnection) -> int:
    """Deletes tokens of sessions that are over; says of how many sessions, some of which may have more."""
    ids = [str(session_id) for session_id in (await tx.execute(LOCK_OVER)).scalars()]
    if not ids:
        return 0
    deleted = await tx.execute(FORGET_TOKENS, {"ids": ids, "most": MOST_TOKENS})
    if deleted.rowcount < MOST_TOKENS:
        await tx.execute(HAVE_NO_TOKENS, {"ids": ids})
    return len(ids)


async def forget(tx: AsyncConnection) -> int:
    """Deletes sessions that have been over for a month and have no tokens any more; says how many."""
    return (await tx.execute(FORGET)).rowcount
