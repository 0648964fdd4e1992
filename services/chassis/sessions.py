"""Is the session alive? Asked of identity for every call, in one batch for all that wait."""

from collections.abc import Awaitable, Callable, Sequence

from services.chassis.coalesce import Coalescer
from services.chassis.errors import SessionEnded


class Sessions:
    """`check(session_ids, timeout_seconds)` says for each id whether it is alive at this instant."""

    def __init__(self, check: Callable[[Sequence[str], float], Awaitable[Sequence[bool]]]) -> None:
        self.check = check
        self._queue: Coalescer[str, bool] = Coalescer(check, name="sessions")

    async def require_alive(self, session_id: str, *, deadline: float) -> None:
        """SESSION_ENDED if it is not."""
        if not await self._queue.ask(session_id, deadline=deadline):
            raise SessionEnded
