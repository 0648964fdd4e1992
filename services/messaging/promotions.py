"""Promotions: what was granted to a guest becomes participation, once guest has made them a full member."""

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.messaging import participants
from services.messaging.changes import Happened, number
from services.messaging.leftovers import put_back
from services.messaging.peers import Membership

MOST_AT_ONCE = 20
"""Conversations whose lock a promotion has in one transaction."""

# Only channels: who takes part in others is not guest's to say.
CHANNELS = """
    SELECT CAST(id AS text) FROM conversations
    WHERE workspace_id = :workspace_id AND id = ANY(CAST(:conversation_ids AS uuid[])) AND kind = 'channel'
"""
# Whoever has one is not waited for: what is locked already would be kept from everybody meanwhile.
LOCK = text(f"{CHANNELS} ORDER BY id FOR NO KEY UPDATE SKIP LOCKED")
THERE = text(CHANNELS)
JOIN = text("""
    INSERT INTO participants (conversation_id, member_id, user_id, workspace_id)
    VALUES (:conversation_id, :member_id, :user_id, :workspace_id)
    ON CONFLICT DO NOTHING
""")


async def guest_promoted(tx: AsyncConnection, promoted: events.GuestPromoted, *, membership: Membership) -> None:
    """Applies guest's event, to some conversations at a time; those that somebody has locked come later.

    Repeatable: who takes part already is left alone, and nothing is told of it. Events come in no order, so membership
    is asked whether they are a member still: once their removal has been applied, nothing would take them out again.
    """
    await participants.take_turns(tx, promoted.member_id)
    if not await membership.find_members([promoted.member_id], workspace_id=promoted.workspace_id):
        return
    member = {
        "workspace_id": promoted.workspace_id,
        "member_id": promoted.member_id,
        "user_id": promoted.user_id,
    }
    some, rest = promoted.conversation_ids[:MOST_AT_ONCE], promoted.conversation_ids[MOST_AT_ONCE:]
    named = {"workspace_id": promoted.workspace_id, "conversation_ids": list(some)}
    locked = list(await tx.scalars(LOCK, named))
    for conversation_id in locked:
        if (await tx.execute(JOIN, {**member, "conversation_id": conversation_id})).rowcount:
            joined = Happened("participant_joined", member_id=promoted.member_id, user_id=promoted.user_id)
            await number(tx, workspace_id=promoted.workspace_id, conversation_id=conversation_id, happened=[joined])
    left = [*rest, *(each for each in await tx.scalars(THERE, named) if each not in locked)]
    if left:
        event = events.Event(guest_promoted=promoted)
        # Without those that are done: who has left one of them since must not be brought back.
        event.guest_promoted.conversation_ids[:] = left
        await put_back(tx, event, at_once=bool(locked))
