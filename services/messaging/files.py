"""Files: the rows behind them, who sees which, and what goes when one is deleted.

Locks are taken in this order: the conversation, its files, the workspace's storage.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import uuid_utils
from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import LimitReached, NotFound, PermissionDenied
from services.chassis.outbox import enqueue
from services.messaging.access import VISIBLE, Viewer, in_history
from services.messaging.changes import IS_VISIBLE, Happened, number
from services.messaging.errors import ConversationArchived

REMOVE_BLOBS = "file.remove_blobs"
RELEASE = "files.release"
LATE_SECONDS = 60
"""Longer than any call lasts: what was let in before a member was removed has been announced by then."""
MOST_UNATTACHED = 1000
"""Of one member, or a thousand million files of one byte would fit in a workspace's storage."""
LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"

FILE = """
    CAST(f.id AS text) AS id, CAST(f.workspace_id AS text) AS workspace_id,
    CAST(f.conversation_id AS text) AS conversation_id, CAST(f.message_id AS text) AS message_id,
    CAST(f.uploader_member_id AS text) AS uploader_member_id, CAST(f.uploader_user_id AS text) AS uploader_user_id,
    f.name, f.mime_type, f.size_bytes, f.sha256, f.header, f.state, f.received_bytes,
    f.created_at, f.completed_at, f.attached_at
"""
SEEN_IF = f"""(
    f.workspace_id = :workspace_id AND c.id = f.conversation_id AND {VISIBLE}
    AND CASE WHEN f.message_id IS NULL THEN %s
        ELSE {in_history("f.attached_at")} AND (
            c.retention_seconds IS NULL
            OR f.attached_at > statement_timestamp() - make_interval(secs => c.retention_seconds)
        ) END
)"""
# Room that an upload takes up is everybody's: who moderates may give it back.
SEEN_TO_DELETE = SEEN_IF % "f.uploader_member_id = :member_id OR :moderates"
SEEN = SEEN_IF % "f.uploader_member_id = :member_id"
"""Whether a viewer sees the file `f` of the conversation `c`: one's own, or a message's that is still to be seen.

Takes what `Viewer.parameters` gives.
"""

RESERVE = text("""
    INSERT INTO workspace_storage AS s (workspace_id, bytes) SELECT :workspace_id, :size_bytes
    WHERE :size_bytes <= :most
    ON CONFLICT (workspace_id) DO UPDATE SET bytes = s.bytes + excluded.bytes
    WHERE s.bytes + excluded.bytes <= :most
""")
COUNT_UNATTACHED = text("""
    SELECT count(*) AS number, coalesce(sum(size_bytes), 0) AS bytes FROM files
    WHERE workspace_id = :workspace_id AND uploader_member_id = :member_id AND message_id IS NULL
""")
CREATE = text(f"""
    INSERT INTO files AS f (
        id, workspace_id, conversation_id, uploader_member_id, uploader_user_id, name, mime_type, size_bytes, sha256,
        header
    )
    SELECT :id, c.workspace_id, c.id, :member_id, :user_id, :name, :mime_type, :size_bytes, :sha256, :header
    FROM conversations c WHERE c.id = :conversation_id AND {VISIBLE} AND c.archived_at IS NULL
    RETURNING {FILE}
""")
FIND_CONVERSATION = text("""
    SELECT CAST(conversation_id AS text) FROM files WHERE workspace_id = :workspace_id AND id = :file_id
""")
GET = text(f"SELECT {FILE} FROM files f, conversations c WHERE f.id = :file_id AND {SEEN}")
IS_SEEN_TO_DELETE = text(f"""
    SELECT EXISTS (SELECT FROM files f, conversations c WHERE f.id = :file_id AND {SEEN_TO_DELETE})
""")
LIST = f"""
    SELECT {FILE} FROM files f, conversations c
    WHERE f.conversation_id = :conversation_id AND f.id < :before AND {SEEN} %s
    ORDER BY f.id DESC LIMIT :limit
"""
LIST_OF_CONVERSATION = text(LIST % "")
LIST_OF_MESSAGE = text(LIST % "AND f.message_id = :message_id")
LIST_UNATTACHED = text(f"""
    SELECT {FILE} FROM files f, conversations c
    WHERE f.conversation_id = :conversation_id AND f.id < :before AND f.message_id IS NULL AND {SEEN_TO_DELETE}
    ORDER BY f.id DESC LIMIT :limit
""")


def _delete(which: str) -> TextClause:
    """Deletes the files that a query names by workspace and id, and gives back the room that they took."""
    return text(f"""
        WITH chosen AS MATERIALIZED ({which}), gone AS (
            DELETE FROM files f USING chosen WHERE f.workspace_id = chosen.workspace_id AND f.id = chosen.id
            RETURNING f.id, f.workspace_id, f.message_id, f.size_bytes
        ), freed AS (
            UPDATE workspace_storage s SET bytes = s.bytes - g.bytes
            FROM (SELECT workspace_id, CAST(sum(size_bytes) AS bigint) AS bytes FROM gone GROUP BY workspace_id) g
            WHERE s.workspace_id = g.workspace_id
        )
        SELECT CAST(id AS text) AS id, CAST(message_id AS text) AS message_id FROM gone
    """)


# The rows are locked before they are deleted: a condition is then looked at again once a lock was waited for.
DELETE_ONE = _delete(f"""
    SELECT f.workspace_id, f.id FROM files f, conversations c
    WHERE f.id = :file_id AND {SEEN_TO_DELETE} AND (f.uploader_member_id = :member_id OR :moderates) FOR UPDATE OF f
""")
DELETE_UNFINISHED = _delete("""
    SELECT workspace_id, id FROM files
    WHERE workspace_id = :workspace_id AND id = :file_id AND state = 'uploading' FOR UPDATE
""")
DELETE_OF_MESSAGES = _delete("""
    SELECT workspace_id, id FROM files
    WHERE workspace_id = :workspace_id AND conversation_id = :conversation_id
        AND message_id = ANY(CAST(:message_ids AS uuid[])) FOR UPDATE
""")
DELETE_OF_CONVERSATION = _delete("""
    SELECT workspace_id, id FROM files
    WHERE workspace_id = :workspace_id AND conversation_id = :conversation_id ORDER BY id LIMIT :most FOR UPDATE
""")
DELETE_EXPIRED = _delete("""
    SELECT workspace_id, id FROM files
    WHERE message_id IS NULL AND created_at <= statement_timestamp() - interval '24 hours'
    ORDER BY created_at LIMIT :most FOR UPDATE SKIP LOCKED
""")
DELETE_UNATTACHED_OF_MEMBER = _delete("""
    SELECT workspace_id, id FROM files WHERE uploader_member_id = :member_id AND message_id IS NULL
    LIMIT :most FOR UPDATE SKIP LOCKED
""")
COUNT_DOWN = text("""
    UPDATE messages SET file_count = file_count - 1
    WHERE conversation_id = :conversation_id AND id = :message_id AND file_count > 0
""")
FORGET_STORAGE = text("DELETE FROM workspace_storage WHERE workspace_id = :workspace_id AND bytes = 0")


async def create(
    tx: AsyncConnection,
    *,
    uploader: Viewer,
    conversation_id: str,
    values: Mapping[str, object],
    most_bytes: int,
    most_unattached_bytes: int,
) -> Row[Any]:
    """Announces a file and reserves room for it. CONVERSATION_ARCHIVED, LIMIT_REACHED.

    `most_bytes` is what there is for the workspace, `most_unattached_bytes` what one member may have of it before a
    message holds it: announcing costs nothing, so one member could keep it all from the others.
    That the uploader sees the conversation is known before; NOT_FOUND if that has changed since.
    """
    parameters = {**uploader.parameters, **values, "user_id": uploader.user_id, "conversation_id": conversation_id}
    row = (await tx.execute(CREATE, {**parameters, "id": str(uuid_utils.uuid7())})).one_or_none()
    if row is None:
        seen = await tx.execute(IS_VISIBLE, parameters)
        raise NotFound if seen.one_or_none() is None else ConversationArchived
    # Last: every upload of the workspace waits for this row's lock. It also makes the count below exact.
    reserved = await tx.execute(
        RESERVE, {"workspace_id": row.workspace_id, "size_bytes": row.size_bytes, "most": most_bytes}
    )
    if reserved.rowcount == 0:
        raise LimitReached("storage", most=most_bytes)
    counted = {"workspace_id": row.workspace_id, "member_id": uploader.member_id}
    unattached = (await tx.execute(COUNT_UNATTACHED, counted)).one()
    if unattached.number > MOST_UNATTACHED:
        raise LimitReached("unattached_files", most=MOST_UNATTACHED)
    if unattached.bytes > most_unattached_bytes:
        raise LimitReached("unattached_bytes", most=most_unattached_bytes)
    return row


async def find_conversation(tx: AsyncConnection, *, workspace_id: str, file_id: str) -> str | None:
    """The conversation that a file is in, whoever sees it."""
    found = await tx.scalar(FIND_CONVERSATION, {"workspace_id": workspace_id, "file_id": file_id})
    return None if found is None else str(found)


async def find(tx: AsyncConnection, *, viewer: Viewer, file_id: str) -> Row[Any] | None:
    """A file that the viewer sees."""
    return (await tx.execute(GET, {**viewer.parameters, "file_id": file_id})).one_or_none()


async def is_seen_to_delete(tx: AsyncConnection, *, viewer: Viewer, file_id: str) -> bool:
    """Whether a deleter sees a file; as a moderator also others' that no message holds."""
    parameters = {**viewer.parameters, "file_id": file_id, "moderates": viewer.moderates}
    return bool(await tx.scalar(IS_SEEN_TO_DELETE, parameters))


async def list_unattached(
    tx: AsyncConnection, *, viewer: Viewer, conversation_id: str, moderates: bool, before: str, limit: int
) -> Sequence[Row[Any]]:
    """The files of a conversation that no message holds, newest first: one's own, or as a moderator everybody's."""
    page = {"conversation_id": conversation_id, "moderates": moderates, "before": before, "limit": limit}
    return (await tx.execute(LIST_UNATTACHED, {**viewer.parameters, **page})).all()


async def list_files(
    tx: AsyncConnection, *, viewer: Viewer, conversation_id: str, message_id: str, before: str, limit: int
) -> Sequence[Row[Any]]:
    """The files of a conversation that the viewer sees, newest first; with a message, only those that it holds."""
    parameters = {**viewer.parameters, "conversation_id": conversation_id, "before": before, "limit": limit}
    if message_id:
        return (await tx.execute(LIST_OF_MESSAGE, {**parameters, "message_id": message_id})).all()
    return (await tx.execute(LIST_OF_CONVERSATION, parameters)).all()


async def delete(tx: AsyncConnection, *, viewer: Viewer, conversation_id: str, file_id: str, moderates: bool) -> None:
    """Deletes one's own file, or as a moderator any of a conversation that is seen. Under the conversation's lock.

    NOT_FOUND, PERMISSION_DENIED for a file that is only seen.
    """
    deleted = await _deleted(tx, DELETE_ONE, {**viewer.parameters, "file_id": file_id, "moderates": moderates})
    if not deleted:
        raise NotFound if await find(tx, viewer=viewer, file_id=file_id) is None else PermissionDenied
    message_id = deleted[0].message_id
    if message_id is None:
        return
    await tx.execute(COUNT_DOWN, {"conversation_id": conversation_id, "message_id": message_id})
    happened = [Happened("file_deleted", message_id=message_id, file_id=file_id)]
    await number(tx, workspace_id=viewer.workspace_id, conversation_id=conversation_id, happened=happened)


async def delete_unfinished(tx: AsyncConnection, *, workspace_id: str, file_id: str) -> None:
    """Deletes an upload that cannot become what was announced; never a file that is ready."""
    await _deleted(tx, DELETE_UNFINISHED, {"workspace_id": workspace_id, "file_id": file_id})


async def delete_of_messages(
    tx: AsyncConnection, *, workspace_id: str, conversation_id: str, message_ids: Sequence[str]
) -> list[str]:
    """Deletes the files that messages hold, and returns their ids. To be called under the conversation's lock."""
    parameters = {"workspace_id": workspace_id, "conversation_id": conversation_id, "message_ids": list(message_ids)}
    return [row.id for row in await _deleted(tx, DELETE_OF_MESSAGES, parameters)]


async def delete_of_conversation(tx: AsyncConnection, *, workspace_id: str, conversation_id: str, most: int) -> int:
    """Deletes some files of a conversation that is to go, attached or not; returns how many."""
    parameters = {"workspace_id": workspace_id, "conversation_id": conversation_id, "most": most}
    return len(await _deleted(tx, DELETE_OF_CONVERSATION, parameters))


async def delete_expired(tx: AsyncConnection, *, most: int) -> int:
    """Deletes what no message took up within 24 hours of its announcement; returns how many."""
    return len(await _deleted(tx, DELETE_EXPIRED, {"most": most}))


async def member_removed(tx: AsyncConnection, removed: events.MemberRemoved) -> None:
    """Has the worker give back what a member took up and no message holds, and what was just being announced."""
    await enqueue(tx, RELEASE, removed.member_id)
    await enqueue(tx, RELEASE, removed.member_id, delay_seconds=LATE_SECONDS)


async def delete_unattached_of_member(tx: AsyncConnection, *, member_id: str, most: int) -> int:
    """Deletes what a member announced and no message took up; returns how many."""
    return len(await _deleted(tx, DELETE_UNATTACHED_OF_MEMBER, {"member_id": member_id, "most": most}))


async def forget_storage(tx: AsyncConnection, *, workspace_id: str) -> None:
    """Forgets the count of a deleted workspace, once it holds no file any more."""
    await tx.execute(FORGET_STORAGE, {"workspace_id": workspace_id})


async def _deleted(tx: AsyncConnection, statement: TextClause, parameters: Mapping[str, object]) -> Sequence[Row[Any]]:
    """Deletes, and has the worker remove the bytes after the transaction."""
    deleted = (await tx.execute(statement, parameters)).all()
    for row in deleted:
        await enqueue(tx, REMOVE_BLOBS, row.id)
    return deleted
