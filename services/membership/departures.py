"""People who are gone: identity tells that somebody was deleted, and nothing of theirs stays here (R18)."""

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.membership import removals, workspaces

# In the order of their ids, in which everybody who locks several does.
FIND_WORKSPACES = text("SELECT workspace_id FROM members WHERE user_id = :user_id ORDER BY workspace_id")
# In a statement of its own after the lock. Of a pending guest too: nobody may confirm somebody who is gone.
FIND = text("""
    SELECT id, workspace_id, user_id, role, kind, state, joined_at, invitation_id FROM members
    WHERE workspace_id = :workspace_id AND user_id = :user_id
""")
# The address that they were invited by.
FORGET_INVITATION = text("DELETE FROM invitations WHERE workspace_id = :workspace_id AND id = :invitation_id")
FORGET_CREATOR = text("UPDATE workspaces SET created_by = NULL WHERE created_by = :user_id")
FORGET_ANSWERS = text("DELETE FROM idempotency_keys WHERE caller = :user_id")


async def apply_deleted(tx: AsyncConnection, payload: events.UserDeleted) -> None:
    """Ends the person's memberships everywhere, an admin's too; the messages that they wrote stay."""
    named = {"user_id": payload.user_id}
    for workspace_id in (await tx.execute(FIND_WORKSPACES, named)).scalars().all():
        await _leave(tx, workspace_id=str(workspace_id), user_id=payload.user_id)
    await tx.execute(FORGET_CREATOR, named)
    await tx.execute(FORGET_ANSWERS, named)


async def _leave(tx: AsyncConnection, *, workspace_id: str, user_id: str) -> None:
    await workspaces.lock(tx, workspace_id)
    member = (await tx.execute(FIND, {"workspace_id": workspace_id, "user_id": user_id})).one_or_none()
    if member is None:
        return
    await removals.end_stay(tx, member)
    if member.invitation_id is not None:
        invitation = {"workspace_id": workspace_id, "invitation_id": member.invitation_id}
        await tx.execute(FORGET_INVITATION, invitation)
