"""Changes of a conversation besides new messages: under its lock, repeatable, and numbered among its events.

The lock is the one that every send takes. It is waited for on a connection by the first in line alone, and only while
no other conversation's is, so that one that stands still keeps neither the others' connections nor their turns.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message
from sqlalchemy import Row, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import LOCK_NOT_AVAILABLE, Database, sqlstate
from services.chassis.errors import DeadlineExceeded, NotFound, PermissionDenied
from services.chassis.idempotency import Repeatable, once
from services.chassis.secret import SecretKey
from services.messaging.access import VISIBLE, Viewer

Answer = TypeVar("Answer", bound=Message)

ANSWER_SECONDS = 0.25
"""How old the answer about permission may be when the lock is granted."""
PAUSE_SECONDS = 0.005
LONGEST_PAUSE_SECONDS = 0.1
MOST_WAITING = 1
"""Of the pool's four connections for transactions: those that may wait for a lock."""

LOCK = """
    SELECT CAST(c.id AS text) AS id, CAST(c.workspace_id AS text) AS workspace_id, c.kind, c.visibility,
        CAST(c.group_id AS text) AS group_id, c.archived_at, c.retention_seconds, c.version,
        CAST(c.created_by_member_id AS text) AS created_by_member_id, c.last_seq
    FROM conversations c WHERE c.id = :conversation_id AND c.workspace_id = :workspace_id FOR NO KEY UPDATE
"""
LOCK_OR_SKIP = text(f"{LOCK} SKIP LOCKED")
LOCK_OR_WAIT = text(LOCK)
EXISTS = text("SELECT FROM conversations WHERE id = :conversation_id AND workspace_id = :workspace_id")
ABANDONED = """(
    c.workspace_id = :workspace_id AND c.kind = 'channel' AND c.visibility = 'private'
    AND NOT EXISTS (SELECT FROM participants p WHERE p.conversation_id = c.id)
)"""
"""Whether nobody takes part in the private channel `c` any more: no full member would ever see it again.

Guests to whom it is granted see it and write in it still: they take part in no channel, and who they are guest knows.
"""
# In a statement after the lock: what was granted or taken away while it was waited for counts. To change what is
# abandoned, which is how it gets people again, is for who manages conversations.
IS_VISIBLE = text(f"""
    SELECT FROM conversations c WHERE c.id = :conversation_id AND ({VISIBLE} OR :manages AND {ABANDONED})
""")
IN_TIME = text("SELECT statement_timestamp() < CAST(:until AS timestamptz)")
NUMBER = text("""
    WITH input AS (
        SELECT * FROM unnest(
            CAST(:kinds AS text[]), CAST(:message_ids AS uuid[]), CAST(:file_ids AS uuid[]),
            CAST(:member_ids AS uuid[]), CAST(:user_ids AS uuid[]), CAST(:emoji AS text[])
        ) WITH ORDINALITY AS i (kind, message_id, file_id, member_id, user_id, emoji, place)
    ), head AS (
        UPDATE conversations SET last_event_seq = last_event_seq + :count, revision = revision + :raise
        WHERE id = :conversation_id AND workspace_id = :workspace_id
        RETURNING last_event_seq - :count AS before
    )
    INSERT INTO conversation_events (conversation_id, event_seq, kind, message_id, file_id, member_id, user_id, emoji)
    SELECT :conversation_id, head.before + i.place, i.kind, i.message_id, i.file_id, i.member_id, i.user_id, i.emoji
    FROM input i, head
""")


class Busy(Exception):
    """Somebody else has the lock, or had it for so long that permission must be asked for again."""


@dataclass(frozen=True, slots=True)
class Happened:
    """An event to be numbered: what conversation_events holds of it."""

    kind: str
    message_id: str | None = None
    file_id: str | None = None
    member_id: str | None = None
    user_id: str | None = None
    emoji: str | None = None


class Changes:
    """Makes changes. `on_changed` is told of conversations with something new, once it is committed."""

    def __init__(self, database: Database, secret: SecretKey, *, on_changed: Callable[[str], None]) -> None:
        self._database = database
        self._secret = secret
        self._on_changed = on_changed
        self._lines: dict[str, _Line] = {}
        self._waiting = asyncio.Semaphore(MOST_WAITING)

    async def make(
        self,
        request: Repeatable,
        answer_class: type[Answer],
        *,
        workspace_id: str,
        conversation_id: str,
        permit: Callable[[], Awaitable[Viewer]],
        work: Callable[[AsyncConnection, Viewer, Row[Any]], Awaitable[Answer]],
    ) -> Answer:
        """Does `work` in one transaction under the conversation's lock, or returns what the same request id did before.

        `permit` asks the other services, and is asked again if the lock took longer than 250 ms. `work` gets the locked
        row (LOCK's columns), and may run more than once. NOT_FOUND if the viewer does not see the conversation,
        PERMISSION_DENIED if they may do no more than that.
        """
        deadline, met, pause = current_call().deadline, False, PAUSE_SECONDS
        async with self._turn(conversation_id):
            while True:
                asked_at = time.monotonic()
                viewer = await permit()
                # The place to wait in is not waited for: behind a conversation that stands still every answer grows
                # too old, and a lock that is free by now would never be had.
                waits = met and not self._waiting.locked()

                async def access(
                    tx: AsyncConnection, viewer: Viewer = viewer, asked_at: float = asked_at, waits: bool = waits
                ) -> Row[Any]:
                    locked = await lock(tx, viewer=viewer, conversation_id=conversation_id, wait=waits)
                    if time.monotonic() - asked_at > ANSWER_SECONDS:
                        raise Busy
                    await require_visible(tx, viewer=viewer, conversation_id=conversation_id)
                    if viewer.until is not None and not await tx.scalar(IN_TIME, {"until": viewer.until}):
                        # A guest's time has passed since: what they are refused with is guest's to say.
                        raise Busy
                    if not viewer.allowed:
                        raise PermissionDenied
                    return locked

                async def unit(tx: AsyncConnection, locked: Row[Any], viewer: Viewer = viewer) -> Answer:
                    return await work(tx, viewer, locked)

                try:
                    async with self._waiting if waits else nullcontext():
                        answer = await once(
                            self._database, self._secret, request, answer_class, access=access, work=unit
                        )
                except Busy:
                    if time.monotonic() + pause > deadline:
                        raise DeadlineExceeded from None
                    await asyncio.sleep(pause)
                    met, pause = True, min(2 * pause, LONGEST_PAUSE_SECONDS)
                else:
                    self._on_changed(conversation_id)
                    return answer

    @asynccontextmanager
    async def _turn(self, conversation_id: str) -> AsyncIterator[None]:
        """One at a time for each conversation, in the order in which they came: the rest needs no connection yet."""
        line = self._lines.setdefault(conversation_id, _Line())
        line.length += 1
        try:
            async with line.lock:
                yield
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[conversation_id]


class _Line:
    """Those who want to change one conversation."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.length = 0


async def lock(tx: AsyncConnection, *, viewer: Viewer, conversation_id: str, wait: bool) -> Row[Any]:
    """Locks a conversation and returns its row. Busy if somebody else has it and `wait` is not set; NOT_FOUND."""
    named = {"conversation_id": conversation_id, "workspace_id": viewer.workspace_id}
    try:
        row = (await tx.execute(LOCK_OR_WAIT if wait else LOCK_OR_SKIP, named)).one_or_none()
    except exc.DBAPIError as error:
        if sqlstate(error) == LOCK_NOT_AVAILABLE:
            raise Busy from error
        raise
    if row is not None:
        return row
    if (await tx.execute(EXISTS, named)).one_or_none() is None:
        raise NotFound
    raise Busy


async def require_visible(tx: AsyncConnection, *, viewer: Viewer, conversation_id: str) -> None:
    """NOT_FOUND unless the viewer sees the conversation now."""
    named = {**viewer.parameters, "conversation_id": conversation_id}
    if (await tx.execute(IS_VISIBLE, named)).one_or_none() is None:
        raise NotFound


async def number(
    tx: AsyncConnection,
    *,
    workspace_id: str,
    conversation_id: str,
    happened: Sequence[Happened],
    takes_sight: bool = False,
) -> None:
    """Numbers events of a conversation that this transaction has locked, in their order.

    `takes_sight` says that somebody no longer sees it: every stream is then verified before it gets anything.
    """
    parameters = {
        "workspace_id": workspace_id,
        "conversation_id": conversation_id,
        "count": len(happened),
        "raise": int(takes_sight),
        "kinds": [each.kind for each in happened],
        "message_ids": [each.message_id for each in happened],
        "file_ids": [each.file_id for each in happened],
        "member_ids": [each.member_id for each in happened],
        "user_ids": [each.user_id for each in happened],
        "emoji": [each.emoji for each in happened],
    }
    await tx.execute(NUMBER, parameters)
