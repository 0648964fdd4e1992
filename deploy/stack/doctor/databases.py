"""PostgreSQL and Valkey: versions, migrations, the clock, and what waits in the queues."""

import time
from collections.abc import Iterator

import psycopg
import redis
from psycopg import sql

from deploy.stack import backups, restores
from deploy.stack.doctor.findings import Finding, fail, ok, warn
from deploy.stack.settings import SERVICES
from deploy.stack.suite import Suite

_OLDEST_POSTGRESQL = 170000
_OLDEST_VALKEY = (7, 2)
_SKEW_SECONDS = 5.0
_MOST_SKEW_SECONDS = 25.0
"""Access tokens are believed for 30 s before and past their time (tokens.LEEWAY_SECONDS)."""
_DEEP = 10_000
_LATE_SECONDS = 300.0
_LOOK_AGAIN_SECONDS = 7.0
"""Longer than the five seconds in which every row that is due is found."""
_LONG_QUEUE = 1000
_LIST_DEAD = "guildhall events list; when its cause is gone: guildhall events retry --all"

# Work that was put off for long (the end of a ban) was written long ago and is not late; if it is due just now, it is
# gone at the second look.
_QUEUES = """
    SELECT 'outbox', count(*) FILTER (WHERE NOT dead), count(*) FILTER (WHERE dead),
        array_agg(CAST(id AS text)) FILTER (
            WHERE NOT dead AND created_at < statement_timestamp() - make_interval(secs => %(late)s)
                AND due_at < statement_timestamp() + interval '60 seconds'
        )
    FROM {schema}.outbox
    UNION ALL
    SELECT 'inbox', count(*) FILTER (WHERE NOT dead AND applied_at IS NULL), count(*) FILTER (WHERE dead),
        array_agg(CAST(event_id AS text)) FILTER (
            WHERE NOT dead AND applied_at IS NULL
                AND received_at < statement_timestamp() - make_interval(secs => %(late)s)
        )
    FROM {schema}.inbox
"""


def check_postgresql(stack: Suite) -> Iterator[Finding]:
    """Everything that only the database knows."""
    log = stack.postgres.log_file
    try:
        admin = stack.admin_database()
    except psycopg.OperationalError as error:
        reason = str(error).strip().splitlines()[-1]
        yield fail("postgresql", reason, f"read its log: tail -n 50 {log}")
        return
    with admin:
        admin.execute("SET statement_timeout = '10s'")
        yield _check_version(admin)
        yield _check_clock(admin)
        yield from _check_migrations(admin)
        yield from _check_queues(admin)


def _check_version(admin: psycopg.Connection) -> Finding:
    version = admin.info.server_version
    seen = f"{version // 10000}.{version % 10000}"
    if version < _OLDEST_POSTGRESQL:
        return fail("postgresql", seen, "PostgreSQL 17 or newer is needed (transaction_timeout): upgrade it")
    return ok("postgresql", seen)


def _check_clock(admin: psycopg.Connection) -> Finding:
    before = time.time()
    row = admin.execute("SELECT extract(epoch FROM clock_timestamp())").fetchone()
    after = time.time()
    skew = float(row[0]) - (before + after) / 2 if row is not None else 0.0
    seen = f"the database's is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    advice = "set both by NTP (timedatectl, chronyc tracking): expiry goes by the database's, tokens by both"
    if abs(skew) > _MOST_SKEW_SECONDS:
        return fail("clock", f"{seen}: access tokens are refused", advice)
    if abs(skew) > _SKEW_SECONDS:
        return warn("clock", seen, advice)
    return ok("clock", "the database's and this machine's agree")


def _check_migrations(admin: psycopg.Connection) -> Iterator[Finding]:
    revisions = backups.read_revisions(admin)
    for service in SERVICES:
        check, head = f"migrations {service}", restores.migrations_of(service).get_current_head()
        found = revisions.get(service)
        if found == head:
            yield ok(check, f"at {head}")
        elif found is not None and found not in _known(service):
            advice = "run the release that migrated it, or restore a backup from before"
            yield fail(check, f"at {found}, which this release does not know", advice)
        else:
            yield fail(check, f"at {found or 'nothing'}, not at {head}", "guildhall migrate")


def _known(service: str) -> set[str]:
    return {script.revision for script in restores.migrations_of(service).walk_revisions()}


def _check_queues(admin: psycopg.Connection) -> Iterator[Finding]:
    first = _read_queues(admin)
    if any(late for _, _, late in first.values()):
        time.sleep(_LOOK_AGAIN_SECONDS)
    second = _read_queues(admin) if any(late for _, _, late in first.values()) else first
    for queue, (waiting, dead, late) in second.items():
        late &= first[queue][2]
        check, seen = f"queue {queue}", f"{waiting} waiting, {dead} dead"
        service = queue.partition(" ")[0]
        if dead:
            yield fail(check, seen, _LIST_DEAD)
        elif late:
            advice = f"see whether {service}, its worker and whoever it is for run, and what its log says: undelivered"
            yield fail(check, f"{seen}, {len(late)} for longer than {_LATE_SECONDS / 60:.0f} min", advice)
        elif waiting > _DEEP:
            yield warn(check, seen, f"look again in a minute; if it grows, run more replicas of {service}")
        else:
            yield ok(check, seen)


def _read_queues(admin: psycopg.Connection) -> dict[str, tuple[int, int, set[str]]]:
    """Of each queue: how many wait, how many are dead, and the ids of those that have waited for too long."""
    queues = {}
    for service in SERVICES:
        if admin.execute("SELECT to_regclass(%s)", (f"{service}.outbox",)).fetchone() == (None,):
            continue  # never migrated, which another check tells
        statement = sql.SQL(_QUEUES).format(schema=sql.Identifier(service))
        for table, waiting, dead, late in admin.execute(statement, {"late": _LATE_SECONDS}):
            queues[f"{service} {table}"] = (waiting, dead, set(late or ()))
    return queues


def check_valkey(url: str, log: str) -> Iterator[Finding]:
    """Its version, and the tasks that wait for a worker."""
    # Retries are off: a server that hangs is to be told of, not waited for.
    client = redis.Redis.from_url(url, socket_timeout=3, socket_connect_timeout=3, retry=None)
    try:
        info = client.info("server")
        lengths = {service: int(client.llen(service)) for service in SERVICES}
    except redis.RedisError as error:
        advice = f"read its log: tail -n 50 {log}; calls and events go on without it, mails and expiry wait"
        yield fail("valkey", f"no answer ({type(error).__name__})", advice)
        return
    finally:
        client.close()
    version = str(info.get("valkey_version", info.get("redis_version", "0")))
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_VALKEY:
        yield fail("valkey", version, "Valkey or Redis 7.2 or newer is needed: upgrade it")
    else:
        yield ok("valkey", version)
    for service, length in lengths.items():
        check, seen = f"tasks {service}", f"{length} waiting"
        if length >= _LONG_QUEUE:
            advice = f"see whether {service}-worker runs (guildhall status) and what its log says; run more of them"
            yield warn(check, seen, advice)
        else:
            yield ok(check, seen)
