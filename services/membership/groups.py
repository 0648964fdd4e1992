"""Groups: made, changed, listed and ended. Their trees are in group_trees.py."""

from collections.abc import Sequence
from typing import Any

import uuid_utils
from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import EtagMismatch, NotFound
from services.chassis.outbox import emit
from services.membership import limits, openings
from services.membership.activities import Activity, record
from services.membership.errors import GroupNotEmpty, GroupTooDeep
from services.membership.group_access import HIDING, SEEN, Group, Member, Standing
from services.membership.members import CALLER
from services.membership.revisions import raise_access_revision

DEEPEST = 32
COMMUNITY = "00000000-0000-7000-8000-000000000001"
FIRST = "00000000-0000-0000-0000-000000000000"
LAST = "CAST('ffffffff-ffff-ffff-ffff-ffffffffffff' AS uuid)"
"""SQL: above every id, so that `path || LAST` is above everything below `path` (ADR 7)."""
SUBTREE = f"path >= CAST(:path AS uuid[]) AND path < CAST(:path AS uuid[]) || {LAST}"
"""SQL: the group with this path and all below it, as one range of an index."""

GROUP = """
    g.id, g.workspace_id, g.path, g.scheme_id, g.name, g.description, g.avatar_url, g.archived_at, g.version,
    g.created_at, g.updated_at, (
        SELECT gm.member_id FROM group_members gm JOIN role_schemes s ON s.id = gm.scheme_id
        WHERE gm.scheme_id = g.scheme_id AND gm.role = s.owning_role AND gm.group_id = g.id
            AND gm.workspace_id = g.workspace_id
        ORDER BY gm.updated_at, gm.id LIMIT 1
    ) AS owner_member_id
"""
"""SQL: what wire_groups.group reads."""
GET = text(f"SELECT {GROUP} FROM groups g WHERE g.workspace_id = :workspace_id AND g.id = :group_id")
FIND_SEEN = text(f"SELECT {GROUP} FROM {SEEN} AND g.id = :group_id")
# From the caller outwards: no row at all means that there is nothing to list, one row without an id an empty page.
LIST_TOP = text(f"""
    SELECT {GROUP}
    FROM {CALLER}
    LEFT JOIN LATERAL (
        SELECT * FROM groups g
        WHERE g.workspace_id = :workspace_id AND g.parent_path IS NULL AND g.id > CAST(:after AS uuid)
            AND NOT g.path && {HIDING}
        ORDER BY g.id LIMIT :size
    ) g ON true
    WHERE caller.workspace_id = :workspace_id AND caller.user_id = :user_id AND caller.state = 'active'
        AND caller.kind = 'full'
    ORDER BY g.id
""")
LIST_CHILDREN = text(f"""
    WITH parent AS MATERIALIZED (SELECT g.path FROM {SEEN} AND g.id = :parent_group_id)
    SELECT {GROUP}
    FROM parent
    LEFT JOIN LATERAL (
        SELECT * FROM groups g
        WHERE g.workspace_id = :workspace_id AND g.parent_path = (SELECT path FROM parent)
            AND g.id > CAST(:after AS uuid) AND NOT g.path && {HIDING}
        ORDER BY g.id LIMIT :size
    ) g ON true
    ORDER BY g.id
""")
FIND_SCHEME = text("""
    SELECT id, owning_role FROM role_schemes
    WHERE id = :scheme_id AND (workspace_id = :workspace_id OR workspace_id IS NULL)
""")
INSERT = text("""
    INSERT INTO groups (id, workspace_id, path, scheme_id, name, description, avatar_url)
    VALUES (
        :id, :workspace_id, CAST(:parent_path AS uuid[]) || CAST(:id AS uuid), :scheme_id, :name, :description,
        :avatar_url
    )
""")
INSERT_OWNER = text("""
    INSERT INTO group_members (id, workspace_id, group_id, member_id, scheme_id, role)
    VALUES (:id, :workspace_id, :group_id, :member_id, :scheme_id, :role)
""")
UPDATE = text("""
    UPDATE groups
    SET name = coalesce(:name, name), description = coalesce(:description, description),
        avatar_url = coalesce(:avatar_url, avatar_url), version = version + 1, updated_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND id = :group_id
""")
REVIVE = text("""
    UPDATE groups SET archived_at = NULL, version = version + 1, updated_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND id = :group_id AND archived_at IS NOT NULL
    RETURNING id
""")
COUNT_SUBTREE = text(f"SELECT count(*) FROM groups WHERE workspace_id = :workspace_id AND {SUBTREE}")
# Of codes for members only nobody was told.
CLOSE_INVITES = text(f"""
    UPDATE group_invites SET revoked_at = statement_timestamp()
    FROM (SELECT id FROM groups WHERE workspace_id = :workspace_id AND {SUBTREE}) ended
    WHERE group_invites.workspace_id = :workspace_id AND group_invites.group_id = ended.id
        AND group_invites.workspace_role IS NOT NULL AND group_invites.revoked_at IS NULL
    RETURNING group_invites.code_hash
""")
DELETE = text(f"DELETE FROM groups WHERE workspace_id = :workspace_id AND {SUBTREE} RETURNING id")
GROUPS_OF_MEMBER = text("""
    SELECT group_id FROM group_members WHERE workspace_id = :workspace_id AND member_id = :member_id ORDER BY group_id
""")
EVENT_SIZE = 1_000
LISTENERS: Sequence[str] = ("messaging",)
"""The services that keep something by who is in a group."""


async def create(
    tx: AsyncConnection,
    creator: Member,
    *,
    parent: Group | None,
    role_scheme_id: str,
    name: str,
    description: str,
    avatar_url: str,
) -> Row[Any]:
    """A new group, which the creator owns. The workspace is locked, and the creator may.

    `role_scheme_id` counts at the top only. Errors: NotFound without such a scheme, GroupTooDeep, LimitReached.
    """
    if parent is not None and len(parent.path) >= DEEPEST:
        raise GroupTooDeep
    named = {"workspace_id": creator.workspace_id, "scheme_id": parent.scheme_id if parent else role_scheme_id}
    scheme = (await tx.execute(FIND_SCHEME, named)).one_or_none()
    if scheme is None:
        raise NotFound
    await limits.require(tx, "groups", workspace_id=creator.workspace_id)
    await limits.require(tx, "member_groups", workspace_id=creator.workspace_id, scope_id=creator.id)
    group_id = str(uuid_utils.uuid7())
    row = {"name": name, "description": description, "avatar_url": avatar_url}
    parent_path = list(parent.path) if parent else []
    await tx.execute(INSERT, {**named, **row, "id": group_id, "parent_path": parent_path})
    owner = {**named, "group_id": group_id, "member_id": creator.id, "role": scheme.owning_role}
    await tx.execute(INSERT_OWNER, {**owner, "id": str(uuid_utils.uuid7())})
    made = {"name": name, "parent_group_id": parent.id if parent else "", "role_scheme_id": str(scheme.id)}
    await record(tx, creator.workspace_id, [Activity("group.created", "group", group_id, metadata={"after": made})])
    return await get(tx, workspace_id=creator.workspace_id, group_id=group_id)


async def get(tx: AsyncConnection, *, workspace_id: str, group_id: str) -> Row[Any]:
    """A group that is known to exist."""
    return (await tx.execute(GET, {"workspace_id": workspace_id, "group_id": group_id})).one()


async def access_group_row(tx: AsyncConnection, *, workspace_id: str, group_id: str, user_id: str) -> Row[Any]:
    """A group, for somebody who sees it. Errors: NotFound."""
    named = {"workspace_id": workspace_id, "group_id": group_id, "user_id": user_id}
    row = (await tx.execute(FIND_SEEN, named)).one_or_none()
    if row is None:
        raise NotFound
    return row


async def list_page(
    tx: AsyncConnection, *, workspace_id: str, parent_group_id: str, user_id: str, after: str | None, size: int
) -> Sequence[Row[Any]]:
    """The groups right below one, or at the top, that come after a group id. Errors: NotFound."""
    page = {"workspace_id": workspace_id, "user_id": user_id, "after": after or FIRST, "size": size}
    if parent_group_id:
        rows = (await tx.execute(LIST_CHILDREN, {**page, "parent_group_id": parent_group_id})).all()
    else:
        rows = (await tx.execute(LIST_TOP, page)).all()
    if not rows:
        raise NotFound
    return [row for row in rows if row.id is not None]


def require_etag(etag: str, version: int) -> None:
    """EtagMismatch if an etag was given and is not the present one (AIP-154)."""
    if etag and etag != str(version):
        raise EtagMismatch


async def update(tx: AsyncConnection, standing: Standing, *, changes: dict[str, str]) -> Row[Any]:
    """Changes name, description or avatar_url, as far as they are in `changes`. The workspace is locked."""
    named = {"workspace_id": standing.member.workspace_id, "group_id": standing.group.id}
    before = await get(tx, **named)
    await tx.execute(UPDATE, {"name": None, "description": None, "avatar_url": None, **changes, **named})
    metadata = {"before": {name: getattr(before, name) for name in changes}, "after": changes}
    await record(tx, named["workspace_id"], [Activity("group.updated", "group", standing.group.id, metadata=metadata)])
    return await get(tx, **named)


async def revive(tx: AsyncConnection, standing: Standing, *, role: str) -> list[Activity]:
    """Ends a group's being archived once somebody is given the owning role; what there is to record of it."""
    if role != standing.group.owning_role or standing.group.archived_at is None:
        return []
    await tx.execute(REVIVE, {"workspace_id": standing.member.workspace_id, "group_id": standing.group.id})
    return [Activity("group.revived", "group", standing.group.id)]


async def delete(tx: AsyncConnection, standing: Standing, *, force: bool) -> None:
    """Ends a group with everything in it and, if `force`, below it. The workspace is locked. Errors: GroupNotEmpty."""
    workspace_id = standing.member.workspace_id
    named = {"workspace_id": workspace_id, "path": list(standing.group.path)}
    if not force and int(await tx.scalar(COUNT_SUBTREE, named) or 0) > 1:
        raise GroupNotEmpty
    await openings.closed(tx, (await tx.execute(CLOSE_INVITES, named)).scalars().all())
    ended = [str(group_id) for group_id in (await tx.execute(DELETE, named)).scalars()]
    for chunk in chunks(ended):
        await emit(
            tx,
            LISTENERS,
            events.Event(group_deleted=events.GroupDeleted(workspace_id=workspace_id, group_ids=chunk)),
        )
    await raise_access_revision(tx, workspace_id, "group_deleted")
    counted = {"before": {"groups": len(ended)}}
    await record(tx, workspace_id, [Activity("group.deleted", "group", standing.group.id, metadata=counted)])


async def tell_changed(tx: AsyncConnection, workspace_id: str, group_ids: Sequence[str]) -> None:
    """Has whoever listens read anew who is in groups."""
    for chunk in chunks(group_ids):
        changed = events.GroupMembershipChanged(workspace_id=workspace_id, group_ids=chunk)
        await emit(tx, LISTENERS, events.Event(group_membership_changed=changed))


async def tell_changed_of_member(tx: AsyncConnection, workspace_id: str, member_id: str) -> None:
    """The same of every group in which a member has a role: who is suspended is in none, and is in them again after."""
    found = await tx.scalars(GROUPS_OF_MEMBER, {"workspace_id": workspace_id, "member_id": member_id})
    await tell_changed(tx, workspace_id, [str(group_id) for group_id in found])


def chunks(group_ids: Sequence[str]) -> list[Sequence[str]]:
    """As many ids as an event takes."""
    return [group_ids[start : start + EVENT_SIZE] for start in range(0, len(group_ids), EVENT_SIZE)]
