"""Changing a message: its edit and its deletion, under the conversation's lock."""

from dataclasses import dataclass
from typing import Any

from guildhall.messaging.v1 import message_service_pb2 as pb
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import EtagMismatch, NotFound, PermissionDenied
from services.messaging import tombstones, wire
from services.messaging.access import IN_HISTORY, Viewer
from services.messaging.bodies import mentioned
from services.messaging.changes import Happened, number
from services.messaging.errors import ConversationArchived, EditWindowOver, MessageDeleted
from services.messaging.messages import KEPT

# In a statement after the lock, so that the time of an edit is that of its effect.
FIND = text(f"""
    SELECT CAST(m.sender_member_id AS text) AS sender_member_id, m.version, m.deleted_at,
        CAST(:window_seconds AS float8) IS NULL
            OR statement_timestamp() < m.created_at + make_interval(secs => CAST(:window_seconds AS float8)) AS in_time
    FROM conversations c JOIN messages m ON m.conversation_id = c.id
    WHERE c.id = :conversation_id AND c.workspace_id = :workspace_id AND m.id = :message_id AND {KEPT}
        AND {IN_HISTORY}
""")
EDIT = text("""
    WITH old AS (
        SELECT * FROM messages
        WHERE conversation_id = :conversation_id AND id = :message_id AND (
            text, ciphertext, scheme, header, mentioned_member_ids, mentioned_user_group_ids, mentions_everyone
        ) IS DISTINCT FROM (
            CAST(:text AS text), CAST(:ciphertext AS bytea), CAST(:scheme AS text), CAST(:header AS bytea),
            CAST(:member_ids AS uuid[]), CAST(:user_group_ids AS uuid[]), CAST(:everyone AS boolean)
        )
    ), kept AS (
        INSERT INTO message_revisions (
            conversation_id, message_id, version, text, ciphertext, scheme, header, created_at
        )
        SELECT conversation_id, id, version, text, ciphertext, scheme, header, coalesce(edited_at, created_at) FROM old
    )
    UPDATE messages m
    SET text = :text, ciphertext = :ciphertext, scheme = :scheme, header = :header,
        mentioned_member_ids = CAST(:member_ids AS uuid[]),
        mentioned_user_group_ids = CAST(:user_group_ids AS uuid[]), mentions_everyone = :everyone,
        version = m.version + 1, edited_at = statement_timestamp()
    FROM old WHERE m.conversation_id = old.conversation_id AND m.id = old.id
""")


@dataclass(frozen=True, slots=True)
class Target:
    """The message that is to be changed."""

    workspace_id: str
    conversation_id: str
    message_id: str
    etag: str
    """As the caller knows it; empty to change it whatever it says by now."""


async def edit(
    tx: AsyncConnection, *, editor: Viewer, locked: Row[Any], target: Target, request: pb.EditMessageRequest
) -> None:
    """Replaces what a message says. What changes nothing leaves no revision and sends no event.

    NOT_FOUND, PERMISSION_DENIED, CONVERSATION_ARCHIVED, MESSAGE_DELETED, EDIT_WINDOW_OVER, ETAG_MISMATCH.
    """
    found = await _find(tx, target, editor)
    # Not by the person: who was removed and came back starts with nothing.
    if found.sender_member_id != editor.member_id:
        raise PermissionDenied
    if locked.archived_at is not None:
        raise ConversationArchived
    if found.deleted_at is not None:
        raise MessageDeleted
    if not found.in_time:
        raise EditWindowOver
    _require_etag(found, target)
    edited = await tx.execute(EDIT, {**_place(target), **_body(request)})
    if edited.rowcount:
        happened = [Happened("message_edited", message_id=target.message_id)]
        await number(tx, workspace_id=target.workspace_id, conversation_id=target.conversation_id, happened=happened)


async def delete(tx: AsyncConnection, *, deleter: Viewer, target: Target) -> list[str]:
    """Makes a message its tombstone; does nothing if it is one. Returns the ids of the files that went with it.

    NOT_FOUND, PERMISSION_DENIED, ETAG_MISMATCH.
    """
    found = await _find(tx, target, deleter)
    if found.sender_member_id != deleter.member_id and not deleter.moderates:
        raise PermissionDenied
    if found.deleted_at is not None:
        return []
    _require_etag(found, target)
    place = {"workspace_id": target.workspace_id, "conversation_id": target.conversation_id}
    return await tombstones.bury(tx, **place, message_ids=[target.message_id])


async def _find(tx: AsyncConnection, target: Target, viewer: Viewer) -> Row[Any]:
    window = viewer.edit_window
    parameters = {
        **viewer.parameters,
        **_place(target),
        "workspace_id": target.workspace_id,
        "window_seconds": None if window is None else window.total_seconds(),
    }
    found = (await tx.execute(FIND, parameters)).one_or_none()
    if found is None:
        raise NotFound
    return found


def _require_etag(found: Row[Any], target: Target) -> None:
    if target.etag and target.etag != wire.etag(found.version):
        raise EtagMismatch


def _place(target: Target) -> dict[str, object]:
    return {"conversation_id": target.conversation_id, "message_id": target.message_id}


def _body(request: pb.EditMessageRequest) -> dict[str, object]:
    """As a message that is sent has it, so that the same body is found to be the same."""
    member_ids, user_group_ids = mentioned(request.mentions)
    encrypted = request.encrypted if request.HasField("encrypted") else None
    return {
        "text": request.text or None,
        "ciphertext": encrypted.ciphertext if encrypted else None,
        "scheme": encrypted.scheme if encrypted else None,
        "header": encrypted.header if encrypted else None,
        "member_ids": member_ids,
        "user_group_ids": user_group_ids,
        "everyone": request.mentions.everyone,
    }
