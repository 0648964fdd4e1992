"""A proxy of the tests' own between a client and a server, on TCP or Unix sockets, that can do what networks do."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

_CHUNK = 1 << 16
Endpoint = Path | tuple[str, int]
"""A Unix socket, or host and port."""


class Mode(Enum):
    """What happens to bytes from now on, on connections old and new."""

    PASS = auto()
    BLACK_HOLE = auto()
    """They are taken and never arrive, and nobody is told."""
    DELAY = auto()
    """They arrive `delay_seconds` later."""


class Cut(Exception):
    """Raised by a filter: the connection ends here, and what the filter held back is never delivered."""


class Filter:
    """Sees the bytes of one connection and decides what is passed on. This one passes everything on."""

    def request(self, data: bytes) -> bytes:
        """Bytes on the way to the server. Raises `Cut`."""
        return data

    def reply(self, data: bytes) -> bytes:
        """Bytes on the way to the client. Raises `Cut`."""
        return data


class CutAfter(Filter):
    """Lets so many bytes of replies through, then cuts."""

    def __init__(self, reply_bytes: int) -> None:
        self._left = reply_bytes

    def reply(self, data: bytes) -> bytes:
        """What is still allowed."""
        if not self._left:
            raise Cut
        passed, self._left = data[: self._left], max(0, self._left - len(data))
        return passed


@dataclass(eq=False)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    filter: Filter
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def reset(self) -> None:
        """Ends both halves at once: with a RST on TCP, with a close that loses unread data on a Unix socket."""
        for writer in (self.client, self.server):
            _linger_off(writer)
            writer.transport.abort()


class Proxy:
    """Listens in front of one server. Starts in `PASS`."""

    def __init__(self, listen: Endpoint, upstream: Endpoint, *, make_filter: Callable[[], Filter] = Filter) -> None:
        self.mode = Mode.PASS
        self.delay_seconds = 0.0
        self.make_filter = make_filter
        self.accepted = 0
        self._listen = listen
        self._upstream = upstream
        self._connections: set[_Connection] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listens."""
        if isinstance(self._listen, Path):
            self._server = await asyncio.start_unix_server(self._serve, self._listen, limit=_CHUNK)
        else:
            self._server = await asyncio.start_server(self._serve, *self._listen, limit=_CHUNK)

    async def stop(self) -> None:
        """Ends every connection and stops listening."""
        if self._server is not None:
            self._server.close()
        self.reset()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        if isinstance(self._listen, Path):
            self._listen.unlink(missing_ok=True)

    def set_mode(self, mode: Mode, *, delay_seconds: float = 0.0) -> None:
        """Changes what happens to bytes that arrive from now on."""
        self.mode, self.delay_seconds = mode, delay_seconds
        self._changed.set()
        self._changed = asyncio.Event()

    def reset(self) -> None:
        """Breaks every connection there is; new ones are welcome."""
        for connection in list(self._connections):
            connection.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        self.accepted += 1
        try:
            upstream_reader, upstream_writer = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, upstream_writer, self.make_filter())
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, upstream_writer, connection.filter.request))
                group.create_task(self._pump(upstream_reader, writer, connection.filter.reply))
        except* (Cut, OSError):
            connection.reset()
        finally:
            self._connections.discard(connection)
            for end in (writer, upstream_writer):
                end.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._upstream, Path):
            return await asyncio.open_unix_connection(self._upstream, limit=_CHUNK)
        return await asyncio.open_connection(*self._upstream, limit=_CHUNK)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passed: Callable[[bytes], bytes]
    ) -> None:
        while data := await reader.read(_CHUNK):
            if self.mode is Mode.DELAY:
                await self._wait(self.delay_seconds)
            while self.mode is Mode.BLACK_HOLE:
                await self._changed.wait()
            writer.write(passed(data))
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()

    async def _wait(self, seconds: float) -> None:
        """Waits so long, or until the mode changes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()


def _linger_off(writer: asyncio.StreamWriter) -> None:
    found = writer.get_extra_info("socket")
    if found is not None and found.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
