"""How a file's bytes get into the store: part by part, each stored first and then recorded, all compared at the end.

What is recorded is what GetUpload reports and where an upload goes on; it only ever grows by whole parts. A part is
recorded under the condition that nothing was since, so any number of streams may send the same file at once.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import Call
from services.chassis.database import Database
from services.chassis.errors import DeadlineExceeded, NotFound, PermissionDenied
from services.chassis.sessions import Sessions
from services.messaging import files
from services.messaging.access import VISIBLE, Access, Viewer
from services.messaging.blobs import PART_BYTES, BlobMissing, Blobs, Part
from services.messaging.errors import BlobsUnavailable, DigestMismatch, UploadOffset, UploadTooLong
from services.messaging.files import FILE, SEEN

Result = TypeVar("Result")

PERMISSION_BYTES = 4 << 20
PERMISSION_SECONDS = 1.0
"""After so much, or so long, a stream that goes on asks for permission again."""
IDLE_SECONDS = 30.0
MOST_TURNS = 24
TURN_SECONDS = 0.2
"""So many streams at once are read from, and hold what they read; one with a slow sender only for so long."""
MOST_WRITING = 8
MOST_COMPARING = 2

FIND = text("""
    SELECT CAST(conversation_id AS text) AS conversation_id FROM files
    WHERE workspace_id = :workspace_id AND id = :file_id AND uploader_user_id = :user_id
""")
GET_OWN = text(f"""
    SELECT {FILE} FROM files f, conversations c
    WHERE f.id = :file_id AND {SEEN} AND f.uploader_member_id = :member_id
""")
RECORD = text(f"""
    WITH grown AS (
        UPDATE files f SET received_bytes = f.received_bytes + :length FROM conversations c
        WHERE f.workspace_id = :workspace_id AND f.id = :file_id AND f.uploader_member_id = :member_id
            AND f.state = 'uploading' AND f.received_bytes = :offset AND c.id = f.conversation_id AND {VISIBLE}
        RETURNING f.id
    )
    INSERT INTO file_parts (file_id, number, sha256) SELECT id, :number, :sha256 FROM grown
""")
PARTS = text("""
    SELECT p.number, p.sha256 FROM file_parts p JOIN files f ON f.id = p.file_id
    WHERE f.workspace_id = :workspace_id AND f.id = :file_id AND p.number BETWEEN :first AND :last ORDER BY p.number
""")
COMPLETE = text(f"""
    UPDATE files f SET state = 'ready', completed_at = statement_timestamp()
    WHERE f.workspace_id = :workspace_id AND f.id = :file_id AND f.state = 'uploading'
        AND f.received_bytes = f.size_bytes
    RETURNING {FILE}
""")
GET_READY = text(f"SELECT {FILE} FROM files f WHERE f.workspace_id = :workspace_id AND f.id = :file_id")
LAST_NUMBER = (1 << 31) - 1


async def parts_of(
    tx: AsyncConnection, *, workspace_id: str, file_id: str, first: int = 0, last: int = LAST_NUMBER
) -> list[Part]:
    """The recorded parts of a file, in order."""
    parameters = {"workspace_id": workspace_id, "file_id": file_id, "first": first, "last": last}
    return [Part(row.number, row.sha256) for row in await tx.execute(PARTS, parameters)]


class Uploads:
    """The uploads of one process."""

    def __init__(self, database: Database, blobs: Blobs, *, access: Access, sessions: Sessions) -> None:
        self._database = database
        self._blobs = blobs
        self._access = access
        self._sessions = sessions
        # Whoever waits for a turn reads nothing from its connection, so that little of it is in memory.
        self.turns = asyncio.Semaphore(MOST_TURNS)
        self._writing = asyncio.Semaphore(MOST_WRITING)
        self._comparing = asyncio.Semaphore(MOST_COMPARING)
        self._finishing: dict[str, asyncio.Future[Row[Any]]] = {}
        self._running: set[asyncio.Future[Any]] = set()

    async def begin(self, call: Call, *, workspace_id: str, file_id: str, offset: int) -> "Upload":
        """One's own upload, to go on with from an offset. NOT_FOUND, PERMISSION_DENIED, GUEST_LOCKED, UPLOAD_OFFSET."""
        parameters = {"workspace_id": workspace_id, "file_id": file_id, "user_id": call.user_id}

        async def find(tx: AsyncConnection) -> str | None:
            return (await tx.execute(FIND, parameters)).scalar_one_or_none()

        conversation_id = await self._database.read(find)
        if conversation_id is None:
            raise NotFound
        writer = await self._access.require_writer(call, workspace_id=workspace_id, conversation_id=conversation_id)
        upload = Upload(self, call, writer, await self.get_own(writer, file_id), offset)
        if not writer.allowed:
            raise PermissionDenied
        if offset > upload.received_bytes:
            raise UploadOffset(upload.received_bytes)
        return upload

    async def get_own(self, viewer: Viewer, file_id: str) -> Row[Any]:
        """A file that the viewer uploads or has uploaded. NOT_FOUND."""

        async def get(tx: AsyncConnection) -> Row[Any] | None:
            return (await tx.execute(GET_OWN, {**viewer.parameters, "file_id": file_id})).one_or_none()

        row = await self._database.read(get)
        if row is None:
            raise NotFound
        return row

    async def permit(self, call: Call, row: Row[Any]) -> Viewer:
        """Asks for session and permission anew. SESSION_ENDED, NOT_FOUND, PERMISSION_DENIED, GUEST_LOCKED."""
        _, writer = await asyncio.gather(
            self._sessions.require_alive(call.session_id, deadline=call.deadline),
            self._access.require_writer(call, workspace_id=row.workspace_id, conversation_id=row.conversation_id),
        )
        if not writer.allowed:
            raise PermissionDenied
        return writer

    async def store(self, writer: Viewer, file_id: str, *, offset: int, data: bytes) -> bool:
        """Stores a part and records it. False if another stream was first, or the file is not there any more.

        A caller who goes away does not stop it half-way: what is stored and not recorded would take room uncounted.
        """
        async with self._writing:
            return await self._unbroken(self._store(writer, file_id, offset, data))

    async def _store(self, writer: Viewer, file_id: str, offset: int, data: bytes) -> bool:
        part = Part(offset // PART_BYTES, hashlib.sha256(data).digest())
        await self._blobs.put(file_id, part, data)
        parameters = {**writer.parameters, "file_id": file_id, "offset": offset, "length": len(data)}
        parameters |= {"number": part.number, "sha256": part.sha256}

        async def record(tx: AsyncConnection) -> bool:
            return (await tx.execute(RECORD, parameters)).rowcount == 1

        if await self._database.atomic(record):
            return True
        recorded = await self._database.read(
            lambda tx: parts_of(
                tx, workspace_id=writer.workspace_id, file_id=file_id, first=part.number, last=part.number
            )
        )
        if recorded != [part]:
            await self._blobs.drop(file_id, part)
        return False

    async def finish(self, row: Row[Any]) -> Row[Any]:
        """Compares what is stored with what was announced, and makes the file ready. DIGEST_MISMATCH.

        It goes on without its callers: a large file takes longer than a call may, and they come back for the answer.
        """
        if row.state == "ready":
            return row
        running = self._finishing.get(row.id)
        if running is None:
            running = self._finishing[row.id] = self._start(self._finish(row))
            running.add_done_callback(lambda _ended: self._finishing.pop(row.id, None))
        return await asyncio.shield(running)

    async def _finish(self, row: Row[Any]) -> Row[Any]:
        names = {"workspace_id": row.workspace_id, "file_id": row.id}
        async with self._comparing:
            parts = await self._database.read(lambda tx: parts_of(tx, workspace_id=row.workspace_id, file_id=row.id))
            try:
                digest = await asyncio.to_thread(self._blobs.digest, row.id, parts)
            except BlobMissing:
                # Deleted meanwhile, or lost; the statements below tell one from the other.
                digest = b""
        if digest and digest != row.sha256:
            await self._database.transaction(lambda tx: files.delete_unfinished(tx, **names))
            raise DigestMismatch

        async def complete(tx: AsyncConnection) -> Row[Any] | None:
            done = (await tx.execute(COMPLETE, names)).one_or_none() if digest else None
            # Another replica may have been first.
            return done or (await tx.execute(GET_READY, names)).one_or_none()

        done = await self._database.transaction(complete)
        if done is None:
            raise NotFound
        if done.state != "ready":
            raise BlobsUnavailable
        return done

    async def refuse_longer(self, row: Row[Any]) -> None:
        """Removes an upload of which more has come than was announced, if it is not ready yet. UPLOAD_TOO_LONG."""
        await self._database.transaction(
            lambda tx: files.delete_unfinished(tx, workspace_id=row.workspace_id, file_id=row.id)
        )
        raise UploadTooLong

    async def close(self) -> None:
        """Waits for what goes on without its callers."""
        if self._running:
            await asyncio.wait(self._running, timeout=15)

    async def _unbroken(self, work: Coroutine[Any, Any, Result]) -> Result:
        return await asyncio.shield(self._start(work))

    def _start(self, work: Coroutine[Any, Any, Result]) -> asyncio.Future[Result]:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            # Looked at here, because a caller who was cancelled no longer does.
            task.exception()


class Upload:
    """One stream of data for one file, from an offset on."""

    def __init__(self, uploads: Uploads, call: Call, writer: Viewer, row: Row[Any], offset: int) -> None:
        self._uploads = uploads
        self._call = call
        self._writer = writer
        self._row = row
        self._end = offset
        """Where in the file the data that has come ends."""
        self._waiting = bytearray()
        """What of it is not stored yet: less than a part."""
        self._permitted_at = time.monotonic()
        self._unpermitted_bytes = 0
        self.received_bytes: int = row.received_bytes

    async def receive(self, chunks: AsyncIterator[bytes]) -> Row[Any] | None:
        """Takes all that comes; the file, if it is complete then. What does not fill a part is dropped in the end."""
        while await self._take_next(chunks):
            pass
        return await self.finish()

    async def _take_next(self, chunks: AsyncIterator[bytes]) -> bool:
        """Takes the next bytes, in turn; False at the end. Who lets others wait for a moment waits beside them."""
        turns = self._uploads.turns
        async with turns:
            coming = asyncio.ensure_future(_next(chunks))
            try:
                await asyncio.wait({coming}, timeout=TURN_SECONDS)
                if coming.done():
                    return await self._take_done(coming)
            except BaseException:
                await _stop(coming)
                raise
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                await asyncio.wait({coming})
        except TimeoutError:
            raise DeadlineExceeded(f"Nothing came for {IDLE_SECONDS:.0f} s; go on from received_bytes.") from None
        finally:
            await _stop(coming)
        async with turns:
            return await self._take_done(coming)

    async def _take_done(self, come: asyncio.Future[bytes]) -> bool:
        chunk = come.result()
        if chunk:
            await self.take(chunk)
        return bool(chunk)

    async def take(self, chunk: bytes) -> None:
        """Takes the next bytes, skipping those that are stored. UPLOAD_TOO_LONG."""
        self._unpermitted_bytes += len(chunk)
        await self._permit_again()
        self._end += len(chunk)
        if self._end > self._row.size_bytes:
            await self._uploads.refuse_longer(self._row)
        if not self._waiting and self._end - len(chunk) == self.received_bytes and self._is_part(len(chunk)):
            # As most clients send it: nothing is copied.
            await self._store(chunk)
            return
        self._waiting += chunk
        self._skip()
        while self._waiting and self._is_part(len(self._waiting)):
            with memoryview(self._waiting) as waiting:
                data = bytes(waiting[:PART_BYTES])
            # Before it is stored: it would be in memory twice as long as that takes.
            del self._waiting[:PART_BYTES]
            await self._store(data)
            self._skip()

    async def finish(self) -> Row[Any] | None:
        """The file, if all of it is there. DIGEST_MISMATCH."""
        if self.received_bytes < self._row.size_bytes:
            return None
        return await self._uploads.finish(self._row)

    @property
    def is_waiting(self) -> bool:
        """Whether some of what has come does not fill a part."""
        return bool(self._waiting)

    def _is_part(self, length: int) -> bool:
        return length >= PART_BYTES or self.received_bytes + length == self._row.size_bytes

    def _skip(self) -> None:
        """Drops from what waits what is stored."""
        del self._waiting[: max(0, self.received_bytes - (self._end - len(self._waiting)))]

    async def _store(self, data: bytes) -> None:
        if await self._uploads.store(self._writer, self._row.id, offset=self.received_bytes, data=data):
            self.received_bytes += len(data)
            return
        # Another stream of the same file was first; or it is gone, or hidden now: NOT_FOUND.
        self._row = await self._uploads.get_own(self._writer, self._row.id)
        if self._row.received_bytes == self.received_bytes:
            raise NotFound
        self.received_bytes = self._row.received_bytes

    async def _permit_again(self) -> None:
        is_old = time.monotonic() - self._permitted_at >= PERMISSION_SECONDS
        if not is_old and self._unpermitted_bytes < PERMISSION_BYTES:
            return
        asked_at = time.monotonic()
        writer = await self._uploads.permit(self._call, self._row)
        if writer.member_id != self._writer.member_id:
            raise NotFound
        self._writer, self._permitted_at, self._unpermitted_bytes = writer, asked_at, 0


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    """Empty at the end: no frame is."""
    return await anext(chunks, b"")


async def _stop(coming: asyncio.Future[bytes]) -> None:
    """Ends what still waits for a frame, so that its iterator can be closed."""
    if not coming.done():
        coming.cancel()
        await asyncio.wait({coming})
