"""A subscription over many streams: where it stands in each conversation, so that the next stream goes on there."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import grpc
from guildhall.messaging.v1 import event_service_pb2 as pb
from guildhall.messaging.v1 import event_service_pb2_grpc as rpc

SILENCE_SECONDS = 60.0
"""The server sends a heartbeat each 25 s: without one, the stream is dead and nobody has told us."""
MOST_POSITIONS = 1000
"""What one Subscribe takes."""

Opened = Callable[[Mapping[str, int]], None]
"""Told that a stream stands: after which event of each conversation it begins, but for those told of as gained."""


class Subscription:
    """Where a caller stands in the events of a workspace."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        workspace_id: str,
        *,
        positions: Mapping[str, int],
        opened: Opened | None = None,
    ) -> None:
        self._stub: Any = rpc.EventServiceStub(channel)
        self._workspace_id = workspace_id
        # The one that moved last is the last.
        self._positions: dict[str, int] = dict(positions)
        self._opened = opened
        self.was_open = False
        """Whether a stream of it was ever had."""

    def note(self, event: pb.Event) -> None:
        """An event has been dealt with: the next stream goes on behind it."""
        kind = event.WhichOneof("payload")
        if kind == "conversation_lost":
            self._positions.pop(event.conversation_id, None)
        elif kind == "conversation_gained":
            self._move(event.conversation_id, event.conversation_gained.event_seq)
        elif kind == "reset":
            self._move(event.conversation_id, event.reset.event_seq)
        elif event.event_seq:
            self._move(event.conversation_id, event.event_seq)

    async def follow(self, metadata: tuple[tuple[str, str], ...]) -> AsyncGenerator[pb.Event, None]:
        """The events of one stream. AioRpcError if it breaks; returns when the server ends it."""
        asked = dict(list(self._positions.items())[-MOST_POSITIONS:])
        positions = [pb.Position(conversation_id=key, event_seq=number) for key, number in asked.items()]
        request = pb.SubscribeRequest(workspace_id=self._workspace_id, positions=positions)
        stream = self._stub.Subscribe(request, metadata=metadata)
        try:
            while True:
                async with asyncio.timeout(SILENCE_SECONDS):
                    frame = await stream.read()
                if frame is grpc.aio.EOF:
                    return
                for event in self._events(frame, asked):
                    yield event
                if frame.HasField("end"):
                    return
        except TimeoutError:
            return
        finally:
            stream.cancel()

    def _events(self, frame: pb.SubscribeResponse, asked: Mapping[str, int]) -> list[pb.Event]:
        if not frame.HasField("opened"):
            return list(frame.events.events)
        resumed = self.was_open or bool(self._positions)
        self.was_open = True
        if self._opened:
            self._opened({position.conversation_id: position.event_seq for position in frame.opened.positions})
        missed = []
        for position in frame.opened.positions:
            key, known = position.conversation_id, self._positions.get(position.conversation_id)
            reset = pb.Event(conversation_id=key, reset=position)
            if known is not None:
                if key not in asked and known != position.event_seq:
                    # There was no room to ask for it, so what happened meanwhile is not on this stream.
                    missed.append(reset)
            elif not resumed:
                self._move(key, position.event_seq)
            elif not 0 < len(asked) < MOST_POSITIONS:
                # Else the server says so, which knows what follows only if it was told all that there was.
                missed.append(pb.Event(conversation_id=key, conversation_gained=position))
                if position.event_seq:
                    missed.append(reset)
        return missed

    def _move(self, conversation_id: str, event_seq: int) -> None:
        self._positions.pop(conversation_id, None)
        self._positions[conversation_id] = event_seq
