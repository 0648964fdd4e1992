"""Alembic, run as the schema's owner: all of a service's migrations in one transaction, one migrator at a time."""

import sys
import time
from pathlib import Path

import sqlalchemy as sa
from alembic import command, context, op
from alembic.config import Config
from sqlalchemy import exc

from services.chassis.database import sqlstate
from services.chassis.settings import DatabaseSettings
from services.chassis.tables import CLOCK

LOCK_TRIES = 30


def migrate(service: str, settings: DatabaseSettings, metadata: sa.MetaData) -> None:
    """Brings the schema to the newest revision, or leaves it untouched, says why on stderr and exits with 1."""
    engine = sa.create_engine(
        settings.database_url.replace("postgresql://", "postgresql+psycopg://", 1),
        connect_args={"password": settings.database_password, "connect_timeout": 5},
        poolclass=sa.NullPool,
        hide_parameters=True,
    )
    for attempt in range(1, LOCK_TRIES + 1):
        try:
            with engine.begin() as connection:
                upgrade(service, connection, metadata)
        except exc.OperationalError as error:
            if sqlstate(error) in ("55P03", "40P01") and attempt < LOCK_TRIES:
                # A table is in use: give way to the running service, then try again.
                time.sleep(0.5)
                continue
            _give_up(service, error)
        except exc.DBAPIError as error:
            _give_up(service, error)
        print(f"{service}: schema is at the newest revision", flush=True)  # noqa: T201
        return


def _give_up(service: str, error: exc.DBAPIError) -> None:
    print(f"{service}: cannot migrate; the schema is as it was before.\n{error.orig}", file=sys.stderr)  # noqa: T201
    sys.exit(1)


def upgrade(service: str, connection: sa.Connection, metadata: sa.MetaData, revision: str = "head") -> None:
    """Runs the migrations up to a revision in the connection's transaction."""
    _prepare(service, connection)
    command.upgrade(configuration(service, connection, metadata), revision)


def downgrade(service: str, connection: sa.Connection, metadata: sa.MetaData, revision: str) -> None:
    """Runs the migrations down to a revision in the connection's transaction."""
    _prepare(service, connection)
    command.downgrade(configuration(service, connection, metadata), revision)


def _prepare(service: str, connection: sa.Connection) -> None:
    connection.execute(sa.text("SET LOCAL lock_timeout = '1s'"))
    connection.execute(sa.text(f"SET LOCAL search_path = {service}"))
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": f"migrate {service}"})


def configuration(service: str, connection: sa.Connection, metadata: sa.MetaData) -> Config:
    """Alembic's configuration for one service."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent.parent / service / "migrations"))
    config.attributes.update(connection=connection, metadata=metadata)
    return config


def run_environment() -> None:
    """What every service's migrations/env.py calls."""
    attributes = context.config.attributes
    context.configure(connection=attributes["connection"], target_metadata=attributes["metadata"])
    context.run_migrations()


def create_frame_tables() -> None:
    """The frame's three tables, as of the first revision of every service. Never changed: later ones get a revision."""
    op.create_table(
        "outbox",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False, comment="the service that consumes it, or 'worker'"),
        sa.Column("kind", sa.Text(), nullable=False, comment="the event's name, or the work's"),
        sa.Column("subject_id", sa.Uuid(), comment="for work: the row it is about"),
        sa.Column("payload", sa.LargeBinary(), comment="for events: a serialised guildhall.events.v1.Event"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.Column(
            "due_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=CLOCK,
            comment="also the end of a lease",
        ),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("dead", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.PrimaryKeyConstraint("id", name="outbox_pkey"),
    )
    op.create_index("outbox_due", "outbox", ["due_at"], postgresql_where=sa.text("NOT dead"))
    op.create_table(
        "inbox",
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), comment="gone once applied; the row stays to refuse a second delivery"),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.Column("applied_at", sa.DateTime(timezone=True)),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("dead", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.PrimaryKeyConstraint("event_id", name="inbox_pkey"),
    )
    op.create_index("inbox_due", "inbox", ["due_at"], postgresql_where=sa.text("applied_at IS NULL AND NOT dead"))
    op.create_index("inbox_applied", "inbox", ["applied_at"], postgresql_where=sa.text("applied_at IS NOT NULL"))
    op.create_table(
        "idempotency_keys",
        sa.Column("caller", sa.Text(), nullable=False, comment="user id, or the hash of what an open RPC is about"),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False, comment="of the request id, which unseals the answer"),
        sa.Column("request_mac", sa.LargeBinary(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), comment="without secrets"),
        sa.Column("sealed_answer", sa.LargeBinary(), comment="with secrets; good for 10 minutes"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("caller", "method", "key_hash", name="idempotency_keys_pkey"),
    )
    op.create_index("idempotency_keys_created", "idempotency_keys", ["created_at"])


def index_outbox_by_target() -> None:
    """What is due is found by its target and time; by its time alone, what waits for another target was read too."""
    _index_outbox("target", "due_at")


def index_outbox_by_time() -> None:
    """The way back."""
    _index_outbox("due_at")


def _index_outbox(*columns: str) -> None:
    op.drop_index("outbox_due", "outbox")
    op.create_index("outbox_due", "outbox", list(columns), postgresql_where=sa.text("NOT dead"))


def index_sealed_answers() -> None:
    """Stored answers with a secret are found by their age."""
    where = sa.text("sealed_answer IS NOT NULL")
    op.create_index("idempotency_keys_sealed", "idempotency_keys", ["created_at"], postgresql_where=where)


def drop_index_of_sealed_answers() -> None:
    """The way back."""
    op.drop_index("idempotency_keys_sealed", "idempotency_keys")


def drop_frame_tables() -> None:
    """The way back."""
    for table in ("idempotency_keys", "inbox", "outbox"):
        op.drop_table(table)
