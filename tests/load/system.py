"""What is under load: a suite booted for it, with the echo behind its gateway, or one that runs elsewhere."""

import dataclasses
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console

from deploy.envoy.descriptors import PublicRpc
from deploy.stack import certificates, gateway, health, roles, secrets, suite
from deploy.stack import settings as stack_settings
from deploy.stack.processes import Program
from deploy.stack.settings import HOST, SERVICES, Settings
from deploy.stack.supervisor import Child, Supervisor
from tests.load import echo
from tests.load.processors import tree_seconds
from tests.load.wire import ECHO, ECHO_STREAM, Tls
from tests.support.limits import OUT_OF_THE_WAY


@dataclasses.dataclass(frozen=True)
class System:
    """Where the suite's gateway is and where its mail goes. `booted` is None for a suite that runs elsewhere."""

    target: str
    mail: Path
    booted: "Booted | None" = None


@dataclasses.dataclass(frozen=True)
class Booted:
    """The inside of a suite that this run has started."""

    stack: suite.Suite
    supervisor: Supervisor

    def database(self, role: str) -> psycopg.Connection[Any]:
        """A connection of a role of the suite, or of the superuser `postgres`, in autocommit."""
        if role == "postgres":
            return self.stack.admin_database()
        password = secrets.database_passwords(self.stack.settings.layout.secrets)[role]
        return psycopg.connect(self.stack.postgres.url(role, roles.DATABASE), password=password, autocommit=True)

    def resident_kib(self, name: str) -> int:
        """The resident memory of a process of the suite."""
        status = Path(f"/proc/{self.pid(name)}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))

    def cpu_seconds(self) -> dict[str, float]:
        """The processor time that each process of the suite has used so far, PostgreSQL with its children."""
        return {name: tree_seconds(child.pid) for name, child in self.supervisor.children.items() if child.pid}

    def pid(self, name: str) -> int:
        """The process that runs a program of the suite."""
        found = self.supervisor.children[name].pid
        if found is None:
            raise RuntimeError(f"{name} does not run")
        return found

    def peer(self, service: str, certificate: str) -> tuple[str, Tls]:
        """The port of a service, and what a call to it as one of its peers needs."""
        settings = self.stack.settings
        files = certificates.files(settings.layout.certificates, certificate)
        tls = Tls(service, files.ca.read_bytes(), files.certificate.read_bytes(), files.key.read_bytes())
        return f"{HOST}:{settings.ports.service(service)}", tls


@contextmanager
def booted(console: Console) -> Iterator[System]:
    """Boot a suite in a temporary folder, on ports that nobody has; take it down at the end.

    Only for a main thread: it takes over Ctrl-C, and Linux ties the children's lives to it.
    """
    os.umask(0o077)
    folder = Path(tempfile.mkdtemp(prefix="guildhall-load-"))
    settings = free_settings(folder)
    stack = suite.prepare(settings)
    held = False
    try:
        supervisor = Supervisor(programs(stack), lambda child, event: _tell(console, child, event))
        supervisor.handle_signals()
        with supervisor:
            with console.status("booting a suite of its own"):
                supervisor.boot()
            yield System(settings.gateway_address, settings.layout.mail, Booted(stack, supervisor))
        held = True
    finally:
        shutil.rmtree(settings.layout.sockets, ignore_errors=True)
        if held:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            console.print(f"the logs are in {settings.layout.logs}", highlight=False, soft_wrap=True)


def free_settings(folder: Path) -> Settings:
    """Settings for a suite in a folder. The ports are drawn, so that two runs that begin together rarely meet."""
    offsets = list(range(1_000, 17_000, 1_000))  # up to Linux's ephemeral ports
    random.shuffle(offsets)
    for offset in offsets:
        environment = {
            "GUILDHALL_DATA_DIR": str(folder),
            "GUILDHALL_PORT_OFFSET": str(offset),
            # A few senders make all of the load: what is looked for here is not where they are stopped.
            "GUILDHALL_MESSAGES_PER_SECOND_OF_SENDER": "1000000",
            "GUILDHALL_MESSAGES_PER_SECOND_OF_WORKSPACE": "1000000",
            **OUT_OF_THE_WAY,
            "GUILDHALL_LOG_LEVEL": os.environ.get("GUILDHALL_LOG_LEVEL", "info"),
        }
        found = stack_settings.load(environment)
        if not suite.taken_ports(found):
            return found
    raise stack_settings.StackError("no free range of ports for a suite to load")


def programs(stack: suite.Suite) -> list[Program]:
    """The suite's programs, and the echo, with the gateway told of it.

    The echo is an upstream of the same Envoy process, on the same listener, behind the same filters (its calls need a
    valid token too) and the same mutual TLS and health checks: the ratio holds nothing but the services' own work.
    """
    settings = stack.settings
    files = certificates.ensure(settings.layout.certificates, (*certificates.NAMES, echo.NAME))[echo.NAME]
    port = settings.ports.service(SERVICES[-1]) + 1
    health_port = settings.ports.health(SERVICES[-1]) + 1
    rpcs = tuple(
        PublicRpc(path=path, upstream=echo.NAME, needs_token=True, streaming=streaming, has_json=False)
        for path, streaming in ((ECHO, False), (ECHO_STREAM, True))
    )
    command = ["-m", "tests.load.echo", str(port), str(health_port)]
    command += [str(files.certificate), str(files.key), str(files.ca)]
    echo_program = Program(
        name=echo.NAME,
        command=[sys.executable, *command],
        log_file=settings.layout.logs / "echo.log",
        ready=health.probe(health_port),
    )
    envoy = gateway.program(settings, gateway.Extra(echo.NAME, port, health_port, rpcs))
    envoy = dataclasses.replace(envoy, after=(*envoy.after, echo.NAME))
    return [*(program for program in stack.programs() if program.name != envoy.name), echo_program, envoy]


def _tell(console: Console, child: Child, event: str) -> None:
    if event == "crashed":
        lines = "\n".join(child.report[-5:])
        console.print(f"[red]{child.program.name} {child.ended}[/]\n{lines}", highlight=False, soft_wrap=True)
