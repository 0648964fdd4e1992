"""What operators watch besides calls (telemetry.py): queues, pools, tables, workers. Named as Prometheus asks.

Whatever can be read is read when Prometheus asks, and what is counted is counted per batch, task or failure: nothing
here is on the way of a single call.
"""

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import prometheus_client
import structlog
from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

if TYPE_CHECKING:
    from services.chassis.database import Database  # which imports this module

log = structlog.get_logger()

LOOK_SECONDS = 15.0
REST_FACTOR = 100.0
"""It rests a hundred times as long as a look took: a table that grew long costs no more than a short one."""
MOST_REST_SECONDS = 60.0
"""But never longer: one look that took 5 s would leave the alerts with what it saw for eight minutes."""
LOOP_SECONDS = 0.5
ALIVE = "/alive"
ANSWER_SECONDS = 4.0
"""Less than Kubernetes waits for a probe."""
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

IN_FLIGHT = Gauge("guildhall_calls_in_flight", "Unary calls being answered; at most 1 024, the rest is refused.")

BATCH_ITEMS = Histogram(
    "guildhall_coalescer_batch_items",
    "Items that travelled in one batch of a queue: questions, or messages.",
    ("queue",),
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
)
FLUSH_SECONDS = Histogram(
    "guildhall_coalescer_flush_seconds", "Seconds that a batch took, waiting excluded.", ("queue",), buckets=SECONDS
)
WAITING = Gauge("guildhall_coalescer_waiting_items", "Items that wait for the next batch of a queue.", ("queue",))
REFUSED = Counter("guildhall_coalescer_refused", "Items refused because their queue was full.", ("queue",))

POOL_SIZE = Gauge("guildhall_database_pool_size_connections", "The most connections that a pool opens.", ("pool",))
POOL_USED = Gauge("guildhall_database_pool_used_connections", "Connections of a pool that are in use.", ("pool",))
POOL_WAITING = Gauge(
    "guildhall_database_pool_waiting_units", "Units of work that wait for a connection of a pool.", ("pool",)
)
POOL_TIMEOUTS = Counter(
    "guildhall_database_pool_timeouts", "Units of work that got no connection of a pool in time.", ("pool",)
)

OUTBOX_WAITING = Gauge("guildhall_outbox_waiting_rows", "Outbox rows that are due, or being delivered.")
OUTBOX_OLDEST = Gauge("guildhall_outbox_oldest_seconds", "Seconds for which the oldest of them has been due.")
OUTBOX_DEAD = Gauge("guildhall_outbox_dead_rows", "Outbox rows given up after 20 tries.")
OUTBOX_SENT = Counter(
    "guildhall_outbox_sent_rows", "Outbox rows handed on, or not, by where they go.", ("target", "outcome")
)
INBOX_WAITING = Gauge("guildhall_inbox_waiting_rows", "Events of other services that are not applied yet.")
INBOX_OLDEST = Gauge("guildhall_inbox_oldest_seconds", "Seconds for which the oldest of them has been here.")
INBOX_DEAD = Gauge("guildhall_inbox_dead_rows", "Events of other services given up after 20 tries.")
INBOX_APPLIED = Counter("guildhall_inbox_applied_events", "Events applied, or not, by kind.", ("kind", "outcome"))

LOOP_LAG = Histogram(
    "guildhall_event_loop_lag_seconds",
    "Seconds by which a timer of the event loop came late: for so long the process answered nobody.",
    buckets=SECONDS,
)
LOOP_TASKS = Gauge("guildhall_event_loop_tasks", "Unfinished tasks of the event loop; what only rises, leaks.")

TASKS = Counter("guildhall_worker_tasks", "Works of outbox rows, by kind and what came of them.", ("kind", "outcome"))
TASK_SECONDS = Histogram("guildhall_worker_task_seconds", "Seconds that a work took.", ("kind",), buckets=SECONDS)
SWEEPS = Counter("guildhall_worker_sweeps", "Sweeps, by name and what came of them.", ("sweep", "outcome"))
SWEEP_SECONDS = Histogram(
    "guildhall_worker_sweep_seconds", "Seconds that a sweep took.", ("sweep",), buckets=(*SECONDS, 20)
)
SWEPT_AT = Gauge("guildhall_worker_last_sweep_timestamp_seconds", "When the last round of sweeps ended, since 1970.")
MAILS = Counter("guildhall_mails", "Mails, by kind and what came of handing them over.", ("kind", "outcome"))

# created_at is when a row was due first (outbox.py).
BACKLOGS = text("""
    SELECT * FROM (
        SELECT count(*) FILTER (WHERE NOT dead) AS outbox_waiting,
            coalesce(extract(epoch FROM statement_timestamp() - min(created_at) FILTER (WHERE NOT dead)), 0)
                AS outbox_oldest,
            count(*) FILTER (WHERE dead) AS outbox_dead
        FROM outbox WHERE dead OR created_at <= statement_timestamp()
    ) outgoing, (
        SELECT count(*) FILTER (WHERE NOT dead) AS inbox_waiting,
            coalesce(extract(epoch FROM statement_timestamp() - min(received_at) FILTER (WHERE NOT dead)), 0)
                AS inbox_oldest,
            count(*) FILTER (WHERE dead) AS inbox_dead
        FROM inbox WHERE applied_at IS NULL
    ) incoming
""")
OF_BACKLOGS = {
    "outbox_waiting": OUTBOX_WAITING,
    "outbox_oldest": OUTBOX_OLDEST,
    "outbox_dead": OUTBOX_DEAD,
    "inbox_waiting": INBOX_WAITING,
    "inbox_oldest": INBOX_OLDEST,
    "inbox_dead": INBOX_DEAD,
}


def serve(listen: str, loop: asyncio.AbstractEventLoop) -> Any:
    """Answers Prometheus at HOST:PORT in a thread, until `shutdown()` of what it returns.

    ALIVE is answered there by the loop, or with 503 after ANSWER_SECONDS: the thread goes on when the loop hangs.
    """
    # The time at which each series began would be a second one for it.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    host, port = listen.rsplit(":", 1)
    server, _ = prometheus_client.start_http_server(int(port), addr=host)
    shown: Any = server.get_app()

    def answer(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] != ALIVE:
            return shown(environ, start_response)
        answered = threading.Event()
        loop.call_soon_threadsafe(answered.set)
        start_response("200 OK" if answered.wait(ANSWER_SECONDS) else "503 Service Unavailable", [])
        return [b""]

    server.set_app(answer)
    return server


async def watch_table(database: "Database", statement: TextClause, gauges: Mapping[str, Gauge]) -> None:
    """Sets each gauge to its column of the statement's one row, each 15 to 60 s; to NaN while there is no answer."""
    while True:
        begun = time.monotonic()
        try:
            row = await database.read(lambda tx: _one_row(tx, statement))
            rest = min(max(LOOK_SECONDS, REST_FACTOR * (time.monotonic() - begun)), MOST_REST_SECONDS)
        except Exception as error:
            log.warning("tables_not_watched", error=type(error).__name__)
            row = dict.fromkeys(gauges, float("nan"))
            # However long it waited: NaN pages until the next look.
            rest = LOOK_SECONDS
        for column, gauge in gauges.items():
            gauge.set(float(row[column]))
        await asyncio.sleep(rest)


async def _one_row(tx: AsyncConnection, statement: TextClause) -> Mapping[str, Any]:
    return dict((await tx.execute(statement)).mappings().one())


async def watch_loop() -> None:
    """Measures how late the event loop is, until cancelled."""
    while True:
        begun = time.monotonic()
        await asyncio.sleep(LOOP_SECONDS)
        LOOP_LAG.observe(max(0.0, time.monotonic() - begun - LOOP_SECONDS))
        LOOP_TASKS.set(len(asyncio.all_tasks()))
