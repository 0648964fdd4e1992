"""The three tables that the frame keeps in every service's schema. The role's search_path says which schema it is."""

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)

CLOCK = text("statement_timestamp()")

FRAME = MetaData()

outbox = Table(
    "outbox",
    FRAME,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("target", Text, nullable=False, comment="the service that consumes it, or 'worker'"),
    Column("kind", Text, nullable=False, comment="the event's name, or the work's"),
    Column("subject_id", Uuid(as_uuid=False), comment="for work: the row it is about"),
    Column("payload", LargeBinary, comment="for events: a serialised guildhall.events.v1.Event"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("due_at", DateTime(timezone=True), nullable=False, server_default=CLOCK, comment="also the end of a lease"),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("dead", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("id", name="outbox_pkey"),
    # By target first: what waits for one that is away must not be read to find what is due for another.
    Index("outbox_due", "target", "due_at", postgresql_where=text("NOT dead")),
)

inbox = Table(
    "inbox",
    FRAME,
    Column("event_id", Uuid(as_uuid=False), nullable=False),
    Column("source", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("payload", LargeBinary, comment="gone once applied; the row stays to refuse a second delivery"),
    Column("received_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("due_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("applied_at", DateTime(timezone=True)),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("dead", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("event_id", name="inbox_pkey"),
    Index("inbox_due", "due_at", postgresql_where=text("applied_at IS NULL AND NOT dead")),
    Index("inbox_applied", "applied_at", postgresql_where=text("applied_at IS NOT NULL")),
)

idempotency_keys = Table(
    "idempotency_keys",
    FRAME,
    Column("caller", Text, nullable=False, comment="user id, or the hash of what an open RPC is about"),
    Column("method", Text, nullable=False),
    Column("key_hash", LargeBinary, nullable=False, comment="of the request id, which unseals the answer"),
    Column("request_mac", LargeBinary, nullable=False),
    Column("answer", LargeBinary, comment="without secrets"),
    Column("sealed_answer", LargeBinary, comment="with secrets; good for 10 minutes"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("caller", "method", "key_hash", name="idempotency_keys_pkey"),
    Index("idempotency_keys_created", "created_at"),
    # Most have no secret in them: those that do must be found without reading the others.
    Index("idempotency_keys_sealed", "created_at", postgresql_where=text("sealed_answer IS NOT NULL")),
)


def add_frame_tables(metadata: MetaData) -> None:
    """Makes the frame's tables part of a service's own, for its migrations to be compared with."""
    for table in FRAME.tables.values():
        table.to_metadata(metadata)
