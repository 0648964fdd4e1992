"""What a service wrote into its outbox, and in which transaction: the relay deletes the rows."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from guildhall.events.v1 import event_sink_pb2 as events

from tests.support.suite import Suite

NOTE = """
    CREATE TABLE outbox_written (
        place bigint GENERATED ALWAYS AS IDENTITY, kind text, target text, subject_id uuid, payload bytea, writer xid
    );
    CREATE FUNCTION note_outbox() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
    AS $$ BEGIN
        INSERT INTO outbox_written (kind, target, subject_id, payload, writer)
        VALUES (NEW.kind, NEW.target, NEW.subject_id, NEW.payload, pg_current_xact_id()::xid);
        RETURN NEW;
    END $$;
    CREATE TRIGGER note_outbox AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION note_outbox();
"""
FORGET = """
    DROP TRIGGER note_outbox ON outbox;
    DROP FUNCTION note_outbox;
    DROP TABLE outbox_written;
"""


class Written:
    """Every outbox row of a service since it was made, in the table `outbox_written`."""

    def __init__(self, database: psycopg.Connection[Any]) -> None:
        """`database` is the connection of the schema's owner."""
        self.database = database

    def events(self, condition: str = "true", *values: Any) -> list[events.Event]:
        """The events, oldest first; `condition` is SQL about the row `o`."""
        query = f"SELECT o.payload FROM outbox_written o WHERE o.payload IS NOT NULL AND {condition} ORDER BY o.place"
        rows = self.database.execute(query, values).fetchall()
        return [events.Event.FromString(payload) for (payload,) in rows]


@asynccontextmanager
async def written(suite: Suite, service: str) -> AsyncIterator[Written]:
    """Notes what a service writes into its outbox from now on."""
    with suite.database(f"{service}_owner") as database:
        # In a thread: this waits for the lock of the table, which a transaction of this loop may have. They
        # waited for each other then, until PostgreSQL ended the idle one after ten seconds.
        await asyncio.to_thread(database.execute, NOTE)
        try:
            yield Written(database)
        finally:
            await asyncio.to_thread(database.execute, FORGET)
