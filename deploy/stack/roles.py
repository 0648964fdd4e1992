"""The database's roles, schemas and rights: two roles per service, and nothing that is not given.

`<service>_owner` owns the schema `<service>` and migrates it, without time limits. `<service>` reads and writes
rows there and nowhere else; it creates nothing and grants nothing.
"""

from collections.abc import Mapping
from typing import LiteralString

import psycopg
from psycopg import sql

from deploy.stack.settings import SERVICES

DATABASE = "guildhall"
_LIMITS = {
    "statement_timeout": "5s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
    "transaction_timeout": "15s",
}
# PostgreSQL lets everybody make large objects, in no schema: a way to create something that we did not give.
_LARGE_OBJECTS = ("lo_creat(integer)", "lo_create(oid)", "lo_from_bytea(oid, bytea)")


def ensure_database(admin: psycopg.Connection, database: str = DATABASE) -> None:
    """Make the database if it is missing. `admin` is a superuser's connection to another database, in autocommit."""
    if admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone() is None:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))


def ensure(admin: psycopg.Connection, passwords: Mapping[str, str], *, services: tuple[str, ...] = SERVICES) -> None:
    """Make or correct the roles, schemas and rights of every service, in one transaction. Idempotent.

    `admin` is a superuser's connection to the suite's database; `passwords` holds one per role. Run again, it
    sets the passwords and takes back what a role changed about itself (a role may always alter its own settings).
    """
    with admin.transaction():
        # Two stacks' worth of tests may share a cluster: roles are of the cluster, and two writers would collide.
        admin.execute("SELECT pg_advisory_xact_lock(hashtext('guildhall roles'))")
        _close_what_postgresql_leaves_open(admin)
        for service in services:
            owner = f"{service}_owner"
            _ensure_role(admin, owner, passwords[owner], search_path=service, limits={})
            _ensure_role(admin, service, passwords[service], search_path=service, limits=_LIMITS)
            _ensure_schema(admin, service, owner)


def _close_what_postgresql_leaves_open(admin: psycopg.Connection) -> None:
    for database in ("postgres", "template1", admin.info.dbname):
        _run(admin, "REVOKE ALL ON DATABASE {} FROM PUBLIC", database)
    admin.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    for function in _LARGE_OBJECTS:
        admin.execute(sql.SQL("REVOKE EXECUTE ON FUNCTION pg_catalog.{} FROM PUBLIC").format(sql.SQL(function)))


def _ensure_role(
    admin: psycopg.Connection, role: str, password: str, *, search_path: str, limits: Mapping[str, str]
) -> None:
    if admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
        _run(admin, "CREATE ROLE {}", role)
    # Hashed here, so that the password itself is in no statement that a log or a statistics view could show.
    verifier = admin.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    rights = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT"
    admin.execute(
        sql.SQL("ALTER ROLE {} WITH {} PASSWORD {}").format(
            sql.Identifier(role), sql.SQL(rights), sql.Literal(verifier)
        )
    )
    _run(admin, "ALTER ROLE {} RESET ALL", role)
    for name, value in {"search_path": search_path, **limits}.items():
        admin.execute(
            sql.SQL("ALTER ROLE {} SET {} = {}").format(sql.Identifier(role), sql.Identifier(name), sql.Literal(value))
        )
    _run(admin, "GRANT CONNECT ON DATABASE {} TO {}", admin.info.dbname, role)


def _ensure_schema(admin: psycopg.Connection, service: str, owner: str) -> None:
    _run(admin, "CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}", service, owner)
    _run(admin, "GRANT USAGE ON SCHEMA {} TO {}", service, service)
    defaults = "ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {} GRANT "
    _run(admin, defaults + "SELECT, INSERT, UPDATE, DELETE ON TABLES TO {}", owner, service, service)
    _run(admin, defaults + "USAGE, SELECT ON SEQUENCES TO {}", owner, service, service)


def _run(admin: psycopg.Connection, statement: LiteralString, *identifiers: str) -> None:
    admin.execute(sql.SQL(statement).format(*map(sql.Identifier, identifiers)))
