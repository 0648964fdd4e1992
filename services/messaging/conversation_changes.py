"""Changes of a conversation itself: name, topic, visibility, retention, archiving."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import EtagMismatch, PermissionDenied
from services.messaging import activities
from services.messaging.access import Viewer
from services.messaging.changes import Happened, number
from services.messaging.conversations import get
from services.messaging.errors import ConversationKind

UPDATE = text("""
    UPDATE conversations
    SET name = coalesce(:name, name), topic = coalesce(:topic, topic), visibility = coalesce(:visibility, visibility),
        retention_seconds =
            CASE WHEN :sets_retention THEN CAST(:retention_seconds AS bigint) ELSE retention_seconds END,
        version = version + 1
    WHERE workspace_id = :workspace_id AND id = :conversation_id
""")
ARCHIVE = text("""
    UPDATE conversations
    SET archived_at = CASE WHEN :archive THEN statement_timestamp() END, version = version + 1
    WHERE workspace_id = :workspace_id AND id = :conversation_id
""")


@dataclass(frozen=True, slots=True)
class Update:
    """What is to change; None leaves a text as it is."""

    name: str | None = None
    topic: str | None = None
    visibility: str | None = None
    sets_retention: bool = False
    retention_seconds: int | None = None


def require_changeable(conversation: Row[Any], viewer: Viewer) -> None:
    """ConversationKind for a direct conversation, which is nobody's more than the other's; PermissionDenied.

    A channel is for who made it and who manages conversations, a group's for who manages the group.
    """
    if conversation.kind == "direct":
        raise ConversationKind
    made_it = conversation.kind == "channel" and conversation.created_by_member_id == viewer.member_id
    if not viewer.manages and not made_it:
        raise PermissionDenied


def require_etag(etag: str, conversation: Row[Any]) -> None:
    """EtagMismatch if an etag was given and is not the present one (AIP-154)."""
    if etag and etag != str(conversation.version):
        raise EtagMismatch


async def update(tx: AsyncConnection, conversation: Row[Any], change: Update, *, paths: Collection[str]) -> Row[Any]:
    """Changes a locked conversation. Errors: ConversationKind for the visibility of a group's.

    A channel made private is out of sight for every full member who takes no part in it. Guests lose nothing, since
    theirs hangs on the grant whatever the visibility is: so membership's access revision, which is raised for what
    guests lose, is left alone here, and likewise by archiving, after which everything can still be read.
    """
    if change.visibility is not None and conversation.kind != "channel":
        raise ConversationKind
    parameters = {name: getattr(change, name) for name in Update.__slots__}
    await tx.execute(UPDATE, {**parameters, **_named(conversation)})
    await _number_updated(tx, conversation, takes_sight=change.visibility == "private" != conversation.visibility)
    changed = await get(tx, **_named(conversation))
    before, after = _told(conversation), {**_told(changed), "changed": sorted(paths)}
    await activities.record(tx, conversation, "conversation.updated", before=before, after=after)
    return changed


async def archive(tx: AsyncConnection, conversation: Row[Any], *, archive: bool) -> Row[Any]:
    """Archives a locked conversation, or takes it back; nothing happens if it is so already."""
    if archive != (conversation.archived_at is not None):
        await tx.execute(ARCHIVE, {"archive": archive, **_named(conversation)})
        await _number_updated(tx, conversation)
        action = "conversation.archived" if archive else "conversation.unarchived"
        await activities.record(tx, conversation, action)
    return await get(tx, **_named(conversation))


async def _number_updated(tx: AsyncConnection, conversation: Row[Any], *, takes_sight: bool = False) -> None:
    updated = Happened("conversation_updated")
    await number(tx, **_named(conversation), happened=[updated], takes_sight=takes_sight)


def _told(conversation: Row[Any]) -> dict[str, Any]:
    return {"visibility": conversation.visibility, "retention_seconds": conversation.retention_seconds or 0}


def _named(conversation: Row[Any]) -> dict[str, str]:
    return {"workspace_id": conversation.workspace_id, "conversation_id": conversation.id}
