"""Invite links: what each grants, and whether it still works.

identity is told which are open, by the hash of their tokens: who holds one may sign up where only the invited may.
"""

from collections.abc import Collection, Iterable
from datetime import timedelta
from typing import Any

import uuid_utils
from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.outbox import emit

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
WORKS = "revoked_at IS NULL AND statement_timestamp() < expire_at AND (max_uses IS NULL OR uses < max_uses)"
"""Whether a link of guest_invites can be redeemed at this instant, as far as guest knows."""

FIND = text(f"""
    SELECT invite.id, invite.workspace_id, invite.created_by_member_id,
        ARRAY(SELECT conversation_id FROM guest_invite_channels WHERE invite_id = invite.id) AS conversation_ids,
        {WORKS} AS works
    FROM guest_invites AS invite WHERE token_hash = :token_hash
""")
LOCK = text("SELECT 1 FROM guest_invites WHERE id = :id FOR NO KEY UPDATE")
SPEND = text(f"""
    UPDATE guest_invites SET uses = uses + 1 WHERE id = :id AND {WORKS} RETURNING token_hash, uses = max_uses AS is_last
""")
# A member id is never used again, so nobody will back these links any more.
REVOKE_OF_MEMBER = text(f"""
    UPDATE guest_invites SET revoked_at = statement_timestamp()
    WHERE workspace_id = CAST(:workspace_id AS uuid) AND created_by_member_id = CAST(:member_id AS uuid) AND {WORKS}
    RETURNING token_hash
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
    made = (await tx.execute(CREATE, row)).one()
    opened = events.InviteOpened(token_hash=token_hash)
    opened.expire_time.FromDatetime(made.expire_at)
    await emit(tx, ["identity"], events.Event(invite_opened=opened))
    return made


async def find(tx: AsyncConnection, *, token_hash: bytes) -> Row[Any] | None:
    """The link of a token, and in `works` whether it can be redeemed at this instant."""
    return (await tx.execute(FIND, {"token_hash": token_hash})).one_or_none()


async def spend(tx: AsyncConnection, *, invite_id: str) -> bool:
    """Takes one use; False if the link has ended or none is left."""
    # The lock apart: an update that waits for it would decide by the clock of before the wait.
    await tx.execute(LOCK, {"id": invite_id})
    spent = (await tx.execute(SPEND, {"id": invite_id})).one_or_none()
    if spent is not None and spent.is_last:
        await tell_closed(tx, [spent.token_hash])
    return spent is not None


async def revoke_of_member(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> None:
    """Ends the links of a member who is gone."""
    ended = await tx.execute(REVOKE_OF_MEMBER, {"workspace_id": workspace_id, "member_id": member_id})
    await tell_closed(tx, ended.scalars().all())


async def tell_closed(tx: AsyncConnection, token_hashes: Iterable[bytes]) -> None:
    """Tells identity of links that can no longer be used."""
    for token_hash in token_hashes:
        await emit(tx, ["identity"], events.Event(invite_closed=events.InviteClosed(token_hash=token_hash)))
