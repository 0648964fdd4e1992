"""The wiring diagram of the embedded suite: what runs, in what order, with what."""

import socket
import time
from dataclasses import dataclass

import psycopg

from deploy.stack import certificates, gateway, roles, secrets, services
from deploy.stack.postgres import FEWEST_CONNECTIONS, Postgres
from deploy.stack.processes import Program
from deploy.stack.settings import HOST, Settings, StackError
from deploy.stack.valkey import Valkey

_PORT_SECONDS = 3  # the kernel may still be taking down what a killed stack listened on


@dataclass(frozen=True)
class Suite:
    """One stack, put together and not yet started."""

    settings: Settings
    postgres: Postgres
    valkey: Valkey

    def programs(self) -> list[Program]:
        """Everything that `guildhall up` runs. Each starts when those it names in `after` are ready."""
        return [
            *self.migration_programs(),
            self.valkey.program(),
            *services.programs(self.settings, postgres=self.postgres, valkey=self.valkey),
            gateway.program(self.settings),
        ]

    def migration_programs(self) -> list[Program]:
        """PostgreSQL with its roles, and the migrations of every service."""
        return [
            self.postgres.program(set_up=self.ensure_roles),
            *services.migrations(self.settings, postgres=self.postgres, valkey=self.valkey),
        ]

    def ensure_roles(self) -> None:
        """Make the database, and set its roles and rights. Idempotent."""
        with self.postgres.connect() as admin:
            roles.ensure_database(admin)
        with self.admin_database() as admin:
            roles.ensure(admin, secrets.database_passwords(self.settings.layout.secrets))

    def admin_database(self) -> psycopg.Connection:
        """A superuser's connection to the suite's database."""
        return self.postgres.connect(roles.DATABASE)


def prepare(settings: Settings) -> Suite:
    """Make the folders, secrets, keys and certificates that are missing, and put the stack together. Idempotent."""
    layout = settings.layout
    layout.create()
    secrets.ensure(layout.secrets, layout.keys)
    certificates.ensure(layout.certificates)
    return assemble(settings)


def assemble(settings: Settings) -> Suite:
    """Put the stack together as it is, making and renewing nothing."""
    layout = settings.layout
    postgres = Postgres(
        data_folder=layout.postgres,
        socket_folder=layout.postgres_sockets,
        password_file=secrets.database_password_file(layout.secrets, "postgres"),
        log_file=layout.logs / "postgresql.log",
        max_connections=max(FEWEST_CONNECTIONS, services.most_connections(settings.replicas)),
    )
    valkey = Valkey(socket_folder=layout.sockets, log_file=layout.logs / "valkey.log")
    return Suite(settings, postgres, valkey)


def require_free_ports(settings: Settings) -> None:
    """Refuse to start, naming every taken port and who needs it, while nothing has been started yet."""
    deadline = time.monotonic() + _PORT_SECONDS
    while taken := taken_ports(settings):
        if time.monotonic() > deadline:
            lines = [f"port {port} is taken, and {owner} needs it" for port, owner in taken.items()]
            shift = settings.ports.offset + 1000
            hint = f"end what listens there, or shift every port: GUILDHALL_PORT_OFFSET={shift}"
            raise StackError("\n".join([*lines, hint]))
        time.sleep(0.1)


def taken_ports(settings: Settings) -> dict[int, str]:
    """The ports this stack needs that something listens on now, and who needs them."""
    needed = settings.ports.needed(settings.replicas)
    return {port: owner for port, owner in needed.items() if not _is_free(port)}


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
