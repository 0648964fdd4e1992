"""Direct conversations: one for each set of members, whoever opens it first."""

import hashlib
import uuid
from collections.abc import Collection, Sequence
from typing import Any

import uuid_utils
from guildhall.membership.v1 import member_service_pb2 as members
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound
from services.messaging import activities, limits
from services.messaging.access import Viewer
from services.messaging.conversations import CONVERSATION

A_DAY = "direct_conversations_a_day"
CREATE = text("""
    INSERT INTO conversations (id, workspace_id, kind, name, visibility, direct_key, created_by_member_id)
    VALUES (:id, :workspace_id, 'direct', '', 'private', :direct_key, :member_id)
    ON CONFLICT ON CONSTRAINT conversations_direct_key DO NOTHING
""")
# In a statement of its own: who opened it at the same moment committed after the first one's snapshot.
FIND = text(f"""
    SELECT {CONVERSATION} FROM conversations c WHERE c.workspace_id = :workspace_id AND c.direct_key = :direct_key
""")
SHARING = text("""
    SELECT count(DISTINCT p.member_id) FROM participants p
    WHERE p.workspace_id = :workspace_id AND p.member_id = ANY(CAST(:member_ids AS uuid[]))
        AND p.conversation_id = ANY(CAST(:granted AS uuid[]))
""")
TAKE_PART = text("""
    INSERT INTO participants (conversation_id, member_id, user_id, workspace_id)
    SELECT :id, people.member_id, people.user_id, :workspace_id
    FROM unnest(CAST(:member_ids AS uuid[]), CAST(:user_ids AS uuid[])) AS people (member_id, user_id)
""")


def direct_key(member_ids: Collection[str]) -> bytes:
    """What stands for a set of members: SHA-256 of their ids, sorted."""
    return hashlib.sha256(b"".join(sorted(uuid.UUID(each).bytes for each in set(member_ids)))).digest()


def require_reachable(found: Sequence[members.Member], member_ids: Collection[str]) -> str:
    """NotFound unless every one is an active member, and at most one of them a guest, whose member id is returned."""
    active = {member.member_id for member in found if member.state == members.MEMBER_STATE_ACTIVE}
    guest_ids = [member.member_id for member in found if member.kind != members.MEMBER_KIND_FULL]
    # Two guests never have one: they share channels, not conversations.
    if not active >= set(member_ids) or len(guest_ids) > 1:
        raise NotFound
    return guest_ids[0] if guest_ids else ""


async def require_shared(
    tx: AsyncConnection,
    opener: Viewer,
    *,
    others: Sequence[members.Member],
    guest_id: str,
    granted: Collection[str],
) -> None:
    """NotFound unless everybody takes part in a channel of the guest's: the guest would not see it otherwise."""
    full = {member.member_id for member in others} - {guest_id} | {opener.member_id}
    named = {"workspace_id": opener.workspace_id, "member_ids": list(full), "granted": list(granted)}
    if await tx.scalar(SHARING, named) != len(full):
        raise NotFound


async def open_one(tx: AsyncConnection, opener: Viewer, *, others: Sequence[members.Member]) -> Row[Any]:
    """The conversation of the opener with the others, of whom one may be a guest; made if there is none.

    Errors: LimitReached: whoever is named has it in front of them, asked or not.
    """
    people = {member.member_id: member.user_id for member in others} | {opener.member_id: opener.user_id}
    named = {"workspace_id": opener.workspace_id, "direct_key": direct_key(people)}
    present = (await tx.execute(FIND, named)).one_or_none()
    if present is not None:
        return present
    await limits.take_turns(tx, A_DAY, opener.member_id)
    await limits.require(tx, A_DAY, workspace_id=opener.workspace_id, scope_id=opener.member_id)
    made = await tx.execute(CREATE, {**named, "id": str(uuid_utils.uuid7()), "member_id": opener.member_id})
    conversation = (await tx.execute(FIND, named)).one()
    if made.rowcount:
        columns = {"member_ids": list(people), "user_ids": list(people.values())}
        await tx.execute(TAKE_PART, {"id": conversation.id, "workspace_id": opener.workspace_id, **columns})
        await activities.record(tx, conversation, "conversation.created", after={"kind": "direct"})
    return conversation
