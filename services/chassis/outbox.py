"""Work for later, written in the transaction of its cause: events for other services, tasks for the worker.

A row is claimed by pushing its due time into the future, so that no lock is held while it is delivered; whoever dies
with it loses it to the next claim. It is deleted when it is done, and set aside as dead after 20 tries.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import grpc
import structlog
import uuid_utils
from guildhall.events.v1 import event_sink_pb2 as pb
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import metrics
from services.chassis.database import OUTBOX_WRITTEN, Database
from services.chassis.errors import PeerUnavailable, info_of
from services.chassis.sweeps import Sweep

log = structlog.get_logger()

WORKER = "worker"
MOST_TRIES = 20
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
MOST_BYTES = 512 << 10
"""Of events in one call: half of what a server takes in a message (frame.py)."""

# created_at is when it was due first, and stays: what is meant for later is not late by its age.
WRITE = text("""
    INSERT INTO outbox (id, target, kind, subject_id, payload, created_at, due_at)
    VALUES (
        :id, :target, :kind, :subject_id, :payload, statement_timestamp() + make_interval(secs => :delay_seconds),
        statement_timestamp() + make_interval(secs => :delay_seconds)
    )
""")
CLAIM = text("""
    UPDATE outbox SET due_at = statement_timestamp() + interval '30 seconds'
    WHERE id IN (
        SELECT id FROM outbox WHERE target = :target AND NOT dead AND due_at <= statement_timestamp()
        ORDER BY due_at LIMIT 200 FOR UPDATE SKIP LOCKED
    )
    RETURNING id, target, kind, subject_id, payload, created_at, attempts
""")
DONE = text("DELETE FROM outbox WHERE id = ANY(CAST(:ids AS uuid[]))")
FAILED = text("""
    UPDATE outbox
    SET due_at = statement_timestamp()
            + least(interval '60 seconds', interval '200 milliseconds' * 2 ^ least(attempts, 10)),
        attempts = attempts + 1, dead = attempts + 1 >= :most
    WHERE id = ANY(CAST(:ids AS uuid[]))
    RETURNING id, kind, dead
""")

POSTPONED = text("""
    UPDATE outbox SET due_at = statement_timestamp() + interval '5 seconds' WHERE id = ANY(CAST(:ids AS uuid[]))
""")


async def emit(tx: AsyncConnection, targets: Sequence[str], event: pb.Event) -> None:
    """Tells other services, after this transaction. `event` needs its payload only."""
    kind = event.WhichOneof("payload")
    if kind is None:
        raise ValueError("an event needs a payload")
    for target in targets:
        row_id = str(uuid_utils.uuid7())
        event.event_id = row_id
        row = {"id": row_id, "target": target, "kind": kind, "subject_id": None, "payload": event.SerializeToString()}
        await tx.execute(WRITE, {**row, "delay_seconds": 0})
    tx.info[OUTBOX_WRITTEN] = True


async def enqueue(tx: AsyncConnection, work: str, subject_id: str, *, delay_seconds: float = 0) -> None:
    """Has the worker do `work` about a row, after this transaction, and `delay_seconds` after now at the earliest."""
    row = {"id": str(uuid_utils.uuid7()), "target": WORKER, "kind": work, "subject_id": subject_id, "payload": None}
    await tx.execute(WRITE, {**row, "delay_seconds": delay_seconds})
    tx.info[OUTBOX_WRITTEN] = True


async def done(tx: AsyncConnection, ids: Sequence[str]) -> None:
    """Forgets rows whose work is done."""
    await tx.execute(DONE, {"ids": list(ids)})


async def postpone(tx: AsyncConnection, ids: Sequence[str]) -> None:
    """Puts rows back without counting a try: it was not theirs that nobody was there."""
    await tx.execute(POSTPONED, {"ids": list(ids)})


async def failed(tx: AsyncConnection, ids: Sequence[str]) -> None:
    """Puts rows back with a growing delay, or sets them aside."""
    for row in await tx.execute(FAILED, {"ids": list(ids), "most": MOST_TRIES}):
        if row.dead:
            log.error("outbox_row_dead", id=str(row.id), kind=row.kind)


class Relay:
    """Delivers this service's outbox. `deliver[target]` sends events to a service, `hand_over` gives ids to Celery.

    Each target has a loop of its own: one that gives no answer holds up nothing that is for another, and is asked less
    and less often until it is back.
    """

    def __init__(
        self,
        database: Database,
        *,
        deliver: Mapping[str, Callable[[Sequence[pb.Event]], Awaitable[None]]],
        hand_over: Callable[[Sequence[str]], Awaitable[None]],
    ) -> None:
        self._database = database
        self._deliver = deliver
        self._hand_over = hand_over
        self._sweeps = [Sweep(f"outbox.{target}", partial(self._look, target)) for target in (*deliver, WORKER)]
        self._pauses = dict.fromkeys((*deliver, WORKER), 0.0)

    def wake(self) -> None:
        """Has all loops look at once, but those that pause."""
        for sweep in self._sweeps:
            sweep.wake()

    async def run(self) -> None:
        """Delivers until cancelled."""
        await asyncio.gather(*(sweep.run() for sweep in self._sweeps))

    def pause_seconds(self, target: str) -> float:
        """How long to leave a target alone: longer each time that it gave no answer, and not at all once it did."""
        return self._pauses[target]

    async def _look(self, target: str) -> int:
        count = await self.deliver_due(target)
        await asyncio.sleep(self.pause_seconds(target) if count else 0)
        return count

    async def deliver_due(self, target: str) -> int:
        """Delivers what is due for a target now; returns how many rows that were."""
        rows = await self._database.transaction(lambda tx: _claim(tx, target))
        parts = list(_parts(rows))
        while parts and await self._send(target, parts.pop(0)):
            self._pauses[target] = 0
        ids = [str(row.id) for part in parts for row in part]
        if ids:
            await self._database.transaction(lambda tx: postpone(tx, ids))
        return len(rows)

    async def _send(self, target: str, rows: Sequence[Row[Any]]) -> bool:
        """False if nobody was there."""
        ids = [str(row.id) for row in rows]
        try:
            if target == WORKER:
                # The worker deletes the row; if the task is lost, the lease runs out and it is handed over again.
                await self._hand_over(ids)
                metrics.OUTBOX_SENT.labels(target, "sent").inc(len(ids))
                return True
            await self._deliver[target]([_event(row) for row in rows])
        except Exception as error:
            refused = target != WORKER and _is_refusal(error)
            if refused and len(rows) > 1:
                # One of them is to blame, or all are too much at once: none must take the others with it.
                half = len(rows) // 2
                return all([await self._send(target, part) for part in (rows[:half], rows[half:])])
            log.warning("outbox_undelivered", target=target, rows=len(ids), error=type(error).__name__)
            # A broker or peer that is away may be so for an hour, and no row is to die of it.
            away = target == WORKER or (isinstance(error, PeerUnavailable) and not refused)
            metrics.OUTBOX_SENT.labels(target, "postponed" if away else "failed").inc(len(ids))
            if away:
                longer = max(FIRST_PAUSE_SECONDS, 2 * self._pauses[target])
                self._pauses[target] = min(longer, LONGEST_PAUSE_SECONDS)
            await self._database.transaction(lambda tx: postpone(tx, ids) if away else failed(tx, ids))
            return not away
        metrics.OUTBOX_SENT.labels(target, "sent").inc(len(ids))
        await self._database.transaction(lambda tx: done(tx, ids))
        return True


async def _claim(tx: AsyncConnection, target: str) -> Sequence[Row[Any]]:
    return (await tx.execute(CLAIM, {"target": target})).all()


def _parts(rows: Sequence[Row[Any]]) -> Iterator[list[Row[Any]]]:
    """Cuts a batch where it would be more than MOST_BYTES."""
    part: list[Row[Any]] = []
    size = 0
    for row in rows:
        added = len(row.payload or b"")
        if part and size + added > MOST_BYTES:
            yield part
            part, size = [], 0
        part.append(row)
        size += added
    if part:
        yield part


def _is_refusal(error: Exception) -> bool:
    """Whether the rows are to blame: the peer says so, or gRPC, which names no reason, for their size."""
    cause = error.__cause__ if isinstance(error, PeerUnavailable) else error
    if not isinstance(cause, grpc.aio.AioRpcError):
        return False
    is_too_large = cause.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and not info_of(cause).reason
    return cause is error or is_too_large


def _event(row: Row[Any]) -> pb.Event:
    event = pb.Event.FromString(row.payload)
    event.create_time.FromDatetime(row.created_at)
    return event
