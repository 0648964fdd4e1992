"""Loops over a table of things to do: at once when woken, and every five seconds without."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

log = structlog.get_logger()

SWEEP_SECONDS = 5.0


class Sweep:
    """Calls `look` again and again while it finds something. A lost wake-up costs five seconds, nothing else."""

    def __init__(self, name: str, look: Callable[[], Awaitable[object]]) -> None:
        """`look` does what is due; what it returns is true if there may be more."""
        self._name = name
        self._look = look
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Has it look at once."""
        self._woken.set()

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            try:
                if await self._look():
                    continue
            except Exception as error:
                log.warning("sweep_failed", sweep=self._name, error=type(error).__name__)
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._woken.wait()
            self._woken.clear()
