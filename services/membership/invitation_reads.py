"""Invitations as they are shown: newest first, each with where it stands."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound, PermissionDenied
from services.membership import members
from services.membership.capabilities import INVITE_MEMBERS, allows

STATE = """CASE
    WHEN accepted_at IS NOT NULL THEN 'accepted' WHEN declined_at IS NOT NULL THEN 'declined'
    WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN statement_timestamp() < expire_at THEN 'open' ELSE 'expired'
END"""
COLUMNS = f"""
    id, workspace_id, email, normalized_email, role AS invited_role, inviter_member_id, token_hash, rotation,
    expire_at, created_at, accepted_at, {STATE} AS state
"""
LIST = text(f"""
    SELECT caller.role, caller.kind, listed.*
    FROM {members.CALLER}
    LEFT JOIN LATERAL (
        SELECT {COLUMNS} FROM invitations
        WHERE workspace_id = caller.workspace_id AND id < CAST(:before AS uuid)
            AND (CAST(:state AS text) IS NULL OR {STATE} = :state)
        ORDER BY id DESC LIMIT :size
    ) listed ON true
    WHERE caller.workspace_id = :workspace_id AND caller.user_id = :user_id AND caller.state = 'active'
    ORDER BY listed.id DESC
""")
LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"


async def list_page(
    tx: AsyncConnection, *, workspace_id: str, user_id: str, state: str | None, before: str | None, size: int
) -> Sequence[Row[Any]]:
    """Invitations older than one, for whoever may invite. Errors: NotFound, PermissionDenied."""
    page = {
        "workspace_id": workspace_id,
        "user_id": user_id,
        "state": state,
        "before": before or LAST,
        "size": size,
    }
    rows = (await tx.execute(LIST, page)).all()
    if not rows:
        raise NotFound
    if not allows(rows[0], INVITE_MEMBERS):
        raise PermissionDenied
    return [row for row in rows if row.id is not None]
