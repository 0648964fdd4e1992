"""Keeping what messages are found by up to date, beside the sends: they write none of it.

A conversation's events are numbered without a hole and become visible in order, so a position in them says exactly
what has been gone through. Each message that they touch is looked at as it is now: doing so twice does no harm, and
edits, reactions and deletions need no code of their own.
"""

import asyncio
import itertools
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import Database
from services.messaging import metrics
from services.messaging.search_keys import KEYS, MILLISECONDS, words_of

log = structlog.get_logger()

MOST_EVENTS = 500
"""Of one transaction: some 40 ms of the database's time."""
MOST_CONVERSATIONS = 50
LOOK_SECONDS = 60.0
"""How often all conversations are looked at: what nobody was woken for, because a process ended."""
PAUSE_SECONDS = 0.25
PAUSE_FACTOR = 19.0
"""It rests nineteen times as long as it works: a twentieth of one processor, whatever is sent."""
LONGEST_PAUSE_SECONDS = 2.0
"""But no longer: on a machine that is overloaded, most of the time that work takes is waited, not used."""
FIRST = "00000000-0000-0000-0000-000000000000"
PAGE = 1000

BEHIND = text("""
    SELECT CAST(c.id AS text) AS id, c.last_event_seq > coalesce(p.event_seq, 0) AS is_behind
    FROM conversations c LEFT JOIN search_positions p ON p.conversation_id = c.id
    WHERE c.id > :after ORDER BY c.id LIMIT :limit
""")
BEGIN = text("""
    INSERT INTO search_positions (conversation_id)
    SELECT id FROM conversations WHERE id = ANY(CAST(:conversation_ids AS uuid[])) ON CONFLICT DO NOTHING
""")
# Another replica that works on one of them does what is to be done there.
LOCK = text("""
    SELECT CAST(conversation_id AS text) FROM search_positions
    WHERE conversation_id = ANY(CAST(:conversation_ids AS uuid[])) ORDER BY conversation_id FOR UPDATE SKIP LOCKED
""")
# Head, messages and events in one snapshot: what is committed later has a higher number. The limits keep the planner
# from reading whole tables for it. A hole in the numbers, which a restore leaves (docs/runbook.md), is passed at once.
FOLLOW = text(f"""
    WITH span AS MATERIALIZED (
        SELECT c.id, c.workspace_id, c.last_event_seq, p.event_seq AS after,
            least(
                c.last_event_seq, greatest(p.event_seq + :most, coalesce(next.event_seq - 1, c.last_event_seq))
            ) AS upto
        FROM search_positions p JOIN conversations c ON c.id = p.conversation_id
        CROSS JOIN LATERAL (
            SELECT least(
                (SELECT m.event_seq FROM messages m
                WHERE m.conversation_id = c.id AND m.event_seq > p.event_seq ORDER BY m.event_seq LIMIT 1),
                (SELECT e.event_seq FROM conversation_events e
                WHERE e.conversation_id = c.id AND e.event_seq > p.event_seq ORDER BY e.event_seq LIMIT 1)
            ) AS event_seq
        ) next
        WHERE p.conversation_id = ANY(CAST(:locked_ids AS uuid[])) AND p.event_seq < c.last_event_seq
    ), touched AS MATERIALIZED (
        SELECT s.id AS conversation_id, s.workspace_id, t.message_id
        FROM span s CROSS JOIN LATERAL (
            (SELECT m.id AS message_id FROM messages m
            WHERE m.conversation_id = s.id AND m.event_seq > s.after AND m.event_seq <= s.upto LIMIT :most)
            UNION
            (SELECT e.message_id FROM conversation_events e
            WHERE e.conversation_id = s.id AND e.event_seq > s.after AND e.event_seq <= s.upto
                AND e.message_id IS NOT NULL LIMIT :most)
        ) t
    ), found AS MATERIALIZED (
        SELECT t.workspace_id, m.*
        FROM touched t CROSS JOIN LATERAL (
            SELECT m.conversation_id, m.id, m.sender_user_id, m.mentioned_member_ids, m.file_count, m.text,
                m.deleted_at, {MILLISECONDS}
            FROM messages m WHERE m.conversation_id = t.conversation_id AND m.id = t.message_id LIMIT 1
        ) m
    ), gone AS (
        DELETE FROM search_entries e USING found m
        WHERE e.conversation_id = m.conversation_id AND e.message_id = m.id AND m.deleted_at IS NOT NULL
    ), kept AS (
        INSERT INTO search_entries AS e (conversation_id, message_id, workspace_id, words, keys)
        SELECT m.conversation_id, m.id, m.workspace_id, {words_of("coalesce(m.text, '')")}, {KEYS}
        FROM found m WHERE m.deleted_at IS NULL ORDER BY m.id
        ON CONFLICT (conversation_id, message_id) DO UPDATE SET words = excluded.words, keys = excluded.keys
        WHERE (e.words, e.keys) IS DISTINCT FROM (excluded.words, excluded.keys)
    )
    UPDATE search_positions p SET event_seq = s.upto FROM span s WHERE p.conversation_id = s.id
    RETURNING CAST(p.conversation_id AS text) AS id, s.upto < s.last_event_seq AS is_behind
""")


class SearchEntries:
    """The task of a service process that follows what is written; the replicas share the work."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._behind: dict[str, float] = {}
        """Since when, on time.monotonic()'s clock."""
        metrics.SEARCH_BEHIND.set_function(lambda: len(self._behind))
        self._woken = asyncio.Event()
        self._look_at = float("-inf")
        """When all conversations are to be looked at next, on time.monotonic()'s clock."""

    def wake(self, conversation_id: str) -> None:
        """Something was written to a conversation. The empty id says that wake-ups may have been lost."""
        if conversation_id:
            self._behind.setdefault(conversation_id, time.monotonic())
        else:
            self._look_at = float("-inf")
        self._woken.set()

    async def run(self) -> None:
        """Follows until cancelled."""
        while True:
            begun = time.monotonic()
            self._woken.clear()
            try:
                if begun >= self._look_at:
                    self._look_at = begun + LOOK_SECONDS
                    self._note(await self._find_behind(), begun)
                if self._behind:
                    await self._follow()
            except Exception as error:
                # What was being worked on is found again by the next look.
                log.warning("search_entries_failed", error=type(error).__name__)
            pause = PAUSE_FACTOR * (time.monotonic() - begun)
            await asyncio.sleep(min(max(PAUSE_SECONDS, pause), LONGEST_PAUSE_SECONDS))
            if not self._behind:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._woken.wait()

    async def _find_behind(self) -> list[str]:
        found: list[str] = []
        after = FIRST
        while True:
            rows = await self._database.read(partial(_look, after=after))
            found += [row.id for row in rows if row.is_behind]
            if len(rows) < PAGE:
                return found
            after = rows[-1].id

    async def _follow(self) -> None:
        chosen = {key: self._behind.pop(key) for key in list(itertools.islice(self._behind, MOST_CONVERSATIONS))}
        behind = await self._database.transaction(lambda tx: follow(tx, conversation_ids=list(chosen)))
        now = time.monotonic()
        for conversation_id, since in chosen.items():
            if conversation_id in behind:
                # At the end of the line: one with much to go through does not keep the others waiting.
                self._note([conversation_id], since)
            else:
                metrics.SEARCH_LAG.observe(now - since)

    def _note(self, conversation_ids: Sequence[str], since: float) -> None:
        for conversation_id in conversation_ids:
            # Woken meanwhile, it has waited for longer all the same.
            self._behind[conversation_id] = min(since, self._behind.get(conversation_id, since))


async def _look(tx: AsyncConnection, *, after: str) -> Sequence[Row[Any]]:
    return (await tx.execute(BEHIND, {"after": after, "limit": PAGE})).all()


async def follow(tx: AsyncConnection, *, conversation_ids: Sequence[str], most: int = MOST_EVENTS) -> list[str]:
    """Goes through up to `most` events of conversations; returns those that have more. It is safe to do twice.

    What another transaction is going through is left to it.
    """
    await tx.execute(BEGIN, {"conversation_ids": list(conversation_ids)})
    locked_ids = list(await tx.scalars(LOCK, {"conversation_ids": list(conversation_ids)}))
    if not locked_ids:
        return []
    # In a statement after the lock: a position that was moved while it was waited for would be an old one.
    share = max(1, most // len(locked_ids))
    rows = (await tx.execute(FOLLOW, {"locked_ids": locked_ids, "most": share})).all()
    return [row.id for row in rows if row.is_behind]
