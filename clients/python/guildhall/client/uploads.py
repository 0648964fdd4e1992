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
from guildhall.client.errors import GuildhallError, TooMuch, Unavailable, error_of
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
_PAUSE_SECONDS = 0.5

Progress = Callable[[int, int], None]
"""Told how many bytes have been sent, and how many there are. It falls back when a connection breaks."""


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


async def upload(
    client: "Client",
    workspace_id: str,
    conversation_id: str,
    path: Path,
    *,
    name: str,
    mime_type: str,
    progress: Progress | None,
) -> pb.File:
    """What `Client.upload` does."""
    content = await asyncio.to_thread(_read, path, name, mime_type)
    stub = client.stub(rpc.FileServiceStub)
    file = await _find_begun(client, workspace_id, conversation_id, content)
    if file is None:
        request = pb.CreateUploadRequest(
            workspace_id=workspace_id,
            conversation_id=conversation_id,
            name=content.name,
            mime_type=content.mime_type,
            size_bytes=content.size_bytes,
            sha256=content.sha256,
        )
        made: Any = await client.call(stub.CreateUpload, request)
        file = made.file
    moved_at = time.monotonic()
    while file.state != pb.FILE_STATE_READY:
        before = file.received_bytes
        try:
            file = await _send(client, file, content, progress)
            continue
        except grpc.aio.AioRpcError as error:
            refused = error_of(error)
        except Unavailable as error:
            refused = error
        if not _will_pass(refused):
            raise refused
        await asyncio.sleep(refused.retry_after_seconds or _PAUSE_SECONDS * random.uniform(1.0, 1.5))
        asked: Any = await client.call(
            stub.GetUpload, pb.GetUploadRequest(workspace_id=workspace_id, file_id=file.file_id), seconds=STILL_SECONDS
        )
        file = asked.file
        if file.received_bytes > before:
            moved_at = time.monotonic()
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


async def _find_begun(client: "Client", workspace_id: str, conversation_id: str, content: _Content) -> pb.File | None:
    """An earlier upload of the same content that no message holds. Only its uploader sees such a file."""
    request = pb.ListFilesRequest(workspace_id=workspace_id, conversation_id=conversation_id, page_size=200)
    page: Any = await client.call(client.stub(rpc.FileServiceStub).ListFiles, request)
    oldest = datetime.now(UTC) - _GONE_ON_WITH
    for file in page.files:
        same = (file.name, file.mime_type, file.size_bytes, file.sha256) == (
            content.name,
            content.mime_type,
            content.size_bytes,
            content.sha256,
        )
        if same and not file.message_id and file.create_time.ToDatetime(tzinfo=UTC) > oldest:
            found: pb.File = file
            return found
    return None


async def _send(client: "Client", file: pb.File, content: _Content, progress: Progress | None) -> pb.File:
    """One stream, from where the file stands to its end."""
    stub: Any = client.stub(rpc.FileServiceStub)
    call = stub.UploadFile(metadata=await client.metadata())
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
