"""A channel that is built anew when this service's certificate, its key or the authority's file changes.

gRPC's servers read them at each handshake, but a channel keeps what it was made with: one made before a rotation could
not connect again after it.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable, Sequence
from operator import methodcaller
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import structlog

log = structlog.get_logger()

LOOK_SECONDS = 1.0
"""How often, at most, the files are looked at; only calls make it look."""
LONGEST_CALL_SECONDS = 30.0
"""No call to a peer may take longer, so none is cut when the channel that it began on is closed."""


class PeerChannel(grpc.aio.Channel):
    """Stands for one channel after another: each call begins on the newest, and ends on the one it began on."""

    def __init__(self, files: Sequence[Path], connect: Callable[[], grpc.aio.Channel]) -> None:
        """`connect` makes a channel of what the files hold now, or raises ValueError while they do not fit together."""
        self._files = files
        self._connect = connect
        self._seen = _listing(files)
        self._looked_at = time.monotonic()
        self._newest = connect()
        self._closing: set[asyncio.Task[None]] = set()

    def newest(self) -> grpc.aio.Channel:
        """The channel for a call that begins now."""
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = time.monotonic()
            self._look()
        return self._newest

    def _look(self) -> None:
        try:
            # Before they are read: what changes meanwhile is seen by the next look.
            seen = _listing(self._files)
            if seen == self._seen:
                return
            newer = self._connect()
        except (OSError, ValueError) as error:
            # With the channel as it was: certificate and key are two files, and one is always replaced first.
            log.warning("certificate_unreadable", error=type(error).__name__)
            return
        log.info("certificate_renewed")
        older, self._newest, self._seen = self._newest, newer, seen
        closing = asyncio.create_task(older.close(LONGEST_CALL_SECONDS), context=contextvars.Context())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        return _Rpc(self, methodcaller("unary_unary", *arguments, **options))

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        return _Rpc(self, methodcaller("unary_stream", *arguments, **options))

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        return _Rpc(self, methodcaller("stream_unary", *arguments, **options))

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        return _Rpc(self, methodcaller("stream_stream", *arguments, **options))

    async def close(self, grace: float | None = None) -> None:
        """Closes the newest channel; those before it have no calls that anybody still waits for."""
        for closing in self._closing:
            closing.cancel()
        await self._newest.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._newest.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._newest.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._newest.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _Rpc:
    """One RPC of a stub, made anew for each channel."""

    def __init__(self, channel: PeerChannel, make: Callable[[grpc.aio.Channel], Any]) -> None:
        self._channel = channel
        self._make = make
        self._made_for: grpc.aio.Channel | None = None
        self._rpc: Any = None

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        newest = self._channel.newest()
        if newest is not self._made_for:
            self._made_for, self._rpc = newest, self._make(newest)
        return self._rpc(*arguments, **options)


def _listing(files: Sequence[Path]) -> list[tuple[int, int, int]]:
    """What tells, without reading them, whether the files are others: a swapped link leads to another inode."""
    return [(status.st_ino, status.st_mtime_ns, status.st_size) for status in (file.stat() for file in files)]
