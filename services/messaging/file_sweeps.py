"""What the worker does about files: removes the bytes of deleted ones, unused uploads, and what has no row."""

import uuid
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import Database
from services.chassis.errors import PeerUnavailable
from services.chassis.worker import Work
from services.messaging import files, metrics
from services.messaging.blobs import Blobs, file_id_of

log = structlog.get_logger()

BATCH = 50
"""Each with up to some thousand parts, whose rows go along."""
PAGES = 5
"""Of a thousand keys each, that one run looks at; the next one goes on from there."""
DAY = timedelta(hours=24)

# Whoever makes a backup holds this lock from before its snapshot until it has the files as well. What is free here was
# free before, so a row that was gone then is in no snapshot, and nothing has to be held while the bytes are removed.
IS_KEPT = text("SELECT NOT pg_try_advisory_xact_lock_shared(hashtext('guildhall blobs'))")
KNOWN = text("SELECT CAST(id AS text) FROM files WHERE id = ANY(CAST(:ids AS uuid[]))")
CLOCK = text("SELECT statement_timestamp()")

Page = list[tuple[str, datetime]]


def blob_remover(database: Database, blobs: Blobs) -> Work:
    """The work `file.remove_blobs`; it waits while a backup is made."""

    async def remove_blobs(subject_id: str, _row_id: str) -> None:
        if await _is_kept(database):
            # The row is put back, without counting a try.
            raise PeerUnavailable
        await blobs.remove(subject_id)
        metrics.BLOBS_REMOVED.labels("deleted").inc()

    return remove_blobs


def releaser(database: Database) -> Work:
    """The work `files.release`: what a removed member announced and no message holds is room for others again."""

    async def release(member_id: str, _row_id: str) -> None:
        released = BATCH
        while released == BATCH:
            released = await database.transaction(
                lambda tx: files.delete_unattached_of_member(tx, member_id=member_id, most=BATCH)
            )

    return release


class Sweeps:
    """The two sweeps, of one worker process."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs
        self._pages: AsyncGenerator[Page, None] | None = None

    async def expired(self) -> None:
        """Deletes uploads and files that no message has taken up within 24 hours."""
        expired = BATCH
        while expired == BATCH:
            expired = await self._database.transaction(lambda tx: files.delete_expired(tx, most=BATCH))
            metrics.UPLOADS_EXPIRED.inc(expired)

    async def orphans(self, *, pages: int = PAGES) -> None:
        """Removes what is in the store for a day and has no row: what a crash, or a writer who came late, left there.

        The store's listing is gone through a few pages at a time, once around after another. It has no order that a
        folder and a bucket share, so the place is kept as the open listing, and lost with the process.
        """
        for _ in range(pages):
            if self._pages is None:
                self._pages = self._blobs.pages()
            try:
                page = await anext(self._pages, None)
            except BaseException:
                self._pages = None
                raise
            if page is None:
                self._pages = None
                return
            orphans = await self._orphans_of(page)
            if orphans and await _is_kept(self._database):
                return
            for file_id in orphans:
                log.warning("orphaned_blobs", file_id=file_id)
                await self._blobs.remove(file_id)
                metrics.BLOBS_REMOVED.labels("orphaned").inc()

    async def _orphans_of(self, page: Page) -> Sequence[str]:
        async def read(tx: AsyncConnection) -> list[str]:
            old_before = (await tx.execute(CLOCK)).scalar_one() - DAY
            young = {file_id_of(key) for key, stored_at in page if stored_at > old_before}
            found = {file_id_of(key) for key, _ in page} - young
            old = {file_id for file_id in found if _is_older(file_id, old_before)}
            known = set((await tx.execute(KNOWN, {"ids": sorted(old)})).scalars())
            return sorted(old - known)

        return await self._database.read(read)


async def _is_kept(database: Database) -> bool:
    """Whether a backup is being made that may need any of the bytes."""

    async def look(tx: AsyncConnection) -> bool:
        return bool((await tx.execute(IS_KEPT)).scalar_one())

    return await database.read(look)


def _is_older(file_id: str, moment: datetime) -> bool:
    """Whether an id was made before a moment; not for what is no id of ours, which is left alone."""
    try:
        made = uuid.UUID(file_id)
    except ValueError:
        return False
    return made.version == 7 and (made.int >> 80) < moment.timestamp() * 1000 and str(made) == file_id
