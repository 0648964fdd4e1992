"""guildhall.messaging.v1.FileService."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from guildhall.messaging.v1 import file_service_pb2 as pb
from guildhall.messaging.v1 import file_service_pb2_grpc as rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import Call, current_call
from services.chassis.database import Database
from services.chassis.errors import Fault, InvalidRequest, NotFound, PermissionDenied
from services.chassis.idempotency import no_access_needed, once
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.messaging import files, wire_files
from services.messaging.access import Access, Viewer
from services.messaging.blobs import PART_BYTES
from services.messaging.changes import Changes, require_visible
from services.messaging.downloads import Downloads
from services.messaging.ids import uuid_of
from services.messaging.settings import MessagingSettings
from services.messaging.transfers import Transfers
from services.messaging.uploads import Uploads

LAST_FRAMES_SECONDS = 1.0
"""How long a refused upload may go on, so that its sender learns why."""


class FileService(rpc.FileServiceServicer):
    """Who, what, one transaction, reply; the bytes go through uploads.py and downloads.py."""

    def __init__(
        self,
        database: Database,
        secret: SecretKey,
        *,
        access: Access,
        changes: Changes,
        uploads: Uploads,
        downloads: Downloads,
        settings: MessagingSettings,
    ) -> None:
        self._database = database
        self._secret = secret
        self._access = access
        self._changes = changes
        self._uploads = uploads
        self._downloads = downloads
        self._most_file_bytes = settings.most_file_bytes
        self._most_storage_bytes = settings.storage_bytes_per_workspace
        self._most_unattached_bytes = settings.unattached_bytes
        self._transfers = Transfers()

    async def CreateUpload(self, request: pb.CreateUploadRequest, context: Any) -> pb.CreateUploadResponse:
        """Asks first; the file and its share of the workspace's storage are one transaction."""
        call, conversation_id = current_call(), uuid_of(request.conversation_id)
        uploader = await self._access.require_writer(
            call, workspace_id=uuid_of(request.workspace_id), conversation_id=conversation_id
        )
        if request.size_bytes > self._most_file_bytes:
            raise InvalidRequest(fields=[("size_bytes", f"must be at most {self._most_file_bytes}")])
        values = {
            "name": request.name,
            "mime_type": request.mime_type,
            "size_bytes": request.size_bytes,
            "sha256": request.sha256,
            "header": request.header or None,
        }

        async def access(tx: AsyncConnection) -> None:
            # A stored answer is for those who still see the conversation.
            await require_visible(tx, viewer=uploader, conversation_id=conversation_id)
            if not uploader.allowed:
                raise PermissionDenied

        async def work(tx: AsyncConnection, _granted: None) -> pb.CreateUploadResponse:
            row = await files.create(
                tx,
                uploader=uploader,
                conversation_id=conversation_id,
                values=values,
                most_bytes=self._most_storage_bytes,
                most_unattached_bytes=self._most_unattached_bytes(is_guest=uploader.granted is not None),
            )
            return pb.CreateUploadResponse(file=wire_files.file(row))

        return await once(self._database, self._secret, request, pb.CreateUploadResponse, access=access, work=work)

    async def UploadFile(
        self, request_iterator: AsyncIterator[pb.UploadFileRequest], context: Any
    ) -> pb.UploadFileResponse:
        """The first frame says what the others are."""
        frames = aiter(request_iterator)
        try:
            with self._transfers.place(current_call().user_id):
                return await self._upload(frames)
        except Fault:
            await _let_finish(frames)
            raise

    async def _upload(self, frames: AsyncIterator[pb.UploadFileRequest]) -> pb.UploadFileResponse:
        start = await _start_of(frames)
        upload = await self._uploads.begin(
            current_call(),
            workspace_id=uuid_of(start.workspace_id),
            file_id=uuid_of(start.file_id),
            offset=start.offset,
        )
        async with contextlib.aclosing(_data_of(frames)) as chunks:
            done = await upload.receive(chunks)
        return pb.UploadFileResponse(received_bytes=upload.received_bytes, file=_file(done))

    async def UploadChunk(self, request: pb.UploadChunkRequest, context: Any) -> pb.UploadChunkResponse:
        """A stream of one frame, but for data that would be dropped at its end."""
        call = current_call()
        with self._transfers.place(call.user_id):
            upload = await self._uploads.begin(
                call,
                workspace_id=uuid_of(request.workspace_id),
                file_id=uuid_of(request.file_id),
                offset=request.offset,
            )
            await upload.take(request.data)
            if upload.is_waiting:
                what = f"ends within a part: send {PART_BYTES} bytes, or all that is left, from {upload.received_bytes}"
                raise InvalidRequest(fields=[("data", what)])
            done = await upload.finish()
            return pb.UploadChunkResponse(received_bytes=upload.received_bytes, file=_file(done))

    async def GetUpload(self, request: pb.GetUploadRequest, context: Any) -> pb.GetUploadResponse:
        """The caller's own file, whatever its state."""
        row = await self._downloads.get(
            current_call(), workspace_id=uuid_of(request.workspace_id), file_id=uuid_of(request.file_id)
        )
        if row.uploader_user_id != current_call().user_id:
            raise NotFound
        return pb.GetUploadResponse(file=wire_files.file(row))

    async def GetFile(self, request: pb.GetFileRequest, context: Any) -> pb.GetFileResponse:
        """Asks, reads, asks again: who lost access before the reading is refused."""
        row = await self._downloads.get(
            current_call(), workspace_id=uuid_of(request.workspace_id), file_id=uuid_of(request.file_id)
        )
        return pb.GetFileResponse(file=wire_files.file(row))

    async def DownloadFile(
        self, request: pb.DownloadFileRequest, context: Any
    ) -> AsyncGenerator[pb.DownloadFileResponse, None]:
        """Frames of a part at the most."""
        call = current_call()
        with self._transfers.place(call.user_id):
            frames = self._downloads.frames(
                call,
                workspace_id=uuid_of(request.workspace_id),
                file_id=uuid_of(request.file_id),
                offset=request.offset,
                length=request.length,
            )
            async with contextlib.aclosing(frames):
                async for offset, data in frames:
                    yield pb.DownloadFileResponse(offset=offset, data=data)

    async def DeleteFile(self, request: pb.DeleteFileRequest, context: Any) -> pb.DeleteFileResponse:
        """A change of the conversation. The row goes at once, the bytes soon after."""
        call, workspace_id, file_id = current_call(), uuid_of(request.workspace_id), uuid_of(request.file_id)
        conversation_id = await self._find_seen_to_delete(call, workspace_id=workspace_id, file_id=file_id)
        if conversation_id is None:
            # Or deleted by this very request before.
            await self._access.require_viewer(call, workspace_id=workspace_id, group_ids=())
            return await once(
                self._database, self._secret, request, pb.DeleteFileResponse, access=no_access_needed, work=_not_found
            )

        async def permit() -> Viewer:
            return await self._access.require_deleter(call, workspace_id=workspace_id, conversation_id=conversation_id)

        async def work(tx: AsyncConnection, viewer: Viewer, _locked: Row[Any]) -> pb.DeleteFileResponse:
            await files.delete(
                tx, viewer=viewer, conversation_id=conversation_id, file_id=file_id, moderates=viewer.moderates
            )
            return pb.DeleteFileResponse()

        return await self._changes.make(
            request,
            pb.DeleteFileResponse,
            workspace_id=workspace_id,
            conversation_id=conversation_id,
            permit=permit,
            work=work,
        )

    async def _find_seen_to_delete(self, call: Call, *, workspace_id: str, file_id: str) -> str | None:
        """The conversation of a file that the caller sees or may delete.

        None for a hidden one, as for what never was: neither a request id used before nor the wait for a hidden
        conversation's lock may tell the two apart.
        """
        conversation_id = await self._database.read(
            lambda tx: files.find_conversation(tx, workspace_id=workspace_id, file_id=file_id)
        )
        if conversation_id is None:
            return None
        try:
            deleter = await self._access.require_deleter(
                call, workspace_id=workspace_id, conversation_id=conversation_id
            )
        except NotFound:
            return None
        is_seen = await self._database.read(lambda tx: files.is_seen_to_delete(tx, viewer=deleter, file_id=file_id))
        return conversation_id if is_seen else None

    async def ListFiles(self, request: pb.ListFilesRequest, context: Any) -> pb.ListFilesResponse:
        """Asks, reads, asks again."""
        call = current_call()
        workspace_id, conversation_id = uuid_of(request.workspace_id), uuid_of(request.conversation_id)
        message_id = uuid_of(request.message_id) if request.message_id else ""
        if message_id and request.unattached:
            raise InvalidRequest(fields=[("unattached", "is for files that no message holds: without message_id")])
        which = "unattached" if request.unattached else message_id
        scope = (call.rpc, call.user_id, workspace_id, conversation_id, which)
        key = page_key(self._secret, scope, request.page_token)
        size = page_size(request.page_size)
        place = {"workspace_id": workspace_id, "conversation_id": conversation_id}
        # Who moderates is asked about as a deleter is: what they see of others is theirs to delete.
        ask = self._access.require_deleter if request.unattached else self._access.require_reader
        viewer = await ask(call, **place)

        async def read(tx: AsyncConnection) -> list[Row[Any]]:
            await require_visible(tx, viewer=viewer, conversation_id=conversation_id)
            page: dict[str, Any] = {"conversation_id": conversation_id, "limit": size + 1}
            page["before"] = str(key[0]) if key else files.LAST
            if request.unattached:
                return list(await files.list_unattached(tx, viewer=viewer, moderates=viewer.moderates, **page))
            return list(await files.list_files(tx, viewer=viewer, message_id=message_id, **page))

        rows = await self._database.read(read)
        again = await self._access.require_again(call, viewer, conversation_id=conversation_id)
        if viewer.moderates and not await self._access.is_moderator(call, workspace_id=workspace_id):
            rows = [row for row in rows if row.uploader_member_id == again.member_id]
        rows = [row for row in rows if row.attached_at is None or again.is_in_history(conversation_id, row.attached_at)]
        more = len(rows) > size
        return pb.ListFilesResponse(
            files=[wire_files.file(row) for row in rows[:size]],
            next_page_token=page_token(self._secret, scope, [rows[size - 1].id]) if more else "",
        )


async def _not_found(_tx: AsyncConnection, _granted: None) -> pb.DeleteFileResponse:
    raise NotFound


async def _start_of(frames: AsyncIterator[pb.UploadFileRequest]) -> pb.UploadStart:
    async for frame in frames:
        if frame.HasField("start"):
            return frame.start
        break
    raise InvalidRequest(fields=[("start", "must be in the first frame: which file, and from where")])


async def _data_of(frames: AsyncIterator[pb.UploadFileRequest]) -> AsyncGenerator[bytes, None]:
    async for frame in frames:
        if frame.HasField("start"):
            raise InvalidRequest(fields=[("start", "is for the first frame only; open another stream")])
        data = [frame.data]
        # Popped, and the frame let go: else each stream would hold what it waits with twice.
        del frame
        yield data.pop()


async def _let_finish(frames: AsyncIterator[pb.UploadFileRequest]) -> None:
    """Reads on for a moment, for nothing: grpc.aio loses a refusal that comes while its client writes (grpc#36066)."""
    with contextlib.suppress(TimeoutError, Fault):
        async with asyncio.timeout(LAST_FRAMES_SECONDS):
            async for _ in frames:
                pass


def _file(row: Row[Any] | None) -> pb.File | None:
    return None if row is None else wire_files.file(row)
