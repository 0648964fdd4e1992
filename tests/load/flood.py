"""Calls at a set rate, however many are unanswered, for a tenth of what a gRPC client costs: HTTP/2 by hand.

It shares the machine with the suite. A flood made by grpc.aio would take more processor time than the suite has, and
what was measured would be the generator. Here one call is some bytes out and a few frames in.
RFC 9113 (HTTP/2), RFC 7541 (HPACK); of either no more than one fixed request, and the status of an answer.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from tests.load.callers import CALL_SECONDS, Outcome, tell_progress
from tests.load.generator import Control
from tests.load.wire import Message, message_ids, now
from tests.support import http2

_SECOND = 1_000_000_000
_TICK_SECONDS = 0.005
_PATIENCE_SECONDS = 0.02
"""Who hangs up does so within this time, at random: before the call has arrived, in the midst of it, or after."""
_CANCEL = (8).to_bytes(4, "big")
_STREAMS = 900  # of a connection, at a time; the gateway allows 1 000
_NAMES = {str(code.value[0]).encode(): code.name for code in grpc.StatusCode}
# RFC 7541, appendix B: the characters of `grpc-status` and of its values.
_CODES = {
    "c": "00100",
    "a": "00011",
    "s": "01000",
    "t": "01001",
    "g": "100110",
    "-": "010110",
    "p": "101011",
    "r": "101100",
    "u": "101101",
    "0": "00000",
    "1": "00001",
    "2": "00010",
    "3": "011001",
    "4": "011010",
    "5": "011011",
    "6": "011100",
    "7": "011101",
    "8": "011110",
    "9": "011111",
}


def huffman(text: str) -> bytes:
    """HPACK's Huffman code of a text of the few characters that are needed here."""
    bits = "".join(_CODES[character] for character in text)
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


_STATUS_NAMES = [
    bytes([len(name) | flag]) + name for name, flag in ((b"grpc-status", 0), (huffman("grpc-status"), 128))
]
_VALUES = {huffman(value.decode()): name for value, name in _NAMES.items()}


def status_in(block: bytes) -> str:
    """The status code's name in a block of headers that was made without a dynamic table; empty if it has none."""
    for name in _STATUS_NAMES:
        at = block.find(name)
        if at >= 0:
            length = block[at + len(name)]
            value = block[at + len(name) + 1 :][: length & 127]
            return (_VALUES if length & 128 else _NAMES).get(value, "UNKNOWN")
    return ""


def header_block(authority: str, path: str, token: str) -> bytes:
    """The headers of each call of one person."""
    own = (("grpc-timeout", f"{CALL_SECONDS:.0f}S"), ("authorization", f"Bearer {token}"))
    return http2.request_headers(authority, path, own)


class Connection(asyncio.Protocol):
    """One HTTP/2 connection with calls of one person on it."""

    def __init__(self, block: bytes, outcome: Outcome, cancelled: float = 0.0) -> None:
        """`cancelled` is the share of calls that the client hangs up on, if they are still unanswered then."""
        self._block = block
        self._cancelled = cancelled
        self._outcome = outcome
        self._begun = now()
        self._transport: asyncio.Transport | None = None
        self._next_stream = 1
        self._window = 65_535
        self._unread = b""
        self.waiting: dict[int, int] = {}
        """When the unanswered calls began, by stream."""

    @property
    def is_open(self) -> bool:
        """Whether calls can be made on it."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello: no dynamic table, no push, and as much window as there can be."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = b"\x00\x01\x00\x00\x00\x00" + b"\x00\x02\x00\x00\x00\x00" + b"\x00\x04\x00\x10\x00\x00"
        hello = http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0, settings)
        transport.write(hello + http2.frame(http2.WINDOW_UPDATE, 0, 0, ((1 << 31) - 1 - 65_535).to_bytes(4, "big")))

    def send(self, requests: Sequence[bytes], started: int) -> int:
        """Begin calls, as many as the connection takes; returns how many."""
        assert self._transport is not None
        parts = []
        for request in requests:
            data = http2.message_data(request)
            if len(self.waiting) >= _STREAMS or self._window < len(data):
                break
            self._window -= len(data)
            stream, self._next_stream = self._next_stream, self._next_stream + 2
            self.waiting[stream] = started
            parts.append(http2.frame(http2.HEADERS, http2.END_HEADERS, stream, self._block))
            parts.append(http2.frame(http2.DATA, http2.END_STREAM, stream, data))
            if self._cancelled and random.random() < self._cancelled:
                patience = random.uniform(0, _PATIENCE_SECONDS)
                asyncio.get_running_loop().call_later(patience, self._hang_up, stream)
        self._transport.write(b"".join(parts))
        return len(parts) // 2

    def _hang_up(self, stream: int) -> None:
        if stream in self.waiting and self._transport is not None:
            self._transport.write(http2.frame(http2.RESET, 0, stream, _CANCEL))
            self._end(stream, "CANCELLED")

    def data_received(self, data: bytes) -> None:
        """Take the frames that are whole."""
        data = self._unread + data
        at = 0
        while at + 9 <= len(data):
            end = at + 9 + int.from_bytes(data[at : at + 3], "big")
            if end > len(data):
                break
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            self._take(data[at + 3], data[at + 4], stream, data[at + 9 : end])
            at = end
        self._unread = data[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        assert self._transport is not None
        if kind == http2.HEADERS and flags & http2.END_STREAM:
            self._end(stream, status_in(payload) or "UNKNOWN")
        elif kind == http2.RESET:
            self._end(stream, f"RESET {int.from_bytes(payload, 'big')}")
        elif kind == http2.WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind == http2.SETTINGS and not flags & http2.ACK:
            self._transport.write(http2.frame(http2.SETTINGS, http2.ACK, 0, b""))
        elif kind == http2.PING and not flags & http2.ACK:
            self._transport.write(http2.frame(http2.PING, http2.ACK, 0, payload))

    def _end(self, stream: int, code: str) -> None:
        started = self.waiting.pop(stream, None)
        if started is None:
            return
        ended, outcome = now(), self._outcome
        if ended - started > CALL_SECONDS * _SECOND:
            code = "DEADLINE_EXCEEDED"  # whatever came: a client would have hung up
        outcome.ended += 1
        outcome.codes[code] += 1
        if code == "OK":
            outcome.latency.record((ended - started) // 1000)
            outcome.count_second((ended - self._begun) // _SECOND)
        else:
            outcome.refusal_latency.record((ended - started) // 1000)

    def connection_lost(self, error: Exception | None) -> None:
        """What was unanswered will never be."""
        for stream in list(self.waiting):
            self._end(stream, "CONNECTION LOST")

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()


@dataclass(frozen=True)
class Flood:
    """Calls that begin at a set rate, whether or not those before were answered: how a crowd behaves.

    What could not be begun in its time is not made up for: the rate offered in truth is in the outcome.
    """

    target: str
    path: str
    tokens: Sequence[str]
    messages: Sequence[Message]
    rate: float
    seconds: float
    connections: int = 16
    cancelled: float = 0.0
    """The share of calls that the client hangs up on."""

    async def run(self, control: Control) -> Outcome:
        """Begin calls until the time is over, then wait for the last answers."""
        outcome = Outcome(self.seconds)
        host, _, port = self.target.rpartition(":")
        loop = asyncio.get_running_loop()
        connections = []
        for number in range(self.connections):
            block = header_block(self.target, self.path, self.tokens[number % len(self.tokens)])
            connection = Connection(block, outcome, self.cancelled)
            await loop.create_connection(lambda made=connection: made, host, int(port))  # type: ignore[misc]
            connections.append(connection)
        telling = asyncio.create_task(tell_progress(control, outcome))
        await self._send(connections)
        for _ in range(round((CALL_SECONDS + 2) / _TICK_SECONDS)):
            if not any(connection.waiting for connection in connections):
                break
            await asyncio.sleep(_TICK_SECONDS)
        telling.cancel()
        outcome.codes["NO ANSWER"] += sum(len(connection.waiting) for connection in connections)
        for connection in connections:
            connection.waiting.clear()
            connection.close()
        return outcome

    async def _send(self, connections: Sequence[Connection]) -> None:
        next_id, sent, turn, begun = message_ids(), 0, 0, now()
        while (clock := now()) < begun + self.seconds * _SECOND:
            due = int((clock - begun) / _SECOND * self.rate) - sent
            sent += due
            share = -(-due // len(connections))
            for offset in range(len(connections)):
                count = min(share, due)
                connection = connections[(turn + offset) % len(connections)]
                if count > 0 and connection.is_open:
                    numbers = range(sent - due, sent - due + count)
                    requests = [self.messages[n % len(self.messages)].stamped(next_id(), clock) for n in numbers]
                    connection.send(requests, clock)
                due -= count
            turn += 1
            await asyncio.sleep(_TICK_SECONDS)
