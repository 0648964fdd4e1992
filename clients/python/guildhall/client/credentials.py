"""Access tokens that are renewed by themselves, before they end."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.identity.v1 import auth_service_pb2 as auth

if TYPE_CHECKING:
    from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc

CALL_SECONDS = 10.0
EARLY_SECONDS = 30.0
"""How long before its end a token is renewed: as much as this machine's clock may be behind."""

Kept = Callable[[str], Awaitable[None]]
"""Keeps the session token that is to be used next, so that a later process can go on with the session."""

Renew = Callable[[], Awaitable[tuple[str, Timestamp]]]
"""Returns the next access token with the time at which it ends."""


class Credentials:
    """An access token and how to get the next one."""

    def __init__(self, renew: Renew, *, early_seconds: float = EARLY_SECONDS) -> None:
        self._renew = renew
        self._early_seconds = early_seconds
        self._token = ""
        self._ends_at = 0.0
        self._renewing = asyncio.Lock()

    async def token(self, *, other_than: str = "") -> str:
        """A token that is good for a while; another one than a token that was refused."""
        if self._is_good(other_than):
            return self._token
        async with self._renewing:
            # Somebody else may have renewed it meanwhile: a session token is used up by its first use.
            if not self._is_good(other_than):
                self.accept(*await self._renew())
            return self._token

    def accept(self, token: str, expire_time: Timestamp) -> None:
        """Takes a token that came in another answer."""
        self._token, self._ends_at = token, expire_time.ToDatetime(tzinfo=UTC).timestamp()

    def _is_good(self, other_than: str) -> bool:
        return self._token != other_than and time.time() < self._ends_at - self._early_seconds


def of_session(
    stub: "auth_rpc.AuthServiceAsyncStub", session_token: str, *, kept: Kept | None, early_seconds: float
) -> Credentials:
    """Those of somebody who is signed in."""
    latest = session_token

    async def renew() -> tuple[str, Timestamp]:
        nonlocal latest
        request = auth.RefreshSessionRequest(session_token=latest)
        tokens = (await stub.RefreshSession(request, timeout=CALL_SECONDS, wait_for_ready=True)).tokens
        latest = tokens.session_token
        if kept:
            await kept(latest)
        return tokens.access_token, tokens.access_token_expire_time

    return Credentials(renew, early_seconds=early_seconds)


def of_service_key(stub: "auth_rpc.AuthServiceAsyncStub", key: str, *, early_seconds: float) -> Credentials:
    """Those of a service account."""

    async def renew() -> tuple[str, Timestamp]:
        request = auth.ExchangeServiceKeyRequest(service_key=key)
        answer = await stub.ExchangeServiceKey(request, timeout=CALL_SECONDS, wait_for_ready=True)
        return answer.access_token, answer.access_token_expire_time

    return Credentials(renew, early_seconds=early_seconds)
