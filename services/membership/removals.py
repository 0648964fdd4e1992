"""Removals: how somebody's stay in a workspace ends."""

from collections.abc import Sequence
from typing import Any

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.outbox import emit
from services.membership import activities, continuity, handles, invitations, members, openings
from services.membership.activities import Activity
from services.membership.revisions import raise_access_revision

DELETE = text("DELETE FROM members WHERE workspace_id = :workspace_id AND id = :member_id")


async def remove(tx: AsyncConnection, actor: Row[Any], *, member_id: str, reason: str = "") -> None:
    """Ends somebody else's stay, a suspended one too. The workspace is locked, `actor` may remove members.

    Errors: NotFound; RankTooLow for oneself or somebody of higher rank; LastAdmin.
    """
    target = await members.find_target(tx, actor, member_id=member_id)
    await _end(tx, target, "member.removed", "member_removed", reason=reason)


async def leave(tx: AsyncConnection, member: Row[Any]) -> None:
    """Ends one's own membership. The workspace is locked. Errors: LastAdmin."""
    await _end(tx, member, "member.left", "member_left")


async def _end(tx: AsyncConnection, member: Row[Any], action: str, cause: str, *, reason: str = "") -> None:
    await continuity.require_another_admin(tx, member)
    followed = await end_stay(tx, member)
    workspace_id = str(member.workspace_id)
    ended = Activity(action, "member", target_user_id=str(member.user_id), reason=reason)
    await activities.record(tx, workspace_id, [ended, *followed])
    await raise_access_revision(tx, workspace_id, cause)


async def end_stay(tx: AsyncConnection, member: Row[Any]) -> list[Activity]:
    """What every end of a stay does. The workspace is locked.

    Left to the caller, once for the whole action: asking for another admin, or finding one; the activity, with those
    returned here; the access revision.
    """
    workspace_id, member_id = str(member.workspace_id), str(member.id)
    named = {"workspace_id": workspace_id, "member_id": member_id}
    await handles.release(tx, workspace_id=workspace_id, member_id=member_id)
    passed = await continuity.pass_on_groups(tx, workspace_id, member_id=member_id)
    revoked = await invitations.revoke_of_inviter(tx, workspace_id=workspace_id, member_id=member_id)
    # After the invitations: what is left are codes, whose reference to their creator goes with the member.
    await openings.close_of_member(tx, workspace_id=workspace_id, member_id=member_id)
    await tx.execute(DELETE, named)
    ended = events.MemberRemoved(workspace_id=workspace_id, member_id=member_id, user_id=str(member.user_id))
    await emit(tx, ["guest", "messaging"], events.Event(member_removed=ended))
    return [*passed, *invitations_revoked(revoked)]


async def end_guest(tx: AsyncConnection, guest: Row[Any]) -> list[Activity]:
    """Ends the stay of a guest whose time is over, who comes back as a full member with nothing of it.

    The workspace is locked. Left to the caller: the activities, and the access revision.
    """
    followed = await end_stay(tx, guest)
    return [Activity("member.removed", "member", target_user_id=str(guest.user_id)), *followed]


def invitations_revoked(ids: Sequence[str]) -> list[Activity]:
    """What the log says of invitations that ended with somebody's stay, or with a ban."""
    return [Activity("invitation.revoked", "invitation", each) for each in ids]
