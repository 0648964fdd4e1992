"""`guildhall events`: what the services could not deliver or do in twenty tries, to be looked at and tried again."""

from dataclasses import dataclass

import psycopg
from psycopg import sql

from deploy.stack.settings import SERVICES

_LIST = """
    SELECT 'outbox', CAST(id AS text), target, kind, attempts, created_at FROM {schema}.outbox WHERE dead
    UNION ALL
    SELECT 'inbox', CAST(event_id AS text), source, kind, attempts, received_at FROM {schema}.inbox WHERE dead
    ORDER BY 6
"""
_RETRY_OUTBOX = """
    UPDATE {schema}.outbox SET dead = false, attempts = 0, due_at = statement_timestamp()
    WHERE dead AND (%(all)s OR id = ANY(CAST(%(ids)s AS uuid[])))
"""
_RETRY_INBOX = """
    UPDATE {schema}.inbox SET dead = false, attempts = 0, due_at = statement_timestamp()
    WHERE dead AND (%(all)s OR event_id = ANY(CAST(%(ids)s AS uuid[])))
"""


@dataclass(frozen=True)
class DeadEvent:
    """A row that was set aside. `peer` is whom it is for (outbox) or from (inbox); `worker` is the service's own."""

    service: str
    table: str
    id: str
    peer: str
    kind: str
    attempts: int
    since: str


def find(admin: psycopg.Connection) -> list[DeadEvent]:
    """All of them, the oldest of each service first."""
    found = []
    for service in SERVICES:
        for table, row_id, peer, kind, attempts, created_at in admin.execute(_in_schema(_LIST, service)):
            found.append(DeadEvent(service, table, row_id, peer, kind, attempts, created_at.isoformat()))
    return found


def retry(admin: psycopg.Connection, ids: list[str], *, everything: bool) -> int:
    """Have rows tried again, as often as new ones; return how many there were. Their services look within 5 s."""
    count = 0
    for service in SERVICES:
        for statement in (_RETRY_OUTBOX, _RETRY_INBOX):
            count += admin.execute(_in_schema(statement, service), {"all": everything, "ids": ids}).rowcount
    return count


def _in_schema(statement: str, service: str) -> sql.Composed:
    return sql.SQL(statement).format(schema=sql.Identifier(service))
