"""Passwords as they are presented: limited, verified, counted and noted in the security log."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import Overloaded
from services.identity import security
from services.identity.attempts import Attempts, Outcome
from services.identity.credentials import Credentials
from services.identity.errors import EmailUnverified, InvalidCredentials, SignInLimited
from services.identity.networks import is_foreign, network_of
from services.identity.passwords import THREADS, WAITING, Passwords

AT_A_TIME = max(1, min(THREADS, (os.cpu_count() or 2) // 2))
"""Half of the processors at most: a password takes one whole, and other calls must find one."""
MOST = THREADS + WAITING
MOST_OF_A_NETWORK = 12


class Guesses:
    """Any presented password may be a guess. Addresses that nobody has take the same steps as others."""

    def __init__(self, database: Database, passwords: Passwords, attempts: Attempts) -> None:
        self._database = database
        self._passwords = passwords
        self._attempts = attempts
        self._here: Counter[str] = Counter()
        self._turns = asyncio.Semaphore(AT_A_TIME)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One's turn with passwords, to have them verified and hashed: a few at a time, the rest wait in order.

        So a crowd delays nobody's other calls. OVERLOADED if too many wait, or too many of one network, which would
        fill the queue for everybody.
        """
        address = current_call().client_address
        network = network_of(address)
        if self._here.total() >= MOST or (is_foreign(address) and self._here[network] >= MOST_OF_A_NETWORK):
            raise Overloaded
        self._here[network] += 1
        try:
            async with self._turns:
                yield
        finally:
            self._here[network] -= 1
            if not self._here[network]:
                del self._here[network]

    async def require_sign_in(self, found: Credentials, password: str) -> None:
        """INVALID_CREDENTIALS, or EMAIL_UNVERIFIED after a right one; SIGN_IN_LIMITED.

        Every refusal of a wrong password costs two verifications, so that its time tells neither whether the address
        is known nor whether somebody is about to sign up with it.
        """
        await self._count(found, "look")
        matches = await self._passwords.verify(found.password_hash, password)
        if matches and found.is_verified and not found.is_disabled:
            await self._count(found, "right")
            return
        if not matches:
            is_unverified = await self._passwords.verify(found.pending_password_hash, password)
        else:
            is_unverified = not found.is_disabled
        if is_unverified:
            # Not counted as right: whoever signs up with somebody's address has a password that gets here, and could
            # clear the count of wrong ones with it.
            await self._count(found, "look")
            raise EmailUnverified
        await self._note_wrong(found)
        raise InvalidCredentials

    async def matches_present(self, found: Credentials, password: str) -> bool:
        """Whether it is the user's present password; empty if there is none. SIGN_IN_LIMITED."""
        await self._count(found, "look")
        if found.password_hash is None:
            return not password
        return await self._passwords.verify(found.password_hash, password)

    @asynccontextmanager
    async def counted(self, found: Credentials, *, matches: bool) -> AsyncIterator[None]:
        """Around what `matches_present` was for: counts a match, and INVALID_CREDENTIALS. SIGN_IN_LIMITED."""
        if matches:
            await self._count(found, "right")
        try:
            yield
        except InvalidCredentials:
            await self._note_wrong(found)
            raise

    async def _note_wrong(self, found: Credentials) -> None:
        await self._count(found, "wrong")
        await self._database.transaction(lambda tx: security.record(tx, "sign_in_failed", user_id=found.user_id))

    async def _count(self, found: Credentials, outcome: Outcome) -> None:
        wait = await self._attempts.of_password(found.normalized_email, outcome)
        if wait is None:
            return
        if wait.is_first:
            # Once for each delay: whoever goes on is not to fill the log.
            await self._database.transaction(lambda tx: security.record(tx, "sign_in_limited", user_id=found.user_id))
        raise SignInLimited(retry_after_seconds=wait.seconds)
