"""Grants: which channels a guest sees, each until when and from when on."""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import InvalidRequest
from services.guest import guests, limits, sight

# Against the grant as it was; none is less than any. What is no longer granted cannot be shortened.
WEIGH = text(f"""
    SELECT {guests.GRANTED} AND coalesce(CAST(:expire_at AS timestamptz), 'infinity') < coalesce(expire_at, 'infinity')
            AS is_shorter,
        {guests.GRANTED} AND coalesce(CAST(:history_start_at AS timestamptz), '-infinity')
            > coalesce(history_start_at, '-infinity') AS starts_later
    FROM guest_grants
    WHERE workspace_id = CAST(:workspace_id AS uuid) AND member_id = CAST(:member_id AS uuid)
        AND conversation_id = CAST(:conversation_id AS uuid)
""")
IS_AHEAD = text("SELECT CAST(:expire_at AS timestamptz) IS NULL OR statement_timestamp() < :expire_at")
GRANT = text("""
    INSERT INTO guest_grants (member_id, conversation_id, workspace_id, expire_at, history_start_at)
    VALUES (:member_id, :conversation_id, :workspace_id, :expire_at, :history_start_at)
    ON CONFLICT (member_id, conversation_id) DO UPDATE
    SET expire_at = excluded.expire_at, history_start_at = excluded.history_start_at
""")
REVOKE = text("""
    DELETE FROM guest_grants
    WHERE workspace_id = CAST(:workspace_id AS uuid) AND member_id = CAST(:member_id AS uuid)
        AND conversation_id = CAST(:conversation_id AS uuid)
    RETURNING member_id
""")


async def grant(
    tx: AsyncConnection,
    *,
    workspace_id: str,
    member_id: str,
    conversation_id: str,
    expire_at: datetime | None,
    history_start_at: datetime | None,
    etag: str,
) -> Row[Any]:
    """Grants a channel to a guest locked before, or changes the times of a grant.

    Errors: ETAG_MISMATCH, GUEST_ENDED, LIMIT_REACHED, INVALID_REQUEST (an expiry that is over).
    """
    guest = {"workspace_id": workspace_id, "member_id": member_id}
    await guests.require_unended(tx, **guest, etag=etag)
    times = {"expire_at": expire_at, "history_start_at": history_start_at}
    if not await tx.scalar(IS_AHEAD, {"expire_at": expire_at}):
        raise InvalidRequest(fields=[("expire_time", "must be later than the clock")])
    present = (await tx.execute(WEIGH, {**guest, **times, "conversation_id": conversation_id})).one_or_none()
    if present is None:
        await limits.require(tx, "guest_channels", workspace_id=workspace_id, scope_id=member_id)
    await tx.execute(GRANT, {**guest, **times, "conversation_id": conversation_id})
    await tx.execute(guests.CHANGED, guest)
    if present is not None and present.is_shorter:
        await sight.take(tx, workspace_id, "channel_expiry_shortened")
    if present is not None and present.starts_later:
        await sight.take(tx, workspace_id, "channel_history_shortened")
    return await guests.get(tx, **guest)


async def revoke(
    tx: AsyncConnection, *, workspace_id: str, member_id: str, conversation_id: str, etag: str
) -> Row[Any]:
    """Takes a channel away from a guest locked before; one that is not granted changes nothing.

    Errors: ETAG_MISMATCH, GUEST_ENDED.
    """
    guest = {"workspace_id": workspace_id, "member_id": member_id}
    await guests.require_unended(tx, **guest, etag=etag)
    revoked = (await tx.execute(REVOKE, {**guest, "conversation_id": conversation_id})).one_or_none()
    if revoked is not None:
        await tx.execute(guests.CHANGED, guest)
        await sight.take(tx, workspace_id, "channel_revoked")
    return await guests.get(tx, **guest)
