"""User groups: sets of full members with a handle. A change of their members is a change of theirs."""

from collections.abc import Sequence
from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound
from services.membership import activities, handles, limits, members, workspaces
from services.membership.activities import Activity
from services.membership.errors import GuestsExcluded

COLUMNS = """
    g.id, g.workspace_id, g.name, g.description, g.version, g.created_at, g.updated_at,
    (SELECT h.handle FROM handles h WHERE h.workspace_id = g.workspace_id AND h.user_group_id = g.id) AS handle,
    (
        SELECT count(*) FROM user_group_members c WHERE c.workspace_id = g.workspace_id AND c.user_group_id = g.id
    ) AS member_count
"""
OF_FULL_MEMBER = """caller.workspace_id = :workspace_id AND caller.user_id = :user_id
    AND caller.state = 'active' AND caller.kind = 'full'"""
GET = text(f"""
    SELECT {COLUMNS}, ARRAY(
        SELECT c.member_id FROM user_group_members c
        WHERE c.workspace_id = g.workspace_id AND c.user_group_id = g.id ORDER BY c.member_id
    ) AS member_ids
    FROM {members.CALLER}
    JOIN user_groups g ON g.workspace_id = caller.workspace_id AND g.id = :user_group_id
    WHERE {OF_FULL_MEMBER}
""")
# No row at all means that the caller is no full member, one row without an id that the page is empty.
LIST = text(f"""
    SELECT listed.*
    FROM {members.CALLER}
    LEFT JOIN LATERAL (
        SELECT {COLUMNS} FROM user_groups g
        WHERE g.workspace_id = caller.workspace_id AND g.id > CAST(:after AS uuid)
            AND (CAST(:member_id AS uuid) IS NULL OR EXISTS (
                SELECT FROM user_group_members c
                WHERE c.workspace_id = g.workspace_id AND c.user_group_id = g.id AND c.member_id = :member_id
            ))
        ORDER BY g.id LIMIT :size
    ) listed ON true
    WHERE {OF_FULL_MEMBER}
    ORDER BY listed.id
""")
FIND = text(f"SELECT {COLUMNS} FROM user_groups g WHERE g.workspace_id = :workspace_id AND g.id = :user_group_id")
INSERT = text("""
    INSERT INTO user_groups (id, workspace_id, name, description) VALUES (:id, :workspace_id, :name, :description)
""")
UPDATE = text("""
    UPDATE user_groups SET name = :name, description = :description WHERE workspace_id = :workspace_id AND id = :id
""")
COUNT_CHANGE = text("""
    UPDATE user_groups SET version = version + 1, updated_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND id = :user_group_id
""")
DELETE = text("DELETE FROM user_groups WHERE workspace_id = :workspace_id AND id = :user_group_id")
# Who was suspended meanwhile stays in it, and may be named again with the others.
FIND_MEMBERS = text("""
    SELECT m.id, m.user_id, m.kind FROM members m
    WHERE m.workspace_id = :workspace_id AND m.id = ANY(CAST(:member_ids AS uuid[])) AND (
        m.state = 'active' OR EXISTS (
            SELECT FROM user_group_members c
            WHERE c.workspace_id = m.workspace_id AND c.user_group_id = :user_group_id AND c.member_id = m.id
        )
    )
""")
ADD_MEMBERS = text("""
    INSERT INTO user_group_members (workspace_id, user_group_id, member_id)
    SELECT :workspace_id, :user_group_id, * FROM unnest(CAST(:member_ids AS uuid[]))
    ON CONFLICT DO NOTHING
    RETURNING member_id
""")
REMOVE_MEMBER = text("""
    DELETE FROM user_group_members c USING members m
    WHERE c.workspace_id = :workspace_id AND c.user_group_id = :user_group_id AND c.member_id = :member_id
        AND m.workspace_id = c.workspace_id AND m.id = c.member_id
    RETURNING m.user_id
""")
REMOVE_OTHERS = text("""
    DELETE FROM user_group_members
    WHERE workspace_id = :workspace_id AND user_group_id = :user_group_id
        AND member_id <> ALL (CAST(:member_ids AS uuid[]))
    RETURNING member_id
""")
FIRST = "00000000-0000-0000-0000-000000000000"


async def get(tx: AsyncConnection, *, workspace_id: str, user_id: str, user_group_id: str) -> Row[Any]:
    """A user group with its `member_ids`, for a full member. Errors: NotFound."""
    named = {"workspace_id": workspace_id, "user_id": user_id, "user_group_id": user_group_id}
    found = (await tx.execute(GET, named)).one_or_none()
    if found is None:
        raise NotFound
    return found


async def list_page(
    tx: AsyncConnection, *, workspace_id: str, user_id: str, member_id: str | None, after: str | None, size: int
) -> Sequence[Row[Any]]:
    """The user groups after one, of a member if one is named, for a full member. Errors: NotFound."""
    page = {
        "workspace_id": workspace_id,
        "user_id": user_id,
        "member_id": member_id,
        "after": after or FIRST,
        "size": size,
    }
    rows = (await tx.execute(LIST, page)).all()
    if not rows:
        raise NotFound
    return [row for row in rows if row.id is not None]


async def find(tx: AsyncConnection, *, workspace_id: str, user_group_id: str, etag: str = "") -> Row[Any]:
    """A user group that is to be changed; the workspace is locked. Errors: NotFound, EtagMismatch."""
    named = {"workspace_id": workspace_id, "user_group_id": user_group_id}
    found = (await tx.execute(FIND, named)).one_or_none()
    if found is None:
        raise NotFound
    workspaces.require_etag(found, etag)
    return found


async def create(tx: AsyncConnection, *, workspace_id: str, handle: str, name: str, description: str) -> Row[Any]:
    """A user group without members. Errors: LimitReached, HandleReserved, HandleTaken."""
    await limits.require(tx, "user_groups", workspace_id=workspace_id)
    user_group_id = str(uuid_utils.uuid7())
    row = {"id": user_group_id, "workspace_id": workspace_id, "name": name, "description": description}
    await tx.execute(INSERT, row)
    kept = await handles.take(tx, workspace_id=workspace_id, handle=handle, user_group_id=user_group_id, field="handle")
    created = Activity(
        "user_group.created",
        "user_group",
        user_group_id,
        metadata={"after": {"name": name}},
        personal={"handle": kept},
    )
    await activities.record(tx, workspace_id, [created])
    return await find(tx, workspace_id=workspace_id, user_group_id=user_group_id)


async def update(tx: AsyncConnection, present: Row[Any], changes: dict[str, str]) -> Row[Any]:
    """Changes some of handle, name and description. Errors: HandleReserved, HandleTaken."""
    workspace_id, user_group_id = str(present.workspace_id), str(present.id)
    personal = {}
    if "handle" in changes:
        kept = await handles.take(
            tx,
            workspace_id=workspace_id,
            handle=changes["handle"],
            user_group_id=user_group_id,
            field="user_group.handle",
        )
        personal = {"before": {"handle": present.handle}, "after": {"handle": kept}}
    name = changes.get("name", present.name)
    description = changes.get("description", present.description)
    new = {"workspace_id": workspace_id, "id": user_group_id, "name": name, "description": description}
    await tx.execute(UPDATE, new)
    metadata = {"changed": sorted(changes), "before": {"name": present.name}, "after": {"name": name}}
    updated = Activity("user_group.updated", "user_group", user_group_id, metadata=metadata, personal=personal)
    return await _changed(tx, workspace_id, user_group_id, updated)


async def delete(tx: AsyncConnection, present: Row[Any]) -> None:
    """Removes a user group; its handle is nobody's for 30 days."""
    workspace_id, user_group_id = str(present.workspace_id), str(present.id)
    await handles.release(tx, workspace_id=workspace_id, user_group_id=user_group_id)
    await tx.execute(DELETE, {"workspace_id": workspace_id, "user_group_id": user_group_id})
    deleted = Activity(
        "user_group.deleted",
        "user_group",
        user_group_id,
        metadata={"before": {"name": present.name}},
        personal={"handle": present.handle},
    )
    await activities.record(tx, workspace_id, [deleted])


async def add_member(tx: AsyncConnection, present: Row[Any], *, member_id: str) -> Row[Any]:
    """Puts a member into it. Repeatable. Errors: NotFound, GuestsExcluded, LimitReached."""
    workspace_id, user_group_id = str(present.workspace_id), str(present.id)
    (member,) = await _find_members(tx, present, [member_id])
    if not await _add(tx, present, [member_id]):
        return present
    added = Activity("user_group.member_added", "user_group", user_group_id, str(member.user_id))
    return await _changed(tx, workspace_id, user_group_id, added)


async def remove_member(tx: AsyncConnection, present: Row[Any], *, member_id: str) -> Row[Any]:
    """Takes a member out of it. Repeatable."""
    workspace_id, user_group_id = str(present.workspace_id), str(present.id)
    named = {"workspace_id": workspace_id, "user_group_id": user_group_id, "member_id": member_id}
    user_id = await tx.scalar(REMOVE_MEMBER, named)
    if user_id is None:
        return present
    removed = Activity("user_group.member_removed", "user_group", user_group_id, str(user_id))
    return await _changed(tx, workspace_id, user_group_id, removed)


async def set_members(tx: AsyncConnection, present: Row[Any], *, member_ids: Sequence[str]) -> Row[Any]:
    """Has these members in it and nobody else. Errors: NotFound, GuestsExcluded, LimitReached."""
    workspace_id, user_group_id = str(present.workspace_id), str(present.id)
    wanted = sorted({member_id.lower() for member_id in member_ids})
    await _find_members(tx, present, wanted)
    named = {"workspace_id": workspace_id, "user_group_id": user_group_id, "member_ids": wanted}
    removed = (await tx.execute(REMOVE_OTHERS, named)).all()
    added = await _add(tx, present, wanted)
    if not added and not removed:
        return present
    counts = {"added": len(added), "removed": len(removed)}
    was_set = Activity("user_group.members_set", "user_group", user_group_id, metadata=counts)
    return await _changed(tx, workspace_id, user_group_id, was_set)


async def _find_members(tx: AsyncConnection, present: Row[Any], member_ids: Sequence[str]) -> Sequence[Row[Any]]:
    """NotFound unless all are members, GuestsExcluded if one of them is a guest."""
    named = {"workspace_id": present.workspace_id, "user_group_id": present.id, "member_ids": list(member_ids)}
    found = (await tx.execute(FIND_MEMBERS, named)).all()
    if len(found) < len(member_ids):
        raise NotFound
    if any(member.kind == "guest" for member in found):
        raise GuestsExcluded
    return found


async def _add(tx: AsyncConnection, present: Row[Any], member_ids: Sequence[str]) -> Sequence[Row[Any]]:
    """Those who were not in it before. The limit is asked afterwards: who is in it already needs no room."""
    workspace_id, user_group_id = str(present.workspace_id), str(present.id)
    named = {"workspace_id": workspace_id, "user_group_id": user_group_id, "member_ids": list(member_ids)}
    added = (await tx.execute(ADD_MEMBERS, named)).all()
    if added:
        await limits.require(tx, "user_group_members", workspace_id=workspace_id, scope_id=user_group_id, adding=0)
    return added


async def _changed(tx: AsyncConnection, workspace_id: str, user_group_id: str, activity: Activity) -> Row[Any]:
    named = {"workspace_id": workspace_id, "user_group_id": user_group_id}
    await tx.execute(COUNT_CHANGE, named)
    row = await find(tx, workspace_id=workspace_id, user_group_id=user_group_id)
    await activities.record(tx, workspace_id, [activity])
    return row
