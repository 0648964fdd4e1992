"""Watching who belongs to a workspace: streams that follow its activity log by numbers.

Numbers are given out in the order of commits, so what was read once is never added to.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from guildhall.membership.v1 import access_service_pb2 as pb
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.coalesce import FLUSH_SECONDS
from services.chassis.database import Database
from services.chassis.errors import NotFound, PeerUnavailable, SessionEnded
from services.chassis.sessions import Sessions
from services.membership import wire_activities

log = structlog.get_logger()

POLL_SECONDS = 1.0
ALIVE_SECONDS = 25.0
LONGEST_SECONDS = 900.0
"""A stream's age: whoever watches resumes, and is let in anew."""
SESSION_SECONDS = 3.0
"""Without identity's answer for this long, nothing is told."""
HELD_SECONDS = 30.0
"""And after this long the stream ends, for whoever watches to resume elsewhere."""
MOST_CHANGES = 200
FOLLOWED = [
    "workspace.",
    "member.",
    "group.",
    "group_member.",
    "role_scheme.",
    "user_group.",
    "group_invite.redeemed",
    "invitation.accepted",
]
"""How the actions begin that change who belongs to a workspace, or what they may do."""

# The head in the same snapshot: up to it, what is not among the rows is of no interest.
CHANGES = text("""
    SELECT h.activity_number AS head, listed.*, p.user_id
    FROM workspaces w JOIN workspace_heads h ON h.workspace_id = w.id
    LEFT JOIN LATERAL (
        SELECT a.number, a.happened_at, a.action, a.target_type, a.target_id, a.target_ref, a.metadata
        FROM activities a
        WHERE a.workspace_id = :workspace_id AND a.number > :after AND a.outcome = 'done'
            AND EXISTS (SELECT FROM unnest(CAST(:followed AS text[])) AS prefix WHERE starts_with(a.action, prefix))
        ORDER BY a.number LIMIT :size
    ) listed ON true
    LEFT JOIN activity_people p ON p.ref = listed.target_ref
    WHERE w.id = :workspace_id AND w.deleted_at IS NULL
    ORDER BY listed.number
""")
# One statement for all who watch.
HEADS = text("""
    SELECT h.workspace_id, CASE WHEN w.deleted_at IS NULL THEN h.activity_number END AS number
    FROM workspaces w JOIN workspace_heads h ON h.workspace_id = w.id
    WHERE w.id = ANY(CAST(:workspace_ids AS uuid[]))
""")


class Watcher:
    """One stream: where it stands, what wakes it, and whose session it lives by: of a service account, its key."""

    def __init__(self, workspace_id: str, number: int, session_id: str) -> None:
        self.workspace_id = workspace_id
        self.number = number
        self.session_id = session_id
        self.session_seen_at = time.monotonic()
        self.has_ended = False
        self.woken = asyncio.Event()

    @property
    def unanswered_seconds(self) -> float:
        """How long ago the question was asked to which the last answer was that the session is alive."""
        return time.monotonic() - self.session_seen_at


class Watches:
    """All streams of this process, woken by one look at the heads each second."""

    def __init__(self, database: Database, sessions: Sessions) -> None:
        self._database = database
        self._sessions = sessions
        self._watchers: set[Watcher] = set()
        self._draining = False

    def drain(self) -> None:
        """Has every stream end, for whoever watches to resume elsewhere."""
        self._draining = True
        for watcher in self._watchers:
            watcher.woken.set()

    async def run(self) -> None:
        """Looks for ended sessions and for news until cancelled."""
        while True:
            for look in (self._end_signed_out, self._look):
                try:
                    if self._watchers:
                        await look()
                except Exception as error:  # without this task nobody hears anything until the process ends
                    log.warning("watch_failed", error=type(error).__name__)
            await asyncio.sleep(POLL_SECONDS)

    async def _end_signed_out(self) -> None:
        """Asks for all the sessions in one batch: a stream lives by its session, not by its token."""
        asked_at, asked = time.monotonic(), list(self._watchers)
        alive = await self._sessions.check([watcher.session_id for watcher in asked], FLUSH_SECONDS)
        for watcher, is_alive in zip(asked, alive, strict=True):
            if is_alive:
                watcher.session_seen_at = asked_at
            else:
                watcher.has_ended = True
                watcher.woken.set()

    async def _require_alive(self, watcher: Watcher) -> None:
        """Holds what is to be told while nobody tells whether the session is alive."""
        while not watcher.has_ended and watcher.unanswered_seconds > SESSION_SECONDS:
            if self._draining or watcher.unanswered_seconds > HELD_SECONDS:
                raise PeerUnavailable
            await asyncio.sleep(POLL_SECONDS)
        if watcher.has_ended:
            raise SessionEnded

    async def _look(self) -> None:
        watched = sorted({watcher.workspace_id for watcher in self._watchers})

        async def heads(tx: AsyncConnection) -> dict[str, int | None]:
            rows = await tx.execute(HEADS, {"workspace_ids": watched})
            return {str(row.workspace_id): row.number for row in rows}

        numbers = await self._database.read(heads)
        for watcher in self._watchers:
            number = numbers.get(watcher.workspace_id)
            if number is None or number > watcher.number or watcher.unanswered_seconds > HELD_SECONDS:
                watcher.woken.set()

    async def watch(
        self, workspace_id: str, after: int, *, session_id: str
    ) -> AsyncGenerator[pb.WatchMembershipResponse, None]:
        """The changes after a number, as they come; and signs of life.

        Errors: NotFound, also once it is deleted; SessionEnded; PeerUnavailable while nobody tells whether it has.
        """
        until = time.monotonic() + LONGEST_SECONDS
        with self._watching(workspace_id, after, session_id) as watcher:
            response = await self._read(watcher)
            yield response
            while not self._draining and time.monotonic() < until:
                # Nothing was left behind unless a page was full.
                if len(response.changes) < MOST_CHANGES and not await _woken(watcher):
                    await self._require_alive(watcher)
                    yield pb.WatchMembershipResponse(last_number=watcher.number)
                    continue
                response = await self._read(watcher)
                if response.changes:
                    yield response

    @contextmanager
    def _watching(self, workspace_id: str, number: int, session_id: str) -> Iterator[Watcher]:
        watcher = Watcher(workspace_id, number, session_id)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    async def _read(self, watcher: Watcher) -> pb.WatchMembershipResponse:
        """The next page; the watcher stands after it."""
        watcher.woken.clear()
        rows = await self._database.read(lambda tx: _changes(tx, watcher.workspace_id, watcher.number))
        await self._require_alive(watcher)
        if not rows:
            raise NotFound
        found = [row for row in rows if row.number is not None]
        watcher.number = found[-1].number if len(found) == MOST_CHANGES else max(watcher.number, rows[0].head)
        changes = [wire_activities.change(row) for row in found]
        return pb.WatchMembershipResponse(changes=changes, last_number=watcher.number)


async def _changes(tx: AsyncConnection, workspace_id: str, after: int) -> Sequence[Row[Any]]:
    page = {"workspace_id": workspace_id, "after": after, "followed": FOLLOWED, "size": MOST_CHANGES}
    return (await tx.execute(CHANGES, page)).all()


async def _woken(watcher: Watcher) -> bool:
    """False if nothing came for so long that a sign of life is due."""
    try:
        async with asyncio.timeout(ALIVE_SECONDS):
            await watcher.woken.wait()
    except TimeoutError:
        return False
    return True
