"""What a service wrote into its outbox, and in which transaction: the relay deletes the rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from guildhall.events.v1 import event_sink_pb2 as events

from tests.support.suite import Suite


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


@contextmanager
def written(suite: Suite, service: str) -> Iterator[Written]:
    """Notes what a service writes into its outbox from now on."""
    with suite.database(f"{service}_owner") as database:
        database.execute("""
            CREATE TABLE outbox_written (
                place bigint GENERATED ALWAYS AS IDENTITY, kind text, target text, payload bytea, writer xid
            )
        """)
        database.execute("""
            CREATE FUNCTION note_outbox() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
            AS $$ BEGIN
                INSERT INTO outbox_written (kind, target, payload, writer)
                VALUES (NEW.kind, NEW.target, NEW.payload, pg_current_xact_id()::xid);
                RETURN NEW;
            END $$
        """)
        database.execute(
            "CREATE TRIGGER note_outbox AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION note_outbox()"
        )
        try:
            yield Written(database)
        finally:
            database.execute("DROP TRIGGER note_outbox ON outbox")
            database.execute("DROP FUNCTION note_outbox")
            database.execute("DROP TABLE outbox_written")
