"""Events from other services: stored first, applied later, each in the transaction of its effect.

Delivered at least once and in no order; the event's id makes it apply once.
"""

from collections.abc import Awaitable, Callable, Mapping, Set
from typing import Any, NamedTuple

import structlog
from guildhall.events.v1 import event_sink_pb2 as pb
from guildhall.events.v1 import event_sink_pb2_grpc as rpc
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import metrics
from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import InvalidRequest, PeerNotAllowed, PeerUnavailable
from services.chassis.outbox import MOST_TRIES
from services.chassis.sweeps import Sweep

log = structlog.get_logger()

Handler = Callable[[AsyncConnection, Any], Awaitable[None]]
"""Applies one payload in the given transaction."""


class Consumer(NamedTuple):
    """What applies an event, and the services whose word is taken for it. `applied` is called once it is committed."""

    sources: Set[str]
    apply: Handler
    applied: Callable[[], None] = lambda: None


STORE = text("""
    INSERT INTO inbox (event_id, source, kind, payload)
    SELECT * FROM unnest(
        CAST(:ids AS uuid[]), CAST(:sources AS text[]), CAST(:kinds AS text[]), CAST(:payloads AS bytea[])
    )
    ON CONFLICT (event_id) DO NOTHING
""")
NEXT = text("""
    SELECT event_id, kind, payload FROM inbox
    WHERE applied_at IS NULL AND NOT dead AND due_at <= statement_timestamp()
    ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
""")
APPLIED = text("UPDATE inbox SET applied_at = statement_timestamp(), payload = NULL WHERE event_id = :event_id")
FAILED = text("""
    UPDATE inbox
    SET attempts = attempts + 1, dead = attempts + 1 >= :most,
        due_at = statement_timestamp()
            + least(interval '60 seconds', interval '200 milliseconds' * 2 ^ least(attempts, 10))
    WHERE event_id = :event_id AND applied_at IS NULL
    RETURNING dead
""")
POSTPONED = text("UPDATE inbox SET due_at = statement_timestamp() + interval '5 seconds' WHERE event_id = :event_id")
FORGET_OLD = text("""
    DELETE FROM inbox WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM inbox WHERE applied_at <= statement_timestamp() - interval '7 days'
        ORDER BY applied_at LIMIT 1000 FOR UPDATE SKIP LOCKED
    ))
""")


class EventSink(rpc.EventSinkServicer):
    """guildhall.events.v1.EventSink for any service."""

    def __init__(self, database: Database, inbox: "Inbox") -> None:
        self._database = database
        self._inbox = inbox

    async def DeliverEvents(self, request: pb.DeliverEventsRequest, context: Any) -> pb.DeliverEventsResponse:
        """Stores the events; what this service does not consume is refused, so that a wrong target is noticed."""
        source = current_call().peer
        kinds = [event.WhichOneof("payload") or "" for event in request.events]
        for number, kind in enumerate(kinds):
            consumer = self._inbox.consumers.get(kind)
            if consumer is None:
                raise InvalidRequest(fields=[(f"events[{number}]", f"this service does not consume {kind}")])
            if source not in consumer.sources:
                raise PeerNotAllowed
        rows = {
            "ids": [event.event_id for event in request.events],
            "sources": [source] * len(kinds),
            "kinds": kinds,
            "payloads": [event.SerializeToString() for event in request.events],
        }

        async def store(tx: AsyncConnection) -> None:
            await tx.execute(STORE, rows)

        await self._database.transaction(store)
        self._inbox.wake()
        return pb.DeliverEventsResponse()


class Inbox(Sweep):
    """Applies what was stored. `consumers` maps an event's payload name to what applies it."""

    def __init__(self, database: Database, consumers: Mapping[str, Consumer]) -> None:
        super().__init__("inbox", self.apply_next)
        self._database = database
        self.consumers = consumers

    async def apply_next(self) -> bool:
        """Applies one event that is due; False if there is none."""
        failing: list[tuple[str, str, Exception]] = []

        async def unit(tx: AsyncConnection) -> str | None:
            failing.clear()
            row = (await tx.execute(NEXT)).one_or_none()
            if row is None:
                return None
            try:
                event = pb.Event.FromString(row.payload)
                await self.consumers[row.kind].apply(tx, getattr(event, row.kind))
            except Exception as error:
                failing.append((str(row.event_id), row.kind, error))
                raise
            await tx.execute(APPLIED, {"event_id": row.event_id})
            return str(row.kind)

        try:
            applied = await self._database.transaction(unit)
            if applied is not None:
                metrics.INBOX_APPLIED.labels(applied, "applied").inc()
                self.consumers[applied].applied()
            return applied is not None
        except Exception:
            if not failing:
                raise
        event_id, kind, error = failing[0]
        away = isinstance(error, PeerUnavailable)
        metrics.INBOX_APPLIED.labels(kind, "postponed" if away else "failed").inc()
        log.warning("inbox_unapplied", event_id=event_id, kind=kind, error=type(error).__name__)

        async def put_back(tx: AsyncConnection) -> bool:
            if away:
                # A peer that is away may be so for an hour, and no event is to die of it.
                await tx.execute(POSTPONED, {"event_id": event_id})
                return False
            return bool(await tx.scalar(FAILED, {"event_id": event_id, "most": MOST_TRIES}))

        if await self._database.transaction(put_back):
            log.error("inbox_row_dead", event_id=event_id, kind=kind)
        return True


async def forget_old(tx: AsyncConnection) -> int:
    """Deletes events that were applied a week ago, at most 1 000 of them; says how many."""
    return (await tx.execute(FORGET_OLD)).rowcount
