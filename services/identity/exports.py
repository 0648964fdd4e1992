"""What identity holds of a person, for `guildhall admin export-user`: all of it but secrets and their hashes."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound

USER = text("""
    SELECT id AS user_id, email, normalized_email, name, image_url, password_hash IS NOT NULL AS has_password,
        email_verified_at, disabled_at, administrator_since, is_claim, app_acted_at, created_at,
        updated_at, revision
    FROM users WHERE id = :user_id
""")
PARTS = {
    "sessions": text("""
        SELECT id AS session_id, device_label, client_address, user_agent, from_adapter, created_at, refreshed_at,
            last_used_at, idle_expire_at, absolute_expire_at, ended_at, ended_reason, has_tokens
        FROM sessions WHERE user_id = :user_id ORDER BY id
    """),
    "accounts": text("""
        SELECT id AS account_id, type, provider, provider_account_id, token_type, scope, session_state, expires_at,
            created_at, updated_at
        FROM accounts WHERE user_id = :user_id ORDER BY id
    """),
    "verification_tokens": text("""
        SELECT id AS token_id, purpose, pending_name, pending_email, previous_email, created_at, expire_at, used_at
        FROM verification_tokens WHERE user_id = :user_id ORDER BY id
    """),
    "adapter_verification_tokens": text("""
        SELECT identifier, created_at, expire_at FROM adapter_verification_tokens
        WHERE identifier IN (
            SELECT unnest(ARRAY[email, lower(email), normalized_email]) FROM users WHERE id = :user_id
        )
        ORDER BY created_at
    """),
    "security_events": text("""
        SELECT id AS event_id, kind, user_id, actor_id, service_account_id, session_id,
            CASE WHEN actor_id IS NULL OR actor_id = :user_id THEN client_address ELSE '' END AS client_address,
            CASE WHEN actor_id IS NULL OR actor_id = :user_id THEN user_agent ELSE '' END AS user_agent, created_at
        FROM security_events WHERE user_id = :user_id OR actor_id = :user_id ORDER BY id
    """),
    "repeatable_calls": text("""
        SELECT method, created_at FROM idempotency_keys WHERE caller = CAST(:user_id AS text) ORDER BY created_at
    """),
}


async def export(tx: AsyncConnection, *, user_id: str) -> Mapping[str, Any]:
    """The person's data by where it is kept. Errors: NOT_FOUND."""
    user = (await tx.execute(USER, {"user_id": user_id})).mappings().one_or_none()
    if user is None:
        raise NotFound
    exported: dict[str, Any] = {"user": dict(user)}
    for name, statement in PARTS.items():
        exported[name] = [dict(row) for row in (await tx.execute(statement, {"user_id": user_id})).mappings()]
    return exported
