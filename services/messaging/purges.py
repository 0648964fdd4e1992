"""Purges: what messaging held of a deleted workspace, or group, goes in small transactions.

Streams need no word of it: membership's verdict ends them, or takes the group's conversations from them.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import Database
from services.chassis.outbox import enqueue
from services.chassis.worker import Work
from services.messaging import files

PURGE = "workspace.purge"
PURGE_GROUP = "group.purge"
BATCH = 500
FILES_BATCH = 20
"""Each takes up to some thousand rows of parts along."""
LATE_SECONDS = 60
"""Longer than any call lasts: whoever was let in before the workspace ended has written by then."""

CONVERSATIONS = text("""
    SELECT CAST(id AS text) FROM conversations WHERE workspace_id = :workspace_id ORDER BY id LIMIT :batch
""")
GROUP = text("SELECT CAST(workspace_id AS text) FROM group_syncs WHERE group_id = :group_id")
CONVERSATIONS_OF_GROUP = text("""
    SELECT CAST(id AS text) FROM conversations
    WHERE workspace_id = :workspace_id AND group_id = CAST(:group_id AS uuid) ORDER BY id LIMIT :batch
""")
FORGET_GROUP = text("DELETE FROM group_syncs WHERE workspace_id = :workspace_id AND group_id = :group_id")
# Besides conversations: what is of the workspace itself.
REST = (
    text("""
        DELETE FROM group_syncs WHERE workspace_id = :workspace_id AND group_id IN (
            SELECT group_id FROM group_syncs WHERE workspace_id = :workspace_id LIMIT :most
        )
    """),
    text("DELETE FROM workspace_limits WHERE workspace_id = :workspace_id"),
)
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
    text("""
        DELETE FROM conversation_events WHERE conversation_id = :id AND event_seq IN (
            SELECT event_seq FROM conversation_events WHERE conversation_id = :id ORDER BY event_seq LIMIT :most
        )
    """),
    text("""
        DELETE FROM read_states WHERE workspace_id = :workspace_id AND conversation_id = :id AND member_id IN (
            SELECT member_id FROM read_states WHERE workspace_id = :workspace_id AND conversation_id = :id LIMIT :most
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
    found = (await tx.scalars(CONVERSATIONS, {"workspace_id": workspace_id, "batch": batch})).all()
    left = await _purge_conversations(tx, workspace_id, found, batch)
    for statement in REST if left else ():
        left -= (await tx.execute(statement, {"workspace_id": workspace_id, "most": batch})).rowcount
    if left < batch:
        return True
    await files.forget_storage(tx, workspace_id=workspace_id)
    return False


async def purge_group(tx: AsyncConnection, group_id: str, *, batch: int = BATCH) -> bool:
    """The same for the conversations of a deleted group."""
    workspace_id = await tx.scalar(GROUP, {"group_id": group_id})
    if workspace_id is None:
        return False
    named = {"workspace_id": workspace_id, "group_id": group_id}
    found = (await tx.scalars(CONVERSATIONS_OF_GROUP, {**named, "batch": batch})).all()
    if await _purge_conversations(tx, workspace_id, found, batch) < batch:
        return True
    await tx.execute(FORGET_GROUP, named)
    return False


async def _purge_conversations(
    tx: AsyncConnection, workspace_id: str, conversation_ids: Sequence[str], batch: int
) -> int:
    """Deletes up to `batch` rows of conversations; how many more it might have been."""
    left = batch
    for conversation_id in conversation_ids:
        gone = await files.delete_of_conversation(
            tx, workspace_id=workspace_id, conversation_id=conversation_id, most=FILES_BATCH
        )
        left -= gone
        if gone == FILES_BATCH or left <= 0:
            return 0
        for statement in DELETES:
            row = {"workspace_id": workspace_id, "id": conversation_id, "most": left}
            left -= (await tx.execute(statement, row)).rowcount
            if not left:
                return 0
    return left


def purger(database: Database, work: str, purge: Callable[[AsyncConnection, str], Awaitable[bool]]) -> Work:
    """What does `work`: one batch, and the next as work of its own until nothing is left."""

    async def purge_subject(subject_id: str, _row_id: str) -> None:
        async def purge_one(tx: AsyncConnection) -> None:
            if await purge(tx, subject_id):
                await enqueue(tx, work, subject_id)

        await database.transaction(purge_one)

    return purge_subject


def works(database: Database) -> Mapping[str, Work]:
    """`workspace.purge` and `group.purge`."""
    return {PURGE: purger(database, PURGE, purge), PURGE_GROUP: purger(database, PURGE_GROUP, purge_group)}
