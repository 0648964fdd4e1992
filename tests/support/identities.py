"""Another process of identity, with settings of its own; and what tests of credentials share."""

import hashlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from guildhall.identity.v1 import auth_service_pb2_grpc

from deploy.stack import certificates
from services.chassis.frame import Frame
from services.chassis.worker import forgetting
from services.identity.__main__ import build
from services.identity.tasks import FORGOTTEN
from tests.support.suite import Suite


def new_address(name: str = "someone") -> str:
    """An address that nobody has."""
    return f"{name}-{uuid.uuid4().hex[:12]}@example.com"


def from_address(client_address: str) -> tuple[tuple[str, str], ...]:
    """Metadata of a call that the gateway had from there."""
    return (("x-guildhall-client-address", client_address),)


def execute(suite: Suite, statement: str, *parameters: object) -> list[Any]:
    """Runs one statement in identity's schema, as its owner."""
    return suite.rows("identity_owner", statement, parameters)


def open_invite(suite: Suite, lasts: str = "1 hour") -> str:
    """The secret of an invite that another service has told of."""
    token = f"ghi_{uuid.uuid4().hex}"
    statement = "INSERT INTO open_invites VALUES (%s, statement_timestamp() + CAST(%s AS interval))"
    execute(suite, statement, hashlib.sha256(token.encode()).digest(), lasts)
    return token


def kinds_of(suite: Suite, user_id: str) -> list[str]:
    """The kinds of a user's security events, oldest first."""
    rows = execute(suite, "SELECT kind FROM security_events WHERE user_id = %s ORDER BY id", user_id)
    return [kind for (kind,) in rows]


async def forget(suite: Suite) -> None:
    """All that identity's worker forgets by itself."""
    for sweep in forgetting(suite.frames["identity"].database, FORGOTTEN).values():
        await sweep()


@asynccontextmanager
async def identity(suite: Suite, **changes: object) -> AsyncIterator[tuple[Frame, Any]]:
    """A second process of identity on a port of its own, and an AuthService stub as the gateway has it."""
    frame = build(suite.settings("identity", listen="127.0.0.1:0", health_listen="127.0.0.1:0", **changes))  # type: ignore[arg-type]
    await frame.start()
    files = certificates.files(suite.stack.settings.layout.certificates, "gateway")
    credentials = grpc.ssl_channel_credentials(
        files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )
    options = [("grpc.ssl_target_name_override", "identity"), ("grpc.enable_http_proxy", 0)]
    try:
        async with grpc.aio.secure_channel(
            f"127.0.0.1:{frame.ports['service']}", credentials, options=options
        ) as channel:
            yield frame, auth_service_pb2_grpc.AuthServiceStub(channel)
    finally:
        await frame.stop()
