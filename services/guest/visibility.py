"""Whom a guest sees: themselves, who takes part in a channel that is granted to them, and their fellow guests.

One predicate for checks, lists and explanations. Who takes part is messaging's to say; all else is here.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from guildhall.guest.v1 import guest_service_pb2 as pb
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import Database
from services.chassis.errors import PeerUnavailable
from services.guest import guests
from services.guest.peers import Messaging

log = structlog.get_logger()

MOST = 1_000
"""In one page."""

# The guest is among them: what is granted to them is granted to a guest who has not ended.
FELLOWS = text(f"""
    SELECT CAST(guests.member_id AS text) AS member_id, CAST(guests.user_id AS text) AS user_id,
        ARRAY(
            SELECT CAST(conversation_id AS text) {guests.OF_GUEST}
                AND conversation_id = ANY(CAST(:conversation_ids AS uuid[])) ORDER BY conversation_id
        ) AS conversation_ids
    FROM guests
    WHERE guests.workspace_id = CAST(:workspace_id AS uuid) AND guests.member_id > CAST(:after AS uuid)
        AND (CAST(:among AS uuid[]) IS NULL OR guests.member_id = ANY(CAST(:among AS uuid[])))
        AND guests.ended_at IS NULL AND {guests.STATE} <> 'ENDED'
        AND (
            guests.member_id = CAST(:member_id AS uuid) OR EXISTS (
                SELECT {guests.OF_GUEST} AND conversation_id = ANY(CAST(:conversation_ids AS uuid[]))
            )
        )
    ORDER BY guests.member_id LIMIT :size
""")


@dataclass(frozen=True, slots=True, order=True)
class Seen:
    """Somebody whom a guest sees."""

    member_id: str
    user_id: str


class Visibility:
    """Answers for one guest at a time, by what is granted to them at this instant."""

    def __init__(self, database: Database, messaging: Messaging) -> None:
        self._database = database
        self._messaging = messaging

    async def find_sight(self, *, workspace_id: str, member_id: str) -> Row[Any] | None:
        """A guest who has not ended, with what is granted to them; None for anybody else."""
        return await self._database.read(
            lambda tx: guests.find_seeing(tx, workspace_id=workspace_id, member_id=member_id)
        )

    async def among(self, guest: Row[Any], candidate_member_ids: Collection[str]) -> list[Seen]:
        """Those of up to 1 000 members whom the guest sees, by member id."""
        return await self._page(guest, among=candidate_member_ids, after=guests.FIRST, size=MOST)

    async def after(self, guest: Row[Any], after_member_id: str, *, size: int, conversation_id: str = "") -> list[Seen]:
        """The next `size` of all whom the guest sees, by member id; fewer only at the end.

        With a channel, of those who share that one with the guest; nobody if it is not granted.
        """
        channels = list(map(str, guest.conversation_ids))
        if conversation_id:
            channels = [key for key in channels if key == conversation_id]
            if not channels:
                return []
        return await self._page(guest, among=(), after=after_member_id or guests.FIRST, size=size, channels=channels)

    async def reduce(self, guest: pb.Guest) -> None:
        """Takes from what a guest is told of themselves the sponsor whom they do not see.

        Without messaging's answer as well: what is told with it, a redemption, has happened and must not be refused.
        """
        sight = await self.find_sight(workspace_id=guest.workspace_id, member_id=guest.member_id)
        try:
            if sight is not None and await self.among(sight, [guest.sponsor_member_id]):
                return
        except PeerUnavailable:
            log.warning("sponsor_not_shown")
        guest.ClearField("sponsor_member_id")

    async def shared_channels(self, guest: Row[Any], subject_member_id: str) -> tuple[Sequence[str], bool]:
        """The guest's channels that are granted to somebody else as well, and whether they take part in one of them."""
        fellows = await self._fellows(guest, among=[subject_member_id], after=guests.FIRST, size=1)
        takes_part = await self._participants(guest, among=[subject_member_id], after=guests.FIRST, size=1)
        return (fellows[0].conversation_ids if fellows else ()), bool(takes_part)

    async def _page(
        self,
        guest: Row[Any],
        *,
        among: Collection[str],
        after: str,
        size: int,
        channels: Sequence[str] | None = None,
    ) -> list[Seen]:
        # Each has at least what is needed of it: the first `size` of both are the first `size` of all.
        page: dict[str, Any] = {"among": among, "after": after, "size": size, "channels": channels}
        fellows = await self._fellows(guest, **page)
        found = {Seen(row.member_id, row.user_id) for row in fellows}
        found |= set(await self._participants(guest, **page))
        return sorted(found)[:size]

    async def _fellows(
        self,
        guest: Row[Any],
        *,
        among: Collection[str],
        after: str,
        size: int,
        channels: Sequence[str] | None = None,
    ) -> Sequence[Row[Any]]:
        parameters = {
            "workspace_id": str(guest.workspace_id),
            "member_id": str(guest.member_id),
            "conversation_ids": _all_or(guest, channels),
            "among": list(among) or None,
            "after": after,
            "size": size,
        }

        async def read(tx: AsyncConnection) -> Sequence[Row[Any]]:
            return (await tx.execute(FELLOWS, parameters)).all()

        return await self._database.read(read)

    async def _participants(
        self,
        guest: Row[Any],
        *,
        among: Collection[str],
        after: str,
        size: int,
        channels: Sequence[str] | None = None,
    ) -> list[Seen]:
        conversation_ids = _all_or(guest, channels)
        if not conversation_ids:
            return []
        found = await self._messaging.co_participants(
            str(guest.workspace_id),
            conversation_ids=conversation_ids,
            among=among,
            after_member_id=after,
            size=size,
        )
        return [Seen(member_id, user_id) for member_id, user_id in found]


def _all_or(guest: Row[Any], channels: Sequence[str] | None) -> list[str]:
    """The channels named, or all that are granted to the guest."""
    return list(map(str, guest.conversation_ids)) if channels is None else list(channels)
