"""The four services in this process, on backends of their own: every committed row is noted, every statement at hand.

Only here can one statement of one use case be made to fail, and events and tasks be held back and dealt out anew.
"""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import Connection, Engine, event

from deploy.stack.settings import SERVICES
from services.chassis.call import CURRENT
from tests.support.backends import Processes, running_backends
from tests.support.deliveries import until
from tests.support.suite import Suite

Shape = tuple[str, ...]
"""What one committed transaction wrote: "membership.members insert" and the like, sorted."""

FAILING = "SELECT 1 / 0"
SETTLE_SECONDS = 60
# Left out: what relays, the inbox, the search and the groups' syncs do with rows by themselves, whenever it suits them.
ONLY_INSERTS = {"outbox", "idempotency_keys", "group_syncs"}
UNWATCHED = {"alembic_version", "inbox", "search_entries", "search_positions"}
DETAILS = {
    "outbox": "kind",
    "activities": "action",
    "conversation_events": "kind",
    "security_events": "kind",
    "sessions": "ended_reason",
}

TABLES = """
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""
JOURNAL = """
    CREATE TABLE public.journal (place bigint GENERATED ALWAYS AS IDENTITY, writer text NOT NULL, what text NOT NULL)
"""
# Of the superuser, who owns the journal: the services' roles have no rights on it.
NOTE = """
    CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
    BEGIN
        INSERT INTO journal (writer, what) VALUES (
            pg_current_xact_id()::text,
            concat_ws(' ', TG_ARGV[0], lower(TG_OP), CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) ->> TG_ARGV[1] END)
        );
        RETURN NULL;
    END $$
"""
UNDONE = """
    SELECT count(*) FROM (
        {} UNION ALL SELECT 1 FROM guest.sight_losses
    ) waiting
"""


class Journal:
    """The rows that were committed, by transaction."""

    def __init__(self, admin: psycopg.Connection[Any]) -> None:
        """`admin` is a superuser's connection to a suite's database, in autocommit."""
        self.admin = admin
        admin.execute(JOURNAL)
        admin.execute(NOTE)
        for schema, table in admin.execute(TABLES, [list(SERVICES)]).fetchall():
            if table not in UNWATCHED:
                when = "INSERT" if table in ONLY_INSERTS else "INSERT OR UPDATE OR DELETE"
                admin.execute(
                    f"CREATE TRIGGER note AFTER {when} ON {schema}.{table} FOR EACH ROW "  # type: ignore[arg-type]
                    f"EXECUTE FUNCTION public.note('{schema}.{table}', '{DETAILS.get(table, '')}')"
                )
        waiting = [
            f"SELECT 1 FROM {service}.{table} WHERE NOT dead AND {condition}"
            for service in SERVICES
            # created_at is when a row was due first: what is meant for later is not waited for.
            for table, condition in (("outbox", "created_at <= statement_timestamp()"), ("inbox", "applied_at IS NULL"))
        ]
        self._undone = UNDONE.format(" UNION ALL ".join(waiting))

    def mark(self) -> int:
        """A place in the journal: what is committed from now on comes after it."""
        return self._one("SELECT coalesce(max(place), 0) FROM public.journal")

    def since(self, mark: int) -> Counter[Shape]:
        """The transactions after a place, by what they wrote."""
        rows = self.admin.execute(
            "SELECT array_agg(what ORDER BY what) FROM public.journal WHERE place > %s GROUP BY writer", [mark]
        )
        return Counter(tuple(whats) for (whats,) in rows)

    async def relayed(self) -> None:
        """Waits until the relays have taken every row for other services."""
        rows = " UNION ALL ".join(f"SELECT 1 FROM {service}.outbox WHERE target <> 'worker'" for service in SERVICES)
        await until(lambda: not self._one(f"SELECT count(*) FROM ({rows}) waiting"), seconds=SETTLE_SECONDS)

    async def settled(self) -> None:
        """Waits until every event is applied and every task done."""
        await until(lambda: not self._one(self._undone), seconds=SETTLE_SECONDS)

    def _one(self, query: str) -> int:
        row = self.admin.execute(query.encode()).fetchone()
        assert row is not None
        return int(row[0])


class Point(NamedTuple):
    """One statement of a use case: the nth time that a service sends this text."""

    service: str
    text: str
    number: int


class Statements:
    """What the services send on behalf of calls. One of it can be made to fail, in PostgreSQL itself."""

    def __init__(self) -> None:
        self.seen: list[Point] = []
        self.is_met = False
        self._watching = False
        self._broken: Point | None = None

    @contextmanager
    def watched(self, broken: Point | None = None) -> Iterator[None]:
        """Notes what is sent meanwhile; the statement `broken` is replaced by one that fails."""
        self.seen, self.is_met, self._watching, self._broken = [], False, True, broken
        try:
            yield
        finally:
            self._watching = False

    def before(
        self, connection: Connection, _cursor: object, statement: str, parameters: Any, _context: object, many: bool
    ) -> tuple[str, Any]:
        """SQLAlchemy's before_cursor_execute."""
        if not self._watching or not _is_of_a_call(statement):
            return statement, parameters
        service = connection.engine.url.username or ""
        number = sum(point[:2] == (service, statement) for point in self.seen)
        point = Point(service, statement, number)
        self.seen.append(point)
        if point != self._broken:
            return statement, parameters
        self.is_met = True
        return FAILING, [()] if many else ()


def _is_of_a_call(statement: str) -> bool:
    """Whether somebody's call is behind it: a batch of messages has no caller, and relays send by themselves."""
    call = CURRENT.get(None)
    if call is None:
        return "INSERT INTO messages" in statement
    return not call.rpc.endswith("/DeliverEvents")


class Workshop:
    """The suite, its journal and its statements."""

    def __init__(self, suite: Suite, journal: Journal, statements: Statements, processes: Processes) -> None:
        self.suite = suite
        self.journal = journal
        self.statements = statements
        self.processes = processes


@asynccontextmanager
async def open_workshop(log_file: Path) -> AsyncIterator[Workshop]:
    """Boots it. What its services log goes to a file."""
    processes, statements = Processes(), Statements()
    with running_backends(processes) as stack, log_file.open("a", buffering=1) as log:
        suite = Suite(stack)
        # Each defect that is made here is logged as one.
        with contextlib.redirect_stdout(log):
            await suite.start()
        event.listen(Engine, "before_cursor_execute", statements.before, retval=True)
        try:
            with stack.admin_database() as admin:
                admin.autocommit = True
                yield Workshop(suite, Journal(admin), statements, processes)
        finally:
            event.remove(Engine, "before_cursor_execute", statements.before)
            await suite.stop()
