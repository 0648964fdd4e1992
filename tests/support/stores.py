"""An S3 that is real enough (moto's server, a process of its own), and a way to it that can break."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator

import httpx

BUCKET = "files"


@contextlib.contextmanager
def s3() -> Iterator[int]:
    """Runs moto's server with an empty bucket; gives its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=5) as client:
            for _ in range(600):
                with contextlib.suppress(httpx.TransportError):
                    client.put(f"/{BUCKET}").raise_for_status()
                    break
                if process.poll() is not None:
                    raise RuntimeError("moto ended")
                time.sleep(0.05)  # a process of its own gives no other sign that it listens
            else:
                raise TimeoutError("moto never answered")
        yield port
    finally:
        process.kill()
        process.wait()


class Front:
    """Stands before a server, and passes on, cuts each connection, or answers 500 in its place."""

    def __init__(self, port: int) -> None:
        self._behind = port
        self.mode = "pass"
        self.cut_after_bytes = 0
        """In the mode "cut": how much of a request is passed on first."""
        self.requests = 0
        self.port = 0
        self._open: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Front"]:
        """Listens on a port of its own."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.drop()

    def drop(self) -> None:
        """Cuts what is open: kept connections would go on in the former mode."""
        for writer in self._open:
            writer.close()

    def turn(self, mode: str, *, cut_after_bytes: int = 0) -> None:
        """Changes the mode, for connections that are open too."""
        self.mode, self.cut_after_bytes = mode, cut_after_bytes
        self.drop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            self.requests += 1
            if self.mode == "500":
                await reader.read(65_536)
                writer.write(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                await writer.drain()
                return
            await self._pass(reader, writer)
        except OSError:
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, to_behind = await asyncio.open_connection("127.0.0.1", self._behind)
        left = self.cut_after_bytes if self.mode == "cut" else None
        there, back = (
            asyncio.ensure_future(_pump(reader, to_behind, left)),
            asyncio.ensure_future(_pump(behind, writer)),
        )
        try:
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (there, back):
                each.cancel()
            await asyncio.gather(there, back, return_exceptions=True)
            to_behind.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None = None) -> None:
    while left is None or left > 0:
        data = await reader.read(65_536 if left is None else min(65_536, left))
        if not data:
            return
        writer.write(data)
        await writer.drain()
        if left is not None:
            left -= len(data)
