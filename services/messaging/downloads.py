"""How a file's bytes get out of the store: a stretch is read, then permission is asked again, then it is sent."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from sqlalchemy import Row

from services.chassis.call import Call
from services.chassis.database import Database
from services.chassis.errors import InvalidRequest, NotFound
from services.chassis.sessions import Sessions
from services.messaging import files
from services.messaging.access import Access, Viewer
from services.messaging.blobs import PART_BYTES, BlobMissing, Blobs
from services.messaging.errors import BlobsUnavailable
from services.messaging.uploads import parts_of

STRETCH_BYTES = 1 << 20
"""What is read at once, and all that a download holds in memory."""


class Downloads:
    """Reads files for those who see them."""

    def __init__(self, database: Database, blobs: Blobs, *, access: Access, sessions: Sessions) -> None:
        self._database = database
        self._blobs = blobs
        self._access = access
        self._sessions = sessions

    async def get(self, call: Call, *, workspace_id: str, file_id: str) -> Row[Any]:
        """A file, to somebody who still saw it after it was read. NOT_FOUND."""
        viewer, row = await self._find(call, workspace_id, file_id)
        again = await self._access.require_again(call, viewer, conversation_id=row.conversation_id)
        if row.attached_at is not None and not again.is_in_history(row.conversation_id, row.attached_at):
            raise NotFound
        return row

    async def frames(
        self, call: Call, *, workspace_id: str, file_id: str, offset: int, length: int
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """Offsets and data of a range; `length` 0 is all up to the end. NOT_FOUND, SESSION_ENDED, INVALID_REQUEST."""
        _, row = await self._find(call, workspace_id, file_id)
        if row.state != "ready":
            raise NotFound
        if offset > row.size_bytes:
            raise InvalidRequest(fields=[("offset", f"is beyond the file's end, which is at {row.size_bytes}")])
        end = min(row.size_bytes, offset + length) if length else row.size_bytes
        while offset < end:
            # Up to the end of a part, so that each is read once.
            stop = min(end, (offset // STRETCH_BYTES + 1) * STRETCH_BYTES)
            try:
                stretch = await self._read(row, offset, stop)
            except BlobMissing:
                stretch = []
            # After it was read: who lost access before that is refused.
            await asyncio.gather(
                self._sessions.require_alive(call.session_id, deadline=call.deadline),
                self._find_in(call, row.conversation_id, workspace_id=workspace_id, file_id=file_id),
            )
            if not stretch:
                raise BlobsUnavailable
            for data in stretch:
                yield offset, data
                offset += len(data)

    async def _find(self, call: Call, workspace_id: str, file_id: str) -> tuple[Viewer, Row[Any]]:
        """Whoever asks is asked about where the file is, and not about all of their groups."""
        conversation_id = await self._database.read(
            lambda tx: files.find_conversation(tx, workspace_id=workspace_id, file_id=file_id)
        )
        if conversation_id is None:
            raise NotFound
        return await self._find_in(call, conversation_id, workspace_id=workspace_id, file_id=file_id)

    async def _find_in(
        self, call: Call, conversation_id: str, *, workspace_id: str, file_id: str
    ) -> tuple[Viewer, Row[Any]]:
        viewer = await self._access.require_reader(call, workspace_id=workspace_id, conversation_id=conversation_id)
        row = await self._database.read(lambda tx: files.find(tx, viewer=viewer, file_id=file_id))
        if row is None:
            raise NotFound
        return viewer, row

    async def _read(self, row: Row[Any], start: int, stop: int) -> list[bytes]:
        """The bytes of a stretch, a part each."""
        first, last = start // PART_BYTES, (stop - 1) // PART_BYTES
        parts = await self._database.read(
            lambda tx: parts_of(tx, workspace_id=row.workspace_id, file_id=row.id, first=first, last=last)
        )
        if len(parts) != last - first + 1:
            return []
        begins = [part.number * PART_BYTES for part in parts]
        return await asyncio.gather(
            *(
                self._blobs.get(row.id, part, start=max(start - begin, 0), end=min(stop - begin, PART_BYTES))
                for part, begin in zip(parts, begins, strict=True)
            )
        )
