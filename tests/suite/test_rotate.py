"""`guildhall rotate` on a suite that is called all the time: everything changes, and no call fails."""

import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from cryptography import x509
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc as users_rpc
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspaces_rpc

from deploy.stack import certificates, gateway, restores, rotations, runs, secrets, suite
from deploy.stack.settings import SERVICES
from services.chassis.peer_channel import LONGEST_CALL_SECONDS, LOOK_SECONDS
from services.chassis.settings import ServeSettings
from tests.suite.conftest import Running
from tests.support.backends import wait_until

ROOT = Path(__file__).parents[2]


class Calls:
    """Two threads that call through the gateway; what fails is kept."""

    def __init__(self, running: Running) -> None:
        token = running.token(f"rotate-{uuid.uuid4().hex[:8]}@example.com")
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._address = running.gateway
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]
        self.answers = 0
        self.failures: list[str] = []

    def _run(self) -> None:
        with grpc.insecure_channel(self._address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            people, places = users_rpc.UserServiceStub(channel), workspaces_rpc.WorkspaceServiceStub(channel)
            while not self._stopping.is_set():
                try:
                    people.GetUser(users.GetUserRequest(), timeout=10, metadata=self._metadata)
                    places.CreateWorkspace(
                        workspaces.CreateWorkspaceRequest(name="x"), timeout=10, metadata=self._metadata
                    )
                except grpc.RpcError as error:
                    self.failures.append(str(error))
                self.answers += 1

    def more(self) -> None:
        """Waits until each thread has called again."""
        enough = self.answers + 20
        wait_until(lambda: self.answers >= enough, "calls are made")

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Calls until the end of the block."""
        for thread in self._threads:
            thread.start()
        try:
            self.more()
            yield
            self.more()
        finally:
            self._stopping.set()
            for thread in self._threads:
                thread.join()


def serials(folder: Path) -> dict[str, int]:
    """The serial number of each of the suite's certificates; other tests make others beside them."""
    files = [folder / f"{name}.pem" for name in (*certificates.NAMES, "ca")]
    return {file.name: x509.load_pem_x509_certificate(file.read_bytes()).serial_number for file in files}


def shown(running: Running) -> str:
    """What the doctor says of the certificates that servers show."""
    findings = json.loads(running.guildhall("doctor", "--output", "json", seconds=120).stdout)["findings"]
    return str(next(finding["level"] for finding in findings if finding["check"] == "certificates shown"))


def rotated(running: Running, *arguments: str) -> str:
    """What a rotation printed."""
    done = running.guildhall("rotate", *arguments, seconds=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_passwords_certificates_and_the_signing_key_rotate_under_calls(running: Running) -> None:
    layout = running.settings.layout
    passwords, before = secrets.database_passwords(layout.secrets), serials(layout.certificates)
    keys = {file.stem for file in layout.keys.glob("*.pem")}
    calls = Calls(running)
    with calls.going_on():
        assert "membership_owner" in rotated(running, "database-passwords")
        calls.more()
        assert "gateway" in rotated(running, "certificates")
        calls.more()
        new_key = rotated(running, "signing-key").strip()

    assert calls.failures == []
    after = secrets.database_passwords(layout.secrets)
    assert not [role for role, password in after.items() if password == passwords[role]]
    changed = {name for name, serial in serials(layout.certificates).items() if serial != before[name]}
    assert changed == {*(f"{service}.pem" for service in SERVICES), "gateway.pem", "edge.pem"}
    assert {file.stem for file in layout.keys.glob("*.pem")} == keys | {new_key}
    assert not list(layout.secrets.glob("*.coming"))
    # The gateway too shows what is new, to the public; to the services it does so at its next connection.
    wait_until(lambda: shown(running) == "ok", "every server shows its new certificate")
    # What migrates has the new password too.
    assert running.guildhall("migrate", seconds=120).returncode == 0


def identity(running: Running) -> runs.ChildRecord:
    """identity's process, as it is recorded now."""
    run = runs.find(running.settings.layout.data)
    assert run is not None
    return next(child for child in run.children if child.name == "identity")


def test_the_ca_changes_under_calls_through_the_gateway(running: Running) -> None:
    folder = running.settings.layout.certificates
    before = serials(folder)
    calls = Calls(running)

    def settle(seconds: float) -> None:
        """Waits until every service has been called after it must have looked at its files again."""
        assert seconds > LOOK_SECONDS
        until = time.monotonic() + LOOK_SECONDS
        wait_until(lambda: time.monotonic() > until, "they look")
        calls.more()

    with calls.going_on():
        rotations.rotate_certificates(suite.assemble(running.settings), with_ca=True, settle=settle)
    assert calls.failures == []
    # Whoever calls a service that starts now connects by what is new alone, on both sides.
    before_it = identity(running)
    assert before_it.pid is not None
    os.kill(before_it.pid, signal.SIGKILL)
    wait_until(
        lambda: identity(running).pid != before_it.pid and identity(running).state == "ready", "it runs", seconds=60
    )
    wait_until(lambda: gateway.is_ready(running.settings.ports.envoy_admin), "the gateway has found it", seconds=60)
    # The gateway may not have noticed yet that it was gone, and the peers connect again.
    wait_until(lambda: running.guildhall("token", "rotate-after@example.com").returncode == 0, "it is met", seconds=60)
    after = Calls(running)
    with after.going_on():
        pass
    assert after.failures == []
    assert not set(before.values()) & set(serials(folder).values())


def test_without_a_running_suite_nothing_rotates(running: Running, tmp_path: Path) -> None:
    stopped = Running(running.settings, {**running.environment, "GUILDHALL_DATA_DIR": str(tmp_path / "none")})
    for what in ("signing-key", "certificates", "database-passwords"):
        done = stopped.guildhall("rotate", what)
        assert done.returncode == 1
        assert "nothing runs on" in done.stderr


def test_the_runbook_has_the_statements_that_a_restore_runs_and_the_waits_that_a_rotation_takes() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    assert restores.AFTER_RESTORE.strip() in text
    assert restores.END_SESSIONS.strip() in text
    assert f"wait {rotations.SETTLED_SECONDS:.0f} s" in text
    assert rotations.SETTLED_SECONDS > LONGEST_CALL_SECONDS
    assert ServeSettings.model_fields["drain_seconds"].default == 5
