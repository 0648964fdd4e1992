"""The activity log's reading side: pages and exports, people named by whoever they are today (R34, semantics 30)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound, PermissionDenied
from services.membership.activities import COLUMNS
from services.membership.capabilities import READ_ACTIVITIES, allows
from services.membership.members import CALLER

SHOWN = ", ".join(f"a.{name}" for name in (*COLUMNS, "hash"))
WANTED = """
    (CAST(:actor_user_id AS uuid) IS NULL OR a.actor_ref = (
        SELECT p.ref FROM activity_people p
        WHERE p.workspace_id = :workspace_id AND p.user_id = CAST(:actor_user_id AS uuid)
    ))
    AND (CAST(:target_user_id AS uuid) IS NULL OR a.target_ref = (
        SELECT p.ref FROM activity_people p
        WHERE p.workspace_id = :workspace_id AND p.user_id = CAST(:target_user_id AS uuid)
    ))
    AND (CAST(:actions AS text[]) IS NULL OR a.action = ANY(CAST(:actions AS text[])) OR EXISTS (
        SELECT FROM unnest(CAST(:prefixes AS text[])) AS prefix WHERE starts_with(a.action, prefix)
    ))
    AND (CAST(:target_type AS text) IS NULL OR a.target_type = CAST(:target_type AS text))
    AND (CAST(:target_id AS uuid) IS NULL OR a.target_id = CAST(:target_id AS uuid))
    AND (CAST(:start_at AS timestamptz) IS NULL OR a.happened_at >= CAST(:start_at AS timestamptz))
    AND (CAST(:end_at AS timestamptz) IS NULL OR a.happened_at < CAST(:end_at AS timestamptz))
    AND (CAST(:outcome AS text) IS NULL OR a.outcome = CAST(:outcome AS text))
"""


# Whose reference is gone has been forgotten, though it takes a while until the last of their details is.
BESIDE = """
    LEFT JOIN activity_people actor ON actor.ref = listed.actor_ref
    LEFT JOIN activity_people target ON target.ref = listed.target_ref
    LEFT JOIN activity_details by ON by.workspace_id = :workspace_id AND by.number = listed.number
        AND by.about = 'actor' AND by.ref = actor.ref
    LEFT JOIN activity_details about ON about.workspace_id = :workspace_id AND about.number = listed.number
        AND about.about = 'target' AND about.ref IN (actor.ref, target.ref)
"""


def _page(condition: str, order: str) -> Any:
    """From the caller outwards: no row at all means that they are no member, one without a number an empty page."""
    return text(f"""
        SELECT caller.role, caller.kind, listed.*, actor.user_id AS actor_user_id, target.user_id AS target_user_id,
            by.body AS actor_details, about.body AS target_details
        FROM {CALLER}
        LEFT JOIN LATERAL (
            SELECT a.workspace_id, {SHOWN} FROM activities a
            WHERE a.workspace_id = :workspace_id AND {condition} AND {WANTED}
            ORDER BY a.number {order} LIMIT :size
        ) listed ON true
        {BESIDE}
        WHERE caller.workspace_id = :workspace_id AND caller.user_id = :user_id AND caller.state = 'active'
        ORDER BY listed.number {order}
    """)


NEWEST_FIRST = _page("a.number < :bound", "DESC")
OLDEST_FIRST = _page("a.number > :bound", "ASC")
BEYOND = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Filter:
    """Which activities; None stands for all."""

    actor_user_id: str | None = None
    target_user_id: str | None = None
    actions: Sequence[str] | None = None
    prefixes: Sequence[str] = ()
    """Of actions, besides those that are named whole."""
    target_type: str | None = None
    target_id: str | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    outcome: str | None = None


async def list_before(
    tx: AsyncConnection, chosen: Filter, *, workspace_id: str, user_id: str, before: int | None, size: int
) -> Sequence[Row[Any]]:
    """A page, newest first, before a number. Errors: NotFound, PermissionDenied."""
    page = {"workspace_id": workspace_id, "user_id": user_id, "bound": before or BEYOND, "size": size}
    return await _read(tx, NEWEST_FIRST, chosen, page)


async def list_after(
    tx: AsyncConnection, chosen: Filter, *, workspace_id: str, user_id: str, after: int, size: int
) -> Sequence[Row[Any]]:
    """A page, oldest first, after a number. Errors: NotFound, PermissionDenied."""
    page = {"workspace_id": workspace_id, "user_id": user_id, "bound": after, "size": size}
    return await _read(tx, OLDEST_FIRST, chosen, page)


async def _read(tx: AsyncConnection, statement: Any, chosen: Filter, page: dict[str, Any]) -> Sequence[Row[Any]]:
    named = asdict(chosen) | page
    rows = (await tx.execute(statement, named | {"prefixes": list(chosen.prefixes)})).all()
    require_reader(rows[0] if rows else None)
    return [row for row in rows if row.number is not None]


def require_reader(caller: Row[Any] | None) -> None:
    """Whether a member may read the log. Errors: NotFound without one; PermissionDenied."""
    # A guest does not learn that there is a log.
    if caller is None or caller.kind == "guest":
        raise NotFound
    if not allows(caller, READ_ACTIVITIES):
        raise PermissionDenied
