"""The coalescer, sentence by sentence. Batches are answered by hand, so nothing depends on time."""

import asyncio
import contextvars
import gc
import time
from collections.abc import Sequence
from typing import Any

import pytest

from services.chassis.coalesce import FLUSH_SECONDS, Coalescer
from services.chassis.errors import DeadlineExceeded, Overloaded, PeerUnavailable

Batch = tuple[list[str], asyncio.Future[Sequence[Any]]]


class Peer:
    """Takes batches, and answers each when the test says so."""

    def __init__(self) -> None:
        self.timeouts: list[float] = []
        self.in_flight = 0
        self._sent: asyncio.Queue[Batch] = asyncio.Queue()

    async def flush(self, items: Sequence[str], timeout_seconds: float) -> Sequence[Any]:
        """What the coalescer calls."""
        answer: asyncio.Future[Sequence[Any]] = asyncio.get_running_loop().create_future()
        self.timeouts.append(timeout_seconds)
        self._sent.put_nowait((list(items), answer))
        self.in_flight += 1
        try:
            return await answer
        finally:
            self.in_flight -= 1

    async def sent(self) -> Batch:
        """The next batch that was sent: its items, and the future to answer it by."""
        async with asyncio.timeout(5):
            return await self._sent.get()

    @property
    def idle(self) -> bool:
        """Whether no further batch was sent."""
        return self._sent.empty()


@pytest.fixture
def peer() -> Peer:
    return Peer()


def ask(queue: Coalescer[str, Any], item: str, *, seconds: float = 60) -> asyncio.Task[Any]:
    return asyncio.create_task(queue.ask(item, deadline=time.monotonic() + seconds))


async def test_calls_that_wait_at_the_same_moment_share_one_batch(peer: Peer) -> None:
    queue = Coalescer(peer.flush, name="test")
    callers = [ask(queue, item) for item in "abc"]

    items, answer = await peer.sent()
    answer.set_result([1, 2, 3])

    assert items == ["a", "b", "c"]
    assert await asyncio.gather(*callers) == [1, 2, 3]


async def test_a_call_joins_only_a_batch_that_has_not_been_sent(peer: Peer) -> None:
    queue = Coalescer(peer.flush, name="test")
    before = ask(queue, "session")
    _, first = await peer.sent()

    after = ask(queue, "session")
    first.set_result(["alive"])
    items, second = await peer.sent()
    second.set_result(["ended"])

    assert items == ["session"]
    assert await before == "alive"
    assert await after == "ended"


async def test_one_flush_is_in_flight_and_the_next_batch_gathers_meanwhile(peer: Peer) -> None:
    queue = Coalescer(peer.flush, name="test")
    callers = [ask(queue, "a")]
    _, first = await peer.sent()

    callers += [ask(queue, item) for item in "bcd"]
    for _ in range(20):
        await queued()
    assert peer.idle
    assert peer.in_flight == 1

    first.set_result([1])
    items, second = await peer.sent()
    second.set_result([2, 3, 4])
    assert items == ["b", "c", "d"]
    assert await asyncio.gather(*callers) == [1, 2, 3, 4]


async def test_a_call_at_rest_is_sent_without_waiting_for_company(peer: Peer) -> None:
    queue = Coalescer(peer.flush, name="test")

    caller = ask(queue, "a")
    await queued()
    await queued()

    assert not peer.idle, "two turns of the loop, the caller's and the flush's, must be enough"
    _, answer = await peer.sent()
    answer.set_result([1])
    assert await caller == 1


async def test_a_queue_at_rest_starts_again(peer: Peer) -> None:
    queue = Coalescer(peer.flush, name="test")

    for expected in (1, 2):
        caller = ask(queue, "a")
        _, answer = await peer.sent()
        answer.set_result([expected])
        assert await caller == expected


async def test_an_error_fails_only_its_own_item(peer: Peer) -> None:
    queue = Coalescer(peer.flush, name="test")
    callers = [ask(queue, item) for item in "abc"]
    _, answer = await peer.sent()

    answer.set_result([1, Overloaded(), 3])

    results = await asyncio.gather(*callers, return_exceptions=True)
    assert results[0::2] == [1, 3]
    assert isinstance(results[1], Overloaded)


async def test_a_flush_that_raises_fails_its_batch_and_no_other(peer: Peer) -> None:
    queue = Coalescer(peer.flush, name="test")
    lost = [ask(queue, item) for item in "ab"]
    _, first = await peer.sent()
    kept = ask(queue, "c")

    first.set_exception(ConnectionError("gone"))
    _, second = await peer.sent()
    second.set_result([3])

    assert [type(e) for e in await asyncio.gather(*lost, return_exceptions=True)] == [ConnectionError] * 2
    assert await kept == 3


async def test_a_flush_whose_call_was_cancelled_under_it_fails_its_batch_and_no_other(peer: Peer) -> None:
    queue = Coalescer(peer.flush, name="test")
    lost = [ask(queue, item) for item in "ab"]
    _, first = await peer.sent()
    kept = ask(queue, "c")

    first.cancel()
    items, second = await peer.sent()
    second.set_result([3])

    assert [type(e) for e in await asyncio.gather(*lost, return_exceptions=True)] == [PeerUnavailable] * 2
    assert items == ["c"]
    assert await kept == 3


async def test_a_flush_with_too_few_results_fails_its_batch_instead_of_mixing_answers_up(peer: Peer) -> None:
    queue = Coalescer(peer.flush, name="test")
    callers = [ask(queue, item) for item in "ab"]
    _, answer = await peer.sent()

    answer.set_result([1])

    assert [type(e) for e in await asyncio.gather(*callers, return_exceptions=True)] == [RuntimeError] * 2


async def test_a_cancelled_caller_never_cancels_a_batch_that_was_sent(peer: Peer) -> None:
    queue = Coalescer(peer.flush, name="test")
    leaving, staying = ask(queue, "a"), ask(queue, "b")
    _, answer = await peer.sent()

    leaving.cancel()
    await asyncio.wait([leaving])
    assert not answer.cancelled()
    answer.set_result([1, 2])

    assert leaving.cancelled()
    assert await staying == 2


async def test_a_caller_cancelled_while_waiting_leaves_the_queue(peer: Peer) -> None:
    queue = Coalescer(peer.flush, name="test")
    callers = [ask(queue, "a")]
    _, first = await peer.sent()
    leaving, staying = ask(queue, "b"), ask(queue, "c")
    await queued()

    leaving.cancel()
    await asyncio.wait([leaving])
    first.set_result([1])
    items, second = await peer.sent()
    second.set_result([3])

    assert items == ["c"]
    assert [await callers[0], await staying] == [1, 3]


async def test_a_batch_all_of_whose_callers_left_still_ends_and_the_queue_goes_on(peer: Peer) -> None:
    queue = Coalescer(peer.flush, name="test")
    leaving = ask(queue, "a")
    _, first = await peer.sent()
    leaving.cancel()
    await asyncio.wait([leaving])

    staying = ask(queue, "b")
    first.set_exception(ConnectionError("nobody is left to hear it"))
    _, second = await peer.sent()
    second.set_result([2])

    assert await staying == 2


@pytest.mark.parametrize(
    ("seconds", "lowest", "highest"),
    [
        ([60.0, 0.5], FLUSH_SECONDS, FLUSH_SECONDS),
        ([1.0, 0.5], 0.5, 1.0),
        ([float("inf")], FLUSH_SECONDS, FLUSH_SECONDS),
    ],
)
async def test_the_time_of_a_flush_is_the_longest_callers_or_two_seconds(
    peer: Peer, seconds: list[float], lowest: float, highest: float
) -> None:
    queue = Coalescer(peer.flush, name="test")
    callers = [ask(queue, "x", seconds=each) for each in seconds]

    items, answer = await peer.sent()
    answer.set_result(items)
    await asyncio.gather(*callers)

    assert lowest <= peer.timeouts[0] <= highest
    assert FLUSH_SECONDS == 2


async def test_a_flush_that_takes_longer_than_its_time_is_given_up(peer: Peer) -> None:
    queue = Coalescer(peer.flush, name="test")
    caller = ask(queue, "a", seconds=0.01)
    _, answer = await peer.sent()

    with pytest.raises(TimeoutError):
        await caller

    assert answer.cancelled()
    assert peer.in_flight == 0


async def test_items_whose_time_is_over_leave_the_queue(peer: Peer) -> None:
    queue = Coalescer(peer.flush, name="test")
    first = ask(queue, "a")
    _, answer = await peer.sent()
    late, timely = ask(queue, "b", seconds=-1), ask(queue, "c")
    await queued()

    answer.set_result([1])
    items, second = await peer.sent()
    second.set_result([3])

    assert items == ["c"]
    assert [await first, await timely] == [1, 3]
    with pytest.raises(DeadlineExceeded):
        await late


async def test_the_queue_is_bounded(peer: Peer) -> None:
    queue = Coalescer(peer.flush, name="test", queue_limit=2)
    callers = [ask(queue, "a")]
    _, first = await peer.sent()
    callers += [ask(queue, item) for item in "bc"]
    await queued()

    with pytest.raises(Overloaded) as refused:
        await queue.ask("d", deadline=time.monotonic() + 60)

    assert refused.value.retry_after_seconds
    first.set_result([1])
    items, second = await peer.sent()
    second.set_result([2, 3])
    assert items == ["b", "c"]
    assert await asyncio.gather(*callers) == [1, 2, 3]


async def test_a_batch_is_bounded_and_the_rest_goes_with_the_next(peer: Peer) -> None:
    sizes: list[int] = []
    queue = Coalescer(peer.flush, name="test", batch_limit=2, on_batch=sizes.append)
    callers = [ask(queue, item) for item in "abc"]

    for expected in (["a", "b"], ["c"]):
        items, answer = await peer.sent()
        answer.set_result(items)
        assert items == expected

    assert await asyncio.gather(*callers) == ["a", "b", "c"]
    assert sizes == [2, 1]


async def test_a_flush_runs_in_an_empty_context() -> None:
    identity: contextvars.ContextVar[str] = contextvars.ContextVar("identity")
    seen: list[contextvars.Context] = []

    async def flush(items: Sequence[str], _timeout_seconds: float) -> Sequence[str]:
        seen.append(contextvars.copy_context())
        return items

    queue = Coalescer(flush, name="test")
    identity.set("the first caller")

    assert await queue.ask("a", deadline=time.monotonic() + 60) == "a"
    assert identity not in seen[0]
    assert identity.get() == "the first caller"


async def test_a_flush_is_referenced_by_its_queue_while_it_runs(peer: Peer) -> None:
    flushing: list[asyncio.Task[Any] | None] = []

    async def flush(items: Sequence[str], timeout_seconds: float) -> Sequence[Any]:
        flushing.append(asyncio.current_task())
        return await peer.flush(items, timeout_seconds)

    queue = Coalescer(flush, name="test")
    caller = ask(queue, "a")
    _, answer = await peer.sent()
    caller.cancel()
    await asyncio.wait([caller])

    # The loop itself holds tasks by weak references only; that a timer happens to hold this one is nothing to rely on.
    held = gc.get_referents(queue)
    held += [inner for outer in held if isinstance(outer, dict | set | list) for inner in gc.get_referents(outer)]
    assert any(found is flushing[0] for found in held), "nobody but a timer keeps the flush from being collected"
    answer.set_result([1])


async def queued() -> None:
    """Lets the tasks that were just made take their first step, up to their place in the queue."""
    await asyncio.sleep(0)


async def test_who_ran_out_of_time_is_told_before_what_waits_behind_it_is_flushed() -> None:
    told: list[str] = []

    async def flush(items: Sequence[str], _timeout_seconds: float) -> Sequence[str]:
        told.extend(items)
        return items

    queue: Coalescer[str, str] = Coalescer(flush, name="test", on_expired=lambda item: told.append(f"{item} expired"))
    late = queue.submit("late", deadline=time.monotonic() - 1)
    behind = queue.submit("behind", deadline=time.monotonic() + 5)

    assert await behind == "behind"
    assert told == ["late expired", "behind"]
    assert isinstance(late.exception(), DeadlineExceeded)


async def test_each_item_that_no_longer_waits_is_told_once_whatever_became_of_it(peer: Peer) -> None:
    left: list[str] = []
    queue: Coalescer[str, str] = Coalescer(peer.flush, name="test", queue_limit=3, on_left=left.append)
    soon = time.monotonic() + 60
    given_up = queue.submit("given up", deadline=soon)
    given_up.cancel()
    queue.submit("late", deadline=time.monotonic() - 1)
    flushed = queue.submit("flushed", deadline=soon)
    assert queue.is_full
    with pytest.raises(Overloaded):
        queue.submit("never waited", deadline=soon)

    _, answer = await peer.sent()
    waiting = queue.submit("waiting", deadline=soon)
    assert left == ["given up", "late", "flushed"]
    assert not queue.is_full
    assert queue._running
    queue._running.cancel()
    await asyncio.wait([flushed, waiting])

    assert left == ["given up", "late", "flushed", "waiting"]
    assert flushed.cancelled()
    assert waiting.cancelled()
    answer.cancel()


@pytest.mark.parametrize("together", [1, 2])
async def test_only_after_several_more_are_waited_for(peer: Peer, monkeypatch: Any, together: int) -> None:
    monkeypatch.setattr("services.chassis.coalesce.GATHER_SECONDS", 3600)
    monkeypatch.setattr("services.chassis.coalesce.LONGEST_GATHER_SECONDS", 3600)
    queue = Coalescer(peer.flush, name="test")
    callers = [ask(queue, str(number)) for number in range(together)]
    items, answer = await peer.sent()
    answer.set_result(items)
    assert len(await asyncio.gather(*callers)) == together
    later = ask(queue, "later")
    for _ in range(10):
        await asyncio.sleep(0)
    assert peer.idle is (together > 1)
    later.cancel()
