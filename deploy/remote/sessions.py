"""The sessions of `guildhall login`, in a file that only its owner reads.

A session token is used up by its first exchange, and a later use of it ends the session (as that of a thief would). So
all commands of a user take turns at the file: who exchanges the token holds the lock until its successor is kept.
"""

import asyncio
import fcntl
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.remote.settings import Gateway
from deploy.stack.secrets import write_private
from deploy.stack.settings import StackError

_POLL_SECONDS = 0.02
_EARLY_SECONDS = 60
"""How long before its end an access token is exchanged: earlier than the client would ask for another."""


@dataclass(frozen=True)
class Session:
    """Somebody who is signed in at a gateway."""

    gateway: Gateway
    email: str
    session_token: str
    access_token: str
    access_token_ends_at: float


class Sessions:
    """The file, and the lock beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "sessions.json"

    def find(self, gateway: Gateway | None) -> Session | None:
        """The session at a gateway, or where somebody signed in last."""
        kept = self._read()
        found = kept["sessions"].get(gateway.url if gateway else kept["latest"])
        return Session(**{**found, "gateway": Gateway(**found["gateway"])}) if found else None

    async def keep(self, session: Session) -> None:
        """Keep a new session, in place of any other at that gateway."""
        async with self._turn():
            kept = self._read()
            kept["latest"] = session.gateway.url
            kept["sessions"][session.gateway.url] = asdict(session)
            self._write(kept)

    async def forget(self, gateway: Gateway) -> None:
        """Keep no session at that gateway."""
        async with self._turn():
            kept = self._read()
            kept["sessions"].pop(gateway.url, None)
            if kept["latest"] == gateway.url:
                kept["latest"] = next(iter(kept["sessions"]), "")
            self._write(kept)

    async def current(
        self, gateway: Gateway, exchange: Callable[[Session], Awaitable[Session]], *, other_than: str = ""
    ) -> Session:
        """The session with an access token that is good for a while, exchanged first if need be, by one at a time.

        `other_than` is an access token that was refused. Raises `StackError` if nobody is signed in there.
        """
        async with self._turn():
            session = self.find(gateway)
            if session is None:
                raise StackError(f"nobody is signed in at {gateway.url} any more; guildhall login")
            ends_soon = session.access_token_ends_at < time.time() + _EARLY_SECONDS
            if ends_soon or session.access_token == other_than:
                session = await exchange(session)
                kept = self._read()
                kept["sessions"][gateway.url] = asdict(session)
                self._write(kept)
            return session

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._folder / "sessions.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while not _try_lock(descriptor):  # noqa: ASYNC110 - it is another process that lets go of it
                await asyncio.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

    def _read(self) -> dict[str, Any]:
        try:
            kept: dict[str, Any] = json.loads(self._file.read_text())
        except FileNotFoundError:
            return {"latest": "", "sessions": {}}
        except ValueError:
            raise StackError(f"{self._file} is damaged; remove it, then guildhall login") from None
        return kept

    def _write(self, kept: dict[str, Any]) -> None:
        write_private(self._file, json.dumps(kept, indent=1).encode())


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
