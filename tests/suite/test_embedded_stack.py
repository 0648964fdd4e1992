"""`guildhall up` and its companions, as a person runs them: real processes, real servers, real signals."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from deploy.stack import runs, suite
from deploy.stack.roles import DATABASE
from deploy.stack.secrets import database_passwords
from deploy.stack.settings import SERVICES, Settings, load
from deploy.stack.suite import Suite
from deploy.stack.supervisor import boot
from tests.support.backends import free_settings, release


@dataclass(frozen=True)
class Stack:
    """A data directory and a range of ports, and the command that is run on them."""

    settings: Settings

    def run(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deploy.stack.cli", *arguments]
        return subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=timeout)

    def environment(self) -> dict[str, str]:
        offset, data = str(self.settings.ports.offset), str(self.settings.layout.data)
        others = {name: value for name, value in os.environ.items() if not name.startswith("GUILDHALL_")}
        return {**others, "GUILDHALL_PORT_OFFSET": offset, "GUILDHALL_DATA_DIR": data, "COLUMNS": "200"}

    def find(self) -> runs.Run | None:
        return runs.find(self.settings.layout.data)

    def running(self) -> runs.Run:
        """The run that is going on, started first if there is none."""
        if self.find() is None:
            started = self.run("up", "--detach")
            assert started.returncode == 0, started.stdout + started.stderr
        found = self.find()
        assert found is not None
        return found

    def child(self, name: str) -> runs.ChildRecord:
        return next(child for child in self.running().children if child.name == name)


def ports_of(stack: Stack) -> dict[str, str]:
    return {"GUILDHALL_PORT_OFFSET": str(stack.settings.ports.offset)}


def decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = free_settings(tmp_path_factory.mktemp("stack") / "data")
    stack = Stack(settings)
    yield stack
    stack.run("down")
    release(settings)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    settings = free_settings(tmp_path_factory.mktemp("database") / "data")
    settings.layout.create()
    prepared = suite.prepare(settings)
    with boot([prepared.postgres.program(set_up=prepared.ensure_roles)]):
        with connect(prepared, "guest_owner") as owner:
            owner.execute("CREATE TABLE things (id integer PRIMARY KEY)")
        yield prepared
    shutil.rmtree(settings.layout.sockets)
    release(settings)


def connect(prepared: Suite, role: str, database: str = DATABASE) -> psycopg.Connection:
    password = database_passwords(prepared.settings.layout.secrets)[role]
    return psycopg.connect(prepared.postgres.url(role, database), password=password, autocommit=True)


def test_a_service_role_reads_and_writes_its_own_rows(database: Suite) -> None:
    with connect(database, "guest") as guest:
        guest.execute("INSERT INTO things VALUES (1)")
        guest.execute("UPDATE things SET id = 2")
        assert guest.execute("SELECT id FROM guest.things").fetchall() == [(2,)]
        guest.execute("DELETE FROM things")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE others (id integer)",
        "CREATE TABLE public.others (id integer)",
        "CREATE TEMP TABLE others (id integer)",
        "CREATE SCHEMA others",
        "CREATE FUNCTION f() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE ROLE others",
        "ALTER TABLE things ADD COLUMN more text",
        "DROP TABLE things",
        "TRUNCATE things",
        "CREATE INDEX ON things (id)",
        "SET ROLE guest_owner",
        "ALTER ROLE guest_owner PASSWORD 'mine'",
        "SELECT lo_create(0)",
        "COPY things TO '/dev/null'",
    ],
)
def test_a_service_role_defines_and_creates_nothing(database: Suite, statement: str) -> None:
    with connect(database, "guest") as guest, pytest.raises(psycopg.errors.InsufficientPrivilege):
        guest.execute(statement)


def test_a_service_role_grants_nothing(database: Suite) -> None:
    # PostgreSQL answers such a GRANT with a warning, not an error: what counts is that nothing has changed.
    with connect(database, "guest") as guest, database.admin_database() as admin:
        rights = "SELECT relacl::text FROM pg_class WHERE oid = 'guest.things'::regclass"
        before = admin.execute(rights).fetchone()

        guest.execute("GRANT SELECT ON things TO messaging")
        guest.execute("REVOKE SELECT ON things FROM guest")

        assert admin.execute(rights).fetchone() == before


@pytest.mark.parametrize(
    "role", [role for service in SERVICES if service != "guest" for role in (service, f"{service}_owner")]
)
def test_a_role_of_another_service_sees_nothing(database: Suite, role: str) -> None:
    with connect(database, role) as other, pytest.raises(psycopg.errors.InsufficientPrivilege):
        other.execute("SELECT * FROM guest.things")


@pytest.mark.parametrize("other_database", ["postgres", "template1"])
def test_a_service_role_enters_no_other_database(database: Suite, other_database: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        connect(database, "guest", other_database)


def test_nobody_enters_without_a_password(database: Suite) -> None:
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(database.postgres.url("postgres", "postgres"))


def test_limits_hold_for_services_and_not_for_migrations_and_come_back(database: Suite) -> None:
    def limit(role: str) -> str:
        with connect(database, role) as connection:
            row = connection.execute("SHOW statement_timeout").fetchone()
        assert row is not None
        return str(row[0])

    with connect(database, "guest") as guest:
        guest.execute("ALTER ROLE guest SET statement_timeout = 0")
    database.ensure_roles()

    assert (limit("guest"), limit("guest_owner")) == ("5s", "0")


def test_up_says_where_it_is_and_status_shows_every_process(stack: Stack) -> None:
    run = stack.running()

    shown = stack.run("status")

    assert shown.returncode == 0
    assert shown.stdout.count("SERVING") == len(SERVICES)
    for child in run.children:
        assert child.name in shown.stdout
        assert child.state in ("ready", "done")


def test_a_second_up_says_that_one_is_running(stack: Stack) -> None:
    pid = stack.running().pid

    for arguments in (["up"], ["up", "--detach"]):
        second = stack.run(*arguments)
        assert second.returncode == 1
        assert f"already running on {stack.settings.layout.data} (pid {pid})" in second.stderr


def test_up_names_every_taken_port_and_starts_nothing(stack: Stack, tmp_path: Path) -> None:
    stack.running()
    settings = load({"GUILDHALL_DATA_DIR": str(tmp_path / "data"), **ports_of(stack)})

    refused = Stack(settings).run("up")

    assert refused.returncode == 1
    for port, owner in settings.ports.needed(1).items():
        assert f"port {port} is taken, and {owner} needs it" in refused.stderr
    assert not settings.layout.postgres.exists()


def test_a_token_comes_in_one_step_and_again_for_the_same_user(stack: Stack) -> None:
    stack.running()

    tokens = [stack.run("token", "somebody@example.com") for _ in range(2)]

    assert [token.returncode for token in tokens] == [0, 0], tokens[0].stderr
    subjects = {json.loads(decode(token.stdout.split(".")[1]))["sub"] for token in tokens}
    assert len(subjects) == 1


@pytest.mark.parametrize("name", ["identity", "postgresql", "envoy", "messaging-worker"])
def test_a_crashed_child_is_reported_and_restarted(stack: Stack, name: str) -> None:
    before = stack.child(name)
    assert before.pid is not None

    os.kill(before.pid, signal.SIGKILL)

    wait_until(lambda: stack.child(name).restarts == before.restarts + 1 and stack.child(name).state == "ready")
    assert f"{name}: killed by SIGKILL" in (stack.settings.layout.logs / "up.log").read_text()


def test_up_starts_again_right_after_a_kill(stack: Stack) -> None:
    killed = stack.running()

    os.kill(killed.pid, signal.SIGKILL)
    started = stack.run("up", "--detach")

    assert started.returncode == 0, started.stdout + started.stderr
    assert stack.running().pid != killed.pid


def test_migrate_works_beside_a_running_stack(stack: Stack) -> None:
    stack.running()

    assert stack.run("migrate").returncode == 0


def test_down_stops_everything_and_waits(stack: Stack) -> None:
    run = stack.running()
    pids = [run.pid, *(child.pid for child in run.children if child.pid)]

    assert stack.run("down").returncode == 0

    assert not [pid for pid in pids if is_alive(pid)]
    assert not suite.taken_ports(stack.settings)
    assert not stack.settings.layout.sockets.exists()
    assert stack.run("status").returncode == 1


def test_every_wrong_setting_is_named_with_exit_code_2(stack: Stack) -> None:
    wrong = {"GUILDHALL_PORT_OFFSET": "7", "GUILDHALL_LOG_LEVEL": "loud", "GUILDHALL_SIGNUP": "closed"}
    command = [sys.executable, "-m", "deploy.stack.cli", "up", "--replicas", "0"]

    refused = subprocess.run(command, env={**os.environ, **wrong}, capture_output=True, text=True)

    assert refused.returncode == 2
    for name in (*wrong, "--replicas"):
        assert name in refused.stderr
