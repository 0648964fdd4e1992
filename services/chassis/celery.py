"""Celery, set up so that a lost task is repeated soon and a repeated one does no harm. The tables keep the promise."""

import asyncio
from collections.abc import Sequence
from typing import Any

from celery import Celery

LEASE_SECONDS = 30

BROKER_OPTIONS = {
    # A task that a dead worker held is given to another after a minute, not after the default hour.
    "visibility_timeout": 60,
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    "socket_connect_timeout": 1,
}


def make_app(name: str, redis_url: str) -> Celery:
    """An app whose default queue is named after it; tasks carry ids only, and their results are rows."""
    app = Celery(name, broker=redis_url.replace("unix://", "redis+socket://", 1), set_as_current=False)
    app.conf.update(
        task_default_queue=name,
        task_ignore_result=True,
        result_backend=None,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        task_serializer="json",
        accept_content=["json"],
        broker_transport_options=BROKER_OPTIONS,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        timezone="UTC",
    )
    return app


async def send(app: Celery, task: str, ids: Sequence[str]) -> None:
    """Sends one task for each id, in a thread: Celery's client blocks."""

    def send_all() -> None:
        for row_id in ids:
            # As long as the row's lease: then it is handed over again, and a worker that was away has no pile of them.
            app.send_task(task, args=[row_id], retry=False, expires=LEASE_SECONDS)

    await asyncio.to_thread(send_all)


def run_worker(app: Celery, *, concurrency: int = 4) -> None:
    """Runs the app's worker until SIGTERM, which lets the tasks at hand finish."""
    arguments: list[Any] = ["worker", "--pool=threads", f"--concurrency={concurrency}", f"--hostname={app.main}@%h"]
    app.worker_main([*arguments, "--without-gossip", "--without-mingle", "--loglevel=WARNING", "--queues", app.main])
