"""Files on their way in: sent as a stream of parts, gone on with where they stand after a broken connection."""

import asyncio
import hashlib
import mimetypes
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from guildhall.client.credentials import Metadata, refused_token
from guildhall.client.errors import GuildhallError, TooMuch, Unavailable, error_of
from guildhall.identity.v1 import session_service_pb2 as sessions
from guildhall.identity.v1 import session_service_pb2_grpc as sessions_rpc
from guildhall.messaging.v1 import file_service_pb2 as pb
from guildhall.messaging.v1 import file_service_pb2_grpc as rpc

if TYPE_CHECKING:
    from guildhall.client.calls import Client

PART_BYTES = 256 * 1024
"""What the server stores as one; a broken connection costs less than that."""
STILL_SECONDS = 60.0
"""So long nothing may arrive before an upload is given up."""
_GONE_ON_WITH = timedelta(hours=23)
"""How old a begun upload may be: the server deletes after 24 h what no message has taken up."""
_PAGE_FILES = 200
_PAUSE_SECONDS = 0.5

Progress = Callable[[int, int], None]
"""Told how many bytes have been sent, and how many there are. It falls back when a connection breaks."""


Place = tuple[str, str]
"""A workspace and a conversation of it."""
Facts = tuple[str, str, int, bytes]
"""A file's name, type, size and SHA-256: what of it is announced, and by which it is known again."""
Announced = tuple[Place, Facts]


class FileChangedError(Exception):
    """The file is not any more what it was when its upload began."""


@dataclass(frozen=True)
class _Content:
    """A file on this machine, as it is announced."""

    path: Path
    name: str
    mime_type: str
    size_bytes: int
    sha256: bytes

    @property
    def facts(self) -> Facts:
        return self.name, self.mime_type, self.size_bytes, self.sha256


async def upload(
    client: "Client",
    place: Place,
    path: Path,
    *,
    name: str,
    mime_type: str,
    reuse: bool,
    progress: Progress | None,
    under_way: list[Announced],
) -> pb.File:
    """What `Client.upload` does. `under_way` is what the client is uploading just now."""
    content = await asyncio.to_thread(_read, path, name, mime_type)
    announced = (place, content.facts)
    # What is still being sent is another call's, for a message of its own.
    may_be_begun = announced not in under_way
    under_way.append(announced)
    try:
        file = await _find_begun(client, place, content, reuse=reuse) if may_be_begun else None
        return await _finish(client, file or await _announce(client, place, content), content, progress)
    finally:
        under_way.remove(announced)


async def _announce(client: "Client", place: Place, content: _Content) -> pb.File:
    workspace_id, conversation_id = place
    request = pb.CreateUploadRequest(
        workspace_id=workspace_id,
        conversation_id=conversation_id,
        name=content.name,
        mime_type=content.mime_type,
        size_bytes=content.size_bytes,
        sha256=content.sha256,
    )
    made: Any = await client.call(client.stub(rpc.FileServiceStub).CreateUpload, request)
    file: pb.File = made.file
    return file


async def _finish(client: "Client", file: pb.File, content: _Content, progress: Progress | None) -> pb.File:
    """Sends what is missing, over as many streams as it takes."""
    stub = client.stub(rpc.FileServiceStub)
    moved_at, other_than = time.monotonic(), ""
    metadata: Metadata = ()
    while file.state != pb.FILE_STATE_READY:
        before = file.received_bytes
        try:
            metadata = await client.metadata(other_than=other_than)
            file = await _send(client, file, content, metadata, progress)
            continue
        except grpc.aio.AioRpcError as error:
            refused = error_of(error)
            if not other_than and (other_than := refused_token(refused, metadata)):
                continue
        except Unavailable as error:
            refused = error
        if not _will_pass(refused):
            raise refused
        await asyncio.sleep(refused.retry_after_seconds or _PAUSE_SECONDS * random.uniform(1.0, 1.5))
        request = pb.GetUploadRequest(workspace_id=file.workspace_id, file_id=file.file_id)
        asked: Any = await client.call(stub.GetUpload, request, seconds=STILL_SECONDS)
        file = asked.file
        if file.received_bytes > before:
            moved_at, other_than = time.monotonic(), ""
        elif time.monotonic() - moved_at > STILL_SECONDS:
            raise refused
    if progress:
        progress(content.size_bytes, content.size_bytes)
    return file


def _read(path: Path, name: str, mime_type: str) -> _Content:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").digest()
        size_bytes = file.tell()
    name = name or path.name
    return _Content(
        path, name, mime_type or mimetypes.guess_type(name)[0] or "application/octet-stream", size_bytes, sha256
    )


async def _find_begun(client: "Client", place: Place, content: _Content, *, reuse: bool) -> pb.File | None:
    """The caller's earlier upload of the same content that no message holds. A moderator is shown others' as well.

    One that is complete may be on its way into another message, so it is found only for who says `reuse`.
    """
    workspace_id, conversation_id = place
    request = pb.ListFilesRequest(
        workspace_id=workspace_id, conversation_id=conversation_id, page_size=_PAGE_FILES, unattached=True
    )
    list_files: Any = client.stub(rpc.FileServiceStub).ListFiles
    oldest, user_id = datetime.now(UTC) - _GONE_ON_WITH, ""
    file: pb.File
    async for file in client.pages(list_files, request, lambda page: page.files):
        same = (file.name, file.mime_type, file.size_bytes, file.sha256) == content.facts
        is_fresh = file.create_time.ToDatetime(tzinfo=UTC) > oldest
        if same and is_fresh and (reuse or file.state != pb.FILE_STATE_READY):
            user_id = user_id or await _own_user_id(client)
            if file.uploader_user_id == user_id:
                return file
    return None


async def _own_user_id(client: "Client") -> str:
    stub = client.stub(sessions_rpc.SessionServiceStub)
    answer: Any = await client.call(stub.GetCurrentSession, sessions.GetCurrentSessionRequest())
    user_id: str = answer.session.user_id
    return user_id


async def _send(
    client: "Client", file: pb.File, content: _Content, metadata: Metadata, progress: Progress | None
) -> pb.File:
    """One stream, from where the file stands to its end."""
    stub: Any = client.stub(rpc.FileServiceStub)
    call = stub.UploadFile(metadata=metadata)
    sent = file.received_bytes
    start = pb.UploadStart(workspace_id=file.workspace_id, file_id=file.file_id, offset=sent)
    try:
        await call.write(pb.UploadFileRequest(start=start))
        with content.path.open("rb") as source:
            source.seek(sent)
            while sent < content.size_bytes:
                if progress:
                    progress(sent, content.size_bytes)
                data = await asyncio.to_thread(source.read, min(PART_BYTES, content.size_bytes - sent))
                if not data:
                    raise FileChangedError(f"{content.path} has become shorter since its upload began")
                await call.write(pb.UploadFileRequest(data=data))
                sent += len(data)
        await call.done_writing()
        answer = await call
    except asyncio.InvalidStateError:
        # Answered before all of it was sent: with a refusal, which this raises.
        answer = await call
    finally:
        call.cancel()
    stored: pb.File = answer.file
    return stored


def _will_pass(refused: GuildhallError) -> bool:
    return isinstance(refused, Unavailable) or (
        isinstance(refused, TooMuch) and refused.reason in ("OVERLOADED", "TOO_MANY_STREAMS")
    )
