"""Passwords: Argon2id (RFC 9106) in two threads, and a list of those that anybody would guess.

A password is hashed exactly as it was sent; nothing is normalised, so every client must send what was typed. Hashes
that were taken over from another system are verified too (hashes.py), until a sign-in renews them.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar

from argon2 import PasswordHasher

from services.chassis.errors import Overloaded
from services.chassis.secret import new_token
from services.identity import hashes
from services.identity.errors import PasswordRejected

T = TypeVar("T")

THREADS = 2
WAITING = 32
"""Beyond the threads. At 20 ms each, the last of the queue waits a third of a second; more would only time out."""


def require_uncommon(password: str, *, field: str = "password") -> None:
    """PASSWORD_REJECTED, naming the request's field, for one of the list, in whatever case."""
    if password.casefold() in _common():
        raise PasswordRejected(field)


@cache
def _common() -> frozenset[str]:
    return frozenset(Path(__file__).with_name("common_passwords.txt").read_text(encoding="utf-8").split())


def _give_way() -> None:
    """Has this thread run where nobody else wants the processor: a crowd that signs in must not slow other calls."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


class Passwords:
    """Hashes and verifies; a verification takes the same time whether or not there is a hash to compare with."""

    def __init__(self) -> None:
        # OWASP's first choice: 19 MiB, two passes, one lane.
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="argon2", initializer=_give_way)
        self._places = threading.BoundedSemaphore(THREADS + WAITING)
        self._dummy = self._hasher.hash(new_token("dummy"))

    async def hash(self, password: str) -> str:
        """The password's hash, with its parameters and a random salt. OVERLOADED if too many wait."""
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether it is the password. Without a hash a dummy is verified, and the answer is no."""
        matches = await self._run(lambda: hashes.matches(password_hash or self._dummy, password))
        return matches and password_hash is not None

    def is_outdated(self, password_hash: str) -> bool:
        """Whether a hash is of another kind, or has other parameters, than new ones get."""
        return not password_hash.startswith("$argon2id$") or self._hasher.check_needs_rehash(password_hash)

    async def _run(self, work: Callable[[], T]) -> T:
        if not self._places.acquire(blocking=False):
            raise Overloaded
        try:
            future: Future[T] = self._executor.submit(work)
        except BaseException:
            self._places.release()
            raise
        # Released when the thread is free, not when the caller gives up: a place stands for work, not for patience.
        future.add_done_callback(lambda _future: self._places.release())
        return await asyncio.wrap_future(future)
