"""Service accounts: a product's own back ends, their scopes and workspaces, and the keys that they show."""

from collections.abc import Mapping, Sequence
from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound
from services.chassis.secret import new_token, token_hash
from services.identity import security
from services.identity.errors import InvalidCredentials, TooManyKeys

KEY_PREFIX = "ghk"
MOST_KEYS = 2
"""Live at a time: the one in use and its successor."""
FIRST = "00000000-0000-0000-0000-000000000000"

CREATE = text("""
    INSERT INTO service_accounts (id, name, scopes, workspace_ids)
    VALUES (:id, :name, CAST(:scopes AS text[]), CAST(:workspace_ids AS uuid[]))
    RETURNING id, name, scopes, workspace_ids, created_at
""")
LIST = text("""
    SELECT id, name, scopes, workspace_ids, created_at FROM service_accounts
    WHERE id > CAST(:after AS uuid) ORDER BY id LIMIT :size
""")
LIVE_KEYS = text("""
    SELECT id, service_account_id, created_at, last_used_at, revoked_at FROM service_keys
    WHERE service_account_id = ANY(CAST(:account_ids AS uuid[])) AND revoked_at IS NULL ORDER BY id
""")
DELETE = text("DELETE FROM service_accounts WHERE id = :id")
LOCK = text("SELECT id FROM service_accounts WHERE id = :id FOR NO KEY UPDATE")
COUNT_KEYS = text("SELECT count(*) FROM service_keys WHERE service_account_id = :account_id AND revoked_at IS NULL")
ADD_KEY = text("""
    INSERT INTO service_keys (id, service_account_id, key_hash) VALUES (:id, :account_id, :key_hash)
    RETURNING id, created_at, last_used_at, revoked_at
""")
REVOKE_KEY = text("""
    UPDATE service_keys SET revoked_at = statement_timestamp()
    WHERE id = :id AND service_account_id = :account_id AND revoked_at IS NULL
""")
GET_KEY = text("""
    SELECT id, created_at, last_used_at, revoked_at FROM service_keys
    WHERE id = :id AND service_account_id = :account_id
""")
# The update is carried out whether or not anything reads from it.
EXCHANGE = text("""
    WITH noted AS (
        UPDATE service_keys SET last_used_at = statement_timestamp()
        WHERE key_hash = :key_hash AND revoked_at IS NULL
            AND (last_used_at IS NULL OR last_used_at < statement_timestamp() - interval '1 minute')
    )
    SELECT service_keys.id, service_account_id, scopes, workspace_ids, statement_timestamp() AS clock
    FROM service_keys JOIN service_accounts ON service_accounts.id = service_account_id
    WHERE key_hash = :key_hash AND revoked_at IS NULL
""")


async def create(
    tx: AsyncConnection, *, created_by: str | None, name: str, scopes: Sequence[str], workspace_ids: Sequence[str]
) -> Row[Any]:
    """A new service account, without a key. `created_by` is none for the operator at the command line."""
    row = {
        "id": str(uuid_utils.uuid7()),
        "name": name,
        "scopes": list(scopes),
        "workspace_ids": list(workspace_ids),
    }
    account = (await tx.execute(CREATE, row)).one()
    await security.record(tx, "service_account_created", user_id=created_by, service_account_id=str(account.id))
    return account


async def list_page(tx: AsyncConnection, *, after: str | None, size: int) -> Sequence[Row[Any]]:
    """Service accounts, oldest first, from the one after `after` on."""
    return (await tx.execute(LIST, {"after": after or FIRST, "size": size})).all()


async def live_keys(tx: AsyncConnection, *, account_ids: Sequence[str]) -> Mapping[str, Sequence[Row[Any]]]:
    """The live keys of service accounts, oldest first, by account."""
    keys: dict[str, list[Row[Any]]] = {account_id: [] for account_id in account_ids}
    for key in await tx.execute(LIVE_KEYS, {"account_ids": list(account_ids)}):
        keys[str(key.service_account_id)].append(key)
    return keys


async def delete(tx: AsyncConnection, *, deleted_by: str, account_id: str) -> None:
    """Deletes a service account and its keys: their tokens are good for nothing from the next call on. NOT_FOUND."""
    if not (await tx.execute(DELETE, {"id": account_id})).rowcount:
        raise NotFound
    await security.record(tx, "service_account_deleted", user_id=deleted_by, service_account_id=account_id)


async def create_key(tx: AsyncConnection, *, created_by: str | None, account_id: str) -> tuple[Row[Any], str]:
    """A new key and its secret, which is stored nowhere. NOT_FOUND, TOO_MANY_KEYS."""
    if (await tx.execute(LOCK, {"id": account_id})).one_or_none() is None:
        raise NotFound
    # In a statement of its own: what the first one saw may be from before its wait for the lock.
    if (await tx.execute(COUNT_KEYS, {"account_id": account_id})).scalar_one() >= MOST_KEYS:
        raise TooManyKeys
    secret = new_token(KEY_PREFIX)
    row = {"id": str(uuid_utils.uuid7()), "account_id": account_id, "key_hash": token_hash(secret)}
    key = (await tx.execute(ADD_KEY, row)).one()
    await security.record(tx, "service_key_created", user_id=created_by, service_account_id=account_id)
    return key, secret


async def revoke_key(tx: AsyncConnection, *, revoked_by: str, account_id: str, key_id: str) -> Row[Any]:
    """Ends a key; one that has ended keeps its time. NOT_FOUND if the service account has no such key."""
    row = {"id": key_id, "account_id": account_id}
    if (await tx.execute(REVOKE_KEY, row)).rowcount:
        await security.record(tx, "service_key_revoked", user_id=revoked_by, service_account_id=account_id)
    key = (await tx.execute(GET_KEY, row)).one_or_none()
    if key is None:
        raise NotFound
    return key


async def exchange(tx: AsyncConnection, *, secret: str) -> Row[Any]:
    """The live key of a secret, with its account's rights and the clock. INVALID_CREDENTIALS. Notes its use."""
    key = (await tx.execute(EXCHANGE, {"key_hash": token_hash(secret)})).one_or_none()
    if key is None:
        raise InvalidCredentials("The service key is not good, or not any more.")
    return key
