"""Guests' memberships: pending while guest decides on the redemption, in force once it is confirmed (semantics 35).

They hold the role `member`, which says nothing while they are guests: capabilities.OF_GUESTS holds for every guest.
"""

from typing import Any

import uuid_utils
from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import InvalidRequest, NotFound
from services.membership import members

# A new redemption takes a pending member over: the old one, once abandoned, finds nothing to take away.
ADD = text("""
    INSERT INTO members (id, workspace_id, user_id, role, kind, state, redemption_id)
    SELECT CAST(:id AS uuid), w.id, CAST(:user_id AS uuid), 'member', 'guest', 'pending', CAST(:redemption_id AS uuid)
    FROM workspaces w WHERE w.id = :workspace_id
    ON CONFLICT (workspace_id, user_id) DO UPDATE SET redemption_id = excluded.redemption_id
    WHERE members.state = 'pending'
    RETURNING id, workspace_id, user_id, role, kind, state, joined_at
""")
CONFIRM = text("""
    UPDATE members SET state = 'active', joined_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND id = :member_id AND state = 'pending'
    RETURNING id, workspace_id, user_id, role, kind, state, joined_at
""")
ABANDON = text("""
    DELETE FROM members
    WHERE workspace_id = :workspace_id AND redemption_id = :redemption_id AND state = 'pending'
""")


async def add(tx: AsyncConnection, *, workspace_id: str, user_id: str, redemption_id: str) -> Row[Any]:
    """A pending member, or the membership that the person has already. Errors: NotFound; InvalidRequest."""
    row = {
        "id": str(uuid_utils.uuid7()),
        "workspace_id": workspace_id,
        "user_id": user_id,
        "redemption_id": redemption_id,
    }
    try:
        added = (await tx.execute(ADD, row)).one_or_none()
    except exc.IntegrityError as error:
        raise InvalidRequest(fields=[("redemption_id", "is another person's redemption")]) from error
    found = added or await members.find_active(tx, workspace_id=workspace_id, user_id=user_id)
    if found is None:
        raise NotFound
    return found


async def confirm(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> Row[Any] | None:
    """The member, in force from now on or already; None if the pending member was taken away."""
    named = {"workspace_id": workspace_id, "member_id": member_id}
    confirmed = (await tx.execute(CONFIRM, named)).one_or_none()
    return confirmed or (await tx.execute(members.ACTIVE_BY_ID, named)).one_or_none()


async def apply_redeemed(tx: AsyncConnection, payload: events.GuestRedeemed) -> None:
    """The net below ConfirmGuestMember. A member who is gone by now was removed after the redemption."""
    await confirm(tx, workspace_id=payload.workspace_id, member_id=payload.member_id)


async def apply_abandoned(tx: AsyncConnection, payload: events.GuestRedemptionAbandoned) -> None:
    """Takes the pending member away; whoever is in force by another way stays."""
    named = {"workspace_id": payload.workspace_id, "redemption_id": payload.redemption_id}
    await tx.execute(ABANDON, named)
