"""Coalescing: calls that wait at the same moment share one batch. Nothing is cached (architecture, principle 2).

A call joins only a batch that has not been sent yet, so an answer is never older than its question.
"""

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

from services.chassis import metrics, traces
from services.chassis.errors import DeadlineExceeded, Overloaded, PeerUnavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

Flush: TypeAlias = Callable[[Sequence[Item], float], Awaitable[Sequence[Result | BaseException]]]
_Entry: TypeAlias = tuple[Item, float, asyncio.Future[Result], Any]
"""An item, its deadline, where its result goes, and the caller's span if there are traces."""

FLUSH_SECONDS = 2.0
GATHER_SECONDS = 0.0005
LONGEST_GATHER_SECONDS = 0.01


class Coalescer(Generic[Item, Result]):
    """One queue with one flush in flight; the next batch gathers meanwhile, and there is no linger at rest.

    `flush(items, timeout_seconds)` returns one result for each item, in order; an exception among them fails only its
    own item. What it raises fails the whole batch, and no other. `on_expired` is told of an item that ran out of time
    while it waited, before anything behind it is flushed; `on_left` of each that no longer waits, for whatever reason.
    `name` is what metrics and traces call it.
    """

    def __init__(
        self,
        flush: Flush[Item, Result],
        *,
        name: str,
        batch_limit: int = 500,
        queue_limit: int = 5000,
        on_batch: Callable[[int], None] | None = None,
        on_expired: Callable[[Item], None] | None = None,
        on_left: Callable[[Item], None] | None = None,
    ) -> None:
        self._flush = flush
        self._name = name
        self._batch_limit = batch_limit
        self._queue_limit = queue_limit
        self._on_batch = on_batch
        self._on_expired = on_expired
        self._on_left = on_left
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._running: asyncio.Task[None] | None = None
        self._batch_items, self._flush_seconds = metrics.BATCH_ITEMS.labels(name), metrics.FLUSH_SECONDS.labels(name)
        self._refused = metrics.REFUSED.labels(name)
        metrics.WAITING.labels(name).set_function(lambda: len(self._waiting))

    @property
    def is_full(self) -> bool:
        """True if nothing more is taken."""
        return len(self._waiting) >= self._queue_limit

    def require_room(self) -> None:
        """OVERLOADED if nothing more is taken."""
        if self.is_full:
            self._refused.inc()
            raise Overloaded

    async def ask(self, item: Item, *, deadline: float) -> Result:
        """The result for one item. `deadline` is on time.monotonic()'s clock. Cancelling it leaves the batch alone."""
        return await self.submit(item, deadline=deadline)

    def submit(self, item: Item, *, deadline: float) -> asyncio.Future[Result]:
        """Queues one item, behind all that were queued before. OVERLOADED if too many wait."""
        self.require_room()
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        caller = None if traces.active is None else traces.active.current()
        self._waiting.append((item, deadline, future, caller))
        if self._running is None:
            # An empty context: a batch is on behalf of many, and must not carry the first caller's identity.
            self._running = asyncio.create_task(self._run(), context=contextvars.Context())
        return future

    async def _run(self) -> None:
        """Flushes until nobody waits."""
        try:
            while batch := self._take():
                await self._send(batch)
                if len(batch) > 1:
                    # Many are calling, so the next batch is let grow: each flush costs the same whatever it holds.
                    await asyncio.sleep(min(len(batch) * GATHER_SECONDS, LONGEST_GATHER_SECONDS))
        except asyncio.CancelledError:
            while self._waiting:
                self._pop()[2].cancel()
            raise
        finally:
            self._running = None

    def _take(self) -> list[_Entry[Item, Result]]:
        """The next batch; who gave up or ran out of time leaves the queue here."""
        batch: list[_Entry[Item, Result]] = []
        now = time.monotonic()
        while self._waiting and len(batch) < self._batch_limit:
            entry = self._pop()
            if entry[2].done():
                continue
            if entry[1] <= now:
                entry[2].set_exception(DeadlineExceeded())
                if self._on_expired:
                    self._on_expired(entry[0])
                continue
            batch.append(entry)
        return batch

    def _pop(self) -> _Entry[Item, Result]:
        entry = self._waiting.popleft()
        if self._on_left:
            self._on_left(entry[0])
        return entry

    async def _send(self, batch: list[_Entry[Item, Result]]) -> None:
        """Flushes one batch and hands out its results."""
        if self._on_batch:
            self._on_batch(len(batch))
        begun = time.monotonic()
        longest = max(entry[1] for entry in batch) - begun
        timeout = min(longest, FLUSH_SECONDS)
        results: Sequence[Result | BaseException]
        try:
            async with asyncio.timeout(timeout):
                results = await self._flush_of(batch)([entry[0] for entry in batch], timeout)
            if len(results) != len(batch):
                raise RuntimeError(f"a flush of {len(batch)} items gave {len(results)} results")
        except asyncio.CancelledError:
            if is_cancelled():
                for entry in batch:
                    entry[2].cancel()
                raise
            # Not this queue, but what the flush waited for, such as an RPC whose channel was closed.
            results = [PeerUnavailable()] * len(batch)
        except Exception as error:
            results = [error] * len(batch)
        self._batch_items.observe(len(batch))
        self._flush_seconds.observe(time.monotonic() - begun)
        for (_, _, future, _), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _flush_of(self, batch: Sequence[_Entry[Item, Result]]) -> Flush[Item, Result]:
        if traces.active is None:
            return self._flush
        return traces.active.linked(self._flush, name=self._name, callers=[entry[3] for entry in batch])


def is_cancelled() -> bool:
    """Whether somebody cancels the task that runs."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
