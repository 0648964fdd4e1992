"""Purges: what guest held of a deleted workspace goes in small transactions."""

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import Database
from services.chassis.outbox import enqueue
from services.chassis.worker import Work
from services.guest import invites

PURGE = "workspace.purge"
BATCH = 500
LATE_SECONDS = 60
"""Longer than any call lasts: whoever was let in before the workspace ended has written by then."""

# All that guest holds of a workspace hangs on its links, and no other index finds it: a few links at a time.
LINKS = "SELECT id FROM guest_invites WHERE workspace_id = :workspace_id ORDER BY id LIMIT :batch"
# First of all, so that nobody meets a link that has lost its channels.
REVOKE = text(f"""
    UPDATE guest_invites SET revoked_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND id IN ({LINKS}) AND {invites.WORKS}
    RETURNING token_hash
""")
GUESTS = f"SELECT member_id FROM guests WHERE workspace_id = :workspace_id AND invite_id IN ({LINKS})"
# In this order: each holds the next one fast, or would take it along in one go.
DELETES = tuple(
    text(f"DELETE FROM {table} WHERE {key} IN ({rows} LIMIT :batch)")
    for table, key, rows in (
        (
            "guest_grants",
            "workspace_id = :workspace_id AND (member_id, conversation_id)",
            "SELECT member_id, conversation_id FROM guest_grants"
            f" WHERE workspace_id = :workspace_id AND member_id IN ({GUESTS})",
        ),
        (
            "guest_notices",
            "id",
            f"SELECT id FROM guest_notices WHERE workspace_id = :workspace_id AND member_id IN ({GUESTS})",
        ),
        ("guests", "workspace_id = :workspace_id AND member_id", GUESTS),
        (
            "redemptions",
            "workspace_id = :workspace_id AND id",
            f"SELECT id FROM redemptions WHERE workspace_id = :workspace_id AND invite_id IN ({LINKS})",
        ),
        (
            "guest_invite_channels",
            "(invite_id, conversation_id)",
            f"SELECT invite_id, conversation_id FROM guest_invite_channels WHERE invite_id IN ({LINKS})",
        ),
        (
            "guest_invite_attempts",
            "(invite_id, user_id)",
            f"SELECT invite_id, user_id FROM guest_invite_attempts WHERE invite_id IN ({LINKS})",
        ),
        ("guest_invites", "workspace_id = :workspace_id AND id", f"SELECT id FROM ({LINKS}) links"),
        (
            "sight_losses",
            "workspace_id = :workspace_id AND id",
            "SELECT id FROM sight_losses WHERE workspace_id = :workspace_id",
        ),
        (
            "workspace_limits",
            "workspace_id = :workspace_id AND name",
            "SELECT name FROM workspace_limits WHERE workspace_id = :workspace_id",
        ),
        (
            "policy_changes",
            "workspace_id",
            "SELECT workspace_id FROM policy_changes WHERE workspace_id = :workspace_id",
        ),
        (
            "guest_policies",
            "workspace_id",
            "SELECT workspace_id FROM guest_policies WHERE workspace_id = :workspace_id",
        ),
    )
)


async def workspace_deleted(tx: AsyncConnection, deleted: events.WorkspaceDeleted) -> None:
    """Applies membership's event: has the worker remove what there is, and once more what was still being written."""
    await enqueue(tx, PURGE, deleted.workspace_id)
    await enqueue(tx, PURGE, deleted.workspace_id, delay_seconds=LATE_SECONDS)


async def purge(tx: AsyncConnection, workspace_id: str, *, batch: int = BATCH) -> bool:
    """Ends or deletes a batch of what a deleted workspace held; False once nothing is left. It is safe to do twice."""
    parameters = {"workspace_id": workspace_id, "batch": batch}
    ended = (await tx.execute(REVOKE, parameters)).scalars().all()
    await invites.tell_closed(tx, ended)
    if ended:
        return True
    for statement in DELETES:
        if (await tx.execute(statement, parameters)).rowcount:
            return True
    return False


def workspace_purger(database: Database) -> Work:
    """The work `workspace.purge`: one batch, and the next as work of its own until nothing is left."""

    async def purge_workspace(subject_id: str, _row_id: str) -> None:
        async def purge_one(tx: AsyncConnection) -> None:
            if await purge(tx, subject_id):
                await enqueue(tx, PURGE, subject_id)

        await database.transaction(purge_one)

    return purge_workspace
