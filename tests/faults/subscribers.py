"""Subscribers that come back after every break, from where they stood."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import grpc
from guildhall.messaging.v1 import event_service_pb2 as pb
from guildhall.messaging.v1 import event_service_pb2_grpc as rpc

from tests.faults.checker import Stored
from tests.faults.ledger import key_of
from tests.faults.people import Person

_SILENCE_SECONDS = 40
"""Longer than a heartbeat: a stream that says nothing for so long is taken for broken."""
_PAUSE_SECONDS = 0.1


class Subscriber:
    """Follows some conversations from their first event on.

    With `resumes` off it comes back as a client without memory would: it starts with what is new.
    """

    def __init__(
        self,
        name: str,
        person: Person,
        channel: grpc.aio.Channel,
        *,
        workspace_id: str,
        conversation_ids: Collection[str],
        resumes: bool = True,
    ) -> None:
        self.name = name
        self.got: dict[str, list[Stored]] = {conversation_id: [] for conversation_id in conversation_ids}
        self.positions: dict[str, int] = dict.fromkeys(conversation_ids, 0)
        self.opened = 0
        self.breaks: Counter[str] = Counter()
        self.resets = 0
        self.gaps = 0
        self._person = person
        self._channel = channel
        self._workspace_id = workspace_id
        self._resumes = resumes
        self._is_open = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Opens the first stream."""
        self._task = asyncio.create_task(self._run())
        async with asyncio.timeout(30):
            await self._is_open.wait()

    async def stop(self) -> None:
        """Closes the stream."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()

    def has(self, heads: Mapping[str, int]) -> bool:
        """Whether it stands at these positions."""
        return all(self.positions[conversation_id] >= head for conversation_id, head in heads.items())

    async def _run(self) -> None:
        while True:
            try:
                self.breaks[await self._follow()] += 1
            except grpc.aio.AioRpcError as error:
                self.breaks[error.code().name] += 1
            except TimeoutError:
                self.breaks["SILENCE"] += 1
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _follow(self) -> str:
        """One stream, to its end; why it ended."""
        request = pb.SubscribeRequest(workspace_id=self._workspace_id)
        if self._resumes or not self.opened:
            request.positions.extend(
                pb.Position(conversation_id=key, event_seq=value) for key, value in self.positions.items()
            )
        call = rpc.EventServiceStub(self._channel).Subscribe(request, metadata=self._person.metadata)
        with contextlib.closing(_Canceller(call)):
            while True:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    frame: Any = await call.read()
                if frame is grpc.aio.EOF:
                    return "EOF"
                if frame.HasField("opened"):
                    self._open(frame.opened)
                elif frame.HasField("end"):
                    return str(pb.StreamEndReason.Name(frame.end.reason))
                for event in frame.events.events:
                    self._take(event)

    def _open(self, opened: pb.Opened) -> None:
        self.opened += 1
        self._is_open.set()
        for position in opened.positions:
            if position.conversation_id in self.positions and not self._resumes:
                self.positions[position.conversation_id] = position.event_seq

    def _take(self, event: pb.Event) -> None:
        key = event.conversation_id
        if key not in self.positions:
            # Others of the workspace, which were not named.
            return
        if event.HasField("reset"):
            self.resets += 1
        if not event.event_seq:
            return
        if event.event_seq != self.positions[key] + 1:
            self.gaps += 1
        self.positions[key] = max(event.event_seq, self.positions[key])
        if event.HasField("message_created"):
            message = event.message_created
            self.got[key].append(Stored(key_of(message.text), message.seq, message.event_seq, message.message_id))


class _Canceller:
    """Ends a call when it is closed: a stream that is left open would go on being written to."""

    def __init__(self, call: grpc.aio.Call) -> None:
        self._call = call

    def close(self) -> None:
        self._call.cancel()


async def settled(subscribers: Collection[Subscriber], heads: Mapping[str, int], *, seconds: float) -> float | None:
    """How long it took until every subscriber stood at the heads; None if it did not come to that."""
    begun = time.monotonic()
    while not all(subscriber.has(heads) for subscriber in subscribers):
        if time.monotonic() - begun > seconds:
            return None
        await asyncio.sleep(0.02)
    return time.monotonic() - begun
