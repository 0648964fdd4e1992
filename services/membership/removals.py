"""Removals: how somebody's stay in a workspace ends (semantics 11, 12, 36)."""

from typing import Any

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound, PermissionDenied
from services.chassis.outbox import emit
from services.membership import invitations, members
from services.membership.capabilities import may_act_on
from services.membership.errors import LastAdmin
from services.membership.revisions import raise_access_revision

COUNT_OTHER_ADMINS = text("""
    SELECT count(*) FROM members
    WHERE workspace_id = :workspace_id AND role = 'admin' AND kind = 'full' AND state = 'active' AND id <> :member_id
""")
DELETE = text("DELETE FROM members WHERE workspace_id = :workspace_id AND id = :member_id")


async def remove(tx: AsyncConnection, actor: Row[Any], *, member_id: str) -> None:
    """Ends a membership, and with it the invitations they sent. The workspace is locked, `actor` may remove members.

    Errors: NotFound; PermissionDenied for oneself or somebody of higher rank; LastAdmin.
    """
    workspace_id = str(actor.workspace_id)
    named = {"workspace_id": workspace_id, "member_id": member_id}
    target = (await tx.execute(members.ACTIVE_BY_ID, named)).one_or_none()
    if target is None:
        raise NotFound
    if target.id == actor.id:
        raise PermissionDenied("You cannot remove yourself.")
    if not may_act_on(actor, target):
        raise PermissionDenied
    await require_another_admin(tx, target)
    await end_stay(tx, target)


async def end_stay(tx: AsyncConnection, target: Row[Any]) -> None:
    """Takes a member away, with the invitations that they sent, and has it told. The workspace is locked."""
    workspace_id = str(target.workspace_id)
    await invitations.revoke_of_inviter(tx, workspace_id=workspace_id, member_id=str(target.id))
    await tx.execute(DELETE, {"workspace_id": workspace_id, "member_id": target.id})
    ended = events.MemberRemoved(workspace_id=workspace_id, member_id=str(target.id), user_id=str(target.user_id))
    await emit(tx, ["guest", "messaging"], events.Event(member_removed=ended))
    await raise_access_revision(tx, workspace_id)


async def require_another_admin(tx: AsyncConnection, target: Row[Any]) -> None:
    """LastAdmin if nobody could run the workspace without this member. The count is true only with the lock held.

    Whoever removes somebody else is an admin who stays; the count does not rely on it, for the paths that share it.
    """
    if target.role != "admin":
        return
    if not await tx.scalar(COUNT_OTHER_ADMINS, {"workspace_id": target.workspace_id, "member_id": target.id}):
        raise LastAdmin
