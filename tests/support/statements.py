"""Which statements the services of this process send while a test does something, and on behalf of which call."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, TextClause, event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import CURRENT
from services.chassis.database import Database


@dataclass(frozen=True)
class Statement:
    """One statement. `rpc` and `request_id` are of the call that it was sent for; empty in a batch, or for nobody."""

    service: str
    rpc: str
    request_id: str
    text: str
    parameters: Any
    at: float
    """On time.monotonic()'s clock, just before it was sent."""


@contextmanager
def statements_sent() -> Iterator[list[Statement]]:
    """The statements sent from now on, in their order."""
    sent: list[Statement] = []

    def note(
        connection: Connection, _cursor: object, statement: str, parameters: object, _context: object, _many: bool
    ) -> None:
        call = CURRENT.get(None)
        rpc, request_id = (call.rpc.rpartition("/")[2], call.request_id) if call else ("", "")
        service = connection.engine.url.username or ""
        sent.append(Statement(service, rpc, request_id, statement, parameters, time.monotonic()))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def groups_asked_about(sent: Iterable[Statement]) -> list[str]:
    """The groups in which membership was asked for somebody's standing, in the order of the questions."""
    batches = [each.parameters["group_ids"] for each in sent if "AS in_group" in each.text]
    return [str(group_id) for batch in batches for group_id in batch if group_id]


async def rows_looked_at(
    database: Database, statement: TextClause, parameters: dict[str, Any], *, table: str = "conversations"
) -> int:
    """How many rows of a table, or of its partitions, a statement looks at; it is run for that."""

    async def explain(tx: AsyncConnection) -> Any:
        return await tx.scalar(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.text}"), parameters)

    found = await database.read(explain)
    (plan,) = json.loads(found) if isinstance(found, str) else found
    return _rows(plan["Plan"], table)


def _rows(plan: dict[str, Any], table: str) -> int:
    own = 0
    if str(plan.get("Relation Name", "")).startswith(table):
        own = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    return int(own) + sum(_rows(part, table) for part in plan.get("Plans", ()))
