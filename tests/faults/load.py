"""The load in the background: people who write, and repeat what got no answer until it has one."""

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from guildhall.messaging.v1 import message_service_pb2 as pb
from guildhall.messaging.v1 import message_service_pb2_grpc as rpc

from tests.faults.ledger import Ledger, Outcome, Write
from tests.faults.people import Person

TRY_SECONDS = 3.0
PATIENCE_SECONDS = 45.0
_PAUSE_SECONDS = 0.1
AMBIGUOUS = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
"""After these nobody knows whether it was written."""


@dataclass(frozen=True)
class Manners:
    """How a client behaves. The controls take one of the protections away."""

    repeats_under_the_same_key: bool = True
    takes_silence_for_success: bool = False
    gives_up_at_once: float = 0.3
    """The share of writes that are not repeated, so that some end as UNKNOWN."""
    try_seconds: float = TRY_SECONDS
    """The deadline of each call."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one call took."""

    conversation_id: str
    started_at: float
    seconds: float
    answered: bool


class Writer:
    """Writes single messages and keeps the ledger."""

    def __init__(self, ledger: Ledger, *, workspace_id: str, manners: Manners | None = None) -> None:
        self.timings: list[Timing] = []
        self.codes: Counter[str] = Counter()
        self._ledger = ledger
        self._workspace_id = workspace_id
        self._manners = manners or Manners()

    async def write(self, person: Person, conversation_id: str, *, patience_seconds: float = PATIENCE_SECONDS) -> Write:
        """Sends one message until its fate is known or patience ends."""
        write = self._ledger.intend(conversation_id)
        await self.send(person, write, patience_seconds=patience_seconds)
        return write

    async def send(
        self, person: Person, write: Write, *, patience_seconds: float = PATIENCE_SECONDS, gives_up: bool = True
    ) -> None:
        """Sends what the ledger has as an intent. With `gives_up` off it is always repeated."""
        if gives_up and random.random() < self._manners.gives_up_at_once:
            patience_seconds = 0
        give_up_at = time.monotonic() + patience_seconds
        doubt = False
        while True:
            code = await self._try(person, write)
            if code is None:
                return
            self.codes[code.name] += 1
            if code not in AMBIGUOUS:
                self._ledger.settle(write, Outcome.UNKNOWN if doubt else Outcome.REFUSED)
                return
            doubt = True
            if self._manners.takes_silence_for_success:
                self._ledger.settle(write, Outcome.ACK)
                return
            if time.monotonic() >= give_up_at:
                self._ledger.settle(write, Outcome.UNKNOWN)
                return
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _try(self, person: Person, write: Write) -> grpc.StatusCode | None:
        request = pb.SendMessageRequest(
            workspace_id=self._workspace_id,
            conversation_id=write.conversation_id,
            client_message_id=write.key if self._manners.repeats_under_the_same_key else str(uuid.uuid4()),
            text=write.text,
        )
        started_at = time.monotonic()
        code: grpc.StatusCode | None = None
        try:
            most = self._manners.try_seconds
            answer = await person.call(rpc.MessageServiceStub, "SendMessage", request, seconds=most)
            self._ledger.acknowledge(write, message_id=answer.message.message_id, seq=answer.message.seq)
        except grpc.aio.AioRpcError as error:
            code = error.code()
        seconds = time.monotonic() - started_at
        self.timings.append(Timing(write.conversation_id, started_at, seconds, code is None))
        return code


class Load:
    """So many writers over some conversations, each with a pause after each message."""

    def __init__(
        self,
        writer: Writer,
        people: Sequence[Person],
        conversation_ids: Sequence[str],
        *,
        writers: int = 8,
        pause_seconds: float = 0.1,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.writer = writer
        self._people = people
        self._conversation_ids = conversation_ids
        self._writers = writers
        self._pause_seconds = pause_seconds
        self._patience_seconds = patience_seconds
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to write."""
        self._tasks = [asyncio.create_task(self._write(number)) for number in range(self._writers)]

    async def stop(self) -> None:
        """Begins no more writes and waits until those at hand are settled."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def _write(self, number: int) -> None:
        person = self._people[number % len(self._people)]
        turn = number
        while not self._stopping.is_set():
            conversation_id = self._conversation_ids[turn % len(self._conversation_ids)]
            turn += 1
            await self.writer.write(person, conversation_id, patience_seconds=self._patience_seconds)
            await asyncio.sleep(self._pause_seconds * random.uniform(0.5, 1.5))
