"""Files in a room: how the tests announce, send and fetch them, and look at what is left of them."""

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
from guildhall.messaging.v1 import file_service_pb2 as pb
from guildhall.messaging.v1 import file_service_pb2_grpc as rpc

from tests.service.test_messaging_conversations import Room
from tests.support.suite import Person, answered

PART = 256 << 10


class FileRoom(Room):
    """A workspace in which people exchange files."""

    @property
    def files(self) -> Any:
        """The stub of FileService."""
        return self.suite.stub(rpc.FileServiceStub)

    @property
    def folder(self) -> Path:
        """Where the store keeps its blobs."""
        return self.suite.stack.settings.layout.blobs / "blobs"

    def create(self, person: Person, content: bytes = b"content", *, to: str = "", **changes: Any) -> Any:
        """CreateUpload; await it for the response."""
        values: dict[str, Any] = {
            "name": "plan.pdf",
            "mime_type": "application/pdf",
            "size_bytes": len(content),
            "sha256": hashlib.sha256(content).digest(),
        } | changes
        request = pb.CreateUploadRequest(
            workspace_id=self.workspace_id, conversation_id=to or self.channel_id, **values
        )
        return person.call(self.files.CreateUpload, request)

    async def created(self, person: Person, content: bytes = b"content", *, to: str = "", **changes: Any) -> str:
        """The id of a file that was announced."""
        return str((await self.create(person, content, to=to, **changes)).file.file_id)

    def upload(
        self, person: Person, file_id: str, content: bytes = b"content", *, offset: int = 0, frame: int = PART
    ) -> Any:
        """UploadFile of content that begins at the offset; await it for the response."""
        data = (content[at : at + frame] for at in range(0, len(content), frame))
        return self.stream(person, file_id, data, offset=offset)

    def stream(
        self,
        person: Person,
        file_id: str,
        chunks: Iterable[bytes] | AsyncIterator[bytes],
        *,
        offset: int = 0,
    ) -> Any:
        """UploadFile of chunks that may still be made."""

        async def frames() -> AsyncIterator[pb.UploadFileRequest]:
            start = pb.UploadStart(workspace_id=self.workspace_id, file_id=file_id, offset=offset)
            yield pb.UploadFileRequest(start=start)
            if isinstance(chunks, AsyncIterator):
                async for chunk in chunks:
                    yield pb.UploadFileRequest(data=chunk)
            else:
                for chunk in chunks:
                    yield pb.UploadFileRequest(data=chunk)

        return self.files.UploadFile(frames(), timeout=60, metadata=person.metadata)

    def chunk(self, person: Person, file_id: str, data: bytes, *, offset: int = 0) -> Any:
        """UploadChunk; await it for the response."""
        request = pb.UploadChunkRequest(workspace_id=self.workspace_id, file_id=file_id, offset=offset, data=data)
        return person.call(self.files.UploadChunk, request)

    async def break_after(self, person: Person, file_id: str, content: bytes, *, offset: int, until: int) -> None:
        """Sends content from an offset, and cancels the call once so much of the file is recorded."""
        held = asyncio.Event()

        async def chunks() -> AsyncIterator[bytes]:
            for at in range(offset, until + PART // 2, 60_000):
                yield content[at : at + 60_000]
            await held.wait()

        call = self.stream(person, file_id, chunks(), offset=offset)
        await self.received(person, file_id, until)
        call.cancel()
        held.set()
        try:
            await call
        except asyncio.CancelledError:
            return
        raise AssertionError("it was answered")

    async def received(self, person: Person, file_id: str, least: int) -> int:
        """How much of an upload has arrived, once it is so much."""
        for _ in range(1000):
            file = await self.progress(person, file_id)
            if file.received_bytes >= least:
                return int(file.received_bytes)
            await asyncio.sleep(0.01)
        raise TimeoutError(f"{least} bytes never arrived")

    async def progress(self, person: Person, file_id: str) -> pb.File:
        """GetUpload's file."""
        request = pb.GetUploadRequest(workspace_id=self.workspace_id, file_id=file_id)
        answer = await person.call(self.files.GetUpload, request)
        assert isinstance(answer.file, pb.File)
        return answer.file

    async def uploaded(self, person: Person, content: bytes = b"content", *, to: str = "", **changes: Any) -> str:
        """The id of a file that is ready."""
        file_id = await self.created(person, content, to=to, **changes)
        answer = await self.upload(person, file_id, content)
        assert answer.file.state == pb.FILE_STATE_READY
        return file_id

    async def attached(self, person: Person, content: bytes = b"content", *, to: str = "", **changes: Any) -> str:
        """The id of a file that a message of its uploader holds."""
        file_id = await self.uploaded(person, content, to=to, **changes)
        message = await self.sent(person, "see file", to=to)
        self.attach(file_id, message.message_id)
        return file_id

    def attach(self, file_id: str, message_id: str) -> None:
        """Has a message hold a file."""
        self.storage_sql(
            "UPDATE files SET message_id = %(message)s, attached_at = statement_timestamp() WHERE id = %(file)s",
            message=message_id,
            file=file_id,
        )

    def get(self, person: Person, file_id: str, *, workspace_id: str = "") -> Any:
        """GetFile; await it for the response."""
        request = pb.GetFileRequest(workspace_id=workspace_id or self.workspace_id, file_id=file_id)
        return person.call(self.files.GetFile, request)

    async def download(
        self, person: Person, file_id: str, offset: int = 0, length: int = 0, *, workspace_id: str = ""
    ) -> bytes:
        """What DownloadFile sends, its offsets looked at."""
        request = pb.DownloadFileRequest(
            workspace_id=workspace_id or self.workspace_id, file_id=file_id, offset=offset, length=length
        )
        found = bytearray()
        async for frame in person.stream(self.files.DownloadFile, request):
            assert frame.offset == offset + len(found)
            assert 1 <= len(frame.data) <= PART
            found += frame.data
        return bytes(found)

    def delete(self, person: Person, file_id: str, *, request_id: str = "") -> Any:
        """DeleteFile; await it for the response."""
        request = pb.DeleteFileRequest(workspace_id=self.workspace_id, file_id=file_id, request_id=request_id)
        return person.call(self.files.DeleteFile, request)

    def listed(self, person: Person, conversation_id: str = "", **page: Any) -> Any:
        """ListFiles; await it for the response."""
        request = pb.ListFilesRequest(
            workspace_id=self.workspace_id, conversation_id=conversation_id or self.channel_id, **page
        )
        return person.call(self.files.ListFiles, request)

    async def ids(self, person: Person, conversation_id: str = "", **page: Any) -> list[str]:
        """The ids of the files that ListFiles shows."""
        return [file.file_id for file in (await self.listed(person, conversation_id, **page)).files]

    async def restarted(self, **changes: object) -> None:
        """Starts messaging anew, with settings of a test's own, and waits until it is found again."""
        from services.messaging.__main__ import build

        if "messaging" in self.suite.frames:
            await self.suite.stop("messaging")
        frame = build(self.suite.settings("messaging", **changes))  # type: ignore[arg-type]  # is MessagingSettings
        self.suite.frames["messaging"] = frame
        await frame.start()
        await answered(lambda: self.listed(self.admin))

    def storage_sql(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """Rows, by messaging's own role; none for a statement without any."""
        with self.suite.database("messaging") as database:
            cursor = database.execute(statement, values)  # type: ignore[call-overload]
            return list(cursor.fetchall()) if cursor.description else []

    def stored_bytes(self) -> int:
        """What the quota says that the workspace takes."""
        rows = self.storage_sql("SELECT bytes FROM workspace_storage WHERE workspace_id = %(id)s", id=self.workspace_id)
        return int(rows[0][0]) if rows else 0

    def rows(self) -> int:
        """How many files the workspace has."""
        found = self.storage_sql("SELECT count(*) FROM files WHERE workspace_id = %(id)s", id=self.workspace_id)
        return int(found[0][0])

    def blobs(self, file_id: str) -> list[str]:
        """The names of what the store has of a file."""
        folder = self.folder / file_id
        return sorted(os.listdir(folder)) if folder.exists() else []

    async def nothing_left(self, file_id: str) -> None:
        """Waits until neither a row nor a blob nor a claim on the quota is left of a workspace's only file."""
        for _ in range(1500):
            if not self.blobs(file_id):
                assert (self.rows(), self.stored_bytes()) == (0, 0)
                return
            await asyncio.sleep(0.02)
        raise TimeoutError("the blobs were never removed")


def unknown() -> str:
    """An id that stands for nothing."""
    return str(uuid.uuid4())


async def cut(call: Any) -> grpc.StatusCode:
    """The code of a call that ends without an answer."""
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    raise AssertionError("it ended well")
