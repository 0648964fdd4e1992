"""Purges: what a deleted workspace held goes in small transactions; its row and its activities stay."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.outbox import enqueue
from services.chassis.worker import Work, Worker
from services.membership import openings, workspaces

BATCH = 500

IS_DELETED = text("SELECT deleted_at IS NOT NULL FROM workspaces WHERE id = :workspace_id")
# They are told to identity as ended; what has ended already goes with the workspace without a word.
INVITATIONS = text("""
    DELETE FROM invitations WHERE workspace_id = :workspace_id AND id IN (
        SELECT id FROM invitations WHERE workspace_id = :workspace_id LIMIT :batch
    )
    RETURNING token_hash AS hash, accepted_at IS NULL AND revoked_at IS NULL AND declined_at IS NULL AS is_open
""")
CODES = text("""
    DELETE FROM group_invites WHERE workspace_id = :workspace_id AND id IN (
        SELECT id FROM group_invites WHERE workspace_id = :workspace_id LIMIT :batch
    )
    RETURNING code_hash AS hash, workspace_role IS NOT NULL AND revoked_at IS NULL AS is_open
""")
# In this order: handles hold their members fast, groups their schemes. The last groups in the order of paths are whole
# subtrees: what is below a group comes after it.
DELETES = tuple(
    text(f"DELETE FROM {table} WHERE workspace_id = :workspace_id AND {key} IN ({rows} LIMIT :batch)")
    for table, key, rows in (
        ("handles", "handle", "SELECT handle FROM handles WHERE workspace_id = :workspace_id"),
        ("members", "id", "SELECT id FROM members WHERE workspace_id = :workspace_id"),
        ("groups", "id", "SELECT id FROM groups WHERE workspace_id = :workspace_id ORDER BY path DESC"),
        ("user_groups", "id", "SELECT id FROM user_groups WHERE workspace_id = :workspace_id"),
        ("role_schemes", "id", "SELECT id FROM role_schemes WHERE workspace_id = :workspace_id"),
        ("workspace_bans", "id", "SELECT id FROM workspace_bans WHERE workspace_id = :workspace_id"),
        ("workspace_limits", "name", "SELECT name FROM workspace_limits WHERE workspace_id = :workspace_id"),
        ("activity_people", "ref", "SELECT ref FROM activity_people WHERE workspace_id = :workspace_id"),
        (
            "activity_details",
            "(number, about)",
            "SELECT number, about FROM activity_details WHERE workspace_id = :workspace_id",
        ),
    )
)


async def purge(tx: AsyncConnection, workspace_id: str, *, batch: int = BATCH) -> bool:
    """Deletes a batch of what a deleted workspace held; False once nothing is left. It is safe to do twice."""
    named = {"workspace_id": workspace_id}
    if not await tx.scalar(IS_DELETED, named):
        return False
    for statement in (INVITATIONS, CODES):
        ended = (await tx.execute(statement, {**named, "batch": batch})).all()
        await openings.closed(tx, [row.hash for row in ended if row.is_open])
        if ended:
            return True
    for statement in DELETES:
        if (await tx.execute(statement, {**named, "batch": batch})).rowcount:
            return True
    return False


def workspace_purger(worker: Worker) -> Work:
    """The work `workspace.purge`: one batch, and the next as work of its own until nothing is left."""

    async def purge_workspace(subject_id: str, _row_id: str) -> None:
        async def purge_one(tx: AsyncConnection) -> None:
            if await purge(tx, subject_id):
                await enqueue(tx, workspaces.PURGE, subject_id)

        await worker.database.transaction(purge_one)

    return purge_workspace
