"""Verifying a workspace's activity chain: everything is computed anew, and the first row that is not whole is named."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.membership.activities import COLUMNS, FIRST_HASH, canonical, details_hash, row_hash

ROWS = 200
MOST_ROWS = 20_000
"""In one call: about a second."""

# In one snapshot: who appends moves the head in the same transaction.
HEAD = text("""
    SELECT h.activity_number AS number, h.activity_hash AS hash, (
        SELECT max(a.number) FROM activities a WHERE a.workspace_id = h.workspace_id
    ) AS newest
    FROM workspace_heads h WHERE h.workspace_id = :workspace_id
""")
HASH_OF = text("SELECT hash FROM activities WHERE workspace_id = :workspace_id AND number = :number")
READ = text(f"""
    SELECT {", ".join(f"a.{name}" for name in COLUMNS)}, a.hash, actor.salt AS actor_salt, actor.body AS actor_body,
        target.salt AS target_salt, target.body AS target_body
    FROM activities a
    LEFT JOIN activity_details actor
        ON actor.workspace_id = a.workspace_id AND actor.number = a.number AND actor.about = 'actor'
    LEFT JOIN activity_details target
        ON target.workspace_id = a.workspace_id AND target.number = a.number AND target.about = 'target'
    WHERE a.workspace_id = :workspace_id AND a.number > :after AND a.number <= :last
    ORDER BY a.number LIMIT :size
""")

Read = Callable[[Callable[[AsyncConnection], Awaitable[Any]]], Awaitable[Any]]
"""Runs one statement: each page in a transaction of its own, since rows do not change."""


@dataclass(slots=True)
class Progress:
    """How far a chain is whole, and what is wrong with the row that comes next."""

    number: int
    hash: bytes
    head: int
    broken: int = 0
    fault: str = ""

    def breaks(self, number: int, fault: str) -> None:
        """The first row that is not whole has been found."""
        self.broken, self.fault = number, fault


async def verify(read: Read, workspace_id: str, *, after: int, after_hash: bytes) -> Progress:
    """Goes through up to MOST_ROWS rows after one that is taken as known, by `after_hash` or as it is stored."""
    head = await read(lambda tx: _one(tx, HEAD, workspace_id))
    progress = Progress(after, FIRST_HASH, head.number)
    if after:
        stored = await read(lambda tx: _one(tx, HASH_OF, workspace_id, number=after))
        if stored is None:
            return Progress(0, b"", head.number, after, "head" if after > head.number else "missing")
        progress.hash = bytes(stored.hash)
        if after_hash and after_hash != progress.hash:
            return Progress(0, b"", head.number, after, "known hash")
    last = min(head.number, after + MOST_ROWS)
    while progress.number < last and not progress.fault:
        rows = await read(lambda tx: _rows(tx, workspace_id, after=progress.number, last=last, size=ROWS))
        # In a thread: on the event loop, every other call of the process would wait for the hashing.
        await asyncio.to_thread(
            _follow, progress, workspace_id, rows, has_more=len(rows) == ROWS, newest=head.newest or 0, last=last
        )
    if not progress.fault and progress.number >= head.number:
        _compare_head(progress, head)
    return progress


async def _one(tx: AsyncConnection, statement: Any, workspace_id: str, **named: Any) -> Row[Any] | None:
    return (await tx.execute(statement, {"workspace_id": workspace_id, **named})).one_or_none()


async def _rows(tx: AsyncConnection, workspace_id: str, **page: int) -> Sequence[Row[Any]]:
    return (await tx.execute(READ, {"workspace_id": workspace_id, **page})).all()


def _follow(
    progress: Progress, workspace_id: str, rows: Sequence[Row[Any]], *, has_more: bool, newest: int, last: int
) -> None:
    """Goes through one page."""
    for row in rows:
        if row.number != progress.number + 1:
            progress.breaks(progress.number + 1, "missing")
            return
        if fault := _fault(progress.hash, workspace_id, row):
            progress.breaks(row.number, fault)
            return
        progress.number, progress.hash = row.number, bytes(row.hash)
    if not has_more and progress.number < last:
        # Nothing came after it: is there anything further on?
        progress.breaks(progress.number + 1, "head" if newest <= progress.number else "missing")


def _compare_head(progress: Progress, head: Row[Any]) -> None:
    if (head.newest or 0) > head.number:
        progress.breaks(head.number + 1, "head")
    elif head.number and bytes(head.hash) != progress.hash:
        progress.breaks(head.number, "head")


def _fault(previous: bytes, workspace_id: str, row: Row[Any]) -> str:
    """What is wrong with a row; empty if it is whole. Details that are gone were forgotten, which is no fault."""
    columns = {name: getattr(row, name) for name in COLUMNS}
    try:
        columns["metadata"] = canonical(row.metadata)
    except (ValueError, AttributeError):
        return "hash"
    if row_hash(previous, workspace_id, columns) != bytes(row.hash):
        return "hash"
    for salt, body, known in (
        (row.actor_salt, row.actor_body, row.actor_details_hash),
        (row.target_salt, row.target_body, row.target_details_hash),
    ):
        if salt is not None and (known is None or details_hash(bytes(salt), _spelt(body)) != bytes(known)):
            return "details"
    return ""


def _spelt(body: Any) -> str:
    try:
        return canonical(body)
    except ValueError:
        return ""
