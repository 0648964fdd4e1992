"""Which group a conversation is of. It never changes, so it is the one thing about conversations that is remembered."""

from collections.abc import Collection, Mapping

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import Database

MOST = 100_000
"""Conversations remembered by one process; the longest remembered is forgotten first."""

FIND = text("""
    SELECT CAST(id AS text) AS id, coalesce(CAST(group_id AS text), '') AS group_id
    FROM conversations WHERE id = ANY(CAST(:ids AS uuid[]))
""")
OF_PERSON = text("""
    SELECT DISTINCT CAST(c.group_id AS text)
    FROM participants p JOIN conversations c ON c.id = p.conversation_id
    WHERE p.user_id = :user_id AND p.workspace_id = :workspace_id AND c.group_id IS NOT NULL
""")


class GroupLookups:
    """Finds the groups of conversations: one statement for those not met before, none for the others."""

    def __init__(self, database: Database, *, most: int = MOST) -> None:
        self._database = database
        self._most = most
        self._known: dict[str, str] = {}

    async def find(self, conversation_ids: Collection[str]) -> Mapping[str, str]:
        """The group of each, empty for those of none; without those that do not exist. The ids are distinct."""
        known = self._known
        found = {key: known[key] for key in conversation_ids if key in known}
        if len(found) < len(conversation_ids):
            unknown = [key for key in conversation_ids if key not in found]
            for row in await self._database.read(lambda tx: _find(tx, unknown)):
                found[row[0]] = row[1]
                self.learn(row[0], row[1])
        return found

    def learn(self, conversation_id: str, group_id: str) -> None:
        """Remembers one."""
        if len(self._known) >= self._most:
            del self._known[next(iter(self._known))]
        self._known[conversation_id] = group_id

    async def of_person(self, *, workspace_id: str, user_id: str) -> Collection[str]:
        """The groups in whose conversations somebody is written down as taking part. Never remembered."""
        named = {"workspace_id": workspace_id, "user_id": user_id}

        async def read(tx: AsyncConnection) -> Collection[str]:
            return (await tx.scalars(OF_PERSON, named)).all()

        return await self._database.read(read)


async def _find(tx: AsyncConnection, conversation_ids: Collection[str]) -> Collection[tuple[str, str]]:
    rows = (await tx.execute(FIND, {"ids": list(conversation_ids)})).all()
    return [(row.id, row.group_id) for row in rows]
