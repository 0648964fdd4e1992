"""Who may join a workspace: one question for every way of joining."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound
from services.membership import activities, continuity, limits, members
from services.membership.activities import Activity
from services.membership.errors import Banned, MemberSuspended
from services.membership.holders import ABLE

FIND_OBSTACLE = text("""
    SELECT
        EXISTS (
            SELECT FROM workspace_bans b
            WHERE b.workspace_id = :workspace_id
                AND (b.user_id = CAST(:user_id AS uuid) OR b.normalized_email = CAST(:normalized_email AS text))
                AND (b.expire_at IS NULL OR statement_timestamp() < b.expire_at)
        ) AS is_banned,
        EXISTS (
            SELECT FROM members m
            WHERE m.workspace_id = :workspace_id AND m.user_id = CAST(:user_id AS uuid) AND m.state = 'suspended'
        ) AS is_suspended,
        EXISTS (SELECT FROM departed_users d WHERE d.user_id = CAST(:user_id AS uuid)) AS is_departed
""")
PROMOTE = text(f"""
    UPDATE members m SET role = 'admin', version = m.version + 1, updated_at = statement_timestamp()
    WHERE m.workspace_id = :workspace_id AND m.id = :member_id AND {ABLE}
    RETURNING {members.COLUMNS}
""")


def is_unchanged(over: Row[Any] | None, present: Row[Any]) -> bool:
    """Whether somebody's present stay is still that of which guest has said that it is over.

    Guest is asked before the workspace is locked. Who has begun anew since was confirmed, which raises the version; who
    was not confirmed yet finds no member to be confirmed, and guest undoes the redemption.
    """
    return over is not None and (str(over.id), over.version) == (str(present.id), present.version)


async def require_may_join(
    tx: AsyncConnection, *, workspace_id: str, user_id: str, normalized_email: str | None
) -> None:
    """Whether somebody who is no active member may become one. The workspace is locked.

    `normalized_email` is their verified address, if they have one. Errors: NotFound for who was deleted meanwhile;
    Banned, MemberSuspended, LimitReached.
    """
    obstacle = await _require_not_kept_out(tx, workspace_id, user_id, normalized_email)
    if obstacle.is_suspended:
        raise MemberSuspended
    await limits.require(tx, "members", workspace_id=workspace_id)


async def require_not_banned(
    tx: AsyncConnection, *, workspace_id: str, user_id: str, normalized_email: str | None
) -> None:
    """The same for who is counted already. Errors: NotFound, Banned."""
    await _require_not_kept_out(tx, workspace_id, user_id, normalized_email)


async def _require_not_kept_out(
    tx: AsyncConnection, workspace_id: str, user_id: str, normalized_email: str | None
) -> Row[Any]:
    person = {"workspace_id": workspace_id, "user_id": user_id, "normalized_email": normalized_email or None}
    obstacle = (await tx.execute(FIND_OBSTACLE, person)).one()
    if obstacle.is_departed:
        raise NotFound
    if obstacle.is_banned:
        raise Banned
    return obstacle


async def add(
    tx: AsyncConnection,
    *,
    workspace_id: str,
    user_id: str,
    normalized_email: str | None,
    role: str,
    ended: Sequence[Activity] = (),
) -> Row[Any]:
    """Makes somebody a full member by a service account's word; who is a member already stays as they are.

    But an admin brings an archived workspace back, whether they come or were left in it.
    `ended` is what the log says of the end of an earlier stay. The workspace is locked.
    Errors: Banned, MemberSuspended, LimitReached; LastAdmin if it is archived, and they would not be an admin.
    """
    present = await members.find_active(tx, workspace_id=workspace_id, user_id=user_id)
    if present is not None:
        return await _put_in_charge(tx, present) if role == "admin" else present
    await require_may_join(tx, workspace_id=workspace_id, user_id=user_id, normalized_email=normalized_email)
    if role != "admin":
        await continuity.require_not_archived(tx, workspace_id)
    joined = await members.join(tx, workspace_id=workspace_id, user_id=user_id, role=role)
    assert joined is not None, "the workspace is locked, and they were no member"
    revived = await continuity.revive(tx, workspace_id) if role == "admin" else []
    told = {"way": "added", "after": {"role": role}}
    done = Activity("member.joined", "member", target_user_id=user_id, metadata=told)
    await activities.record(tx, workspace_id, [*ended, done, *revived])
    return joined


async def _put_in_charge(tx: AsyncConnection, present: Row[Any]) -> Row[Any]:
    """Makes a member the admin of a workspace that nobody is left to run; elsewhere that is its admins' to do.

    Who was disabled as its only admin and is enabled again has no other way back. Whoever could not run it, being
    disabled still, or a guest, stays as they are.
    """
    workspace_id = str(present.workspace_id)
    if not await continuity.is_archived(tx, workspace_id):
        return present
    named = {"workspace_id": workspace_id, "member_id": present.id}
    promoted = (await tx.execute(PROMOTE, named)).one_or_none()
    if promoted is None:
        return present
    roles = {"before": {"role": present.role}, "after": {"role": "admin"}}
    done = Activity("member.role_updated", "member", target_user_id=str(present.user_id), metadata=roles)
    await activities.record(tx, workspace_id, [done, *await continuity.revive(tx, workspace_id)])
    return promoted
