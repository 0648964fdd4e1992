"""The process that makes load, and how the others talk to it: jobs go in by a pipe, what they tell comes out.

A process of its own, because the one that shows progress and watches the stack would share its interpreter lock.
"""

import asyncio
import gc
import multiprocessing
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Generic, Protocol, TypeVar

from tests.load.processors import process_seconds

Result_co = TypeVar("Result_co", covariant=True)
Result = TypeVar("Result")
_DONE, _FAILED, _TOLD = "done", "failed", "told"


class Control:
    """What a running job has of the outside: orders come in, news go out."""

    def __init__(self, tell: Callable[[Any], None]) -> None:
        self.tell = tell
        self.orders: asyncio.Queue[Any] = asyncio.Queue()


class Job(Protocol[Result_co]):
    """Work for the generator: pickled on the way in, its result pickled on the way out."""

    async def run(self, control: Control) -> Result_co: ...


class JobFailedError(Exception):
    """A job raised; the text is its trace."""


class Generator:
    """One generator process, which dies with its starter. One job at a time."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit gRPC's threads in an unknown state
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs,), daemon=True, name="load-generator")
        self._process.start()
        theirs.close()

    def start(self, job: Job[Result]) -> "Running[Result]":
        """Begin a job. To be called inside a loop."""
        self._connection.send(job)
        return Running(self._connection)

    def cpu_seconds(self) -> float:
        """The processor time that it has used so far."""
        return process_seconds(self._process.pid or 0)

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()


class Running(Generic[Result]):
    """A job that runs. `told` has the news that nobody has taken yet."""

    def __init__(self, connection: Connection) -> None:
        self.told: asyncio.Queue[Any] = asyncio.Queue()
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._result: asyncio.Future[Result] = self._loop.create_future()
        threading.Thread(target=self._read, daemon=True).start()

    def order(self, order: Any) -> None:
        """Say something to the job."""
        self._connection.send(order)

    async def result(self) -> Result:
        """What the job returned. Raises `JobFailedError` if it raised."""
        return await self._result

    async def news(self) -> Any:
        """The next thing that the job tells. Raises `JobFailedError` if it fails before."""
        waiting = asyncio.ensure_future(self.told.get())
        await asyncio.wait([waiting, self._result], return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            raise JobFailedError(f"the job ended with nothing more to tell: {await self._result}")
        return waiting.result()

    def _read(self) -> None:
        kind = _TOLD
        while kind == _TOLD:
            try:
                kind, value = self._connection.recv()
            except (EOFError, OSError):
                kind, value = _FAILED, "the generator's process ended"
            self._loop.call_soon_threadsafe(self._take, kind, value)

    def _take(self, kind: str, value: Any) -> None:
        if kind == _TOLD:
            self.told.put_nowait(value)
        elif kind == _DONE:
            self._result.set_result(value)
        else:
            self._result.set_exception(JobFailedError(value))
            self._result.exception()  # seen: nobody may be waiting for it any more


def work(connection: Connection) -> None:
    """The generator's process: run the jobs that come, until the pipe is closed."""
    asyncio.run(_work(connection))


async def _work(connection: Connection) -> None:
    loop = asyncio.get_running_loop()
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    closed = object()

    def receive() -> None:
        while True:
            try:
                received = connection.recv()
            except (EOFError, OSError):
                received = closed
            loop.call_soon_threadsafe(incoming.put_nowait, received)
            if received is closed:
                return

    threading.Thread(target=receive, daemon=True).start()
    # A collection in the middle of a measurement would be counted as latency of what is measured.
    gc.disable()
    while (job := await incoming.get()) is not closed:
        control = Control(lambda news: connection.send((_TOLD, news)))
        control.orders = incoming
        try:
            outcome = (_DONE, await job.run(control))
        except Exception:
            outcome = (_FAILED, traceback.format_exc())
        gc.collect()
        connection.send(outcome)
