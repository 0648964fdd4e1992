"""All interleavings of a few tasks that meet at marked points: not a sample.

A task that reaches a point waits there until it is its turn. When every task waits, one of them is chosen; which ones
could have been chosen is noted, and the next run chooses another. What lies between two points is one step, as asyncio
runs it. A run is repeated from the start with each sequence of choices (stateless search, depth first).
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Outcome = TypeVar("Outcome")
_QUIET_PASSES = 8
"""So often the loop turns without a task reaching a point: then all of them wait."""
_MOST_PASSES = 400


class Schedule:
    """Whose turn it is, in one run: first as told, then always the first."""

    def __init__(self, told: tuple[int, ...]) -> None:
        self.chosen: list[int] = []
        self.options: list[int] = []
        self.trace: list[str] = []
        self._told = told
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._arrivals = 0

    async def turn(self, point: str) -> None:
        """Waits at a point. The name is unique among those who wait, and tells the trace what happens next."""
        name, number = point, 2
        while name in self._waiting:
            name, number = f"{point} ({number})", number + 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[name] = future
        self._arrivals += 1
        try:
            await future
        finally:
            self._waiting.pop(name, None)

    async def run(self) -> None:
        """Gives turns until nobody waits for one any more."""
        while await self._all_wait():
            names = sorted(self._waiting)
            place = len(self.chosen)
            choice = self._told[place] if place < len(self._told) else 0
            self.chosen.append(choice)
            self.options.append(len(names))
            self.trace.append(names[choice])
            self._waiting.pop(names[choice]).set_result(None)

    async def _all_wait(self) -> bool:
        """Lets every task go on as far as it can; False if none waits at a point then."""
        quiet, seen = 0, self._arrivals
        for _ in range(_MOST_PASSES):
            await asyncio.sleep(0)
            quiet = quiet + 1 if seen == self._arrivals else 0
            seen = self._arrivals
            if quiet >= _QUIET_PASSES:
                return bool(self._waiting)
        raise RuntimeError("the tasks never came to rest")


async def explore(
    run: Callable[[Schedule], Awaitable[Outcome]], *, most: int, over: float = math.inf
) -> list[tuple[list[str], Outcome]]:
    """What came of every possible run, with its trace; of those before `over` on time.monotonic()'s clock.

    Raises if there are more than `most`.
    """
    found: list[tuple[list[str], Outcome]] = []
    told: tuple[int, ...] | None = ()
    while told is not None and time.monotonic() < over:
        schedule = Schedule(told)
        found.append((schedule.trace, await run(schedule)))
        if len(found) > most:
            raise RuntimeError(f"more than {most} interleavings; the model has become too big to explore")
        told = _next_choices(schedule)
    return found


def _next_choices(schedule: Schedule) -> tuple[int, ...] | None:
    """The choices of the run after this one: the last that could be another is; None if every run was made."""
    place = len(schedule.chosen) - 1
    while place >= 0 and schedule.chosen[place] + 1 == schedule.options[place]:
        place -= 1
    return (*schedule.chosen[:place], schedule.chosen[place] + 1) if place >= 0 else None
