"""A client of PublishMessages: messages in frames, answers in frames, and everything without one repeated in order."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import grpc
from guildhall.messaging.v1 import message_service_pb2 as pb
from guildhall.messaging.v1 import message_service_pb2_grpc as rpc

from tests.faults.ledger import Ledger, Outcome, Write
from tests.faults.load import PATIENCE_SECONDS
from tests.faults.people import Person

_PAUSE_SECONDS = 0.2
_FRAME = 5


class Publisher:
    """One stream of messages to some conversations, opened anew after each break.

    With a `burst` it sends so many to the first conversation at once, and then no more.
    """

    def __init__(
        self,
        ledger: Ledger,
        person: Person,
        *,
        workspace_id: str,
        conversation_ids: Sequence[str],
        name: str,
        burst: int = 0,
    ) -> None:
        self.name = name
        self.breaks: Counter[str] = Counter()
        self._ledger = ledger
        self._person = person
        self._workspace_id = workspace_id
        self._conversation_ids = conversation_ids
        self._waiting: dict[str, Write] = {}
        self._stopping = burst > 0
        for _ in range(burst):
            self._intend(conversation_ids[0])
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to write."""
        self._task = asyncio.create_task(self._run())

    @property
    def first_key(self) -> str:
        """Of the messages without a result, the first."""
        return next(iter(self._waiting))

    async def stop(self) -> None:
        """Begins no more messages and waits for the results of those at hand."""
        self._stopping = True
        if self._task is not None:
            done, _ = await asyncio.wait([self._task], timeout=PATIENCE_SECONDS)
            if not done:
                self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for write in self._waiting.values():
            self._ledger.settle(write, Outcome.UNKNOWN)

    async def _run(self) -> None:
        while not self._stopping or self._waiting:
            call = rpc.MessageServiceStub(self._person.channel).PublishMessages(metadata=self._person.metadata)
            reading = asyncio.create_task(self._read(call))
            try:
                await self._write(call, reading)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass  # the reader has it too
            finally:
                if not self._waiting:
                    reading.cancel()
                code = (await asyncio.gather(reading, return_exceptions=True))[0]
                call.cancel()
            if isinstance(code, grpc.aio.AioRpcError):
                self.breaks[code.code().name] += 1
                if code.code() is grpc.StatusCode.UNIMPLEMENTED:
                    self._forget_all()
                    return
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _write(self, call: Any, reading: "asyncio.Task[None]") -> None:
        if self._waiting:
            repeated = list(self._waiting.values())
            for start in range(0, len(repeated), 200):
                await call.write(self._frame(repeated[start : start + 200]))
        while not reading.done() and not (self._stopping and not self._waiting):
            if not self._stopping and len(self._waiting) < 500:
                chosen = random.choices(self._conversation_ids, k=random.randint(1, _FRAME))
                await call.write(self._frame([self._intend(conversation_id) for conversation_id in chosen]))
            await asyncio.sleep(_PAUSE_SECONDS * random.uniform(0.5, 1.5))

    async def _read(self, call: Any) -> None:
        while (frame := await call.read()) is not grpc.aio.EOF:
            for result in frame.results:
                write = self._waiting.pop(result.client_message_id)
                if result.HasField("receipt"):
                    receipt = result.receipt
                    self._ledger.acknowledge(write, message_id=receipt.message_id, seq=receipt.seq)
                else:
                    self._ledger.settle(write, Outcome.UNKNOWN)

    def _frame(self, writes: Sequence[Write]) -> pb.PublishMessagesRequest:
        return pb.PublishMessagesRequest(
            messages=[
                pb.SendMessageRequest(
                    workspace_id=self._workspace_id,
                    conversation_id=write.conversation_id,
                    client_message_id=write.key,
                    text=write.text,
                )
                for write in writes
            ]
        )

    def _intend(self, conversation_id: str) -> Write:
        write = self._ledger.intend(conversation_id, stream=self.name)
        self._waiting[write.key] = write
        return write

    def _forget_all(self) -> None:
        """There is no such RPC: nothing of it can have been written."""
        for write in self._waiting.values():
            self._ledger.settle(write, Outcome.REFUSED)
        self._waiting.clear()
