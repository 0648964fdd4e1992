"""`guildhall doctor`: nothing to tell of a healthy suite; of a broken one, what is broken and what to do about it."""

import contextlib
import json
import os
import resource
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from deploy.stack import certificates, runs, secrets, suite
from deploy.stack.cli import app
from deploy.stack.doctor import databases, gateway, processes, visits
from deploy.stack.doctor.findings import Level
from services.chassis.celery import make_app
from services.chassis.migrations import downgrade
from services.chassis.worker import perform_task
from services.membership.tables import METADATA
from tests.suite.conftest import Running, booted, new_folder
from tests.support.backends import wait_until
from tests.support.dead_events import APPLIED, bury_event, execute


@pytest.fixture(scope="module")
def patient() -> Iterator[Running]:
    """A suite of this module's own, to be broken and mended."""
    with new_folder("doctor") as folder, booted(folder) as running:
        yield running


def examine(running: Running, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    """The exit code, and what was found, by check: by the command, but in this process, for it is asked often."""
    done = CliRunner().invoke(app, ["doctor", "--output", "json", *arguments], env=running.environment)
    report = json.loads(done.stdout)
    assert report["ok"] == (done.exit_code == 0)
    return done.exit_code, {finding["check"]: finding for finding in report["findings"]}


def failing(found: dict[str, dict[str, str]]) -> set[str]:
    """The checks that failed."""
    return {check for check, finding in found.items() if finding["level"] == "fail"}


def child(running: Running, name: str) -> int:
    """The process of a program."""
    run = runs.find(running.settings.layout.data)
    assert run is not None
    pid = next(record.pid for record in run.children if record.name == name)
    assert pid is not None
    return pid


@contextmanager
def halted(running: Running, name: str) -> Iterator[int]:
    """One process halted."""
    pid = child(running, name)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def replaced(file: Path, content: bytes) -> Iterator[None]:
    """A file with another content."""
    before = file.read_bytes() if file.exists() else None
    secrets.write_private(file, content)
    try:
        yield
    finally:
        if before is None:
            file.unlink()
        else:
            secrets.write_private(file, before)


def in_another_shell(running: Running, offset: str) -> Running:
    """The same suite from a shell that knows its data directory, and of ports this, or nothing."""
    others = {name: value for name, value in running.environment.items() if name != "GUILDHALL_PORT_OFFSET"}
    return Running(running.settings, {**others, **({"GUILDHALL_PORT_OFFSET": offset} if offset else {})})


def test_of_a_healthy_suite_there_is_nothing_to_tell(patient: Running) -> None:
    patient.token("ada.doctor@example.com")

    code, found = examine(patient)

    assert code == 0
    assert {check: finding["level"] for check, finding in found.items()} == dict.fromkeys(found, "ok")
    assert not [finding for finding in found.values() if finding["advice"]]
    looked_at = {
        *("python", "postgresql", "valkey", "envoy", "suite", "disk", "open files", "clock", "signing keys"),
        *("secret files", "certificates shown", "gateway json", "gateway grpc", "certificate ca", "certificate edge"),
        *("process beat", "process envoy", "process guest-worker", "process postgresql", "process valkey"),
    }
    for service in ("identity", "membership", "guest", "messaging"):
        looked_at |= {f"process {service}", f"migrations {service}", f"certificate {service}", f"tasks {service}"}
        looked_at |= {f"queue {service} outbox", f"queue {service} inbox"}
    assert looked_at <= set(found)
    text = patient.guildhall("doctor")
    assert text.returncode == 0
    assert f"{len(found)} checks: 0 failed, 0 to be looked at" in text.stdout
    for check in found:
        assert f"ok   {check}" in text.stdout


def certificate(running: Running, lifetime: timedelta) -> AbstractContextManager[None]:
    """guest's certificate with another end."""
    layout = running.settings.layout

    @contextmanager
    def changed() -> Iterator[None]:
        files = certificates.files(layout.certificates, "guest")
        before = files.key.read_bytes(), files.certificate.read_bytes()
        certificates.renew(layout.certificates, ("guest",), lifetime=lifetime)
        try:
            yield
        finally:
            secrets.write_private(files.key, before[0])
            secrets.write_private(files.certificate, before[1])

    return changed()


@contextmanager
def exposed(running: Running) -> Iterator[None]:
    """A secret that everybody may read."""
    file = running.settings.layout.secrets / "guest.key"
    file.chmod(0o644)
    yield
    file.chmod(0o600)


@contextmanager
def ahead(running: Running) -> Iterator[None]:
    """A database whose clock is forty seconds ahead, as far as it can be asked."""
    execute(running.settings, "CREATE SCHEMA wrong")
    execute(
        running.settings,
        "CREATE FUNCTION wrong.clock_timestamp() RETURNS timestamptz LANGUAGE sql"
        " AS $$ SELECT pg_catalog.clock_timestamp() + interval '40 seconds' $$",
    )
    execute(running.settings, "ALTER ROLE postgres IN DATABASE guildhall SET search_path = wrong, pg_catalog")
    try:
        yield
    finally:
        execute(running.settings, "ALTER ROLE postgres IN DATABASE guildhall RESET search_path")
        execute(running.settings, "DROP SCHEMA wrong CASCADE")


@contextmanager
def crowded(running: Running) -> Iterator[None]:
    """A service that may hardly open another file."""
    pid = child(running, "messaging")
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    count = len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (count + 2, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextmanager
def late_event(running: Running) -> Iterator[None]:
    """An event that nobody has taken for ten minutes."""
    row_id = str(uuid.uuid4())
    execute(
        running.settings,
        "INSERT INTO guest.outbox (id, target, kind, payload, created_at, due_at) VALUES (%(id)s, 'membership',"
        " 'guest_removed', '', statement_timestamp() - interval '10 minutes', statement_timestamp() + interval '55 s')",
        id=row_id,
    )
    yield
    execute(running.settings, "DELETE FROM guest.outbox WHERE id = %(id)s", id=row_id)


BROKEN: dict[str, tuple[Callable[[Running], AbstractContextManager[Any]], str, str, str]] = {
    "an expired certificate": (
        lambda running: certificate(running, timedelta(minutes=-1)),
        *("certificate guest", "expired at", "guildhall rotate certificates"),
    ),
    "another's certificate": (
        lambda running: replaced(
            running.settings.layout.certificates / "guest.pem",
            (running.settings.layout.certificates / "gateway.pem").read_bytes(),
        ),
        *("certificates shown", "older than its file: guest", "guildhall down and up"),
    ),
    "no certificate": (
        lambda running: replaced(running.settings.layout.certificates / "edge.pem", b"nothing"),
        *("certificate edge", "cannot be read", "guildhall rotate certificates"),
    ),
    "an unreadable signing key": (
        lambda running: replaced(running.settings.layout.keys / "zz.pem", b"nothing"),
        *("signing keys", "zz.pem cannot be read", "remove or mend"),
    ),
    "a secret that others may read": (exposed, "secret files", "guest.key", "chmod 600"),
    "a wrong clock": (ahead, "clock", "40.0 s ahead of this machine's: access tokens are refused", "NTP"),
    "too few open files": (crowded, "open files", "messaging has", "prlimit --pid"),
    "an event that nobody takes": (late_event, "queue guest outbox", "1 for longer than 5 min", "see whether guest"),
    "a halted worker": (
        lambda running: halted(running, "guest-worker"),
        "process guest-worker",
        "halted",
        "kill -CONT",
    ),
    "a halted beat": (lambda running: halted(running, "beat"), "process beat", "halted", "kill -CONT"),
    "a halted Valkey": (lambda running: halted(running, "valkey"), "valkey", "no answer", "valkey.log"),
    "a halted Envoy": (lambda running: halted(running, "envoy"), "gateway grpc", "DEADLINE_EXCEEDED", "envoy"),
    "a halted PostgreSQL": (lambda running: halted(running, "postgresql"), "postgresql", "timeout", "postgresql.log"),
}
MORE = {
    "another's certificate": set[str](),
    "no certificate": {"certificates shown"},
    "a halted Valkey": {"process valkey"},
    "a halted Envoy": {"process envoy", "envoy", "gateway json", "certificates shown"},
    "a halted PostgreSQL": {"process postgresql"},
}
"""What else fails by the same cause."""


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_told_with_what_to_do_and_nothing_else(patient: Running, what: str) -> None:
    breaking, check, seen, advice = BROKEN[what]
    with breaking(patient):
        code, found = examine(patient)

    assert code == 1
    assert check in failing(found), found
    assert seen in found[check]["seen"]
    assert advice in found[check]["advice"]
    assert failing(found) - {check} <= MORE.get(what, set())


def test_a_certificate_that_ends_soon_is_warned_of(patient: Running) -> None:
    with certificate(patient, timedelta(days=5)):
        code, found = examine(patient)
    assert code == 0
    assert found["certificate guest"]["level"] == "warn"
    assert found["certificate guest"]["seen"] == "expires in 4 days"


def test_little_room_on_the_disk_is_told(patient: Running) -> None:
    free = shutil.disk_usage(patient.settings.layout.data).free / (1 << 30)
    code, found = examine(patient, "--least-free-gib", str(free + 10))
    assert (code, failing(found)) == (1, {"disk"})
    assert "du -xh" in found["disk"]["advice"]
    code, found = examine(patient, "--least-free-gib", str(free * 0.7))
    assert (code, found["disk"]["level"]) == (0, "warn")


def test_a_missing_migration_is_told_and_made_by_the_command_that_it_names(patient: Running) -> None:
    stack = suite.assemble(patient.settings)
    password = secrets.database_passwords(patient.settings.layout.secrets)["membership_owner"]
    engine = sa.create_engine(
        stack.postgres.url("membership_owner", "guildhall").replace("postgresql://", "postgresql+psycopg://", 1),
        connect_args={"password": password},
        poolclass=sa.NullPool,
    )
    with engine.begin() as connection:
        downgrade("membership", connection, METADATA, "-1")

    code, found = examine(patient)

    assert (code, failing(found)) == (1, {"migrations membership"})
    assert found["migrations membership"]["advice"] == "guildhall migrate"
    assert patient.guildhall("migrate", seconds=120).returncode == 0
    assert examine(patient)[1]["migrations membership"]["level"] == "ok"


@pytest.mark.parametrize("table", ["outbox", "inbox"])
def test_a_dead_event_is_told_listed_and_delivered_when_it_is_tried_again(patient: Running, table: str) -> None:
    queue = {"outbox": "queue identity outbox", "inbox": "queue membership inbox"}[table]
    row_id = bury_event(patient.settings, table)

    code, found = examine(patient)

    assert (code, failing(found)) == (1, {queue})
    assert "1 dead" in found[queue]["seen"]
    assert "guildhall events retry" in found[queue]["advice"]
    assert row_id in patient.guildhall("events", "list").stdout
    assert patient.guildhall("events", "retry").returncode == 1
    assert "1 tried again" in patient.guildhall("events", "retry", row_id).stdout
    wait_until(lambda: bool(execute(patient.settings, APPLIED, id=row_id)), "it is applied")
    assert row_id not in patient.guildhall("events", "list").stdout
    assert examine(patient)[1][queue]["level"] == "ok"


def test_all_dead_events_of_all_services_are_tried_again_at_once(patient: Running) -> None:
    buried = [bury_event(patient.settings, table) for table in ("outbox", "inbox", "outbox")]

    told = json.loads(patient.guildhall("events", "retry", "--all", "--output", "json").stdout)

    assert told == {"tried_again": 3}
    wait_until(lambda: all(execute(patient.settings, APPLIED, id=row_id) for row_id in buried), "they are applied")
    assert json.loads(patient.guildhall("events", "list", "--output", "json").stdout) == []


def test_a_long_queue_of_tasks_is_warned_of(patient: Running) -> None:
    valkey = suite.assemble(patient.settings).valkey
    app = make_app("guest", valkey.url)
    with halted(patient, "guest-worker"), contextlib.closing(app):
        for _ in range(1010):  # a few may be with the worker already
            app.send_task(perform_task("guest"), args=[str(uuid.uuid4())])
        code, found = examine(patient)
        assert failing(found) == {"process guest-worker"}
        assert code == 1
        assert found["tasks guest"]["level"] == "warn"
        assert "guest-worker" in found["tasks guest"]["advice"]
    wait_until(lambda: examine(patient)[1]["tasks guest"]["level"] == "ok", "the worker has caught up")


def test_a_service_that_was_restarted_is_mentioned(patient: Running) -> None:
    before = child(patient, "identity-worker")
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: _is_another(patient, "identity-worker", before), "it runs again")
    code, found = examine(patient)
    assert code == 0
    assert found["process identity-worker"]["level"] == "warn"
    assert "identity-worker.log" in found["process identity-worker"]["advice"]


def _is_another(running: Running, name: str, before: int) -> bool:
    run = runs.find(running.settings.layout.data)
    record = next(record for record in run.children if record.name == name) if run else None
    return record is not None and record.state == "ready" and record.pid not in (None, before)


def test_a_service_that_takes_no_calls_is_told(patient: Running) -> None:
    os.kill(child(patient, "membership"), signal.SIGTERM)

    def seen() -> bool:
        run = runs.find(patient.settings.layout.data)
        assert run is not None
        for finding in processes.check_children(run, patient.settings):
            if finding.check == "process membership" and "NOT_SERVING" in finding.seen:
                return finding.level is Level.FAIL and "membership.log" in finding.advice
        return False

    wait_until(seen, "it drains, and the doctor says so")
    wait_until(lambda: not failing(examine(patient)[1]), "it runs again", seconds=120)


def test_versions_that_are_too_old_are_told(patient: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    # The servers cannot be made older; what is needed is made newer than they are.
    monkeypatch.setattr(databases, "_OLDEST_POSTGRESQL", 990000)
    monkeypatch.setattr(databases, "_OLDEST_VALKEY", (99, 0))
    monkeypatch.setattr(gateway, "_OLDEST_ENVOY", (99, 0))
    monkeypatch.setattr(processes, "_OLDEST_PYTHON", (99, 0))
    found = {finding.check: finding for finding in visits.visit(patient.settings, least_free_gib=0)}
    told = {check for check, finding in found.items() if finding.level is Level.FAIL}
    assert told == {"postgresql", "valkey", "envoy", "python"}
    assert all("needed" in found[check].advice for check in told)


@pytest.mark.parametrize("offset", ["", "49000"])
def test_a_shell_that_knows_the_data_directory_alone_is_told_of_the_suite_in_it(patient: Running, offset: str) -> None:
    shell = in_another_shell(patient, offset)

    code, found = examine(shell)

    assert (code, failing(found)) == (0, set())
    assert found["gateway grpc"]["seen"] == patient.gateway
    assert found["gateway json"]["seen"] == f"http://{patient.gateway}"
    assert shell.token("ada.doctor@example.com")


def test_of_a_suite_that_does_not_run_it_says_how_to_start_it(patient: Running, tmp_path: Path) -> None:
    stopped = Running(patient.settings, {**patient.environment, "GUILDHALL_DATA_DIR": str(tmp_path / "none")})
    code, found = examine(stopped)
    assert (code, failing(found)) == (1, {"suite"})
    assert "guildhall up" in found["suite"]["advice"]


@pytest.mark.parametrize("command", [("admin", "list-service-accounts"), ("migrate",), ("backup", "FOLDER")])
def test_no_command_beside_a_running_suite_renews_a_certificate(
    command: tuple[str, ...], patient: Running, tmp_path: Path
) -> None:
    file = patient.settings.layout.certificates / "guest.pem"
    with certificate(patient, timedelta(days=10)):
        before = file.read_bytes()
        done = patient.guildhall(*(str(tmp_path / "backup") if word == "FOLDER" else word for word in command))
        assert done.returncode == 0, done.stdout + done.stderr
        assert file.read_bytes() == before
