"""Limits of guessing, by account and network with growing delay, and of mails that anybody can ask for.

The counts are in Valkey, under keys that tell nothing, and end by themselves. If it gives no answer, this process
counts for itself, and allows less: nobody wins by breaking Valkey. No account is locked for the world: whoever guesses
locks out only the network that it comes from.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from services.chassis.call import current_call
from services.chassis.errors import LimitReached
from services.chassis.secret import SecretKey
from services.identity.errors import TokenInvalid
from services.identity.networks import is_foreign, network_of

log = structlog.get_logger()

Outcome = Literal["look", "right", "wrong"]

ANSWER_SECONDS = 0.2
AWAY_SECONDS = 2.0
"""For so long a Valkey that gave no answer is not asked again, or each call would wait for it."""
MOST_KEPT = 10_000
HOUR_MS = 3_600_000
FROM_ALL_NETWORKS = 10
"""Times what one network may have mailed to an address."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """How often one may be wrong. The last free one begins the first delay; each one more doubles it."""

    free: int
    first_ms: int = 32_000
    longest_ms: int = 900_000
    kept_ms: int = 86_400_000
    """After the last wrong one; then all is forgotten."""


PASSWORDS = Allowance(free=5)
TOKENS = Allowance(free=100, kept_ms=HOUR_MS)
"""By network only. They have 256 bits: this keeps a flood of them from the database, and none from being guessed."""


@dataclass(frozen=True, slots=True)
class Wait:
    """How long nothing is allowed. `is_first` for the first who is told of this delay."""

    seconds: int
    is_first: bool


# KEYS: the count. ARGV: outcome, free, first, longest, kept. Valkey's clock; returns what is left of a delay, in ms.
COUNT = """
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local left = (tonumber(redis.call('HGET', KEYS[1], 'until')) or 0) - now
    if left > 0 then
        return {left, redis.call('HSETNX', KEYS[1], 'told', 1)}
    end
    if ARGV[1] == 'right' then
        redis.call('DEL', KEYS[1])
    elseif ARGV[1] == 'wrong' then
        local over = redis.call('HINCRBY', KEYS[1], 'failures', 1) - tonumber(ARGV[2])
        if over >= 0 then
            local delay = math.min(tonumber(ARGV[4]), tonumber(ARGV[3]) * 2 ^ math.min(over, 30))
            redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + delay))
            redis.call('HDEL', KEYS[1], 'told')
        end
        redis.call('PEXPIRE', KEYS[1], ARGV[5])
    end
    return {0, 0}
"""
# KEYS: counts. ARGV: the most of each within the hour that its first begins. One that is full stops them all.
SPEND = """
    for place, key in ipairs(KEYS) do
        if (tonumber(redis.call('GET', key)) or 0) >= tonumber(ARGV[place]) then
            return 0
        end
    end
    for _, key in ipairs(KEYS) do
        if redis.call('INCR', key) == 1 then
            redis.call('PEXPIRE', key, 3600000)
        end
    end
    return 1
"""


class Attempts:
    """Counts what comes from the network of the current call."""

    def __init__(
        self,
        redis_url: str,
        secret: SecretKey,
        *,
        mails_per_address: int,
        mails_per_network: int,
        passwords: Allowance = PASSWORDS,
        tokens: Allowance = TOKENS,
    ) -> None:
        """The limits of mails are per hour."""
        self._redis = Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0))
        self._count_there = self._redis.register_script(COUNT)
        self._spend_there = self._redis.register_script(SPEND)
        self._secret = secret
        self._passwords = passwords
        self._tokens = tokens
        self._mails = (mails_per_address, mails_per_network)
        self._own = OwnCounts()
        self._away_until = 0.0

    async def of_password(self, account: str, outcome: Outcome) -> Wait | None:
        """Counts a password for an account (a normalised address), or only looks. Not None: nothing is allowed now.

        To be asked before a password is verified, to save the work, and after it, to learn whether the answer may be
        given: of many guesses at once, all of which were let in, no more get one than if they had come one by one.
        """
        key = self._key("password", account, network_of(current_call().client_address))
        return await self._count(key, outcome, self._passwords)

    @asynccontextmanager
    async def of_token(self) -> AsyncIterator[None]:
        """Counts TOKEN_INVALID by network. LIMIT_REACHED (wrong_tokens) after too many. From this machine: no limit."""
        address = current_call().client_address
        if not is_foreign(address):
            yield
            return
        key = self._key("token", network_of(address))
        if wait := await self._count(key, "look", self._tokens):
            raise LimitReached("wrong_tokens", most=self._tokens.free, retry_after_seconds=wait.seconds)
        try:
            yield
        except TokenInvalid:
            await self._count(key, "wrong", self._tokens)
            raise

    async def may_mail(self, account: str, *, from_own_network: bool = False) -> bool:
        """Spends one of the mails that a network may have sent to an address, and may ask for, in an hour.

        What all networks together may have sent to an address is far more: else one could use up another's. It does
        not bind a network from which the address's owner has signed in: else ten together could.
        """
        client_address = current_call().client_address
        keys = [self._key("mail", account, network_of(client_address))]
        most = [self._mails[0]]
        if not from_own_network:
            keys.append(self._key("mail", account))
            most.append(self._mails[0] * FROM_ALL_NETWORKS)
        if is_foreign(client_address):
            keys.append(self._key("mails", network_of(client_address)))
            most.append(self._mails[1])
        there = await self._ask(lambda: self._spend_there(keys=keys, args=most))
        return bool(there) if there is not None else self._own.spend(keys, [math.ceil(m / 2) for m in most])

    async def close(self) -> None:
        """Closes the connections."""
        await self._redis.aclose()

    async def _count(self, key: str, outcome: Outcome, allowance: Allowance) -> Wait | None:
        limits = [allowance.free, allowance.first_ms, allowance.longest_ms, allowance.kept_ms]
        found = await self._ask(lambda: self._count_there(keys=[key], args=[outcome, *limits]))
        if found is None:
            found = self._own.count(key, outcome, replace(allowance, free=math.ceil(allowance.free / 2)))
        left_ms, is_first = found
        return Wait(math.ceil(left_ms / 1000), bool(is_first)) if left_ms else None

    async def _ask(self, script: Callable[[], Awaitable[Any]]) -> Any:
        """What a script in Valkey returns; None if there is no answer in time."""
        if time.monotonic() < self._away_until:
            return None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await script()
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("attempts_counted_here", error=type(error).__name__)
            self._away_until = time.monotonic() + AWAY_SECONDS
            return None

    def _key(self, *parts: str) -> str:
        return "identity.attempts." + self._secret.mac("attempts", *(part.encode() for part in parts)).hex()


@dataclass(slots=True)
class _Own:
    """One count of this process. Times are time.monotonic()'s, in ms."""

    failures: int = 0
    until: float = 0.0
    told: bool = False
    ends: float = math.inf


class OwnCounts:
    """The scripts' counts in this process, for when Valkey gives no answer. The oldest give way to new ones."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, _Own] = OrderedDict()

    def count(self, key: str, outcome: Outcome, allowance: Allowance) -> tuple[float, bool]:
        """As COUNT does it."""
        now, own = time.monotonic() * 1000, self._get(key)
        if own.until > now:
            is_first, own.told = not own.told, True
            return own.until - now, is_first
        if outcome == "right":
            del self._counts[key]
        elif outcome == "wrong":
            own.failures += 1
            over = own.failures - allowance.free
            if over >= 0:
                own.until, own.told = now + min(allowance.longest_ms, allowance.first_ms * 2 ** min(over, 30)), False
            own.ends = now + allowance.kept_ms
        return 0, False

    def spend(self, keys: Sequence[str], most: Sequence[int]) -> bool:
        """As SPEND does it."""
        counts = [self._get(key) for key in keys]
        if any(own.failures >= limit for own, limit in zip(counts, most, strict=True)):
            return False
        for own in counts:
            if own.failures == 0:
                own.ends = time.monotonic() * 1000 + HOUR_MS
            own.failures += 1
        return True

    def _get(self, key: str) -> _Own:
        own = self._counts.get(key)
        if own is None or own.ends <= time.monotonic() * 1000:
            own = self._counts[key] = _Own()
        self._counts.move_to_end(key)
        if len(self._counts) > MOST_KEPT:
            self._counts.popitem(last=False)
        return own
