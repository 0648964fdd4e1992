"""Access tokens that are renewed by themselves, before they end."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC
from typing import TYPE_CHECKING, TypeVar

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.client.errors import GuildhallError, NotSignedIn, Unavailable, error_of
from guildhall.identity.v1 import auth_service_pb2 as auth

if TYPE_CHECKING:
    from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc

_TRY_SECONDS = 3.0
_LAST_TRY_SECONDS = 6.75
"""After the first. Whoever presents a session token more than 10 s after its first use ends the session, as a thief
would: the last of the tries is over before that."""
_PAUSE_SECONDS = 0.25
EARLY_SECONDS = 30.0
"""How long before its end a token is renewed: as much as this machine's clock may be behind."""

Kept = Callable[[str], Awaitable[None]]
"""Keeps the session token that is to be used next, so that a later process can go on with the session."""

Renew = Callable[[], Awaitable[tuple[str, Timestamp]]]
"""Returns the next access token with the time at which it ends."""


Metadata = tuple[tuple[str, str], ...]

Answer = TypeVar("Answer")


class Credentials:
    """An access token and how to get the next one."""

    def __init__(self, renew: Renew, *, early_seconds: float = EARLY_SECONDS) -> None:
        self._renew = renew
        self._early_seconds = early_seconds
        self._token = ""
        self._ends_at = 0.0
        self._renewal: asyncio.Task[str] | None = None

    async def token(self, *, other_than: str = "") -> str:
        """A token that is good for a while; another one than a token that was refused."""
        if self._is_good(other_than):
            return self._token
        # One for all who ask meanwhile, which goes on when they give up: a session token is used up by its first use,
        # and without the answer to that the session is lost.
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renewed())
            self._renewal.add_done_callback(_note_error)
        return await asyncio.shield(self._renewal)

    async def settle(self) -> None:
        """Waits for a renewal that is under way, whatever comes of it."""
        if self._renewal is not None:
            await asyncio.wait([self._renewal])

    def accept(self, token: str, expire_time: Timestamp) -> None:
        """Takes a token that came in another answer."""
        self._token, self._ends_at = token, expire_time.ToDatetime(tzinfo=UTC).timestamp()

    async def _renewed(self) -> str:
        self.accept(*await self._renew())
        return self._token

    def _is_good(self, other_than: str) -> bool:
        return self._token != other_than and time.time() < self._ends_at - self._early_seconds


def refused_token(refused: GuildhallError, metadata: Metadata) -> str:
    """The token in a call's headers, if it was refused for that; else empty.

    The clocks may differ by more than is allowed for, so another one is worth a try; but one only.
    """
    is_about_it = isinstance(refused, NotSignedIn) and refused.reason == "UNAUTHENTICATED"
    return metadata[0][1].removeprefix("Bearer ") if metadata and is_about_it else ""


def of_session(
    stub: "auth_rpc.AuthServiceAsyncStub", session_token: str, *, kept: Kept | None, early_seconds: float
) -> Credentials:
    """Those of somebody who is signed in."""
    latest = session_token

    async def renew() -> tuple[str, Timestamp]:
        nonlocal latest
        tokens = await refresh(stub, latest)
        latest = tokens.session_token
        if kept:
            await kept(latest)
        return tokens.access_token, tokens.access_token_expire_time

    return Credentials(renew, early_seconds=early_seconds)


def of_service_key(stub: "auth_rpc.AuthServiceAsyncStub", key: str, *, early_seconds: float) -> Credentials:
    """Those of a service account."""

    async def renew() -> tuple[str, Timestamp]:
        request = auth.ExchangeServiceKeyRequest(service_key=key)
        answer = await _repeated(lambda: stub.ExchangeServiceKey(request, timeout=_TRY_SECONDS, wait_for_ready=True))
        return answer.access_token, answer.access_token_expire_time

    return Credentials(renew, early_seconds=early_seconds)


async def refresh(stub: "auth_rpc.AuthServiceAsyncStub", session_token: str) -> auth.SessionTokens:
    """Exchanges a session token, again and again until there is an answer or its time is over. Errors: AioRpcError."""
    request = auth.RefreshSessionRequest(session_token=session_token)
    answer = await _repeated(lambda: stub.RefreshSession(request, timeout=_TRY_SECONDS, wait_for_ready=True))
    return answer.tokens


async def _repeated(call: Callable[[], Awaitable[Answer]]) -> Answer:
    last_at = time.monotonic() + _LAST_TRY_SECONDS
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if not isinstance(error_of(error), Unavailable) or time.monotonic() + _PAUSE_SECONDS > last_at:
                raise
        await asyncio.sleep(_PAUSE_SECONDS)


def _note_error(renewal: "asyncio.Task[str]") -> None:
    """For asyncio, which complains of an error that nobody has waited for."""
    if not renewal.cancelled():
        renewal.exception()
