"""What PostgreSQL lets each role do."""

import itertools

import psycopg
import pytest

from deploy.stack.settings import SERVICES
from tests.support.suite import Suite

A_TABLE = {"identity": "users", "membership": "workspaces", "guest": "guests", "messaging": "messages"}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_reads_its_own_schema(service: str, suite: Suite) -> None:
    with suite.database(service) as connection:
        assert connection.execute(f"SELECT count(*) FROM {A_TABLE[service]}").fetchone() is not None


@pytest.mark.parametrize(("service", "other"), list(itertools.permutations(SERVICES, 2)))
@pytest.mark.parametrize("suffix", ["", "_owner"])
def test_no_role_reaches_another_schema(service: str, other: str, suffix: str, suite: Suite) -> None:
    with suite.database(service + suffix) as connection:
        for statement in (f"SELECT * FROM {other}.outbox", f"DELETE FROM {other}.outbox", f"SET ROLE {other}"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE {table} ADD COLUMN more int",
        "DROP TABLE {table}",
        "TRUNCATE {table}",
        "CREATE TABLE mine (id int)",
        "CREATE TEMP TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "CREATE INDEX mine ON {table} (id)",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE ROLE mine",
        "ALTER TABLE {table} DISABLE TRIGGER ALL",
        "ALTER SCHEMA {service} OWNER TO {service}",
        "SET ROLE {service}_owner",
        "SET ROLE postgres",
        "SELECT lo_creat(-1)",
        "SELECT pg_read_file('postgresql.conf')",
    ],
)
def test_a_service_cannot_change_definitions_or_rights(service: str, statement: str, suite: Suite) -> None:
    table = "outbox"
    with suite.database(service) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.format(table=table, service=service))


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_can_give_nobody_a_right(service: str, suite: Suite) -> None:
    with suite.database(service) as connection:
        connection.add_notice_handler(lambda _notice: None)
        connection.execute("GRANT SELECT ON outbox TO PUBLIC")  # PostgreSQL warns, and grants nothing
        granted = connection.execute(
            "SELECT count(*) FROM information_schema.role_table_grants "
            "WHERE table_schema = %s AND table_name = 'outbox' AND grantee = 'PUBLIC'",
            (service,),
        ).fetchone()
        assert granted == (0,)


@pytest.mark.parametrize("service", SERVICES)
def test_the_roles_limits_are_set_for_the_service_and_not_for_the_owner(service: str, suite: Suite) -> None:
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")
    found = {}
    for role in (service, f"{service}_owner"):
        with suite.database(role) as connection:
            found[role] = [connection.execute(f"SHOW {name}").fetchone() for name in names]
    assert found[service] == [("5s",), ("2s",), ("10s",), ("15s",)]
    assert found[f"{service}_owner"] == [("0",)] * 4


def test_a_wrong_password_is_refused(suite: Suite) -> None:
    url = suite.stack.postgres.url("identity", "guildhall")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url, password="wrong")
