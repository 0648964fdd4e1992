"""Access tokens: EdDSA JWTs of five minutes (RFC 7519, RFC 8037). The signature is checked once per token."""

import asyncio
import contextvars
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import jwt

from services.chassis.errors import Unauthenticated

ISSUER = "guildhall"
AUDIENCE = "guildhall"
LEEWAY_SECONDS = 30
REMEMBERED = 10_000
REFETCH_SECONDS = 5.0
FAILED_SECONDS = 1.0
"""For how long a failure to fetch the keys stands."""
REFRESH_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Claims:
    """What a genuine token says."""

    subject_id: str
    """The user, or the service account."""
    session_id: str
    """What must be alive for the token to hold: a session, or a service account's key."""
    key_id: str
    expires_at: float
    """Seconds since 1970."""
    scopes: frozenset[str] | None = None
    """What a service account may do, for its whole life. None for a user."""
    workspace_ids: frozenset[str] = frozenset()
    """The only workspaces that a service account may touch; empty if it is bound to none."""


class Verifier:
    """`fetch_keys` returns the public keys by key id; it is asked again when a token names one that is not known."""

    def __init__(self, fetch_keys: Callable[[], Awaitable[Mapping[str, jwt.PyJWK]]]) -> None:
        self._fetch_keys = fetch_keys
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._failed_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._genuine: OrderedDict[str, Claims] = OrderedDict()

    async def verify(self, token: str) -> Claims:
        """The token's claims. UNAUTHENTICATED if it is not genuine or past its time; UNAVAILABLE if no keys are had."""
        if time.monotonic() - self._fetched_at > REFRESH_SECONDS and self._keys:
            # In the background: a key that was withdrawn is no longer believed soon after, and nobody waits for it.
            self._begin_fetch()
        claims = self._genuine.get(token)
        if claims is None or claims.key_id not in self._keys:
            claims = await self._decode(token)
            self._genuine[token] = claims
            if len(self._genuine) > REMEMBERED:
                self._genuine.popitem(last=False)
        if claims.expires_at + LEEWAY_SECONDS <= time.time():
            raise Unauthenticated
        return claims

    def _begin_fetch(self) -> asyncio.Task[None]:
        """The fetch that runs, or the one that just failed, which every caller then shares; else a new one."""
        if self._fetching is None or (self._fetching.done() and time.monotonic() - self._failed_at >= FAILED_SECONDS):
            self._fetching = asyncio.create_task(self._fetch(), context=contextvars.Context())
            self._fetching.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._fetching

    async def _fetch(self) -> None:
        try:
            self._keys = await self._fetch_keys()
        except Exception:
            self._failed_at = time.monotonic()
            raise
        self._fetched_at = time.monotonic()
        self._fetching = None

    async def _decode(self, token: str) -> Claims:
        try:
            key_id = jwt.get_unverified_header(token).get("kid", "")
            if key_id not in self._keys and time.monotonic() - self._fetched_at > REFETCH_SECONDS:
                # Shared: a thousand callers with a new key ask for it once, and none of them can cancel it.
                await asyncio.shield(self._begin_fetch())
            if key_id not in self._keys:
                raise Unauthenticated
            body = jwt.decode(
                token,
                self._keys[key_id],
                algorithms=["EdDSA"],
                issuer=ISSUER,
                audience=AUDIENCE,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iat", "sub", "sid", "jti"]},
            )
        except jwt.PyJWTError as error:
            raise Unauthenticated from error
        scopes = frozenset(str(body["scope"]).split()) if "scope" in body else None
        workspaces = frozenset(map(str, body.get("workspaces", ())))
        return Claims(str(body["sub"]), str(body["sid"]), key_id, float(body["exp"]), scopes, workspaces)
