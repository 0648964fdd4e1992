"""What an event could not be applied to because somebody had its lock: it comes again, as an event of its own."""

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils import uuid7

PAUSE_SECONDS = 1.0

PUT_BACK = text("""
    INSERT INTO inbox (event_id, source, kind, payload, due_at)
    VALUES (:event_id, 'messaging', :kind, :payload, statement_timestamp() + make_interval(secs => :seconds))
""")


async def put_back(tx: AsyncConnection, event: events.Event, *, at_once: bool) -> None:
    """Has the rest of an event applied later, in a transaction of its own; after a pause unless `at_once` is set."""
    event.event_id = str(uuid7())
    row = {
        "event_id": event.event_id,
        "kind": event.WhichOneof("payload"),
        "payload": event.SerializeToString(),
        "seconds": 0.0 if at_once else PAUSE_SECONDS,
    }
    await tx.execute(PUT_BACK, row)
