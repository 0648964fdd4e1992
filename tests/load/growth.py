"""S6, beside its ratio: what the batched checks cost with a million rows stored ÷ with ten thousand.

In two databases of this scenario's own, asked in turns, so that what disturbs the machine touches both. What is asked
is the services' own code, each by its own role; gRPC, which does not know how much is stored, is left out.
"""

import asyncio
import functools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from deploy.stack import roles, secrets
from services.chassis.database import Database
from services.chassis.migrations import upgrade
from services.chassis.settings import DatabaseSettings
from services.guest import guests
from services.guest import tables as guest_tables
from services.identity import sessions
from services.identity import tables as identity_tables
from services.membership import revisions, verdicts
from services.membership import tables as membership_tables
from tests.load.histogram import Histogram
from tests.load.lab import Lab

FEW, MANY = 10_000, 1_000_000
BATCH = 100
_ROUNDS = 400
_WARM_ROUNDS = 30
_MEMBERS = 10
"""Of each workspace."""
_METADATA = {
    "identity": identity_tables.METADATA,
    "membership": membership_tables.METADATA,
    "guest": guest_tables.METADATA,
}
# Row n of any table has the id n, in order of its making, as UUIDv7 are.
_ID = "CAST('00000000-0000-7000-8000-' || lpad(to_hex({}), 12, '0') AS uuid)"
_N, _WORKSPACE = _ID.format("n"), _ID.format(f"n / {_MEMBERS}")
_FILL = {
    "identity": (
        f"""INSERT INTO users (id, email, normalized_email, name, email_verified_at)
        SELECT {_N}, n || '@example.com', n || '@example.com', 'Row', statement_timestamp()
        FROM generate_series(1, %(rows)s) AS n""",
        f"""INSERT INTO sessions
            (id, user_id, device_label, client_address, user_agent, idle_expire_at, absolute_expire_at)
        SELECT {_N}, {_N}, '', '', '', statement_timestamp() + interval '7 days',
            statement_timestamp() + interval '30 days'
        FROM generate_series(1, %(rows)s) AS n""",
        f"""INSERT INTO service_accounts (id, name, scopes, workspace_ids)
        SELECT {_N}, 'Row', ARRAY['a.b'], ARRAY[]::uuid[] FROM generate_series(1, %(rows)s / 10) AS n""",
        # Ids that no session has.
        f"""INSERT INTO service_keys (id, service_account_id, key_hash)
        SELECT gen_random_uuid(), {_N}, CAST(CAST(n AS text) AS bytea) FROM generate_series(1, %(rows)s / 10) AS n""",
    ),
    "membership": (
        f"""INSERT INTO workspaces (id, name)
        SELECT {_N}, 'Row' FROM generate_series(0, %(rows)s / {_MEMBERS}) AS n""",
        f"""INSERT INTO workspace_heads (workspace_id)
        SELECT {_N} FROM generate_series(0, %(rows)s / {_MEMBERS}) AS n""",
        f"""INSERT INTO members (id, workspace_id, user_id, role, kind, state, joined_at)
        SELECT {_N}, {_WORKSPACE}, {_N}, 'member', 'full', 'active', statement_timestamp()
        FROM generate_series(1, %(rows)s) AS n""",
    ),
    "guest": (
        f"""INSERT INTO guest_invites (id, workspace_id, token_hash, created_by_member_id, guest_ttl, expire_at)
        SELECT {_N}, {_N}, CAST(CAST(n AS text) AS bytea), {_N}, interval '1 hour', statement_timestamp()
        FROM generate_series(0, %(rows)s / {_MEMBERS}) AS n""",
        f"""INSERT INTO guests
            (member_id, workspace_id, user_id, invite_id, sponsor_member_id, expire_at, grace_end_at, expiry_job_id)
        SELECT {_N}, {_WORKSPACE}, {_N}, {_WORKSPACE}, {_N}, statement_timestamp() + interval '7 days',
            statement_timestamp() + interval '8 days', {_N}
        FROM generate_series(1, %(rows)s) AS n""",
        f"""INSERT INTO guest_grants (member_id, conversation_id, workspace_id)
        SELECT {_N}, {_N}, {_WORKSPACE} FROM generate_series(1, %(rows)s) AS n""",
    ),
}


@dataclass(frozen=True)
class _Check:
    """One of the batched checks. `ask` asks about rows, and says how many of them were found."""

    service: str
    ask: Callable[..., Awaitable[int]]


async def _check_sessions(tx: AsyncConnection, *, rows: Sequence[int]) -> int:
    return sum(await sessions.check(tx, session_ids=[_id(row) for row in rows]))


async def _check_access(tx: AsyncConnection, *, rows: Sequence[int]) -> int:
    """Half of them by user id, half by member id."""
    questions = [
        verdicts.Question(_id(row // _MEMBERS), *((_id(row), None) if row % 2 else (None, _id(row)))) for row in rows
    ]
    return sum(found.member_id is not None for found in await verdicts.standings(tx, questions))


async def _access_revisions(tx: AsyncConnection, *, rows: Sequence[int]) -> int:
    found = await revisions.access_revisions(tx, [_id(row // _MEMBERS) for row in rows])
    return sum(revision > 0 for revision in found)


async def _check_guests(tx: AsyncConnection, *, rows: Sequence[int]) -> int:
    questions = [(_id(row // _MEMBERS), _id(row), _id(row)) for row in rows]
    return sum(found.granted for found in await guests.check(tx, questions))


CHECKS = {
    "CheckSessions": _Check("identity", _check_sessions),
    "BatchCheckAccess": _Check("membership", _check_access),
    "GetAccessRevisions": _Check("membership", _access_revisions),
    "BatchCheckGuests": _Check("guest", _check_guests),
}


async def growth(lab: Lab) -> dict[str, Any]:
    """p50 of each check of 100 with a million rows ÷ with ten thousand, and whether its plan reads by index alone."""
    begun = time.monotonic()
    async with _filled(lab, FEW) as few, _filled(lab, MANY) as many:
        filled_at = time.monotonic()
        lab.show(f"batched checks with {MANY:,} rows and with {FEW:,}")
        found = {name: await _in_turns(check, few, many) for name, check in CHECKS.items()}
        plans = {name: await _scans(check, many[check.service]) for name, check in CHECKS.items()}
    return {
        "rows": [FEW, MANY],
        "ratios": {name: round(_p50(big) / _p50(small), 2) for name, (small, big) in found.items()},
        "milliseconds": {
            name: {str(rows): each.milliseconds() for rows, each in zip((FEW, MANY), both, strict=True)}
            for name, both in found.items()
        },
        "plans": plans,
        "by_index": all("Index" in scan for scans in plans.values() for scan in scans),
        "seconds": {"filling": round(filled_at - begun, 1), "all": round(time.monotonic() - begun, 1)},
    }


async def _in_turns(
    check: _Check, few: Mapping[str, Database], many: Mapping[str, Database]
) -> tuple[Histogram, Histogram]:
    """The latencies of batches of random rows, in microseconds."""
    both = Histogram(), Histogram()
    for number in range(_WARM_ROUNDS + _ROUNDS):
        for histogram, databases, stored in zip(both, (few, many), (FEW, MANY), strict=True):
            rows = random.sample(range(1, stored + 1), BATCH)
            begun = time.perf_counter()
            found = await databases[check.service].read(functools.partial(check.ask, rows=rows))
            if number >= _WARM_ROUNDS:
                histogram.record(int((time.perf_counter() - begun) * 1e6))
            if found != BATCH:
                raise RuntimeError(f"{found} of {BATCH} rows were found")
    return both


async def _scans(check: _Check, database: Database) -> list[str]:
    """How the statement reads each of its tables. The planner is left as it is: it may read them whole if it likes."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        sent.append((statement, parameters))

    async def explain(tx: AsyncConnection) -> Any:
        connection = tx.sync_connection
        sa.event.listen(connection, "before_cursor_execute", note)
        await check.ask(tx, rows=random.sample(range(1, MANY + 1), BATCH))
        sa.event.remove(connection, "before_cursor_execute", note)
        ((statement, parameters),) = sent
        return (await tx.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)).scalar_one()

    (explained,) = await database.read(explain)
    return list(_table_reads(explained["Plan"]))


def _table_reads(plan: Mapping[str, Any]) -> Iterator[str]:
    if "Relation Name" in plan:
        yield f"{plan['Node Type']} {plan.get('Index Name', plan['Relation Name'])}"
    for below in plan.get("Plans", ()):
        yield from _table_reads(below)


@asynccontextmanager
async def _filled(lab: Lab, rows: int) -> AsyncIterator[Mapping[str, Database]]:
    """A database with so many rows in every table that the checks read; the pools of the services' own roles."""
    name = f"checks_{rows}"
    lab.show(f"batched checks: making a database of {rows:,} rows")
    opened: dict[str, Database] = {}
    try:
        await asyncio.to_thread(_make, lab, name)
        # Side by side: each service has tables of its own.
        await asyncio.gather(*(asyncio.to_thread(_fill, lab, name, service, rows) for service in _FILL))
        await asyncio.to_thread(_vacuum, lab, name)
        opened = {service: Database(_settings(lab, service, name), pool_size=1) for service in _FILL}
        yield opened
    finally:
        for database in opened.values():
            await database.close()
        with lab.inside.stack.postgres.connect() as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _make(lab: Lab, name: str) -> None:
    stack = lab.inside.stack
    with stack.postgres.connect() as admin:
        roles.ensure_database(admin, name)
    with stack.postgres.connect(name) as admin:
        roles.ensure(admin, secrets.database_passwords(stack.settings.layout.secrets))
    # One after the other: Alembic keeps what it works on in one place for all threads.
    for service in _FILL:
        _migrate(_settings(lab, f"{service}_owner", name), service)


def _migrate(settings: DatabaseSettings, service: str) -> None:
    engine = sa.create_engine(
        settings.database_url.replace("postgresql://", "postgresql+psycopg://", 1),
        connect_args={"password": settings.database_password},
        poolclass=sa.NullPool,
    )
    with engine.begin() as connection:
        upgrade(service, connection, _METADATA[service])


def _fill(lab: Lab, name: str, service: str, rows: int) -> None:
    settings = _settings(lab, f"{service}_owner", name)
    with psycopg.connect(settings.database_url, password=settings.database_password, autocommit=True) as owner:
        for statement in _FILL[service]:
            owner.execute(statement, {"rows": rows})


def _vacuum(lab: Lab, name: str) -> None:
    """As autovacuum would have. Not while anything is still being filled: no page would be known as all visible."""
    with lab.inside.stack.postgres.connect(name) as admin:
        admin.execute("VACUUM (ANALYZE)")


def _settings(lab: Lab, role: str, name: str) -> DatabaseSettings:
    stack = lab.inside.stack
    return DatabaseSettings(
        database_url=stack.postgres.url(role, name),
        database_password_file=secrets.database_password_file(stack.settings.layout.secrets, role),
    )


def _id(row: int) -> str:
    return f"00000000-0000-7000-8000-{row:012x}"


def _p50(found: Histogram) -> int:
    return max(found.quantile(0.5), 1)
