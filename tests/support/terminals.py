"""A `guildhall` command that runs on while a test goes on with something else."""

import asyncio
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

LINE_SECONDS = 60


class Reading:
    """A command that runs on, and the lines that it prints."""

    def __init__(self, environment: Mapping[str, str], *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.stack.cli", *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._readers: list[threading.Thread] = []
        self._out = self._lines(self.process.stdout)
        self._err = self._lines(self.process.stderr)

    def _lines(self, pipe: Any) -> queue.Queue[str]:
        lines: queue.Queue[str] = queue.Queue()

        def read() -> None:
            for line in pipe:
                lines.put(line.rstrip("\n"))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        self._readers.append(reader)
        return lines

    async def line(self) -> str:
        """The next line of stdout."""
        return await asyncio.to_thread(self._out.get, timeout=LINE_SECONDS)

    async def told(self) -> str:
        """The next line of stderr."""
        return await asyncio.to_thread(self._err.get, timeout=LINE_SECONDS)

    async def ended(self) -> int:
        """The exit code."""
        return await asyncio.to_thread(self.process.wait, LINE_SECONDS)

    def end(self) -> None:
        """Ends it, if it runs, and reads what is left."""
        with self.process:
            self.process.kill()
            for reader in self._readers:
                reader.join()

    def rest(self) -> list[str]:
        """What was told besides, once it has ended."""
        found = []
        while not self._err.empty():
            found.append(self._err.get())
        return found


@contextmanager
def reading(environment: Mapping[str, str], *arguments: str) -> Iterator[Reading]:
    """A command that runs on, and is ended at the end."""
    made = Reading(environment, *arguments)
    try:
        yield made
    finally:
        made.end()
