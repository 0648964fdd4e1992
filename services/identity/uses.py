"""When sessions were last used: gathered from the questions whether they are alive, and written once a minute."""

import asyncio
from collections.abc import Sequence
from itertools import compress

import structlog
from sqlalchemy import exc

from services.chassis.database import Database
from services.chassis.errors import Fault
from services.identity import sessions

log = structlog.get_logger()

EVERY_SECONDS = 60.0
MOST_PER_STATEMENT = 1000


class Uses:
    """Every call of every service asks about its session here, so a write for each would double the work."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._used: set[str] = set()

    async def check(self, session_ids: Sequence[str]) -> Sequence[bool]:
        """Which sessions and service keys are alive at this instant: one statement that only reads."""
        alive = await self._database.read(lambda tx: sessions.check(tx, session_ids=session_ids), hot=True)
        self._used.update(compress(session_ids, alive))
        return alive

    def note(self, session_id: str) -> None:
        """Notes a use that nobody asked about."""
        self._used.add(session_id)

    async def run(self) -> None:
        """Writes again and again. A failure, or the end of the process, loses what is exact to the minute only."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            used, self._used = list(self._used), set()
            try:
                for start in range(0, len(used), MOST_PER_STATEMENT):
                    await self._write(used[start : start + MOST_PER_STATEMENT])
            except (Fault, exc.SQLAlchemyError) as error:
                log.warning("session_uses_not_written", error=type(error).__name__)

    async def _write(self, session_ids: Sequence[str]) -> None:
        await self._database.atomic(lambda tx: sessions.note_use(tx, session_ids=session_ids))
