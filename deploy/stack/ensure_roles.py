"""`python -m deploy.stack.ensure_roles`: the database, its roles and their rights, on a PostgreSQL that is not ours.

For installations in containers; the embedded stack does the same at each start. Run again, it sets the passwords anew:
so they rotate.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import psycopg

from deploy.stack import roles
from deploy.stack.settings import SERVICES

ROLES = tuple(role for service in SERVICES for role in (service, f"{service}_owner"))


def main(arguments: Sequence[str]) -> int:
    """Does what the command line says. Returns the exit code: 0, or 1 with what PostgreSQL said on stderr."""
    options = parser().parse_args(arguments)
    passwords = read_passwords(options.passwords)
    try:
        with _connect(options, "postgres") as admin:
            roles.ensure_database(admin)
        with _connect(options, roles.DATABASE) as admin:
            roles.ensure(admin, passwords)
    except psycopg.Error as error:
        sys.stderr.write(f"cannot set up the roles: {error}\n")
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m deploy.stack.ensure_roles")
    made.add_argument("--server", required=True, metavar="HOST[:PORT]/DATABASE[?OPTIONS]", help="its database is ours")
    made.add_argument("--admin", type=Path, required=True, help="a superuser's: the files username and password")
    made.add_argument("--passwords", type=Path, required=True, help="a folder per role, with the file password")
    return made


def read_passwords(folder: Path) -> dict[str, str]:
    """The password of each role, from FOLDER/ROLE/password."""
    return {role: (folder / role / "password").read_text().strip() for role in ROLES}


def _connect(options: argparse.Namespace, database: str) -> contextlib.closing[psycopg.Connection]:
    place, _, query = options.server.partition("?")
    host = place.partition("/")[0]
    return contextlib.closing(
        psycopg.connect(
            f"postgresql://{host}/{database}" + (f"?{query}" if query else ""),
            user=(options.admin / "username").read_text().strip(),
            password=(options.admin / "password").read_text().strip(),
            connect_timeout=5,
            autocommit=True,
        )
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
