"""Purges: what messaging held of a deleted workspace goes in small transactions.

Streams need no word of it: membership's verdict ends them.
"""

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import Database
from services.chassis.outbox import enqueue
from services.chassis.worker import Work
from services.messaging import files

PURGE = "workspace.purge"
BATCH = 500
FILES_BATCH = 20
"""Each takes up to some thousand rows of parts along."""
LATE_SECONDS = 60
"""Longer than any call lasts: whoever was let in before the workspace ended has written by then."""

CONVERSATIONS = text("""
    SELECT CAST(id AS text) FROM conversations WHERE workspace_id = :workspace_id ORDER BY id LIMIT :batch
""")
# One conversation at a time, so that each finds what it deletes by an index, and messages in one partition. In this
# order, or a conversation would take all that hangs on it along in one go.
DELETES = (
    text("""
        DELETE FROM messages WHERE conversation_id = :id AND seq <= (
            SELECT max(seq) FROM (
                SELECT seq FROM messages WHERE conversation_id = :id ORDER BY seq LIMIT :most
            ) oldest
        )
    """),
    text("""
        DELETE FROM participants WHERE workspace_id = :workspace_id AND conversation_id = :id AND member_id IN (
            SELECT member_id FROM participants WHERE workspace_id = :workspace_id AND conversation_id = :id LIMIT :most
        )
    """),
    text("DELETE FROM conversations WHERE workspace_id = :workspace_id AND id = :id"),
)


async def workspace_deleted(tx: AsyncConnection, deleted: events.WorkspaceDeleted) -> None:
    """Applies membership's event: has the worker remove what there is, and once more what was still being written."""
    await enqueue(tx, PURGE, deleted.workspace_id)
    await enqueue(tx, PURGE, deleted.workspace_id, delay_seconds=LATE_SECONDS)


async def purge(tx: AsyncConnection, workspace_id: str, *, batch: int = BATCH) -> bool:
    """Deletes a batch of what a deleted workspace held; False once nothing is left. It is safe to do twice."""
    left = batch
    for conversation_id in (await tx.scalars(CONVERSATIONS, {"workspace_id": workspace_id, "batch": batch})).all():
        gone = await files.delete_of_conversation(
            tx, workspace_id=workspace_id, conversation_id=conversation_id, most=FILES_BATCH
        )
        left -= gone
        if gone == FILES_BATCH or left <= 0:
            return True
        for statement in DELETES:
            row = {"workspace_id": workspace_id, "id": conversation_id, "most": left}
            left -= (await tx.execute(statement, row)).rowcount
            if not left:
                return True
    if left < batch:
        return True
    await files.forget_storage(tx, workspace_id=workspace_id)
    return False


def workspace_purger(database: Database) -> Work:
    """The work `workspace.purge`: one batch, and the next as work of its own until nothing is left."""

    async def purge_workspace(subject_id: str, _row_id: str) -> None:
        async def purge_one(tx: AsyncConnection) -> None:
            if await purge(tx, subject_id):
                await enqueue(tx, PURGE, subject_id)

        await database.transaction(purge_one)

    return purge_workspace
