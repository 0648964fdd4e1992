"""Where the bytes are: a bucket as well as a folder; and a store that fails, of which nobody sees half a file."""

import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from guildhall.messaging.v1 import file_service_pb2 as pb

from deploy.stack import services as stack_services
from services.messaging import file_sweeps
from services.messaging.blobs import Blobs, Part, open_blobs
from tests.service.test_messaging_files_sweeps import DAY_SECONDS, id_of_age
from tests.support.files import PART, FileRoom
from tests.support.stores import BUCKET, Front, s3
from tests.support.suite import Suite, refused


@pytest.fixture
async def room(suite: Suite) -> AsyncIterator[FileRoom]:
    """A workspace of this test's own; messaging is as it was afterwards."""
    made = await FileRoom.make(suite)
    assert isinstance(made, FileRoom)
    yield made
    await made.restarted()


@pytest.fixture(scope="module")
def s3_port() -> Iterator[int]:
    """A bucket."""
    with s3() as port:
        yield port


@pytest.fixture
async def front(s3_port: int) -> AsyncIterator[Front]:
    """The way to it."""
    async with Front(s3_port).running() as running:
        yield running


@pytest.fixture
def bucket(front: Front, tmp_path: Path) -> dict[str, Any]:
    """The settings that name it."""
    secret = tmp_path / "blob-secret"
    secret.write_text("not much of a secret\n")
    return {
        "blob_url": f"s3://{BUCKET}/{tmp_path.name}",
        "blob_endpoint": f"http://127.0.0.1:{front.port}",
        "blob_key_id": "key",
        "blob_secret_key_file": secret,
    }


def store_of(room: FileRoom, settings: dict[str, Any]) -> Blobs:
    """The store that settings name, as the worker opens it."""
    return open_blobs(room.suite.settings("messaging", **settings))  # type: ignore[arg-type]  # is MessagingSettings


async def keys(blobs: Blobs, file_id: str) -> list[str]:
    """What a store has of a file."""
    return sorted([key async for page in blobs.pages(file_id) for key, _ in page])


async def test_files_go_through_a_bucket_as_through_a_folder(room: FileRoom, bucket: dict[str, Any]) -> None:
    await room.restarted(**bucket)
    blobs, content = store_of(room, bucket), os.urandom(5 * PART + 1)
    file_id = await room.created(room.admin, content)
    await room.break_after(room.admin, file_id, content, offset=0, until=2 * PART)
    done = (await room.progress(room.admin, file_id)).received_bytes
    answer = await room.upload(room.admin, file_id, content[done:], offset=done)
    assert answer.file.state == pb.FILE_STATE_READY
    assert len(await keys(blobs, file_id)) == 6
    for offset, length in ((0, 0), (PART - 5, 10), (3 * PART + 1, 2 * PART), (5 * PART, 0)):
        expected = content[offset : offset + length] if length else content[offset:]
        assert await room.download(room.admin, file_id, offset, length) == expected
    assert not room.blobs(file_id)
    await room.delete(room.admin, file_id)
    await file_sweeps.blob_remover(room.suite.frames["messaging"].database, blobs)(file_id, "")
    await blobs.remove(file_id)
    assert await keys(blobs, file_id) == []


async def test_orphans_in_a_bucket_are_found_by_id_and_by_the_buckets_time(
    room: FileRoom, bucket: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await room.restarted(**bucket)
    blobs, known, orphan = store_of(room, bucket), await room.uploaded(room.admin), id_of_age(DAY_SECONDS + 60)
    await blobs.put(orphan, Part(0, hashlib.sha256(b"x").digest()), b"x")
    sweeps = file_sweeps.Sweeps(room.suite.frames["messaging"].database, blobs)
    await sweeps.orphans()
    assert len(await keys(blobs, orphan)) == 1
    # Nobody can move the bucket's clock; what is a day is moved instead, for the ids as well.
    monkeypatch.setattr(file_sweeps, "DAY", file_sweeps.DAY * 0)
    await sweeps.orphans()
    assert await keys(blobs, orphan) == []
    assert len(await keys(blobs, known)) == 1
    assert await room.download(room.admin, known) == b"content"


@pytest.mark.parametrize(("mode", "cut_after"), [("500", 0), ("cut", 0), ("cut", 100_000)])
async def test_a_bucket_that_fails_is_told_and_the_upload_goes_on_from_where_it_was(
    room: FileRoom, bucket: dict[str, Any], front: Front, mode: str, cut_after: int
) -> None:
    await room.restarted(**bucket)
    content = os.urandom(3 * PART)
    file_id, whole = await room.created(room.admin, content), await room.attached(room.admin, content)
    await room.upload(room.admin, file_id, content[:PART])
    front.turn(mode, cut_after_bytes=cut_after)
    for call in (
        room.upload(room.admin, file_id, content[PART:], offset=PART),
        room.chunk(room.admin, file_id, content[PART : 2 * PART], offset=PART),
        room.download(room.admin, whole),
    ):
        if cut_after and call.__class__.__name__ == "coroutine":
            call.close()  # requests to read are shorter than what is let through
            continue
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "BLOBS_UNAVAILABLE")
        assert "received_bytes" in refusal.text
    assert front.requests > 0
    progress = await room.progress(room.admin, file_id)
    assert (progress.received_bytes, progress.state) == (PART, pb.FILE_STATE_UPLOADING)
    front.turn("pass")
    answer = await room.upload(room.admin, file_id, content[PART:], offset=PART)
    assert answer.file.state == pb.FILE_STATE_READY
    assert await room.download(room.admin, file_id) == content == await room.download(room.admin, whole)


async def test_a_bucket_that_fails_while_all_is_compared_leaves_the_upload_to_be_completed(
    room: FileRoom, bucket: dict[str, Any], front: Front
) -> None:
    await room.restarted(**bucket)
    content = os.urandom(PART)
    file_id = await room.created(room.admin, content)
    refusal = await refused(room.stream(room.admin, file_id, _then_break(content, front, room, file_id)))
    assert refusal.reason == "BLOBS_UNAVAILABLE"
    progress = await room.progress(room.admin, file_id)
    assert (progress.received_bytes, progress.state) == (PART, pb.FILE_STATE_UPLOADING)
    front.turn("pass")
    done = await room.upload(room.admin, file_id, b"", offset=PART)
    assert done.file.state == pb.FILE_STATE_READY


async def test_blobs_whose_store_is_away_are_removed_when_it_is_back(
    room: FileRoom, bucket: dict[str, Any], front: Front
) -> None:
    from services.chassis.errors import PeerUnavailable

    await room.restarted(**bucket)
    blobs, file_id = store_of(room, bucket), await room.uploaded(room.admin)
    front.turn("500")
    # The kind of failure that puts work back without counting a try.
    with pytest.raises(PeerUnavailable):
        await file_sweeps.blob_remover(room.suite.frames["messaging"].database, blobs)(file_id, "")
    front.turn("pass")
    await file_sweeps.blob_remover(room.suite.frames["messaging"].database, blobs)(file_id, "")
    assert await keys(blobs, file_id) == []


@pytest.mark.parametrize("broken", ["a file in the folder's place", "no folder"])
async def test_a_folder_that_fails_is_told_and_the_upload_goes_on_from_where_it_was(
    room: FileRoom, tmp_path: Path, broken: str
) -> None:
    await room.restarted(blob_url=tmp_path.as_uri())
    content = os.urandom(3 * PART)
    file_id = await room.created(room.admin, content)
    await room.upload(room.admin, file_id, content[:PART])
    folder = tmp_path / "blobs" / file_id
    folder.rename(tmp_path / "aside")
    if broken == "no folder":
        (tmp_path / "blobs").rmdir()
        (tmp_path / "blobs").write_bytes(b"")
    else:
        folder.write_bytes(b"")
    for call in (
        room.upload(room.admin, file_id, content[PART:], offset=PART),
        room.chunk(room.admin, file_id, content[PART : 2 * PART], offset=PART),
    ):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "BLOBS_UNAVAILABLE")
    assert (await room.progress(room.admin, file_id)).received_bytes == PART
    if broken == "no folder":
        (tmp_path / "blobs").unlink()
        (tmp_path / "blobs").mkdir()
    else:
        folder.unlink()
    (tmp_path / "aside").rename(folder)
    answer = await room.upload(room.admin, file_id, content[PART:], offset=PART)
    assert answer.file.state == pb.FILE_STATE_READY
    assert await room.download(room.admin, file_id) == content


async def test_a_process_that_may_write_no_more_tells_so_and_leaves_no_half_part(
    room: FileRoom, tmp_path: Path
) -> None:
    """A full disk, as far as that goes without one: the limit on a file's size makes the same write fail half-way."""
    content = os.urandom(2 * PART)
    file_id = await room.created(room.admin, content)
    await room.suite.stop("messaging")
    process = _served(room, tmp_path, limit_bytes=PART // 2)
    try:
        refusal = await refused(_first(room, file_id, content))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "BLOBS_UNAVAILABLE")
        assert (await room.progress(room.admin, file_id)).received_bytes == 0
        assert _files_in(tmp_path) == []
    finally:
        _ended(process)
    process = _served(room, tmp_path, limit_bytes=1 << 30)
    try:
        answer = await _first(room, file_id, content)
        assert answer.file.state == pb.FILE_STATE_READY
        assert await room.download(room.admin, file_id) == content
    finally:
        _ended(process)
        shutil.rmtree(tmp_path / "blobs")


def _files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def _then_break(content: bytes, front: Front, room: FileRoom, file_id: str) -> AsyncIterator[bytes]:
    """All of a file, and then the end of the store, before the stream's own end has the parts compared."""
    yield content
    await room.received(room.admin, file_id, len(content))
    front.turn("500")


async def _first(room: FileRoom, file_id: str, content: bytes) -> Any:
    """The answer of the first upload that reaches the process."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return await room.upload(room.admin, file_id, content)
        except grpc.aio.AioRpcError as error:
            has_details = any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())
            if has_details or error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise


def _served(room: FileRoom, folder: Path, *, limit_bytes: int) -> subprocess.Popen[bytes]:
    """messaging as a process of its own, with a limit on how large its files may be."""
    stack = room.suite.stack
    environment = stack_services.environment(
        stack.settings, "messaging", postgres=stack.postgres, valkey=stack.valkey
    ) | {"GUILDHALL_BLOB_URL": folder.as_uri(), "GUILDHALL_DRAIN_SECONDS": "0"}
    command = [sys.executable, "-m", "services.messaging", "serve"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    # No log: as a file it would be under the limit too.
    return subprocess.Popen(
        command,
        env={**os.environ, **environment},
        preexec_fn=limit,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
