"""Workspaces: made together with their head and their first admin."""

from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

INSERT = text("""
    WITH made AS (
        INSERT INTO workspaces (id, name, created_by) VALUES (:id, :name, :created_by)
        RETURNING id, name, version, created_at
    ), head AS (
        INSERT INTO workspace_heads (workspace_id) SELECT id FROM made
    )
    SELECT id, name, version, created_at FROM made
""")
GET = text("SELECT id, name, version, created_at FROM workspaces WHERE id = :id")

LOCK = text("SELECT id FROM workspaces WHERE id = :workspace_id FOR NO KEY UPDATE")
LOCK_FOR_MEMBER = text("""
    SELECT w.id FROM workspaces w
    WHERE w.id = :workspace_id AND EXISTS (
        SELECT FROM members m WHERE m.workspace_id = w.id AND m.user_id = :user_id AND m.state = 'active'
    )
    FOR NO KEY UPDATE OF w
""")


async def create(tx: AsyncConnection, *, name: str, created_by: str) -> Row[Any]:
    """A new workspace, without members."""
    row = {"id": str(uuid_utils.uuid7()), "name": name, "created_by": created_by}
    return (await tx.execute(INSERT, row)).one()


async def get(tx: AsyncConnection, workspace_id: str) -> Row[Any]:
    """A workspace that is known to exist."""
    return (await tx.execute(GET, {"id": workspace_id})).one()


async def lock(tx: AsyncConnection, workspace_id: str) -> None:
    """Takes the first lock of every change of who belongs to a workspace, or of what they may do there."""
    await tx.execute(LOCK, {"workspace_id": workspace_id})


async def lock_for_member(tx: AsyncConnection, *, workspace_id: str, user_id: str) -> bool:
    """The same, but False, without a lock, if the person is not a member: an outsider must not hold a workspace up.

    The membership is to be read again in the next statement: this one's snapshot is from before the lock was had.
    """
    found = await tx.execute(LOCK_FOR_MEMBER, {"workspace_id": workspace_id, "user_id": user_id})
    return found.one_or_none() is not None
