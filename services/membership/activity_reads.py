"""The activity log's reading side: pages and exports, people named by whoever they are today.

A page costs about the same however long the log is: its statement says only what is asked for, so that an index on it
can be used, and where none lists just that in the order of the numbers, it looks at no more than so many of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound, PermissionDenied
from services.membership.activities import COLUMNS
from services.membership.capabilities import READ_ACTIVITIES, allows
from services.membership.members import CALLER

MOST_WALKED = 50_000
"""How many numbers of a log one page looks at. The next one goes on from there."""
BEYOND = 2**63 - 1
SHOWN = ", ".join(f"a.{name}" for name in (*COLUMNS, "hash"))


def _person(column: str, name: str) -> str:
    return f"""a.{column} = (
        SELECT p.ref FROM activity_people p
        WHERE p.workspace_id = :workspace_id AND p.user_id = CAST(:{name} AS uuid)
    )"""


CONDITIONS = {
    "actor_user_id": _person("actor_ref", "actor_user_id"),
    "target_user_id": _person("target_ref", "target_user_id"),
    "target_type": "a.target_type = :target_type",
    "target_id": "a.target_id = CAST(:target_id AS uuid)",
    "start_at": "a.happened_at >= CAST(:start_at AS timestamptz)",
    "end_at": "a.happened_at < CAST(:end_at AS timestamptz)",
}
"""SQL about the activity `a`, by the field of a Filter."""
# The value is part of the text: a partial index on it is used by a plan for whatever value, too.
OUTCOMES = {"done": "a.outcome = 'done'", "refused": "a.outcome = 'refused'"}
SERVED = tuple(
    frozenset(fields)
    for fields in (
        (),
        ("actor_user_id",),
        ("target_user_id",),
        ("target_type", "target_id"),
        ("action",),
        ("refused",),
    )
)
"""What an index has in the order of the numbers, and nothing else with it."""
BESIDE = """
    LEFT JOIN activity_people actor ON actor.ref = listed.actor_ref
    LEFT JOIN activity_people target ON target.ref = listed.target_ref
    LEFT JOIN activity_details by
        ON by.workspace_id = :workspace_id AND by.number = listed.number AND by.about = 'actor'
    LEFT JOIN activity_details about
        ON about.workspace_id = :workspace_id AND about.number = listed.number AND about.about = 'target'
"""
# Whose reference is gone has been forgotten, though it takes a while until the last of their details is. Not said where
# the details are joined: by the reference's index that could be all that somebody ever left, for each row of a page.
PERSONAL = """
    actor.user_id AS actor_user_id, target.user_id AS target_user_id,
    CASE WHEN by.ref = actor.ref THEN by.body END AS actor_details,
    CASE WHEN about.ref IN (actor.ref, target.ref) THEN about.body END AS target_details
"""


@lru_cache(maxsize=256)
def _page(conditions: tuple[str, ...], *, newest_first: bool, is_bounded: bool) -> TextClause:
    """From the caller outwards: no row at all means that they are no member, one without a number an empty page."""
    order, bound = ("DESC", "a.number < :bound") if newest_first else ("ASC", "a.number > :bound")
    walked = (
        "a.number >= least(CAST(:bound AS bigint), head.activity_number + 1) - :walked"
        if newest_first
        else "a.number <= :last"
    )
    wanted = " AND ".join((bound, *((walked,) if is_bounded else ()), *conditions))
    return text(f"""
        SELECT caller.role, caller.kind, head.activity_number AS head, listed.*, {PERSONAL}
        FROM {CALLER} JOIN workspace_heads head ON head.workspace_id = caller.workspace_id
        LEFT JOIN LATERAL (
            SELECT a.workspace_id, {SHOWN} FROM activities a
            WHERE a.workspace_id = :workspace_id AND {wanted}
            ORDER BY a.number {order} LIMIT :size
        ) listed ON true
        {BESIDE}
        WHERE caller.workspace_id = :workspace_id AND caller.user_id = :user_id AND caller.state = 'active'
        ORDER BY listed.number {order}
    """)


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


@dataclass(frozen=True, slots=True)
class Page:
    """What was found, which may be nothing before the end is reached."""

    rows: Sequence[Row[Any]]
    next: int | None
    """The number to go on from; None at the end."""


async def list_before(
    tx: AsyncConnection, chosen: Filter, *, workspace_id: str, user_id: str, before: int | None, size: int
) -> Page:
    """A page, newest first, before a number. Errors: NotFound, PermissionDenied."""
    bound = before or BEYOND
    reader = {"workspace_id": workspace_id, "user_id": user_id}
    rows, is_bounded = await _read(tx, chosen, {**reader, "bound": bound, "size": size + 1}, newest_first=True)
    floor = min(bound, rows[0].head + 1) - MOST_WALKED
    return _cut(rows, size, floor if is_bounded and floor > 1 else None)


async def list_after(
    tx: AsyncConnection, chosen: Filter, *, workspace_id: str, user_id: str, after: int, size: int
) -> Page:
    """A page, oldest first, after a number. Errors: NotFound, PermissionDenied."""
    last = min(after + MOST_WALKED, BEYOND)
    page = {"workspace_id": workspace_id, "user_id": user_id, "bound": after, "last": last, "size": size + 1}
    rows, is_bounded = await _read(tx, chosen, page, newest_first=False)
    return _cut(rows, size, last if is_bounded and last < rows[0].head else None)


async def _read(
    tx: AsyncConnection, chosen: Filter, page: Mapping[str, Any], *, newest_first: bool
) -> tuple[Sequence[Row[Any]], bool]:
    """At least one row, and whether there may be more beyond the numbers that were looked at."""
    conditions, values = _conditions(chosen)
    is_bounded = frozenset(conditions) not in SERVED
    statement = _page(tuple(conditions.values()), newest_first=newest_first, is_bounded=is_bounded)
    rows = (await tx.execute(statement, {**values, **page, "walked": MOST_WALKED})).all()
    require_reader(rows[0] if rows else None)
    return rows, is_bounded


def _conditions(chosen: Filter) -> tuple[dict[str, str], dict[str, Any]]:
    """What is asked for as SQL, each by its name, and the values in it."""
    values = asdict(chosen)
    conditions = {name: condition for name, condition in CONDITIONS.items() if values[name] is not None}
    if chosen.outcome is not None:
        conditions[chosen.outcome] = OUTCOMES[chosen.outcome]
    if chosen.actions is not None:
        each = []
        for number, action in enumerate(chosen.actions):
            each.append(f"a.action = :action_{number}")
            values[f"action_{number}"] = action
        for number, prefix in enumerate(chosen.prefixes):
            # A range, which an index can be asked for: up to what comes after all that begin so.
            each.append(f"(a.action >= :first_{number} AND a.action < :past_{number})")
            values[f"first_{number}"] = prefix
            values[f"past_{number}"] = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        conditions["action" if len(each) == len(chosen.actions) == 1 else "actions"] = f"({' OR '.join(each)})"
    return conditions, values


def _cut(rows: Sequence[Row[Any]], size: int, walked_to: int | None) -> Page:
    found = [row for row in rows if row.number is not None]
    return Page(found[:size], found[size - 1].number if len(found) > size else walked_to)


def require_reader(caller: Row[Any] | None) -> None:
    """Whether a member may read the log. Errors: NotFound without one; PermissionDenied."""
    # A guest does not learn that there is a log.
    if caller is None or caller.kind == "guest":
        raise NotFound
    if not allows(caller, READ_ACTIVITIES):
        raise PermissionDenied
