"""The worker of a service: performs the outbox's work rows, and sweeps.

Celery's threads only wait; everything async runs in one loop thread of its own.
"""

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import idempotency, inbox, metrics, outbox
from services.chassis.celery import make_app, run_worker
from services.chassis.database import Database
from services.chassis.errors import PeerUnavailable
from services.chassis.secret import SecretKey
from services.chassis.settings import WorkerSettings
from services.chassis.telemetry import configure_logging
from services.chassis.wakes import Wakes

log = structlog.get_logger()

TASK_SECONDS = 20.0
"""Below the row's lease of 30 s, so that nobody else begins what is still being done."""

FORGET_SECONDS = 3.0
"""For one kind of what is forgotten, in one minute: none is to keep the others waiting for long."""

BEGIN_WORK = text("""
    UPDATE outbox SET due_at = statement_timestamp() + interval '30 seconds'
    WHERE id = :id AND target = 'worker' AND NOT dead
    RETURNING kind, subject_id
""")

Work = Callable[[str, str], Awaitable[None]]
"""`work(subject_id, row_id)`: does what the row is about. It may be done twice, so its effect must bear that."""

Sweep = Callable[[], Awaitable[None]]
"""Looks for what is due, and does it or has it done."""

Step = Callable[[AsyncConnection], Awaitable[int]]
"""Deletes a batch of what is past its time, in a transaction of its own, and says whether there may be more."""

FRAME_ROWS: Mapping[str, Step] = {
    "unseal_answers": idempotency.unseal_old,
    "forget_answers": idempotency.forget_old,
    "forget_inbox": inbox.forget_old,
}
"""What is forgotten in every service."""


class Worker:
    """One service's worker process. `works` maps an outbox row's kind to what does it, `sweeps` run each minute."""

    def __init__(self, service: str, settings: WorkerSettings) -> None:
        configure_logging(service, settings.log_level)
        self.settings = settings
        self.secret = SecretKey(settings.secret_key)
        self.app = make_app(service, settings.redis_url)
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="worker-loop", daemon=True).start()
        self.database = self.run(self._open(service))
        if settings.worker_metrics_listen:
            metrics.serve(settings.worker_metrics_listen, self.loop)
            asyncio.run_coroutine_threadsafe(metrics.watch_loop(), self.loop)

    async def _open(self, service: str) -> Database:
        database, wakes = Database(self.settings, pool_size=2), Wakes(self.settings.redis_url)
        database.on_outbox = lambda: wakes.publish(f"{service}.outbox")
        return database

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs a coroutine in the loop thread and waits for it, for at most 20 s."""

        async def bounded() -> Any:
            async with asyncio.timeout(TASK_SECONDS):
                return await work

        return asyncio.run_coroutine_threadsafe(bounded(), self.loop).result()

    def serve(self, works: Mapping[str, Work], sweeps: Mapping[str, Sweep]) -> None:
        """Takes tasks until SIGTERM."""

        sweeps = {**forgetting(self.database, FRAME_ROWS), **sweeps}
        # Shown as 0 from the start: a counter that is first seen at 1 has not risen for Prometheus.
        for kind, outcome in itertools.product(works, ("done", "failed", "postponed")):
            metrics.TASKS.labels(kind, outcome)
        for name, outcome in itertools.product(sweeps, ("done", "failed")):
            metrics.SWEEPS.labels(name, outcome)

        @self.app.task(name=perform_task(self.app.main))  # type: ignore[untyped-decorator]
        def perform_row(row_id: str) -> None:
            self.run(self.perform(works, row_id))

        @self.app.task(name=sweep_task(self.app.main))  # type: ignore[untyped-decorator]
        def sweep() -> None:
            for name, each in sweeps.items():
                self.sweep(name, each)
            metrics.SWEPT_AT.set_to_current_time()

        run_worker(self.app)
        self.run(self.database.close())

    def sweep(self, name: str, sweep: Sweep) -> None:
        """Runs one sweep; if it fails, the others are to run all the same."""
        outcome = "done"
        with metrics.SWEEP_SECONDS.labels(name).time():
            try:
                self.run(_as_coroutine(sweep))
            except Exception as error:
                outcome = "failed"
                log.warning("sweep_failed", sweep=name, error=type(error).__name__)
        metrics.SWEEPS.labels(name, outcome).inc()

    async def perform(self, works: Mapping[str, Work], row_id: str) -> None:
        """Does one work row. A row that is gone has been done."""

        async def begin(tx: AsyncConnection) -> Any:
            # The lease anew: the task may have waited in the queue for most of the relay's.
            return (await tx.execute(BEGIN_WORK, {"id": row_id})).one_or_none()

        row = await self.database.transaction(begin)
        if row is None:
            return
        try:
            # Here, not around all of it: who takes too long must be counted as failed.
            async with asyncio.timeout(TASK_SECONDS - 5):
                with metrics.TASK_SECONDS.labels(row.kind).time():
                    await works[row.kind](str(row.subject_id), row_id)
        except Exception as error:
            log.warning("work_failed", kind=row.kind, row_id=row_id, error=type(error).__name__)
            # Nobody there to take it may last an hour, and no row is to die of it.
            away = isinstance(error, PeerUnavailable)
            metrics.TASKS.labels(row.kind, "postponed" if away else "failed").inc()
            put_back = outbox.postpone if away else outbox.failed
            await self.database.transaction(lambda tx: put_back(tx, [row_id]))
            return
        metrics.TASKS.labels(row.kind, "done").inc()
        await self.database.transaction(lambda tx: outbox.done(tx, [row_id]))


def forgetting(database: Database, steps: Mapping[str, Step]) -> Mapping[str, Sweep]:
    """A sweep for each step: again and again while it finds something, and on in the next minute if there is much."""

    async def forget(step: Step) -> None:
        until = time.monotonic() + FORGET_SECONDS
        while await database.transaction(step) and time.monotonic() < until:
            pass

    return {name: partial(forget, step) for name, step in steps.items()}


def perform_task(service: str) -> str:
    """The name of the task that performs one outbox row."""
    return f"{service}.perform"


def sweep_task(service: str) -> str:
    """The name of the task that beat sends each minute."""
    return f"{service}.sweep"


async def _as_coroutine(work: Callable[[], Awaitable[None]]) -> None:
    await work()
