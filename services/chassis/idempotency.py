"""Repeatable writes: the key and the answer are stored in the transaction of the effect."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import IdempotencyMismatch
from services.chassis.secret import SecretKey

Answer = TypeVar("Answer", bound=Message)
Granted = TypeVar("Granted")


class Repeatable(Protocol):
    """A request with an AIP-155 request id."""

    request_id: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...

    def CopyFrom(self, other_msg: Any, /) -> None: ...


CLAIM = text("""
    INSERT INTO idempotency_keys (caller, method, key_hash, request_mac)
    VALUES (:caller, :method, :key_hash, :request_mac)
    ON CONFLICT DO NOTHING
""")
FIND = text("""
    SELECT request_mac, answer,
           CASE WHEN statement_timestamp() < created_at + interval '10 minutes' THEN sealed_answer END AS sealed_answer
    FROM idempotency_keys WHERE caller = :caller AND method = :method AND key_hash = :key_hash
""")
STORE = text("""
    UPDATE idempotency_keys SET answer = :answer, sealed_answer = :sealed
    WHERE caller = :caller AND method = :method AND key_hash = :key_hash
""")
FORGET_ONE = text("DELETE FROM idempotency_keys WHERE caller = :caller AND method = :method AND key_hash = :key_hash")
# By where the rows are, which are locked: by their keys, a batch might be joined with all of the table.
UNSEAL_OLD = text("""
    UPDATE idempotency_keys SET sealed_answer = NULL WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM idempotency_keys
        WHERE sealed_answer IS NOT NULL AND created_at <= statement_timestamp() - interval '10 minutes'
        ORDER BY created_at LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED
    ))
""")
FORGET_OLD = text("""
    DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM idempotency_keys WHERE created_at <= statement_timestamp() - interval '48 hours'
        ORDER BY created_at LIMIT 1000 FOR UPDATE SKIP LOCKED
    ))
""")


async def once(
    database: Database,
    secret: SecretKey,
    request: Repeatable,
    answer_class: type[Answer],
    *,
    access: Callable[[AsyncConnection], Awaitable[Granted]],
    work: Callable[[AsyncConnection, Granted], Awaitable[Answer]],
    without_secret: Callable[[Answer], Answer] | None = None,
    caller: str | None = None,
) -> Answer:
    """Does `work` in one transaction, or returns the stored answer if the same caller's key did it before.

    `access` comes first in either case: a stored answer is for those who may still ask. `without_secret` gives the
    answer as it is kept for long, where it holds a secret. `caller` is for OPEN RPCs: what the request is about.
    A second call with the same key waits for the first one's transaction. Errors: IDEMPOTENCY_MISMATCH.
    """
    call = current_call()
    if caller is None and not call.caller_id:
        raise ValueError("an open RPC must say what its request is about, or strangers would share keys")
    key = _key(request, call.caller_id if caller is None else _subject(secret, caller))
    request_mac = _mac(secret, request)

    async def unit(tx: AsyncConnection) -> Answer:
        granted = await access(tx)
        if not request.request_id:
            return await work(tx, granted)
        claimed = await tx.execute(CLAIM, {**key, "request_mac": request_mac})
        if claimed.rowcount == 0:
            # In a statement of its own: the row was committed after the first one's snapshot.
            stored = (await tx.execute(FIND, key)).one()
            _require_same(stored, request_mac)
            opened = secret.open(request.request_id.lower(), stored.sealed_answer) if stored.sealed_answer else None
            return answer_class.FromString(opened or stored.answer)
        answer = await work(tx, granted)
        kept = without_secret(answer) if without_secret else answer
        sealed = secret.seal(request.request_id.lower(), answer.SerializeToString()) if without_secret else None
        await tx.execute(STORE, {**key, "answer": kept.SerializeToString(), "sealed": sealed})
        return answer

    return await database.transaction(unit)


async def find_stored(
    database: Database, secret: SecretKey, request: Repeatable, answer_class: type[Answer], *, caller: str
) -> Answer | None:
    """What `once` has stored for an OPEN RPC's request, to be looked for before something is spent on a new one.

    For answers without a secret. Errors: IDEMPOTENCY_MISMATCH.
    """
    if not request.request_id:
        return None
    key = _key(request, _subject(secret, caller))

    async def find(tx: AsyncConnection) -> Row[Any] | None:
        return (await tx.execute(FIND, key)).one_or_none()

    stored = await database.read(find)
    if stored is None:
        return None
    _require_same(stored, _mac(secret, request))
    return answer_class.FromString(stored.answer)


async def forget(tx: AsyncConnection, request: Repeatable) -> None:
    """Forgets the current caller's stored answer to a request, for an effect that was undone."""
    await tx.execute(FORGET_ONE, _key(request, current_call().caller_id))


async def unseal_old(tx: AsyncConnection) -> int:
    """Deletes the secrets in answers after ten minutes, at most 1 000 of them; says how many."""
    return (await tx.execute(UNSEAL_OLD)).rowcount


async def forget_old(tx: AsyncConnection) -> int:
    """Deletes answers after two days, at most 1 000 of them; says how many."""
    return (await tx.execute(FORGET_OLD)).rowcount


def _key(request: Repeatable, caller: str) -> dict[str, object]:
    key_hash = hashlib.sha256(request.request_id.lower().encode()).digest()
    return {"caller": caller, "method": current_call().rpc, "key_hash": key_hash}


def _subject(secret: SecretKey, caller: str) -> str:
    return secret.mac("caller", caller.encode()).hex()


def _mac(secret: SecretKey, request: Repeatable) -> bytes:
    # Keyed: the body may hold a password, and a plain hash of it would be one to guess against.
    body = type(request)()
    body.CopyFrom(request)
    body.request_id = ""  # it is the key; one id may be spelt in two cases
    return secret.mac("request", current_call().rpc.encode(), body.SerializeToString(deterministic=True))


def _require_same(stored: Row[Any], request_mac: bytes) -> None:
    if stored.request_mac != request_mac:
        raise IdempotencyMismatch


async def no_access_needed(_tx: AsyncConnection) -> None:
    """For `access`, where the handler asked another service before the transaction, or where nothing is to be asked."""
