"""How a guest ends before their time: removed, or promoted to a full member.

The guest's row decides, in one transaction with the event that has membership follow. The call then asks membership
itself, so that it is done before the answer; the event is the net for a call that dies in between.
"""

from typing import Any

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import EtagMismatch
from services.chassis.outbox import emit
from services.guest import guests, notices, sight
from services.guest.errors import GuestEnded


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
