"""Workspaces: made together with their head and their first admin, and how they end."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import uuid_utils
from google.protobuf.duration_pb2 import Duration
from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import EtagMismatch, NotFound
from services.chassis.outbox import emit, enqueue
from services.membership import activities
from services.membership.activities import Activity
from services.membership.revisions import raise_access_revision

COLUMNS = "w.id, w.name, w.version, w.created_at, w.updated_at, w.archived_at, w.message_edit_window"

INSERT = text(f"""
    WITH w AS (
        INSERT INTO workspaces (id, name, created_by) VALUES (:id, :name, :created_by) RETURNING *
    ), head AS (
        INSERT INTO workspace_heads (workspace_id) SELECT id FROM w
    )
    SELECT {COLUMNS} FROM w
""")
GET = text(f"SELECT {COLUMNS} FROM workspaces w WHERE w.id = :id AND w.deleted_at IS NULL")
LIST = text(f"""
    SELECT {COLUMNS}, m.id AS member_id, m.kind
    FROM members m JOIN workspaces w ON w.id = m.workspace_id AND w.deleted_at IS NULL
    WHERE m.user_id = :user_id AND m.state = 'active' AND m.workspace_id > CAST(:after AS uuid)
    ORDER BY m.workspace_id LIMIT :size
""")
LIST_ARCHIVED = text(f"""
    SELECT {COLUMNS} FROM workspaces w
    WHERE w.archived_at IS NOT NULL AND w.deleted_at IS NULL AND w.id > CAST(:after AS uuid)
    ORDER BY w.id LIMIT :size
""")
# The window may become empty, so that what is not given cannot stand for what stays.
UPDATE = text(f"""
    UPDATE workspaces w
    SET name = coalesce(CAST(:name AS text), w.name),
        message_edit_window = CASE
            WHEN :sets_window THEN CAST(:message_edit_window AS interval) ELSE w.message_edit_window
        END,
        version = w.version + 1, updated_at = statement_timestamp()
    WHERE w.id = :id RETURNING {COLUMNS}
""")
# The row stays: its id is never used again, and the activity chain hangs on it.
DELETE = text("""
    UPDATE workspaces SET name = 'deleted', created_by = NULL, archived_at = NULL, version = version + 1,
        deleted_at = statement_timestamp(), updated_at = statement_timestamp()
    WHERE id = :id
""")

LOCK = text("SELECT id FROM workspaces WHERE id = :workspace_id AND deleted_at IS NULL FOR NO KEY UPDATE")
LOCK_FOR_MEMBER = text("""
    SELECT w.id FROM workspaces w
    WHERE w.id = :workspace_id AND w.deleted_at IS NULL AND EXISTS (
        SELECT FROM members m WHERE m.workspace_id = w.id AND m.user_id = :user_id AND m.state = 'active'
    )
    FOR NO KEY UPDATE OF w
""")
FIRST = "00000000-0000-0000-0000-000000000000"
PURGE = "workspace.purge"


async def create(tx: AsyncConnection, *, name: str, created_by: str) -> Row[Any]:
    """A new workspace, without members."""
    row = {"id": str(uuid_utils.uuid7()), "name": name, "created_by": created_by}
    return (await tx.execute(INSERT, row)).one()


async def get(tx: AsyncConnection, workspace_id: str) -> Row[Any]:
    """A workspace. Errors: NotFound."""
    found = (await tx.execute(GET, {"id": workspace_id})).one_or_none()
    if found is None:
        raise NotFound
    return found


async def list_page(tx: AsyncConnection, *, user_id: str, after: str | None, size: int) -> Sequence[Row[Any]]:
    """The workspaces that somebody is a member of, after a workspace id, and as whom."""
    page = {"user_id": user_id, "after": after or FIRST, "size": size}
    return (await tx.execute(LIST, page)).all()


async def list_archived(tx: AsyncConnection, *, after: str | None, size: int) -> Sequence[Row[Any]]:
    """The workspaces that nobody was left to run, after a workspace id."""
    return (await tx.execute(LIST_ARCHIVED, {"after": after or FIRST, "size": size})).all()


async def update(tx: AsyncConnection, workspace_id: str, *, changes: Mapping[str, Any], etag: str) -> Row[Any]:
    """Changes name or message_edit_window, as far as they are in `changes`; a window of None ends the limit.

    No access revision is raised: messaging asks for the window at each edit. The workspace is locked.
    Errors: EtagMismatch.
    """
    before = await get(tx, workspace_id)
    require_etag(before, etag)
    fields = {"name": None, "message_edit_window": None, **changes}
    row = {**fields, "id": workspace_id, "sets_window": "message_edit_window" in changes}
    after = (await tx.execute(UPDATE, row)).one()
    told = {"before": _told(before, changes), "after": _told(after, changes)}
    await activities.record(tx, workspace_id, [Activity("workspace.updated", "workspace", workspace_id, metadata=told)])
    return after


def _told(row: Row[Any], fields: Iterable[str]) -> dict[str, Any]:
    """What the log says of a workspace: a span as "90s", None for no limit."""
    told = {name: getattr(row, name) for name in fields}
    if told.get("message_edit_window") is not None:
        span = Duration()
        span.FromTimedelta(told["message_edit_window"])
        told["message_edit_window"] = span.ToJsonString()
    return told


async def delete(tx: AsyncConnection, workspace_id: str, *, etag: str) -> None:
    """Ends a workspace for everybody, at once; what it held goes later. It is locked. Errors: EtagMismatch."""
    before = await get(tx, workspace_id)
    require_etag(before, etag)
    await tx.execute(DELETE, {"id": workspace_id})
    ended = events.Event(workspace_deleted=events.WorkspaceDeleted(workspace_id=workspace_id))
    await emit(tx, ["guest", "messaging"], ended)
    await enqueue(tx, PURGE, workspace_id)
    await activities.record(tx, workspace_id, [Activity("workspace.deleted", "workspace", workspace_id)])
    await raise_access_revision(tx, workspace_id, "workspace_deleted")


async def lock(tx: AsyncConnection, workspace_id: str) -> None:
    """Takes the first lock of every change of who belongs to a workspace, or of what they may do there.

    Errors: NotFound, for a workspace that does not exist or was deleted.
    """
    if (await tx.execute(LOCK, {"workspace_id": workspace_id})).one_or_none() is None:
        raise NotFound


async def lock_for_member(tx: AsyncConnection, *, workspace_id: str, user_id: str) -> bool:
    """The same, but False, without a lock, if the person is not a member: an outsider must not hold a workspace up.

    The membership is to be read again in the next statement: this one's snapshot is from before the lock was had.
    """
    found = await tx.execute(LOCK_FOR_MEMBER, {"workspace_id": workspace_id, "user_id": user_id})
    return found.one_or_none() is not None


def require_etag(row: Row[Any], etag: str) -> None:
    """EtagMismatch if an etag is given, and the row, which is locked or of a locked workspace, has changed since."""
    if etag and etag != str(row.version):
        raise EtagMismatch
