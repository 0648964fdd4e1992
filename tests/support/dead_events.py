"""Events that were given up, in the tables of a suite that runs."""

import uuid
from typing import Any

from guildhall.events.v1 import event_sink_pb2 as events_pb

from deploy.stack import suite
from deploy.stack.settings import Settings

APPLIED = "SELECT 1 FROM membership.inbox WHERE event_id = %(id)s AND applied_at IS NOT NULL"


def execute(settings: Settings, statement: str, **values: Any) -> list[tuple[Any, ...]]:
    """A statement of the superuser."""
    with suite.assemble(settings).admin_database() as admin:
        cursor = admin.execute(statement, values)  # type: ignore[call-overload]
        return list(cursor.fetchall()) if cursor.description else []


def bury_event(settings: Settings, table: str) -> str:
    """Leaves an event of identity for membership dead where it starts or where it arrives; returns its id."""
    row_id = str(uuid.uuid4())
    payload = events_pb.Event(event_id=row_id, user_deleted=events_pb.UserDeleted(user_id=str(uuid.uuid4())))
    place, key = ("identity.outbox", "id, target") if table == "outbox" else ("membership.inbox", "event_id, source")
    peer = "membership" if table == "outbox" else "identity"
    execute(
        settings,
        f"INSERT INTO {place} ({key}, kind, payload, attempts, dead)"
        " VALUES (%(id)s, %(peer)s, 'user_deleted', %(payload)s, 20, true)",
        id=row_id,
        peer=peer,
        payload=payload.SerializeToString(),
    )
    return row_id
