"""Members: who belongs to a workspace, and how a stay begins."""

from collections.abc import Sequence
from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound, PermissionDenied
from services.membership import workspaces
from services.membership.capabilities import allows

ACTIVE_BY_USER = text("""
    SELECT id, workspace_id, user_id, role, kind, state, joined_at FROM members
    WHERE workspace_id = :workspace_id AND user_id = :user_id AND state = 'active'
""")
ACTIVE_BY_ID = text("""
    SELECT id, workspace_id, user_id, role, kind, state, joined_at FROM members
    WHERE workspace_id = :workspace_id AND id = :member_id AND state = 'active'
""")
# A pending guest who becomes a full member keeps the row and its id: confirming the guest later finds it in force.
JOIN = text("""
    INSERT INTO members (id, workspace_id, user_id, role, kind, state, invitation_id, joined_at)
    VALUES (:id, :workspace_id, :user_id, :role, 'full', 'active', :invitation_id, statement_timestamp())
    ON CONFLICT (workspace_id, user_id) DO UPDATE
    SET role = excluded.role, kind = 'full', state = 'active', redemption_id = NULL,
        invitation_id = excluded.invitation_id, joined_at = statement_timestamp()
    WHERE members.state = 'pending'
    RETURNING id, workspace_id, user_id, role, kind, state, joined_at
""")
# From the caller outwards: no row at all means that the caller is no member, one row without an id that the page is
# empty. A guest's list is only themselves until guest is asked whom they may see.
LIST = text("""
    SELECT listed.id, listed.workspace_id, listed.user_id, listed.role, listed.kind, listed.state, listed.joined_at
    FROM members caller
    LEFT JOIN LATERAL (
        SELECT m.* FROM members m
        WHERE m.workspace_id = caller.workspace_id AND m.state = 'active'
            AND m.id > CAST(:after AS uuid) AND (caller.kind = 'full' OR m.id = caller.id)
        ORDER BY m.id LIMIT :size
    ) listed ON true
    WHERE caller.workspace_id = :workspace_id AND caller.user_id = :user_id AND caller.state = 'active'
    ORDER BY listed.id
""")
FIRST = "00000000-0000-0000-0000-000000000000"


async def find_active(tx: AsyncConnection, *, workspace_id: str, user_id: str) -> Row[Any] | None:
    """A person's membership, if it is in force."""
    return (await tx.execute(ACTIVE_BY_USER, {"workspace_id": workspace_id, "user_id": user_id})).one_or_none()


async def access_workspace(tx: AsyncConnection, *, workspace_id: str, user_id: str, capability: str) -> Row[Any]:
    """The caller's membership, with the workspace locked: what it says stays true until the transaction ends.

    Errors: NotFound if they are not a member, PermissionDenied if they lack the capability.
    """
    if not await workspaces.lock_for_member(tx, workspace_id=workspace_id, user_id=user_id):
        raise NotFound
    actor = await find_active(tx, workspace_id=workspace_id, user_id=user_id)
    if actor is None:
        raise NotFound
    if not allows(actor, capability):
        raise PermissionDenied
    return actor


async def join(
    tx: AsyncConnection, *, workspace_id: str, user_id: str, role: str, invitation_id: str | None = None
) -> Row[Any] | None:
    """A new full member; None if the person is a member already."""
    row = {
        "id": str(uuid_utils.uuid7()),
        "workspace_id": workspace_id,
        "user_id": user_id,
        "role": role,
        "invitation_id": invitation_id,
    }
    return (await tx.execute(JOIN, row)).one_or_none()


async def list_page(
    tx: AsyncConnection, *, workspace_id: str, user_id: str, after: str | None, size: int
) -> Sequence[Row[Any]]:
    """Those of the members who joined after a member id that the caller may see. Errors: NotFound."""
    page = {"workspace_id": workspace_id, "user_id": user_id, "after": after or FIRST, "size": size}
    rows = (await tx.execute(LIST, page)).all()
    if not rows:
        raise NotFound
    return [row for row in rows if row.id is not None]
