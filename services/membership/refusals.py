"""What was tried and refused is in the activity log too."""

from collections.abc import Awaitable
from typing import TypeVar

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import PermissionDenied
from services.membership import activities, members
from services.membership.activities import Activity
from services.membership.errors import Banned, LastAdmin, LastOwner, RankTooLow
from services.membership.guest_sight import Sight

log = structlog.get_logger()

T = TypeVar("T")

A_MINUTE = 10
"""The refusals of one person that are recorded within a minute: nobody fills a log by being refused."""

LOCK_HEAD = text("SELECT FROM workspace_heads WHERE workspace_id = :workspace_id FOR NO KEY UPDATE")
COUNT_RECENT = text("""
    SELECT count(*) FROM activities a
    JOIN activity_people p ON p.workspace_id = a.workspace_id AND p.ref = a.actor_ref
    WHERE p.workspace_id = :workspace_id AND p.user_id = :user_id AND a.outcome = 'refused'
        AND a.happened_at > statement_timestamp() - interval '1 minute'
""")


async def told(database: Database, sight: Sight, workspace_id: str, call: Awaitable[T]) -> T:
    """The answer of `call`; that it is denied is told to who is somebody there. NotFound for a guest who has ended."""
    try:
        return await call
    except PermissionDenied:
        person = {"workspace_id": workspace_id, "user_id": current_call().user_id}
        caller = await database.read(lambda tx: members.find_active(tx, **person))
        if caller is not None:
            await sight.require_present(caller)
        raise


async def audited(
    database: Database,
    action: str,
    workspace_id: str,
    call: Awaitable[T],
    *,
    target_type: str = "workspace",
    target_id: str | None = None,
    target_user_id: str | None = None,
) -> T:
    """The answer of `call`; its refusal is recorded in a transaction of its own, since the call's was rolled back.

    If that fails, the log of the process says so, and the refusal stays what it is.

    Only what an active member tried is recorded: a stranger writes into nobody's log.
    """
    try:
        return await call
    except (PermissionDenied, RankTooLow, LastAdmin, LastOwner, Banned) as refusal:
        tried = Activity(action, target_type, target_id, target_user_id, {"error": refusal.reason}, outcome="refused")
        try:
            await database.transaction(lambda tx: _record(tx, workspace_id, tried))
        except Exception as error:
            # It was refused all the same: a caller who is told to try again would only be refused again.
            log.warning("refusal_unrecorded", workspace_id=workspace_id, action=action, error=type(error).__name__)
        raise


async def _record(tx: AsyncConnection, workspace_id: str, tried: Activity) -> None:
    person = {"workspace_id": workspace_id, "user_id": current_call().user_id}
    if not person["user_id"] or await members.find_active(tx, **person) is None:
        return
    await tx.execute(LOCK_HEAD, {"workspace_id": workspace_id})
    if await tx.scalar(COUNT_RECENT, person) < A_MINUTE:
        await activities.record(tx, workspace_id, [tried])
