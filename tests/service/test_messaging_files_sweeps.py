"""What is removed without being asked for: unused uploads, orphaned blobs, what deleted workspaces held."""

import asyncio
import hashlib
import os
import time
import uuid

import pytest
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspaces_rpc

from services.messaging import file_sweeps
from services.messaging.blobs import Blobs, Part, open_blobs
from tests.support.files import PART, FileRoom
from tests.support.suite import Suite, refused

DAY_SECONDS = 24 * 3600


@pytest.fixture
async def room(suite: Suite) -> FileRoom:
    """A workspace of this test's own."""
    made = await FileRoom.make(suite)
    assert isinstance(made, FileRoom)
    return made


@pytest.fixture
async def blobs(room: FileRoom) -> Blobs:
    """The store, as the worker opens it."""
    return open_blobs(room.suite.settings("messaging"))  # type: ignore[arg-type]  # is MessagingSettings


@pytest.fixture
async def sweeps(room: FileRoom, blobs: Blobs) -> file_sweeps.Sweeps:
    """The sweeps, as the worker makes them."""
    return file_sweeps.Sweeps(room.suite.frames["messaging"].database, blobs)


def id_of_age(seconds: float) -> str:
    """A UUIDv7 that was made so long ago."""
    milliseconds = int((time.time() - seconds) * 1000)
    return str(uuid.UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | uuid.uuid4().int >> 68))


def make_older(room: FileRoom, file_id: str, hours: float) -> None:
    """Moves a file's announcement into the past."""
    room.storage_sql(
        "UPDATE files SET created_at = created_at - make_interval(secs => %(seconds)s) WHERE id = %(id)s",
        seconds=hours * 3600,
        id=file_id,
    )


async def put(room: FileRoom, blobs: Blobs, file_id: str, *, stored_ago: float) -> None:
    """Puts a part into the store, so long ago by the store's clock."""
    part = Part(0, hashlib.sha256(file_id.encode()).digest())
    await blobs.put(file_id, part, file_id.encode())
    (name,) = room.blobs(file_id)
    moment = time.time() - stored_ago
    os.utime(room.folder / file_id / name, (moment, moment))


async def test_what_no_message_took_up_within_a_day_goes_and_the_rest_stays(
    room: FileRoom, sweeps: file_sweeps.Sweeps
) -> None:
    content = os.urandom(PART + 1)
    begun, ready, attached = (
        await room.created(room.admin, content),
        await room.uploaded(room.admin, content),
        await room.attached(room.admin, content),
    )
    await room.upload(room.admin, begun, content[:PART])
    young = await room.uploaded(room.admin, content)
    for file_id in (begun, ready, attached):
        make_older(room, file_id, 24)
    make_older(room, young, 23.9)
    await sweeps.expired()
    for file_id in (begun, ready):
        assert (await refused(room.get(room.admin, file_id))).reason == "NOT_FOUND"
    for file_id in (attached, young):
        assert await room.download(room.admin, file_id) == content
    assert room.stored_bytes() == 2 * len(content)
    for file_id in (begun, ready):
        await _gone(room, file_id)
    assert len(room.blobs(attached)) == len(room.blobs(young)) == 2


async def test_an_upload_that_expires_in_the_middle_is_told_so(room: FileRoom, sweeps: file_sweeps.Sweeps) -> None:
    content = os.urandom(2 * PART)
    file_id = await room.created(room.admin, content)
    await room.upload(room.admin, file_id, content[:PART])
    make_older(room, file_id, 24)
    await sweeps.expired()
    assert (await refused(room.upload(room.admin, file_id, content[PART:], offset=PART))).reason == "NOT_FOUND"
    await room.nothing_left(file_id)


async def test_orphans_of_a_day_go_and_what_is_younger_or_known_or_not_ours_stays(
    room: FileRoom, blobs: Blobs, sweeps: file_sweeps.Sweeps
) -> None:
    orphan, late = id_of_age(DAY_SECONDS + 60), id_of_age(DAY_SECONDS + 60)
    young, known = id_of_age(DAY_SECONDS - 60), await room.attached(room.admin)
    stranger, version4 = "not-an-id", str(uuid.uuid4())
    await put(room, blobs, orphan, stored_ago=DAY_SECONDS + 60)
    await put(room, blobs, late, stored_ago=60)
    await put(room, blobs, young, stored_ago=DAY_SECONDS + 60)
    await put(room, blobs, stranger, stored_ago=DAY_SECONDS + 60)
    await put(room, blobs, version4, stored_ago=DAY_SECONDS + 60)
    old = id_of_age(DAY_SECONDS + 60)
    await put(room, blobs, old, stored_ago=DAY_SECONDS + 60)
    room.storage_sql(
        "UPDATE files SET id = %(old)s WHERE id = %(known)s", old=old, known=await room.created(room.admin)
    )
    await sweeps.orphans()
    assert room.blobs(orphan) == []
    for kept in (late, young, known, stranger, version4, old):
        assert len(room.blobs(kept)) == 1
        await blobs.remove(kept) if kept != known else None


async def test_a_run_looks_at_so_many_pages_and_the_next_one_goes_on(
    room: FileRoom, blobs: Blobs, sweeps: file_sweeps.Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.messaging.blobs.PAGE", 3)
    orphans = [id_of_age(DAY_SECONDS + 60) for _ in range(20)]
    for file_id in orphans:
        await put(room, blobs, file_id, stored_ago=DAY_SECONDS + 60)
    left = [len(orphans)]
    for _ in range(5000):
        await sweeps.orphans(pages=1)
        left.append(sum(bool(room.blobs(file_id)) for file_id in orphans))
        assert left[-2] - left[-1] <= 3
        if not left[-1]:
            return
    raise AssertionError(f"some orphans were never found: {left[-1]}")


async def test_blobs_are_removed_once_however_often_it_is_asked(room: FileRoom, blobs: Blobs) -> None:
    file_id = await room.uploaded(room.admin, os.urandom(3 * PART))
    other = await room.uploaded(room.admin)
    await asyncio.gather(*(blobs.remove(file_id) for _ in range(4)))
    await blobs.remove(file_id)
    assert room.blobs(file_id) == []
    assert await room.download(room.admin, other) == b"content"
    # What the store has lost is no file's end, and nobody is given half of it.
    assert (await refused(room.download(room.admin, file_id))).reason == "BLOBS_UNAVAILABLE"


async def test_a_deleted_workspace_takes_its_files_along_and_no_others(room: FileRoom) -> None:
    elsewhere = await FileRoom.make(room.suite)
    assert isinstance(elsewhere, FileRoom)
    kept = await elsewhere.attached(elsewhere.admin)
    content = os.urandom(PART + 1)
    held = [await room.attached(room.admin, content), await room.uploaded(room.admin), await room.created(room.admin)]
    more = [await room.uploaded(room.admin, b"x", to=await room.channel()) for _ in range(25)]
    stub = room.suite.stub(workspaces_rpc.WorkspaceServiceStub)
    workspace = (
        await room.admin.call(stub.GetWorkspace, workspaces.GetWorkspaceRequest(workspace_id=room.workspace_id))
    ).workspace
    await room.admin.call(
        stub.DeleteWorkspace,
        workspaces.DeleteWorkspaceRequest(workspace_id=room.workspace_id, etag=workspace.etag),
    )
    for file_id in (*held, *more):
        await _gone(room, file_id)
    for _ in range(1500):
        if not room.storage_sql("SELECT FROM workspace_storage WHERE workspace_id = %(id)s", id=room.workspace_id):
            break
        await asyncio.sleep(0.02)
    assert (room.rows(), room.stored_bytes()) == (0, 0)
    assert await elsewhere.download(elsewhere.admin, kept) == b"content"
    assert elsewhere.stored_bytes() == len(b"content")


async def _gone(room: FileRoom, file_id: str) -> None:
    """Waits until the worker has removed what the store had of a file."""
    for _ in range(1500):
        if not room.blobs(file_id):
            return
        await asyncio.sleep(0.02)
    raise TimeoutError("the blobs were never removed")
