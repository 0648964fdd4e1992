"""How a guest ends before their time: removed, or promoted to a full member; and long after it.

The guest's row decides, in one transaction with the event that has membership follow. The call then asks membership
itself, so that it is done before the answer; the event is the net for a call that dies in between.
"""

from typing import Any

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import EtagMismatch
from services.chassis.outbox import emit
from services.guest import guests, notices, sight
from services.guest.errors import GuestEnded

# Until then a new link has them begin anew, as the member who they were.
END_LONG_OVER = text("""
    UPDATE guests
    SET ended_at = statement_timestamp(), end_reason = 'removed', generation = generation + 1,
        updated_at = statement_timestamp()
    WHERE member_id IN (
        SELECT member_id FROM guests
        WHERE state = 'ENDED' AND ended_at IS NULL AND grace_end_at <= statement_timestamp() - interval '30 days'
        ORDER BY grace_end_at LIMIT 100 FOR UPDATE SKIP LOCKED
    )
    RETURNING CAST(workspace_id AS text) AS workspace_id, CAST(member_id AS text) AS member_id
""")


async def remove(tx: AsyncConnection, *, workspace_id: str, member_id: str, actor_user_id: str, etag: str) -> Row[Any]:
    """Ends a guest locked before; who was removed before stays so. Errors: ETAG_MISMATCH, GUEST_ENDED (promoted)."""
    guest = {"workspace_id": workspace_id, "member_id": member_id}
    found = await guests.weigh(tx, **guest)
    if found.end_reason == "promoted":
        raise GuestEnded
    if not found.is_over:
        if etag and etag != guests.etag_of(found.generation):
            raise EtagMismatch
        await guests.end(tx, **guest, reason="removed")
        await notices.tell_removed(tx, **guest)
        await sight.take(tx, workspace_id, "guest_removed")
        removed = events.GuestRemoved(**guest, actor_user_id=actor_user_id)
        await emit(tx, ["membership"], events.Event(guest_removed=removed))
    return await guests.get(tx, **guest)


async def promote(
    tx: AsyncConnection, *, workspace_id: str, member_id: str, role: str, actor_user_id: str, etag: str
) -> Row[Any]:
    """Ends a guest locked before as promoted; who was promoted before stays so. Errors: ETAG_MISMATCH, GUEST_ENDED."""
    guest = {"workspace_id": workspace_id, "member_id": member_id}
    if (await guests.weigh(tx, **guest)).end_reason == "promoted":
        return await guests.get(tx, **guest)
    await guests.require_unended(tx, **guest, etag=etag)
    present = await guests.get(tx, **guest)
    await guests.end(tx, **guest, reason="promoted")
    await sight.take(tx, workspace_id, "guest_promoted")
    promoted = events.GuestPromoted(
        **guest,
        user_id=str(present.user_id),
        conversation_ids=map(str, present.conversation_ids),
        role=role,
        actor_user_id=actor_user_id,
    )
    await emit(tx, ["membership", "messaging"], events.Event(guest_promoted=promoted))
    return await guests.get(tx, **guest)


async def remove_long_over(tx: AsyncConnection) -> int:
    """Ends the stays of guests whose grace was over 30 days ago, a hundred at most; returns how many there were.

    They see nothing, but are members still, and count among those that a workspace may have.
    """
    rows = (await tx.execute(END_LONG_OVER)).all()
    for row in rows:
        guest = {"workspace_id": row.workspace_id, "member_id": row.member_id}
        await tx.execute(guests.REVOKE_ALL, guest)
        await emit(tx, ["membership"], events.Event(guest_removed=events.GuestRemoved(**guest)))
    return len(rows)
