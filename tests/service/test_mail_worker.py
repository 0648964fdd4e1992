"""Mails from the outbox through a worker process, to a relay and a webhook that fail at first."""

import asyncio
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
import uuid_utils

from deploy.stack import certificates, roles, secrets
from deploy.stack import services as stack_services
from deploy.stack import suite as stack_suite
from deploy.stack.processes import last_lines
from deploy.stack.valkey import Valkey
from services.chassis.celery import make_app
from services.chassis.celery import send as send_tasks
from services.chassis.database import Database
from services.chassis.migrations import upgrade
from services.chassis.outbox import WORKER
from services.chassis.outbox import Relay as OutboxRelay
from services.chassis.settings import WorkerSettings
from services.chassis.worker import perform_task
from services.identity.tables import METADATA
from tests.support.backends import Processes
from tests.support.mail_receivers import RELAY_PASSWORD, USER, product, relay

DATABASE = "mails"
WAIT_SECONDS = 30

ADD_USER = "INSERT INTO users (id, email, normalized_email, name) VALUES (%(id)s, %(email)s, %(email)s, 'Ada')"
ENQUEUE = "INSERT INTO outbox (id, target, kind, subject_id) VALUES (%s, 'worker', 'mail.password_changed', %s)"


@pytest.fixture(scope="module")
def database(backends: stack_suite.Suite) -> Iterator[str]:
    """identity's tables in a database of these tests' own, where no other worker looks."""
    passwords = secrets.database_passwords(backends.settings.layout.secrets)
    with backends.postgres.connect() as admin:
        roles.ensure_database(admin, DATABASE)
    with backends.postgres.connect(DATABASE) as admin:
        roles.ensure(admin, passwords)
    url = backends.postgres.url("identity_owner", DATABASE).replace("postgresql://", "postgresql+psycopg://")
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"password": passwords["identity_owner"]})
    with engine.begin() as connection:
        upgrade("identity", connection, METADATA)
    yield backends.postgres.url("identity", DATABASE)
    with backends.postgres.connect() as admin:
        admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


@dataclass
class Post:
    """identity's outbox and a worker that delivers what is in it."""

    connection: psycopg.Connection[Any]
    relay: OutboxRelay
    log_file: Path

    def enqueue(self) -> tuple[str, str]:
        """Has somebody told that their password was changed; returns their address and the outbox row's id."""
        user_id, row_id = str(uuid.uuid4()), str(uuid_utils.uuid7())
        address = f"{user_id}@example.com"
        self.connection.execute(ADD_USER, {"id": user_id, "email": address})
        self.connection.execute(ENQUEUE, (row_id, user_id))
        return address, row_id

    def attempts(self, row_id: str) -> int | None:
        """How often a row has failed; None once it is done."""
        row = self.connection.execute("SELECT attempts FROM outbox WHERE id = %s", (row_id,)).fetchone()
        return row and row[0]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Hands over what is due until the effect is there."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "\n".join(last_lines(self.log_file))
            await self.relay.deliver_due(WORKER)
            await asyncio.sleep(0.05)


@asynccontextmanager
async def post(backends: stack_suite.Suite, database: str, **mail: object) -> AsyncIterator[Post]:
    """A worker process of identity with settings of mail."""
    folder = Path(tempfile.mkdtemp(prefix="guildhall-mail-"))
    valkey = Valkey(socket_folder=folder, log_file=folder / "valkey.log")
    environment = stack_services.environment(backends.settings, "identity", postgres=backends.postgres, valkey=valkey)
    environment |= {"GUILDHALL_DATABASE_URL": database, "GUILDHALL_LOG_LEVEL": "info"}
    environment |= {f"GUILDHALL_{name.upper()}": str(value) for name, value in mail.items()}
    (worker,) = (
        program
        for program in stack_services.programs(backends.settings, postgres=backends.postgres, valkey=valkey)
        if program.name == "identity-worker"
    )
    log_file = folder / "worker.log"
    settings = WorkerSettings(**{name.removeprefix("GUILDHALL_").lower(): v for name, v in environment.items()})  # type: ignore[arg-type]
    app, frame_database, processes = make_app("identity", valkey.url), Database(settings, pool_size=2), Processes()

    async def hand_over(ids: Any) -> None:
        await send_tasks(app, perform_task("identity"), ids)

    try:
        processes.start(valkey.program())
        processes.start(replace(worker, environment=environment, log_file=log_file))
        with psycopg.connect(database, password=settings.database_password, autocommit=True) as connection:
            yield Post(connection, OutboxRelay(frame_database, deliver={}, hand_over=hand_over), log_file)
    finally:
        await asyncio.to_thread(processes.stop)
        await frame_database.close()
        app.close()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def relay_settings(tmp_path_factory: pytest.TempPathFactory) -> tuple[certificates.CertificateFiles, dict[str, object]]:
    """A relay's certificate, and the settings of mail by it, but for the port."""
    folder = tmp_path_factory.mktemp("relay")
    files = certificates.ensure(folder, ("relay",))["relay"]
    (folder / "password").write_text(RELAY_PASSWORD)
    return files, {
        "mail_delivery": "smtp",
        "mail_from": "Acme <no-reply@example.com>",
        "smtp_host": "localhost",
        "smtp_ca_file": files.ca,
        "smtp_username": USER,
        "smtp_password_file": folder / "password",
    }


async def test_what_a_relay_does_to_mails_from_the_outbox(
    backends: stack_suite.Suite,
    database: str,
    relay_settings: tuple[certificates.CertificateFiles, dict[str, object]],
) -> None:
    files, settings = relay_settings
    async with relay(files) as receiver, post(backends, database, smtp_port=receiver.port, **settings) as box:
        # Refused for now, then taken, once.
        receiver.at_data = ["451 4.3.0 come back"]
        address, row_id = box.enqueue()
        await box.until(lambda: box.attempts(row_id) is None)
        assert [message["Message-ID"] for message in receiver.offered] == [f"<{row_id}@guildhall>"] * 2
        assert [(message["To"], message["Message-ID"]) for message in receiver.accepted] == [
            (address, f"<{row_id}@guildhall>")
        ]

        # Refused for good: given up at once.
        receiver.at_recipient = ["550 5.1.1 nobody here", "250 OK"]
        unknown, row_id = box.enqueue()
        await box.until(lambda: box.attempts(row_id) is None)
        assert receiver.at_recipient == ["250 OK"]
        assert [message["To"] for message in receiver.accepted] == [address]

        log = box.log_file.read_text()
        assert f'"kind": "password_changed", "row_id": "{row_id}", "code": 550' in log
        assert '"event": "work_failed"' in log
        for personal in (address, unknown, RELAY_PASSWORD, "Ada", "nobody here"):
            assert personal not in log


async def test_no_mail_dies_of_a_relay_that_is_away(
    backends: stack_suite.Suite,
    database: str,
    relay_settings: tuple[certificates.CertificateFiles, dict[str, object]],
) -> None:
    files, settings = relay_settings
    async with relay(files) as closed:
        port = closed.port
    async with post(backends, database, smtp_port=port, **settings) as box:
        address, row_id = box.enqueue()
        await box.until(lambda: "work_failed" in box.log_file.read_text())
        assert "mail_relay_unavailable" in box.log_file.read_text()
        assert box.attempts(row_id) == 0
        box.connection.execute("UPDATE outbox SET due_at = statement_timestamp()")  # it would be in 5 s
        async with relay(files, port=port) as receiver:
            await box.until(lambda: bool(receiver.accepted))
            await box.until(lambda: box.attempts(row_id) is None)
        assert [message["To"] for message in receiver.accepted] == [address]


async def test_a_product_that_fails_at_first_gets_the_event_again(
    backends: stack_suite.Suite, database: str, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("ab" * 32)
    with product(500) as receiver:
        settings = {"mail_webhook_url": receiver.url, "mail_webhook_secret_file": tmp_path / "key"}
        async with post(backends, database, mail_delivery="webhook", **settings) as box:
            address, row_id = box.enqueue()
            await box.until(lambda: box.attempts(row_id) is None)
            log = box.log_file.read_text()
    assert len(receiver.received) == 2
    assert len({body for _, body in receiver.received}) == 1
    assert row_id.encode() in receiver.received[0][1]
    assert address not in log
    assert "Ada" not in log


async def test_a_template_that_fails_is_tried_again_and_logged_by_kind_only(
    backends: stack_suite.Suite, database: str, tmp_path: Path
) -> None:
    templates, mails = tmp_path / "templates", tmp_path / "mails"
    templates.mkdir()
    template = templates / "password_changed.txt"
    template.write_text("{{ name }} {{ nobody_gave_this }}")
    async with post(backends, database, mail_templates_dir=templates, mail_dir=mails) as box:
        address, row_id = box.enqueue()
        await box.until(lambda: bool(box.attempts(row_id)))
        log = box.log_file.read_text()
        assert '"kind": "mail.password_changed"' in log
        assert '"error": "UndefinedError"' in log
        assert "Ada" not in log
        assert address not in log
        assert not mails.exists()

        template.write_text("Dear {{ name }}")
        await box.until(lambda: box.attempts(row_id) is None)
    assert "Dear Ada" in (mails / f"{row_id}.eml").read_text()
