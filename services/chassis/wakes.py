"""Wake-ups through Valkey. They only make things faster: a lost one is made good by the next sweep or poll."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

log = structlog.get_logger()

SILENCE_SECONDS = 30.0


class Wakes:
    """Publishes and hears wake-ups. Publishing never waits and never fails."""

    def __init__(self, redis_url: str, *, silence_seconds: float = SILENCE_SECONDS) -> None:
        """After `silence_seconds` without a message the server is asked whether it is still there."""
        self._silence_seconds = silence_seconds
        self._redis = Redis.from_url(
            redis_url, decode_responses=True, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)
        )
        # Reading blocks until something comes, so it has a connection without a time-out.
        self._listening = Redis.from_url(
            redis_url, decode_responses=True, socket_timeout=None, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)
        )
        self._pending: dict[str, set[str]] = {}
        self._publishing: asyncio.Task[None] | None = None

    def publish(self, channel: str, message: str = "") -> None:
        """Has every listener of the channel woken, soon. Messages that wait travel together, equal ones as one."""
        self._pending.setdefault(channel, set()).add(message)
        if self._publishing is None:
            self._publishing = asyncio.create_task(self._publish())

    async def _publish(self) -> None:
        try:
            while self._pending:
                pending, self._pending = self._pending, {}
                async with self._redis.pipeline(transaction=False) as pipeline:
                    for channel, messages in pending.items():
                        pipeline.publish(channel, "\n".join(messages))
                    await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("wake_not_sent", error=type(error).__name__)
        finally:
            self._publishing = None

    async def listen(self, heard: Mapping[str, Callable[[str], None]]) -> None:
        """Calls `heard[channel](message)` for each wake-up until cancelled; comes back by itself after a break."""
        while True:
            try:
                async with self._listening.pubsub() as pubsub:
                    await pubsub.subscribe(*heard)
                    _wake_all(heard)
                    async for message in self._messages(pubsub):
                        for line in message["data"].split("\n"):
                            heard[message["channel"]](line)
            except Exception as error:  # whatever it was: without this task nobody is woken until the process ends
                log.warning("wakes_not_heard", error=type(error).__name__)
            await asyncio.sleep(1)

    async def _messages(self, pubsub: PubSub) -> AsyncIterator[dict[str, Any]]:
        """What is published. TimeoutError if a ping stays unanswered: a server that vanished closes no connection."""
        pinged = False
        while True:
            message = await pubsub.get_message(timeout=self._silence_seconds)
            if message is not None:
                pinged = False
                if message["type"] == "message":
                    yield message
            elif pinged:
                raise TimeoutError
            else:
                await pubsub.ping()
                pinged = True

    async def close(self) -> None:
        """Closes both connections."""
        await self._redis.aclose()
        await self._listening.aclose()


def _wake_all(heard: Mapping[str, Callable[[str], None]]) -> None:
    """Wakes everybody once: what was published while nobody listened is gone."""
    callbacks: Iterable[Callable[[str], None]] = heard.values()
    for callback in callbacks:
        callback("")
