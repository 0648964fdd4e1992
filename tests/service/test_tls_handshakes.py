"""A port under many handshakes at once, and while its certificate is renewed. The server is a real process."""

import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.stack import certificates

CLIENTS = 16
HANDSHAKES = 3000
MOST_SECONDS = 30
SERVER = """
import asyncio, sys
from pathlib import Path
from types import SimpleNamespace
import grpc
from services.chassis.tls import server_credentials

async def main():
    key, certificate, authority = map(Path, sys.argv[1:])
    settings = SimpleNamespace(tls_key_file=key, tls_cert_file=certificate, tls_ca_file=authority)
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", server_credentials(settings))
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()

asyncio.run(main())
"""


@dataclass(frozen=True)
class Port:
    """What is asked."""

    number: int
    folder: Path
    process: subprocess.Popen[str]

    def handshake(self) -> str:
        """Connects as the gateway; the number of the certificate that the service showed."""
        client = certificates.files(self.folder, "gateway")
        context = ssl.create_default_context(cafile=client.ca)
        context.load_cert_chain(client.certificate, client.key)
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(("127.0.0.1", self.number), timeout=10) as connection,
            context.wrap_socket(connection, server_hostname="guest") as wrapped,
        ):
            shown = wrapped.getpeercert()
        assert shown is not None
        return str(shown["serialNumber"])


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    """A process that serves as guest."""
    files = certificates.ensure(tmp_path, ("guest", "gateway"))["guest"]
    command = [sys.executable, "-c", SERVER, str(files.key), str(files.certificate), str(files.ca)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Port(int(process.stdout.readline()), tmp_path, process)
        process.kill()


def test_a_port_outlives_many_handshakes_at_once(port: Port) -> None:
    left = [HANDSHAKES]
    until = time.monotonic() + MOST_SECONDS
    failed: list[str] = []

    def shake() -> None:
        while left[0] > 0 and not failed and time.monotonic() < until:
            left[0] -= 1
            try:
                port.handshake()
            except OSError as error:
                failed.append(f"{error}, the server: {port.process.poll()}")

    clients = [threading.Thread(target=shake) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert failed == []
    assert left[0] < HANDSHAKES - CLIENTS


def test_a_renewed_certificate_is_shown_without_a_restart(port: Port) -> None:
    before = port.handshake()
    certificates.files(port.folder, "guest").certificate.unlink()
    certificates.ensure(port.folder, ("guest",))
    assert port.handshake() != before
    assert port.handshake() == port.handshake()
