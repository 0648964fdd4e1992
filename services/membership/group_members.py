"""Who is in a group, as what."""

from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import EtagMismatch, InvalidRequest, NotFound, PermissionDenied
from services.membership import group_access, groups, limits
from services.membership.activities import Activity, record
from services.membership.capabilities import SUSPEND_MEMBERS, allows
from services.membership.errors import AlreadyMember, GuestsExcluded, MemberSuspended, RankTooLow
from services.membership.group_access import Standing
from services.membership.revisions import raise_access_revision

GROUP_MEMBER = """
    gm.id, gm.workspace_id, gm.group_id, gm.member_id, m.user_id, gm.role, gm.group_invite_id, gm.version,
    gm.created_at, gm.updated_at
"""
"""SQL: what wire_groups.group_member reads."""
GET = text(f"""
    SELECT {GROUP_MEMBER}
    FROM group_members gm JOIN members m ON m.workspace_id = gm.workspace_id AND m.id = gm.member_id
    WHERE gm.workspace_id = :workspace_id AND gm.group_id = :group_id AND gm.member_id = :member_id
""")
INSERT = text("""
    INSERT INTO group_members (id, workspace_id, group_id, member_id, scheme_id, role, group_invite_id)
    VALUES (:id, :workspace_id, :group_id, :member_id, :scheme_id, :role, :group_invite_id)
""")
UPDATE_ROLE = text("""
    UPDATE group_members SET role = :role, version = version + 1, updated_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND group_id = :group_id AND member_id = :member_id
""")
DELETE = text("""
    DELETE FROM group_members WHERE workspace_id = :workspace_id AND group_id = :group_id AND member_id = :member_id
""")


async def get(tx: AsyncConnection, *, workspace_id: str, group_id: str, member_id: str) -> Row[Any]:
    """A role in a group that is known to be there."""
    named = {"workspace_id": workspace_id, "group_id": group_id, "member_id": member_id}
    return (await tx.execute(GET, named)).one()


async def insert(
    tx: AsyncConnection,
    *,
    workspace_id: str,
    group_id: str,
    scheme_id: str,
    member_id: str,
    role: str,
    group_invite_id: str | None = None,
) -> Row[Any]:
    """Puts a member who is not in a group into it, and has it told. Errors: LimitReached."""
    await limits.require(tx, "group_members", workspace_id=workspace_id, scope_id=group_id)
    await limits.require(tx, "member_groups", workspace_id=workspace_id, scope_id=member_id)
    named = {"workspace_id": workspace_id, "group_id": group_id, "member_id": member_id}
    row = {"id": str(uuid_utils.uuid7()), "scheme_id": scheme_id, "role": role, "group_invite_id": group_invite_id}
    await tx.execute(INSERT, {**named, **row})
    await groups.tell_changed(tx, workspace_id, [group_id])
    return await get(tx, **named)


async def add(tx: AsyncConnection, standing: Standing, *, member_id: str, role: str) -> Row[Any]:
    """Puts a member of the workspace into the group. The workspace is locked, and the actor may.

    Errors: NotFound, GuestsExcluded, MemberSuspended, AlreadyMember, Banned, RankTooLow, InvalidRequest, LimitReached.
    """
    group, workspace_id = standing.group, standing.member.workspace_id
    target = await group_access.find_target(tx, standing, member_id=member_id)
    if target is None or is_hidden(standing, target):
        raise NotFound
    require_eligible(target)
    if target.group_member_id is not None:
        raise AlreadyMember
    await group_access.require_not_banned(tx, workspace_id=workspace_id, path=group.path, user_id=str(target.user_id))
    group_access.require_rank_over(standing, target)
    await group_access.require_grantable(tx, standing, role)
    added = await insert(
        tx,
        workspace_id=workspace_id,
        group_id=group.id,
        scheme_id=group.scheme_id,
        member_id=str(target.id),
        role=role,
    )
    activity = about("group_member.added", group.id, target, after=role)
    await record(tx, workspace_id, [activity, *await groups.revive(tx, standing, role=role)])
    return added


def is_hidden(standing: Standing, target: Row[Any]) -> bool:
    """Whether somebody is suspended, which is not for this caller to know: to them they are not there."""
    return target.state == "suspended" and not allows(standing.member, SUSPEND_MEMBERS)


def require_eligible(target: Row[Any]) -> None:
    """GuestsExcluded and MemberSuspended, for who is given no role."""
    if target.kind == "guest":
        raise GuestsExcluded
    if target.state == "suspended":
        raise MemberSuspended


def about(
    action: str, group_id: str, target: Row[Any], *, before: str = "", after: str = "", reason: str = ""
) -> Activity:
    """What is recorded of somebody's role in a group."""
    roles = {name: {"role": role} for name, role in (("before", before), ("after", after)) if role}
    return Activity(action, "group", group_id, target_user_id=str(target.user_id), metadata=roles, reason=reason)


async def update_role(
    tx: AsyncConnection, standing: Standing, *, member_id: str, role: str, etag: str, reason: str
) -> Row[Any]:
    """Gives somebody in the group another role; the one that they have changes nothing. The workspace is locked.

    Errors: NotFound, RankTooLow, EtagMismatch, InvalidRequest, LastOwner.
    """
    group, workspace_id = standing.group, standing.member.workspace_id
    target = await _access_target(tx, standing, member_id)
    if etag and etag != str(target.version):
        raise EtagMismatch
    await group_access.require_grantable(tx, standing, role)
    named = {"workspace_id": workspace_id, "group_id": group.id, "member_id": str(target.id)}
    if role != target.role:
        await group_access.require_another_owner(tx, standing, member_id=str(target.id), role=target.role)
        await tx.execute(UPDATE_ROLE, {**named, "role": role})
        await raise_access_revision(tx, workspace_id, "group_role_changed")
        activity = about("group_member.role_updated", group.id, target, before=target.role, after=role, reason=reason)
        await record(tx, workspace_id, [activity, *await groups.revive(tx, standing, role=role)])
    return await get(tx, **named)


async def remove(tx: AsyncConnection, standing: Standing, *, member_id: str, reason: str) -> None:
    """Takes somebody's role in the group away. The workspace is locked. Errors: NotFound, RankTooLow, LastOwner."""
    target = await _access_target(tx, standing, member_id)
    await _end(tx, standing, target)
    await raise_access_revision(tx, standing.member.workspace_id, "group_member_removed")
    activity = about("group_member.removed", standing.group.id, target, before=target.role, reason=reason)
    await record(tx, standing.member.workspace_id, [activity])


async def leave(tx: AsyncConnection, standing: Standing) -> None:
    """Gives one's own role in the group up. The workspace is locked. Errors: NotFound, LastOwner."""
    own = await group_access.find_target(tx, standing, member_id=standing.member.id)
    if own is None or own.group_member_id is None:
        raise NotFound
    await _end(tx, standing, own)
    await raise_access_revision(tx, standing.member.workspace_id, "group_left")
    activity = about("group_member.left", standing.group.id, own, before=own.role)
    await record(tx, standing.member.workspace_id, [activity])


async def _access_target(tx: AsyncConnection, standing: Standing, member_id: str) -> Row[Any]:
    """Somebody in the group itself upon whom the actor may act. Errors: NotFound, RankTooLow."""
    target = await group_access.find_target(tx, standing, member_id=member_id)
    if target is None or target.group_member_id is None or is_hidden(standing, target):
        raise NotFound
    group_access.require_rank_over(standing, target)
    return target


async def _end(tx: AsyncConnection, standing: Standing, target: Row[Any]) -> None:
    group, workspace_id = standing.group, standing.member.workspace_id
    await group_access.require_another_owner(tx, standing, member_id=str(target.id), role=target.role)
    await tx.execute(DELETE, {"workspace_id": workspace_id, "group_id": group.id, "member_id": target.id})
    await groups.tell_changed(tx, workspace_id, [group.id])


async def transfer_ownership(tx: AsyncConnection, standing: Standing, *, member_id: str, from_member_id: str) -> None:
    """Gives the owning role to another member of the group, and the next lower one to who had it.

    The workspace is locked. Who has no lower role to fall to keeps theirs: a scheme of one role knows owners only.
    Errors: NotFound, PermissionDenied, InvalidRequest, RankTooLow, Banned, MemberSuspended, LastOwner.
    """
    group, workspace_id = standing.group, standing.member.workspace_id
    giver = await _access_giver(tx, standing, from_member_id)
    heir = await group_access.find_target(tx, standing, member_id=member_id)
    if heir is None or heir.group_member_id is None or is_hidden(standing, heir):
        raise NotFound
    if heir.id == giver.id:
        raise InvalidRequest(fields=[("member_id", "has the ownership already")])
    require_eligible(heir)
    await group_access.require_not_banned(tx, workspace_id=workspace_id, path=group.path, user_id=str(heir.user_id))
    roles = await group_access.roles_of(tx, group.scheme_id)
    if roles[heir.role] > roles[group.owning_role]:
        # It would lower them.
        raise RankTooLow
    lower = next((role for role, rank in roles.items() if rank < roles[group.owning_role]), group.owning_role)
    named = {"workspace_id": workspace_id, "group_id": group.id}
    await tx.execute(UPDATE_ROLE, {**named, "member_id": heir.id, "role": group.owning_role})
    # An heir who is disabled does not count.
    await group_access.require_another_owner(tx, standing, member_id=str(giver.id), role=group.owning_role)
    await tx.execute(UPDATE_ROLE, {**named, "member_id": giver.id, "role": lower})
    await tx.execute(groups.UPDATE, {**named, "name": None, "description": None, "avatar_url": None})
    await raise_access_revision(tx, workspace_id, "group_ownership_transferred")
    owned = about("group.ownership_transferred", group.id, heir, before=heir.role, after=group.owning_role)
    lowered = about("group_member.role_updated", group.id, giver, before=group.owning_role, after=lower)
    await record(tx, workspace_id, [owned, lowered, *await groups.revive(tx, standing, role=group.owning_role)])


async def _access_giver(tx: AsyncConnection, standing: Standing, from_member_id: str) -> Row[Any]:
    """Whose ownership it is: one's own, or for who may do everything here anybody's."""
    if from_member_id and from_member_id.lower() != standing.member.id and not standing.may_everything:
        raise PermissionDenied
    giver = await group_access.find_target(tx, standing, member_id=from_member_id or standing.member.id)
    if giver is None or giver.role != standing.group.owning_role:
        raise NotFound if from_member_id else PermissionDenied("Only an owner gives the ownership away.")
    if str(giver.id) != standing.member.id:
        group_access.require_rank_over(standing, giver)
    return giver
