"""Each service's migrations make exactly what its tables.py says, and can be taken back."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from deploy.stack import roles, secrets
from deploy.stack.settings import SERVICES
from deploy.stack.suite import Suite
from services.chassis.migrations import configuration, downgrade, upgrade

DATABASE = "migrations"
PARTITIONS = sa.text(
    "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE c.relispartition AND n.nspname = :schema"
)
THINGS = sa.text(
    "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE n.nspname = :schema AND c.relname NOT LIKE 'alembic_version%'"
)


@pytest.fixture(scope="module")
def empty_database(backends: Suite) -> Iterator[dict[str, sa.Engine]]:
    """A database with roles and schemas but no tables; an engine per service, as the schema's owner."""
    passwords = secrets.database_passwords(backends.settings.layout.secrets)
    with backends.postgres.connect() as admin:
        roles.ensure_database(admin, DATABASE)
    with backends.postgres.connect(DATABASE) as admin:
        roles.ensure(admin, passwords)
    engines = {}
    for service in SERVICES:
        url = backends.postgres.url(f"{service}_owner", DATABASE).replace("postgresql://", "postgresql+psycopg://")
        connect_args = {"password": passwords[f"{service}_owner"]}
        engines[service] = sa.create_engine(url, poolclass=sa.NullPool, connect_args=connect_args)
    yield engines
    with backends.postgres.connect() as admin:
        admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


def metadata_of(service: str) -> sa.MetaData:
    metadata = importlib.import_module(f"services.{service}.tables").METADATA
    assert isinstance(metadata, sa.MetaData)
    return metadata


@pytest.mark.parametrize("service", SERVICES)
def test_migrations_make_what_the_tables_say(service: str, empty_database: dict[str, sa.Engine]) -> None:
    metadata = metadata_of(service)
    with empty_database[service].begin() as connection:
        upgrade(service, connection, metadata)
    with empty_database[service].connect() as connection:
        partitions = set(connection.scalars(PARTITIONS, {"schema": service}))

        def included(found: Any, name: str | None, kind: str, _reflected: bool, _other: Any) -> bool:
            # A foreign key to a partitioned table has one of PostgreSQL's own to each partition.
            if kind == "foreign_key_constraint":
                return found.referred_table.name not in partitions
            return not (kind == "table" and name in partitions)

        options = {"compare_type": True, "compare_server_default": True, "include_object": included}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


@pytest.mark.parametrize("service", SERVICES)
def test_each_migration_goes_down_and_up_again(service: str, empty_database: dict[str, sa.Engine]) -> None:
    metadata, engine = metadata_of(service), empty_database[service]
    with engine.begin() as connection:
        upgrade(service, connection, metadata)
        script = ScriptDirectory.from_config(configuration(service, connection, metadata))
    revisions = [revision.revision for revision in script.walk_revisions()]
    for below in [*revisions[1:], "base"]:
        with engine.begin() as connection:
            downgrade(service, connection, metadata, below)
    with engine.connect() as connection:
        assert connection.scalar(THINGS, {"schema": service}) == 0
    for revision in reversed(revisions):
        with engine.begin() as connection:
            upgrade(service, connection, metadata, revision)
