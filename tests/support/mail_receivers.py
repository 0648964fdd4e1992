"""Who takes mails: an SMTP relay and a product's webhook, both real servers on ports of their own."""

import asyncio
import contextlib
import email
import email.policy
import http.server
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult

from deploy.stack.certificates import CertificateFiles

USER, RELAY_PASSWORD = "guildhall", "the relay's password"
TAKEN = "250 OK"


@dataclass
class Relay:
    """An SMTP server. What is in `at_recipient` and `at_data` it answers first, one each time; then it takes all."""

    at_recipient: list[str] = field(default_factory=list)
    at_data: list[str] = field(default_factory=list)
    offered: list[EmailMessage] = field(default_factory=list)
    accepted: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    """Clear it, and no recipient is answered."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    def __post_init__(self) -> None:
        self.hurry.set()

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:
        self.asked.set()
        await self.hurry.wait()
        answer = self.at_recipient.pop(0) if self.at_recipient else TAKEN
        if answer == TAKEN:
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, _server: Any, session: Any, envelope: Any) -> str:
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.offered.append(message)
        answer = self.at_data.pop(0) if self.at_data else TAKEN
        if answer == TAKEN:
            self.accepted.append(message)
            self.recipients += envelope.rcpt_tos
            self.encrypted.append(session.ssl is not None)
        return answer


@contextlib.asynccontextmanager
async def relay(
    files: CertificateFiles | None, *, port: int = 0, reads_utf8: bool = True, **answers: list[str]
) -> AsyncIterator[Relay]:
    """A relay that runs. With a certificate it wants STARTTLS and a user; without, it has neither."""
    receiver = Relay(**answers)  # type: ignore[arg-type]
    context = tls(files) if files is not None else None

    class Session(SMTP):
        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            receiver.hung_up.set()

    def session() -> SMTP:
        secured: dict[str, Any] = {}
        if context is not None:
            secured = {"tls_context": context, "require_starttls": True, "auth_required": True}
            secured["authenticator"] = _authenticate
        return Session(receiver, hostname="localhost", ident="Relay", enable_SMTPUTF8=reads_utf8, **secured)

    server = await asyncio.get_running_loop().create_server(session, "127.0.0.1", port)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()


def tls(files: CertificateFiles) -> ssl.SSLContext:
    """A server's end of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context


def _authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, login: Any) -> AuthResult:
    is_right = (login.login, login.password) == (USER.encode(), RELAY_PASSWORD.encode())
    return AuthResult(success=is_right, handled=False, auth_data=USER)


@dataclass
class Product:
    """A product's webhook. What is in `statuses` it answers first, one each time; then 204."""

    statuses: list[int]
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def product(*statuses: int, files: CertificateFiles | None = None) -> Iterator[Product]:
    """A webhook that runs; with a certificate, by https."""
    receiver = Product(list(statuses))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
            self.send_header("Location", receiver.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    scheme = "http"
    if files is not None:
        scheme, server.socket = "https", tls(files).wrap_socket(server.socket, server_side=True)
    receiver.url = f"{scheme}://127.0.0.1:{server.server_port}/mails?from=guildhall"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
