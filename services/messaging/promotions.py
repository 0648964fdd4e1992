"""Promotions: what was granted to a guest becomes participation, once guest has made them a full member."""

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.messaging.changes import Happened, number

# In id order, as every lock of several conversations. Only channels: who takes part in others is not guest's to say.
LOCK = text("""
    SELECT CAST(id AS text) FROM conversations
    WHERE workspace_id = :workspace_id AND id = ANY(CAST(:conversation_ids AS uuid[])) AND kind = 'channel'
    ORDER BY id FOR NO KEY UPDATE
""")
JOIN = text("""
    INSERT INTO participants (conversation_id, member_id, user_id, workspace_id)
    VALUES (:conversation_id, :member_id, :user_id, :workspace_id)
    ON CONFLICT DO NOTHING
""")


async def guest_promoted(tx: AsyncConnection, promoted: events.GuestPromoted) -> None:
    """Applies guest's event. Repeatable: who takes part already is left alone, and nothing is told of it."""
    member = {
        "workspace_id": promoted.workspace_id,
        "member_id": promoted.member_id,
        "user_id": promoted.user_id,
    }
    named = {"workspace_id": promoted.workspace_id, "conversation_ids": list(promoted.conversation_ids)}
    for conversation_id in (await tx.execute(LOCK, named)).scalars().all():
        if (await tx.execute(JOIN, {**member, "conversation_id": conversation_id})).rowcount:
            joined = Happened("participant_joined", member_id=promoted.member_id, user_id=promoted.user_id)
            await number(tx, workspace_id=promoted.workspace_id, conversation_id=conversation_id, happened=[joined])
