"""PublishMessages: one client's messages through one stream, many on their way at a time, results in their order."""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress

from guildhall.messaging.v1 import event_service_pb2 as events_pb
from guildhall.messaging.v1 import message_service_pb2 as pb

from services.chassis.call import Call
from services.chassis.errors import DeadlineExceeded, Fault, SessionEnded, fault_of, status_of
from services.messaging import wire
from services.messaging.bodies import BodyMac, is_plain, mentioned
from services.messaging.hub import AGE_SECONDS
from services.messaging.outgoing import Answer, Outgoing, ends_stream
from services.messaging.sends import Extras, Line, Send, Stored

MOST_OPEN = 2000
"""Messages without a result; the client is not read from while there are so many."""
MOST_RESULTS = 200
MESSAGE_SECONDS = 10.0
HEARTBEAT_SECONDS = 25.0
Open = tuple[str, asyncio.Future[Answer]]


class Publication:
    """One open PublishMessages."""

    def __init__(self, call: Call, outgoing: Outgoing, body_mac: BodyMac) -> None:
        self.user_id = call.user_id
        self.session_id = call.session_id
        self.session_seen_at = time.monotonic()
        self._call = call
        self._body_mac = body_mac
        self._outgoing = outgoing
        self._line = Line()
        self._open: deque[Open] = deque()
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._read_all = False
        self._failure: BaseException | None = None

    async def responses(
        self, requests: AsyncIterator[pb.PublishMessagesRequest]
    ) -> AsyncGenerator[pb.PublishMessagesResponse, None]:
        """Reads on while results are written; ends when both are done, or with the first error worth retrying."""
        reading = asyncio.create_task(self._read(requests))
        # Not all at the same age, or all would come back at the same moment.
        old = asyncio.get_running_loop().call_later(AGE_SECONDS * random.uniform(0.8, 1.2), self.drain)
        try:
            while self._open or not self._read_all:
                results, failure = await self._results()
                if results or not self._read_all:
                    # Without results it is a heartbeat: proxies cut what is silent.
                    yield pb.PublishMessagesResponse(results=results)
                if failure is not None:
                    raise failure
            if self._failure is not None:
                raise self._failure
        finally:
            old.cancel()
            reading.cancel()
            if self._open:
                # What a batch under way has handed to a side lane can no longer be dropped by its future, and would be
                # stored without the messages before it, which are dropped here: repeated, those would stand behind it.
                self._line.broken_by = self._line.broken_by or DeadlineExceeded()
            for _, future in self._open:
                _give_up(future)
            with suppress(asyncio.CancelledError):
                await reading

    def drain(self) -> None:
        """Reads no more; what was read gets its results, then the stream ends well."""
        self._drained.set()
        self._read_all = True
        self._changed.set()

    def end(self, _reason: events_pb.StreamEndReason.ValueType) -> None:
        """The session has ended: reads no more, and ends with SESSION_ENDED behind the results of what was read."""
        self._failure = self._failure or SessionEnded()
        self.drain()

    async def _read(self, requests: AsyncIterator[pb.PublishMessagesRequest]) -> None:
        try:
            async for request in requests:
                for message in request.messages:
                    await self._room.wait()
                    if self._drained.is_set():
                        return
                    self._submit(message)
        except Exception as error:
            self._failure = error
        finally:
            self._read_all = True
            self._changed.set()

    def _submit(self, message: pb.SendMessageRequest) -> None:
        deadline = time.monotonic() + MESSAGE_SECONDS
        send = new_send(self._call, message, self._body_mac, deadline=deadline, line=self._line)
        future = self._outgoing.submit(send)
        self._open.append((message.client_message_id, future))
        if len(self._open) >= MOST_OPEN:
            self._room.clear()
        if len(self._open) == 1:
            self._changed.set()

    async def _results(self) -> tuple[list[pb.PublishResult], BaseException | None]:
        """The results that are there, none after 25 s of silence; and the error that ends the stream, if any."""
        if not await self._something():
            return [], None
        results: list[pb.PublishResult] = []
        while self._open and len(results) < MOST_RESULTS:
            client_message_id, future = self._open[0]
            if results and not future.done():
                break
            try:
                # Shielded, as the lane's promise is: a caller who goes away must not drop their first message alone.
                # Until this task runs again, the next batch could be taken with those behind it.
                answer = await asyncio.shield(future)
                if results and isinstance(answer, asyncio.Future) and not answer.done():
                    # What there is goes out: the lane may take as long as a message's time.
                    break
                if not isinstance(answer, Stored):
                    # The side lane's promise: later messages' results wait behind it, in the order of the stream.
                    answer = await asyncio.shield(answer)
                results.append(wire.receipt(client_message_id, answer))
            except Exception as error:
                fault = fault_of(error)
                if fault is None or ends_stream(error):
                    return results, error
                results.append(self._refusal(client_message_id, fault))
            self._open.popleft()
            self._room.set()
        return results, self._failure if not self._open else None

    async def _something(self) -> bool:
        while not self._open and not self._read_all:
            self._changed.clear()
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                return False
        return True

    def _refusal(self, client_message_id: str, fault: Fault) -> pb.PublishResult:
        status = status_of(fault, domain="guildhall.messaging", request_id=self._call.request_id)
        return pb.PublishResult(client_message_id=client_message_id, error=status)


def _give_up(future: asyncio.Future[Answer]) -> None:
    """Drops a message that has not been sent yet from its batch, or from its side lane."""
    if not future.cancel() and not future.cancelled() and future.exception() is None:
        answer = future.result()
        if isinstance(answer, asyncio.Future):
            answer.cancel()


def new_send(
    call: Call, request: pb.SendMessageRequest, body_mac: BodyMac, *, deadline: float, line: Line | None = None
) -> Send:
    """What to store, in the spelling that PostgreSQL gives ids: clients may send capitals."""
    return Send(
        user_id=call.user_id,
        session_id=call.session_id,
        workspace_id=request.workspace_id.lower(),
        conversation_id=request.conversation_id.lower(),
        client_message_id=request.client_message_id.lower(),
        text=request.text or None,
        body_mac=body_mac.of(request),
        deadline=deadline,
        line=line,
        extras=None if is_plain(request) else _extras(request),
    )


def _extras(request: pb.SendMessageRequest) -> Extras:
    member_ids, user_group_ids = mentioned(request.mentions)
    encrypted = request.encrypted if request.HasField("encrypted") else None
    return Extras(
        ciphertext=encrypted.ciphertext if encrypted else None,
        scheme=encrypted.scheme if encrypted else None,
        header=encrypted.header if encrypted else None,
        reply_to_id=request.reply_to_message_id.lower() or None,
        member_ids=member_ids,
        user_group_ids=user_group_ids,
        everyone=request.mentions.everyone,
        file_ids=tuple(file_id.lower() for file_id in request.file_ids),
    )
