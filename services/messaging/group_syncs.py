"""Writes down who takes part in the conversations of groups, as membership says who is in them.

A group's row has a generation, raised by each event about it. What was read of a generation that is no longer the
present one is dropped, under the conversation's lock: so an older reading never undoes a newer one.
"""

from collections.abc import Callable, Mapping
from typing import Any

import structlog
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import Database
from services.chassis.outbox import enqueue
from services.chassis.sweeps import Sweep
from services.messaging.changes import Happened, number
from services.messaging.peers import Membership
from services.messaging.purges import PURGE_GROUP

log = structlog.get_logger()

STEP = 1_000
"""Changes in one transaction, so that nobody who sends waits long for its lock."""

# The due time is a lease as well: whoever dies with a row loses it to the next.
CLAIM = text("""
    UPDATE group_syncs SET due_at = statement_timestamp() + interval '30 seconds'
    WHERE group_id = (
        SELECT group_id FROM group_syncs WHERE due_at <= statement_timestamp()
        ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    RETURNING CAST(group_id AS text) AS group_id, CAST(workspace_id AS text) AS workspace_id, generation
""")
# Again after some hours: nothing tells of an event that was lost to a restored database.
DONE = text("""
    UPDATE group_syncs
    SET synced = greatest(synced, :generation),
        due_at = CASE WHEN generation = :generation THEN statement_timestamp() + interval '6 hours' ELSE due_at END
    WHERE group_id = :group_id AND workspace_id = :workspace_id
""")
PUT_BACK = text("""
    UPDATE group_syncs SET due_at = statement_timestamp() + interval '5 seconds'
    WHERE group_id = :group_id AND workspace_id = :workspace_id AND generation = :generation
""")
CONVERSATIONS = text("""
    SELECT CAST(id AS text) FROM conversations
    WHERE workspace_id = :workspace_id AND group_id = CAST(:group_id AS uuid) ORDER BY id
""")
LOCK = text("SELECT FROM conversations WHERE id = :id AND workspace_id = :workspace_id FOR NO KEY UPDATE")
IS_PRESENT = text("""
    SELECT generation = :generation FROM group_syncs WHERE group_id = :group_id AND workspace_id = :workspace_id
""")
# Those who leave come first: what can be taken at once is taken from them.
WRITE_DOWN = text("""
    WITH listed AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:member_ids AS uuid[]), CAST(:user_ids AS uuid[])) AS l (member_id, user_id)
    ), gone AS (
        DELETE FROM participants WHERE conversation_id = :id AND workspace_id = :workspace_id AND member_id IN (
            SELECT p.member_id FROM participants p
            WHERE p.conversation_id = :id AND NOT EXISTS (SELECT FROM listed l WHERE l.member_id = p.member_id)
            LIMIT :step
        )
        RETURNING member_id, user_id
    ), come AS (
        INSERT INTO participants (conversation_id, member_id, user_id, workspace_id)
        SELECT :id, l.member_id, l.user_id, :workspace_id FROM listed l
        WHERE NOT EXISTS (
            SELECT FROM participants p WHERE p.conversation_id = :id AND p.member_id = l.member_id
        )
        LIMIT :step
        RETURNING member_id, user_id
    )
    SELECT 'participant_left' AS kind, CAST(member_id AS text) AS member_id, CAST(user_id AS text) AS user_id FROM gone
    UNION ALL SELECT 'participant_joined', CAST(member_id AS text), CAST(user_id AS text) FROM come
""")


class GroupSyncs(Sweep):
    """Works off the groups that are due. `on_changed` is told of conversations, `on_sights` of workspaces."""

    def __init__(
        self,
        database: Database,
        membership: Membership,
        *,
        on_changed: Callable[[str], None],
        on_sights: Callable[[str], None],
    ) -> None:
        super().__init__("group_syncs", self.sync_next)
        self._database = database
        self._membership = membership
        self._on_changed = on_changed
        self._on_sights = on_sights

    async def sync_next(self) -> bool:
        """Reads one group that is due and writes its people down; False if there is none."""
        due = await self._database.transaction(_claim)
        if due is None:
            return False
        try:
            await self.sync(due)
        except Exception as error:
            log.warning("group_unsynced", group_id=due.group_id, error=type(error).__name__)
            await self._database.transaction(lambda tx: _execute(tx, PUT_BACK, due))
        return True

    async def sync(self, due: Row[Any]) -> None:
        """Reads a group of some generation, and writes it down as long as that is the present one."""
        people = await self._membership.list_group(due.group_id, workspace_id=due.workspace_id)
        if people is None:
            # Deleted, perhaps before its last conversation was there to be deleted with it.
            await self._database.transaction(lambda tx: _end(tx, due))
            return
        for conversation_id in await self._database.read(lambda tx: _conversations(tx, due)):
            await self._write_down(due, conversation_id, people)
        await self._database.transaction(lambda tx: _execute(tx, DONE, due))
        self._on_sights(due.workspace_id)

    async def _write_down(self, due: Row[Any], conversation_id: str, people: Mapping[str, str]) -> None:
        changes = STEP
        while changes >= STEP:
            changes = await self._database.transaction(lambda tx: _step(tx, due, conversation_id, people))
            if changes:
                self._on_changed(conversation_id)


async def _claim(tx: AsyncConnection) -> Row[Any] | None:
    return (await tx.execute(CLAIM)).one_or_none()


async def _conversations(tx: AsyncConnection, due: Row[Any]) -> list[str]:
    return list((await tx.scalars(CONVERSATIONS, _named(due))).all())


async def _step(tx: AsyncConnection, due: Row[Any], conversation_id: str, people: Mapping[str, str]) -> int:
    """One transaction's changes of one conversation; how many there were."""
    named = {"id": conversation_id, "workspace_id": due.workspace_id}
    locked = (await tx.execute(LOCK, named)).one_or_none()
    # In a statement after the lock: whoever read the group later may have written it down while this one waited.
    if locked is None or not await tx.scalar(IS_PRESENT, {**_named(due), "generation": due.generation}):
        return 0
    columns = {"member_ids": list(people), "user_ids": list(people.values())}
    rows = (await tx.execute(WRITE_DOWN, {**named, **columns, "step": STEP})).all()
    if rows:
        await number(
            tx,
            workspace_id=due.workspace_id,
            conversation_id=conversation_id,
            happened=[Happened(row.kind, member_id=row.member_id, user_id=row.user_id) for row in rows],
            takes_sight=any(row.kind == "participant_left" for row in rows),
        )
    return len(rows)


async def _end(tx: AsyncConnection, due: Row[Any]) -> None:
    await enqueue(tx, PURGE_GROUP, due.group_id)
    await _execute(tx, DONE, due)


async def _execute(tx: AsyncConnection, statement: Any, due: Row[Any]) -> None:
    await tx.execute(statement, {**_named(due), "generation": due.generation})


def _named(due: Row[Any]) -> dict[str, Any]:
    return {"group_id": due.group_id, "workspace_id": due.workspace_id}
