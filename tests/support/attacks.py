"""What a gateway has to put up with: clients that hold on to it by being slow, and clients that flood it.

Each attack is one connection, which ends when the gateway ends it, or after so many seconds, or so many bytes.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.support import http2

SIGN_IN = "/guildhall.identity.v1.AuthService/SignIn"  # open to all: an attacker needs no token
PAUSE_SECONDS = 0.2
RESETS_AT_ONCE = 100
MOST_RESETS = 5_000
MOST_FLOODED_HEADERS = 20_000


@dataclass(frozen=True)
class Ended:
    """How an attack went: whether the gateway ended it, after how long, and what it said."""

    by_gateway: bool
    seconds: float
    received: bytes


@dataclass(frozen=True)
class Attack:
    """`opening` is sent at once, then one of `drops` after each pause; `is_over` looks at all that was received."""

    opening: bytes
    drops: Callable[[], Iterator[bytes]]
    is_over: Callable[[bytes], bool] = lambda received: False
    pause_seconds: float = PAUSE_SECONDS

    async def run(self, host: str, port: int, most_seconds: float) -> Ended:
        """Attack until the gateway ends it, there is no more to send, or the time is over."""
        begun = time.monotonic()
        reader, writer = await asyncio.open_connection(host, port)
        received = bytearray()
        reading = asyncio.create_task(self._read(reader, received))
        try:
            writer.write(self.opening)
            for drop in self.drops():
                left = begun + most_seconds - time.monotonic()
                done, _ = await asyncio.wait({reading}, timeout=min(self.pause_seconds, max(left, 0)))
                if done or left <= 0:
                    break
                writer.write(drop)
                with contextlib.suppress(ConnectionError):
                    await asyncio.wait_for(writer.drain(), max(left, 0.001))
            left = begun + most_seconds - time.monotonic()
            await asyncio.wait({reading}, timeout=max(left, 0))
            return Ended(reading.done(), time.monotonic() - begun, bytes(received))
        finally:
            reading.cancel()
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader, received: bytearray) -> None:
        with contextlib.suppress(ConnectionError):
            while some := await reader.read(65_536):
                received += some
                if self.is_over(bytes(received)):
                    return


def _hello(block: bytes, flags: int) -> bytes:
    return http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0) + http2.frame(http2.HEADERS, flags, 1, block)


def stream_is_over(received: bytes) -> bool:
    """Whether the first stream was answered or reset, or the connection given up."""
    return any(
        kind == http2.GOAWAY or (stream == 1 and (kind == http2.RESET or flags & http2.END_STREAM))
        for kind, flags, stream, _ in http2.frames(received)
        if kind in (http2.HEADERS, http2.DATA, http2.RESET, http2.GOAWAY)
    )


def slow_headers() -> Attack:
    """HTTP/1.1 with a header that never ends ("slowloris")."""
    opening = b"GET /.well-known/jwks.json HTTP/1.1\r\nhost: gateway\r\n"
    return Attack(opening, lambda: (b"x-%d: 1\r\n" % number for number in itertools.count()))


def slow_headers_of_http2() -> Attack:
    """HTTP/2 with CONTINUATION frames that never end the headers."""
    opening = _hello(http2.request_headers("gateway", SIGN_IN), 0)
    drop = http2.frame(http2.CONTINUATION, 0, 1, b"\x00\x01x\x011")
    return Attack(opening, lambda: itertools.repeat(drop), stream_is_over)


def slow_body() -> Attack:
    """HTTP/1.1 with a body of which a byte comes now and then."""
    opening = b"POST /v1/auth:signIn HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
    return Attack(opening + b"content-length: 10000\r\n\r\n{", lambda: itertools.repeat(b" "))


def slow_body_of_http2() -> Attack:
    """The same as gRPC."""
    opening = _hello(http2.request_headers("gateway", SIGN_IN), http2.END_HEADERS)
    opening += http2.frame(http2.DATA, 0, 1, b"\x00\x00\x00\x10\x00")
    drop = http2.frame(http2.DATA, 0, 1, b"x")
    return Attack(opening, lambda: itertools.repeat(drop), stream_is_over)


def flood_of_headers() -> Attack:
    """HTTP/1.1 with more headers than anybody has."""
    opening = b"GET /.well-known/jwks.json HTTP/1.1\r\nhost: gateway\r\n"
    lines = b"".join(b"x-%d: 1\r\n" % number for number in range(200))
    return Attack(opening, lambda: itertools.repeat(lines, MOST_FLOODED_HEADERS // 200), pause_seconds=0.001)


def flood_of_headers_of_http2() -> Attack:
    """HTTP/2 with CONTINUATION frames without end, as fast as they go."""
    opening = _hello(http2.request_headers("gateway", SIGN_IN), 0)
    drop = http2.frame(http2.CONTINUATION, 0, 1, b"\x00\x01x\x011" * 200)
    return Attack(
        opening, lambda: itertools.repeat(drop, MOST_FLOODED_HEADERS // 200), stream_is_over, pause_seconds=0.001
    )


def rapid_resets(most: int = MOST_RESETS) -> Attack:
    """Streams that are reset as soon as they are open (CVE-2023-44487)."""
    block = http2.request_headers("gateway", SIGN_IN)

    def drops() -> Iterator[bytes]:
        for first in range(1, 2 * most, 2 * RESETS_AT_ONCE):
            streams = range(first, first + 2 * RESETS_AT_ONCE, 2)
            yield b"".join(
                http2.frame(http2.HEADERS, http2.END_HEADERS, stream, block)
                + http2.frame(http2.RESET, 0, stream, http2.CANCEL)
                for stream in streams
            )

    return Attack(http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0), drops, pause_seconds=0.001)


def silence() -> Attack:
    """A connection on which nothing comes: where TLS is expected, no handshake either."""
    return Attack(b"", lambda: itertools.repeat(b""))


ATTACKS: dict[str, Callable[[], Attack]] = {
    "slow headers": slow_headers,
    "slow headers of HTTP/2": slow_headers_of_http2,
    "slow body": slow_body,
    "slow body of HTTP/2": slow_body_of_http2,
    "flood of headers": flood_of_headers,
    "flood of headers of HTTP/2": flood_of_headers_of_http2,
    "rapid resets": rapid_resets,
}
