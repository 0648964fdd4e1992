"""Suspensions: a stay that confers nothing until it is resumed; member id, roles and groups are kept."""

from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.membership import activities, continuity, groups, members, openings
from services.membership.activities import Activity
from services.membership.revisions import raise_access_revision

SUSPEND = text(f"""
    UPDATE members m SET state = 'suspended', suspended_at = statement_timestamp(), version = m.version + 1,
        updated_at = statement_timestamp()
    WHERE m.workspace_id = :workspace_id AND m.id = :member_id
    RETURNING {members.COLUMNS}
""")
REINSTATE = text(f"""
    UPDATE members m SET state = 'active', suspended_at = NULL, version = m.version + 1,
        updated_at = statement_timestamp()
    WHERE m.workspace_id = :workspace_id AND m.id = :member_id
    RETURNING {members.COLUMNS}
""")


async def suspend(tx: AsyncConnection, actor: Row[Any], *, member_id: str, reason: str) -> Row[Any]:
    """Takes everything from a member. The workspace is locked, `actor` may suspend. Who is suspended stays as they are.

    Errors: NotFound, RankTooLow, LastAdmin.
    """
    target = await members.find_target(tx, actor, member_id=member_id)
    if target.state == "suspended":
        return target
    await continuity.require_another_admin(tx, target)
    workspace_id = str(target.workspace_id)
    passed = await continuity.pass_on_groups(tx, workspace_id, member_id=str(target.id), archive=False)
    suspended = (await tx.execute(SUSPEND, {"workspace_id": workspace_id, "member_id": target.id})).one()
    await openings.close_of_member(tx, workspace_id=workspace_id, member_id=str(target.id))
    await groups.tell_changed_of_member(tx, workspace_id, str(target.id))
    person = str(target.user_id)
    done = Activity("member.suspended", "member", target_user_id=person, reason=reason)
    await activities.record(tx, workspace_id, [done, *passed])
    await raise_access_revision(tx, workspace_id, "member_suspended")
    return suspended


async def reinstate(tx: AsyncConnection, actor: Row[Any], *, member_id: str, reason: str) -> Row[Any]:
    """Gives it back. The workspace is locked, `actor` may suspend. Who is active stays as they are.

    Errors: NotFound, RankTooLow.
    """
    target = await members.find_target(tx, actor, member_id=member_id)
    if target.state == "active":
        return target
    workspace_id = str(target.workspace_id)
    reinstated = (await tx.execute(REINSTATE, {"workspace_id": workspace_id, "member_id": target.id})).one()
    await groups.tell_changed_of_member(tx, workspace_id, str(target.id))
    person = str(target.user_id)
    await activities.record(
        tx, workspace_id, [Activity("member.reinstated", "member", target_user_id=person, reason=reason)]
    )
    return reinstated
