"""Invite links: what each grants, and whether it still works."""

from collections.abc import Collection
from datetime import timedelta
from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

CREATE = text("""
    WITH invite AS (
        INSERT INTO guest_invites
            (id, workspace_id, token_hash, created_by_member_id, guest_ttl, max_uses, expire_at)
        VALUES (
            :id, :workspace_id, :token_hash, :member_id, make_interval(secs => :guest_ttl_seconds), :max_uses,
            statement_timestamp() + make_interval(secs => :invite_ttl_seconds)
        )
        RETURNING *
    ), channels AS (
        INSERT INTO guest_invite_channels (invite_id, conversation_id)
        SELECT invite.id, channel FROM invite, unnest(CAST(:conversation_ids AS uuid[])) AS channel
    )
    SELECT id, workspace_id, guest_ttl, max_uses, uses, expire_at, created_at FROM invite
""")
FIND = text("""
    SELECT invite.id, invite.workspace_id, invite.created_by_member_id,
        ARRAY(SELECT conversation_id FROM guest_invite_channels WHERE invite_id = invite.id) AS conversation_ids,
        invite.revoked_at IS NULL AND statement_timestamp() < invite.expire_at
            AND (invite.max_uses IS NULL OR invite.uses < invite.max_uses) AS works
    FROM guest_invites AS invite WHERE token_hash = :token_hash
""")
LOCK = text("SELECT 1 FROM guest_invites WHERE id = :id FOR NO KEY UPDATE")
SPEND = text("""
    UPDATE guest_invites SET uses = uses + 1
    WHERE id = :id AND revoked_at IS NULL AND statement_timestamp() < expire_at
        AND (max_uses IS NULL OR uses < max_uses)
""")


async def create(
    tx: AsyncConnection,
    *,
    workspace_id: str,
    token_hash: bytes,
    member_id: str,
    conversation_ids: Collection[str],
    invite_ttl: timedelta,
    guest_ttl: timedelta,
    max_uses: int,
) -> Row[Any]:
    """Writes a link by the hash of its token. `max_uses` 0 means no limit."""
    row = {
        "id": str(uuid_utils.uuid7()),
        "workspace_id": workspace_id,
        "token_hash": token_hash,
        "member_id": member_id,
        "guest_ttl_seconds": guest_ttl.total_seconds(),
        "invite_ttl_seconds": invite_ttl.total_seconds(),
        "max_uses": max_uses or None,
        "conversation_ids": list(conversation_ids),
    }
    return (await tx.execute(CREATE, row)).one()


async def find(tx: AsyncConnection, *, token_hash: bytes) -> Row[Any] | None:
    """The link of a token, and in `works` whether it can be redeemed at this instant."""
    return (await tx.execute(FIND, {"token_hash": token_hash})).one_or_none()


async def spend(tx: AsyncConnection, *, invite_id: str) -> bool:
    """Takes one use; False if the link has ended or none is left."""
    # The lock apart: an update that waits for it would decide by the clock of before the wait.
    await tx.execute(LOCK, {"id": invite_id})
    return (await tx.execute(SPEND, {"id": invite_id})).rowcount == 1
