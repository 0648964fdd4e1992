"""What holds for all guests of a workspace: grace, maximum stay, notices, and whether members may invite.

A workspace's row is made when it is first needed, with the table's defaults. It is also the lock by which changes that
depend on it wait for each other: it comes before any guest's row.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import EtagMismatch
from services.guest import policy_changes

COLUMNS = "workspace_id, grace, maximum_stay, notice_days, members_may_invite, version"

MAKE = text("INSERT INTO guest_policies (workspace_id) VALUES (:workspace_id) ON CONFLICT DO NOTHING")
MAY_INVITE = text("SELECT members_may_invite FROM guest_policies WHERE workspace_id = :workspace_id")
# Three strengths: those who only go by the policy do not wait for each other, nor for a link that is being made.
GET = f"SELECT {COLUMNS} FROM guest_policies WHERE workspace_id = :workspace_id"
HOLD = text(f"{GET} FOR KEY SHARE")
LOCK_TO_ADD = text(f"{GET} FOR NO KEY UPDATE")
LOCK = text(f"{GET} FOR UPDATE")
UPDATE = text(f"""
    UPDATE guest_policies
    SET grace = :grace, maximum_stay = :maximum_stay, notice_days = CAST(:notice_days AS integer[]),
        members_may_invite = :members_may_invite, version = version + 1
    WHERE workspace_id = :workspace_id
    RETURNING {COLUMNS}
""")


async def members_may_invite(tx: AsyncConnection, workspace_id: str) -> bool:
    """Whether members who are no admins may invite guests."""
    return bool(await tx.scalar(MAY_INVITE, {"workspace_id": workspace_id}))


async def hold(tx: AsyncConnection, workspace_id: str) -> Row[Any]:
    """The policy, which stays as it is until this transaction ends."""
    return await _get(tx, HOLD, workspace_id)


async def lock_to_add(tx: AsyncConnection, workspace_id: str) -> Row[Any]:
    """The same, and nobody else adds what is counted per workspace meanwhile."""
    return await _get(tx, LOCK_TO_ADD, workspace_id)


async def lock(tx: AsyncConnection, workspace_id: str) -> Row[Any]:
    """The policy; whoever goes by it waits for this transaction."""
    return await _get(tx, LOCK, workspace_id)


async def _get(tx: AsyncConnection, statement: TextClause, workspace_id: str) -> Row[Any]:
    named = {"workspace_id": workspace_id}
    found = (await tx.execute(statement, named)).one_or_none()
    if found is None:
        await tx.execute(MAKE, named)
        found = (await tx.execute(statement, named)).one()
    return found


async def update(tx: AsyncConnection, present: Row[Any], *, changes: Mapping[str, object], etag: str) -> Row[Any]:
    """Changes a policy that is locked, and begins to bring it to the guests who are there.

    Errors: ETAG_MISMATCH; policy_changes.Unfinished.
    """
    if etag and etag != etag_of(present.version):
        raise EtagMismatch
    workspace_id = str(present.workspace_id)
    await policy_changes.require_finished(tx, workspace_id)
    row = (await tx.execute(UPDATE, {**present._asdict(), **changes, "workspace_id": workspace_id})).one()
    tighter = [name for name in ("grace", "maximum_stay") if getattr(row, name) < getattr(present, name)]
    if tighter:
        # A maximum stay that is as long as before cuts nobody who came when none was kept.
        stay = row.maximum_stay if "maximum_stay" in tighter else None
        await policy_changes.begin_tightening(tx, workspace_id, grace=row.grace, maximum_stay=stay)
    elif list(row.notice_days) != list(present.notice_days):
        await policy_changes.begin_planning(tx, workspace_id)
    return row


def etag_of(version: int) -> str:
    """The etag of a policy at a version."""
    return str(version)
