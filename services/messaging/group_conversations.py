"""Conversations of a group's people: made by who manages the group, and marked to be read anew when it changes.

Who takes part is written down by group_syncs; who may see it, and when, is membership's to say at each access.
"""

from collections.abc import Sequence
from typing import Any

import uuid_utils
from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.outbox import enqueue
from services.messaging import activities, limits
from services.messaging.access import Viewer
from services.messaging.conversations import CONVERSATION, JOIN
from services.messaging.purges import PURGE_GROUP

CREATE = text(f"""
    INSERT INTO conversations AS c (
        id, workspace_id, kind, name, topic, visibility, group_id, retention_seconds, created_by_member_id
    )
    VALUES (:id, :workspace_id, 'group', :name, :topic, 'private', :group_id, :retention_seconds, :member_id)
    RETURNING {CONVERSATION}
""")
# In the order of the groups, so that two of these do not wait for each other.
MARK = text("""
    INSERT INTO group_syncs AS s (group_id, workspace_id)
    SELECT told.group_id, :workspace_id
    FROM (SELECT DISTINCT group_id FROM unnest(CAST(:group_ids AS uuid[])) AS u (group_id)) told
    WHERE EXISTS (
        SELECT FROM conversations c WHERE c.workspace_id = :workspace_id AND c.group_id = told.group_id
    )
    ORDER BY told.group_id
    ON CONFLICT (group_id) DO UPDATE SET generation = s.generation + 1, due_at = statement_timestamp()
""")
WITH_CONVERSATIONS = text("""
    SELECT CAST(s.group_id AS text) FROM group_syncs s
    WHERE s.workspace_id = :workspace_id AND s.group_id = ANY(CAST(:group_ids AS uuid[])) ORDER BY s.group_id
""")


async def create(
    tx: AsyncConnection, *, creator: Viewer, group_id: str, name: str, topic: str, retention_seconds: int | None
) -> Row[Any]:
    """Makes one, has the group read, and lets the creator take part at once if they are in it. Errors: LimitReached."""
    workspace_id = creator.workspace_id
    await limits.take_turns(tx, "group_conversations", group_id)
    await limits.require(tx, "group_conversations", workspace_id=workspace_id, scope_id=group_id)
    row = {"id": str(uuid_utils.uuid7()), "workspace_id": workspace_id, "member_id": creator.member_id}
    values = {"name": name, "topic": topic, "group_id": group_id, "retention_seconds": retention_seconds}
    made = (await tx.execute(CREATE, {**row, **values})).one()
    if group_id in creator.groups:
        await tx.execute(JOIN, {**row, "user_id": creator.user_id})
    await _mark(tx, workspace_id, [group_id])
    await activities.record(tx, made, "conversation.created", after={"kind": "group"})
    return made


async def membership_changed(tx: AsyncConnection, changed: events.GroupMembershipChanged) -> None:
    """Has the groups read anew (group.membership_changed). Nothing else: what the event saw may be old by now."""
    await _mark(tx, changed.workspace_id, changed.group_ids)


async def group_deleted(tx: AsyncConnection, deleted: events.GroupDeleted) -> None:
    """Has the worker remove the groups' conversations (group.deleted). From now on nobody is in the groups anyway."""
    named = {"workspace_id": deleted.workspace_id, "group_ids": list(deleted.group_ids)}
    for group_id in (await tx.scalars(WITH_CONVERSATIONS, named)).all():
        await enqueue(tx, PURGE_GROUP, group_id)


async def _mark(tx: AsyncConnection, workspace_id: str, group_ids: Sequence[str]) -> None:
    await tx.execute(MARK, {"workspace_id": workspace_id, "group_ids": list(group_ids)})
