"""The four services, in this process, on real ports with mutual TLS; and the people who use them."""

import asyncio
import importlib
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import psycopg
import uuid_utils
from google.rpc import error_details_pb2, status_pb2
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc

from deploy.stack import certificates, secrets
from deploy.stack import services as stack_services
from deploy.stack import suite as stack_suite
from deploy.stack.settings import SERVICES
from services.chassis.frame import Frame
from services.chassis.settings import ServeSettings
from services.identity import sessions
from services.identity.keys import SigningKeys
from services.identity.passwords import Passwords
from services.identity.settings import IdentitySettings
from services.membership.settings import MembershipSettings
from services.messaging.settings import MessagingSettings
from tests.support.mails import MailFolder

PASSWORD = "a long enough password"
OWN_SETTINGS: dict[str, type[ServeSettings]] = {
    "identity": IdentitySettings,
    "membership": MembershipSettings,
    "messaging": MessagingSettings,
}

DAILY = ("workspaces_a_day", "invitation_mails_of_user", "invitation_mails_to_address")
"""What membership lets people do in a day."""


@dataclass(frozen=True)
class Refusal:
    """What a client can see of a refused call."""

    code: grpc.StatusCode
    reason: str
    text: str
    fields: dict[str, str]
    metadata: dict[str, str]
    raw: bytes
    """The status as it was on the wire: for comparing two refusals byte by byte."""


async def refused(call: Awaitable[object]) -> Refusal:
    """The refusal of a call; fails if it was answered."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return refusal_of(error)
    raise AssertionError(f"was not refused: {type(answer).__name__}")


async def answered(call: Callable[[], Awaitable[Any]], *, seconds: float = 10) -> Any:
    """The answer of a call that is repeated while it is UNAVAILABLE."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    """An error as a refusal."""
    raw = b""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            raw = bytes(value)
    info, bad, status = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), status_pb2.Status.FromString(raw)
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    fields = {violation.field: violation.description for violation in bad.field_violations}
    return Refusal(error.code(), info.reason, error.details() or "", fields, dict(info.metadata), raw)


class Caller(Protocol):
    """A method of a generated stub."""

    def __call__(self, request: Any, *, timeout: float, metadata: Any) -> Any: ...


@dataclass
class Person:
    """Somebody who is signed in."""

    user_id: str
    email: str
    name: str
    session_id: str
    session_token: str
    access_token: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What they send with each call."""
        return (("authorization", f"Bearer {self.access_token}"),)

    def call(self, rpc: Any, request: Any, *, timeout: float = 10) -> Any:
        """Calls an RPC as this person; await it, or iterate over it if it streams."""
        return rpc(request, timeout=timeout, metadata=self.metadata)

    def stream(self, rpc: Any, request: Any) -> Any:
        """Opens a stream as this person."""
        return rpc(request, timeout=60, metadata=self.metadata)


class Suite:
    """All four services."""

    def __init__(self, stack: stack_suite.Suite) -> None:
        self.stack = stack
        self.frames: dict[str, Frame] = {}
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}
        self._kept: dict[str, psycopg.Connection[Any]] = {}
        self._password_hash = ""
        self.mail_folder = MailFolder(stack.settings.layout.mail)

    def settings(self, service: str, **changes: object) -> ServeSettings:
        """A service's settings as `guildhall up` would give them, but that draining takes no time."""
        environment = stack_services.environment(
            self.stack.settings, service, postgres=self.stack.postgres, valkey=self.stack.valkey
        )
        values: dict[str, Any] = {name.removeprefix("GUILDHALL_").lower(): v for name, v in environment.items()}
        # The same few people are in many tests.
        daily = {name: 1_000_000 for name in DAILY if service == "membership"}
        values |= {"drain_seconds": 0, **daily, **changes}
        return OWN_SETTINGS.get(service, ServeSettings)(**values)

    async def start(self, *services: str, **changes: object) -> None:
        """Starts services, with these settings changed; all four if none is named."""
        for service in services or SERVICES:
            build = importlib.import_module(f"services.{service}.__main__").build
            self.frames[service] = build(self.settings(service, **changes))
            await self.frames[service].start()

    async def stop(self, *services: str) -> None:
        """Stops services; all that run if none is named."""
        for service in services or tuple(self.frames):
            await self.frames.pop(service).stop()
        if not services:
            for channel in self._channels.values():
                await channel.close()
            for connection in self._kept.values():
                connection.close()

    def channel(self, service: str, *, certificate: str = "gateway") -> grpc.aio.Channel:
        """A channel to a service's own port, with the certificate of the gateway or of a peer."""
        if (service, certificate) not in self._channels:
            files = certificates.files(self.stack.settings.layout.certificates, certificate)
            credentials = grpc.ssl_channel_credentials(
                files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
            )
            address = f"127.0.0.1:{self.stack.settings.ports.service(service)}"
            options = [
                ("grpc.ssl_target_name_override", service),
                ("grpc.enable_http_proxy", 0),
                # A service that takes long to start is met soon after, however often it was called before.
                ("grpc.max_reconnect_backoff_ms", 1_000),
            ]
            self._channels[service, certificate] = grpc.aio.secure_channel(address, credentials, options=options)
        return self._channels[service, certificate]

    def stub(self, stub_class: Any, *, certificate: str = "gateway") -> Any:
        """A generated stub, on a channel to the service that its package names."""
        service = stub_class.__module__.split(".")[1]
        return stub_class(self.channel(service, certificate=certificate))

    def sink(self, service: str, *, certificate: str) -> Any:
        """A service's EventSink."""
        from guildhall.events.v1 import event_sink_pb2_grpc

        return event_sink_pb2_grpc.EventSinkStub(self.channel(service, certificate=certificate))

    def database(self, role: str) -> psycopg.Connection[Any]:
        """A role's own connection, in autocommit: "identity", "identity_owner" …"""
        password = secrets.database_passwords(self.stack.settings.layout.secrets)[role]
        return psycopg.connect(self.stack.postgres.url(role, "guildhall"), password=password, autocommit=True)

    def rows(self, role: str, statement: str, values: Any) -> list[tuple[Any, ...]]:
        """Rows, by a role's connection that is kept: a new one for each question costs more than most answers."""
        kept = self._kept.get(role)
        if kept is None or kept.closed:
            kept = self._kept[role] = self.database(role)
        try:
            cursor = kept.execute(statement.encode(), values)
        except psycopg.errors.AdminShutdown:
            # Ended while nobody asked, by a test that ends its service's connections.
            kept = self._kept[role] = self.database(role)
            cursor = kept.execute(statement.encode(), values)
        except psycopg.OperationalError:
            # PostgreSQL was away meanwhile; the next question finds it, or fails as a new connection would.
            kept.close()
            raise
        return list(cursor.fetchall()) if cursor.description is not None else []

    async def person(self, name: str = "Ada") -> Person:
        """Somebody new, signed up, verified by the mail that the suite wrote, and signed in."""
        address = f"{name.lower()}-{uuid.uuid4().hex[:12]}@example.com"
        stub: auth_rpc.AuthServiceAsyncStub = self.stub(auth_rpc.AuthServiceStub)
        await stub.SignUp(auth.SignUpRequest(email=address, password=PASSWORD, name=name), timeout=10)
        await stub.VerifyEmail(auth.VerifyEmailRequest(token=await self.mailed_token(address)), timeout=10)
        return await self.signed_in(address, name)

    async def known(self, name: str = "Ada") -> Person:
        """Somebody new too, as if they had signed up long ago: without the mail and the hashes, which most tests are
        not about. Their password is the same.
        """
        address, user_id = f"{name.lower()}-{uuid.uuid4().hex[:12]}@example.com", str(uuid_utils.uuid7())
        self._password_hash = self._password_hash or await Passwords().hash(PASSWORD)
        columns = "id, email, normalized_email, name, email_verified_at, password_hash"
        self.rows(
            "identity",
            f"INSERT INTO users ({columns}) VALUES (%s, %s, %s, %s, statement_timestamp(), %s)",
            (user_id, address, address, name, self._password_hash),
        )
        where = {"device_label": "", "client_address": "", "user_agent": ""}
        session, token = await self.frames["identity"].database.transaction(
            lambda tx: sessions.start(tx, user_id=user_id, **where)
        )
        keys = SigningKeys(self.stack.settings.layout.keys)
        signed = keys.sign(user_id=user_id, session_id=str(session.id), issued_at=session.clock)
        return Person(user_id, address, name, str(session.id), token, signed.text)

    async def signed_in(self, address: str, name: str = "") -> Person:
        """A new session of somebody who is known."""
        stub: auth_rpc.AuthServiceAsyncStub = self.stub(auth_rpc.AuthServiceStub)
        answer = await stub.SignIn(auth.SignInRequest(email=address, password=PASSWORD), timeout=10)
        return Person(
            user_id=answer.user.user_id,
            email=address,
            name=name or answer.user.name,
            session_id=answer.session.session_id,
            session_token=answer.tokens.session_token,
            access_token=answer.tokens.access_token,
        )

    async def mails(self, address: str, *, count: int = 1) -> list[str]:
        """The texts of the mails to an address, oldest first, once there are `count` of them."""
        for _ in range(1500):
            if len(found := self.mail_folder.texts(address)) >= count:
                return found
            await asyncio.sleep(0.02)
        raise TimeoutError(f"{count} mails to {address} were never written")

    async def mailed_token(self, address: str, *, count: int = 1) -> str:
        """The token in the latest of `count` mails to an address."""
        found = re.search(r"Token: (\S+)", (await self.mails(address, count=count))[-1])
        assert found, "the mail has no token"
        return found[1]
