"""What happens at once: streams of one file, its completion, and the workspace's storage, which stays exact."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator

import grpc
import pytest
from guildhall.messaging.v1 import file_service_pb2 as pb

from services.messaging import files, transfers
from services.messaging import uploads as uploading
from services.messaging.access import Viewer
from services.messaging.blobs import open_blobs
from services.messaging.uploads import Uploads
from tests.support.files import PART, FileRoom
from tests.support.suite import Refusal, Suite, refusal_of, refused


@pytest.fixture
async def room(suite: Suite) -> FileRoom:
    """A workspace of this test's own."""
    made = await FileRoom.make(suite)
    assert isinstance(made, FileRoom)
    return made


def uploads_of(room: FileRoom) -> Uploads:
    """What uploads in another replica would be: the same database and store, nothing else in common."""
    frame = room.suite.frames["messaging"]
    return Uploads(
        frame.database,
        open_blobs(room.suite.settings("messaging")),  # type: ignore[arg-type]  # is MessagingSettings
        access=None,  # type: ignore[arg-type]  # nothing is asked below
        sessions=frame.sessions,
    )


async def test_streams_of_the_same_file_at_once_make_one_file(room: FileRoom) -> None:
    content = os.urandom(9 * PART + 100)
    file_id = await room.created(room.admin, content)
    answers = await asyncio.gather(
        *(room.upload(room.admin, file_id, content, frame=frame) for frame in (PART, 100_000, PART, 33_333))
    )
    assert {answer.file.state for answer in answers} == {pb.FILE_STATE_READY}
    assert len({answer.file.complete_time.ToNanoseconds() for answer in answers}) == 1
    assert await room.download(room.admin, file_id) == content
    assert len(room.blobs(file_id)) == 10


async def test_two_streams_that_differ_never_make_a_file_of_neither(room: FileRoom) -> None:
    one, two = os.urandom(6 * PART), os.urandom(6 * PART)
    file_id = await room.created(room.admin, one)
    outcomes = await asyncio.gather(
        room.upload(room.admin, file_id, one), room.upload(room.admin, file_id, two), return_exceptions=True
    )
    reasons = {refusal_of(each).reason for each in outcomes if isinstance(each, grpc.aio.AioRpcError)}
    if reasons:
        assert reasons <= {"DIGEST_MISMATCH", "NOT_FOUND"}
        await room.nothing_left(file_id)
    else:
        assert await room.download(room.admin, file_id) == one


async def test_completing_a_file_twice_at_once_completes_it_once(room: FileRoom) -> None:
    content = os.urandom(3 * PART)
    file_id = await room.created(room.admin, content)
    await room.upload(room.admin, file_id, content[: 2 * PART])
    await _store_last(room, file_id, content)
    row = await _row(room, file_id)
    one, two = uploads_of(room), uploads_of(room)
    done = await asyncio.gather(one.finish(row), two.finish(row), one.finish(row), two.finish(row))
    assert {each.state for each in done} == {"ready"}
    assert len({each.completed_at for each in done}) == 1
    assert (await one.finish(row)).completed_at == done[0].completed_at


async def test_a_part_that_came_too_late_replaces_nothing_and_is_not_kept(room: FileRoom) -> None:
    content = os.urandom(2 * PART)
    file_id = await room.created(room.admin, content)
    await room.upload(room.admin, file_id, content[:PART])
    late = uploads_of(room)
    writer = Viewer(room.workspace_id, room.admin.user_id, room.admin_member_id, None)
    assert not await late.store(writer, file_id, offset=0, data=os.urandom(PART))
    assert room.blobs(file_id) == [f"0-{hashlib.sha256(content[:PART]).hexdigest()}"]
    # The same part again is the recorded one: it stays.
    assert not await late.store(writer, file_id, offset=0, data=content[:PART])
    assert (await room.upload(room.admin, file_id, content[PART:], offset=PART)).file.state == pb.FILE_STATE_READY
    assert await room.download(room.admin, file_id) == content


async def test_a_part_damaged_in_the_store_is_found_before_the_file_is_ready(room: FileRoom) -> None:
    content = os.urandom(2 * PART)
    file_id = await room.created(room.admin, content)
    await room.upload(room.admin, file_id, content[:PART])
    (stored,) = room.blobs(file_id)
    (room.folder / file_id / stored).write_bytes(bytes(PART))
    assert (await refused(room.upload(room.admin, file_id, content[PART:], offset=PART))).reason == "DIGEST_MISMATCH"
    await room.nothing_left(file_id)


async def test_a_workspaces_storage_is_exact_however_many_announce_and_delete_at_once(room: FileRoom) -> None:
    try:
        await room.restarted(storage_bytes_per_workspace=1000)
        made: list[object] = []
        for _ in range(4):
            made += await asyncio.gather(*(_created(room, 100) for _ in range(5)))
        kept = [file_id for file_id in made if isinstance(file_id, str)]
        refused_ones = [refusal for refusal in made if isinstance(refusal, Refusal)]
        assert (len(kept), len(refused_ones), room.stored_bytes()) == (10, 10, 1000)
        assert {(each.code, each.reason) for each in refused_ones} == {
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
        }
        assert refused_ones[0].metadata == {"limit": "storage", "most": "1000"}
        assert room.rows() == 10
        await asyncio.gather(*(room.delete(room.admin, file_id) for file_id in kept[:5]), _created(room, 10_000))
        assert room.stored_bytes() == 500
        again = await asyncio.gather(*(_created(room, 100) for _ in range(8)))
        assert sum(isinstance(each, str) for each in again) == 5
        assert (room.rows(), room.stored_bytes()) == (10, 1000)
        assert isinstance(await _created(room, 1), Refusal)
    finally:
        await room.restarted()
    assert isinstance(await _created(room, 1), str)


async def test_a_file_larger_than_the_setting_is_refused_and_one_as_large_is_taken(room: FileRoom) -> None:
    try:
        await room.restarted(most_file_bytes=1000)
        refusal = await refused(room.create(room.admin, size_bytes=1001))
        assert (refusal.code, set(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {"size_bytes"})
        assert await room.created(room.admin, size_bytes=1000)
    finally:
        await room.restarted()


async def test_a_member_has_at_most_so_many_files_that_no_message_holds(
    room: FileRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_UNATTACHED", 2)
    first, _ = await room.uploaded(room.admin), await room.uploaded(room.admin)
    refusal = await refused(room.create(room.admin))
    assert (refusal.reason, refusal.metadata["limit"]) == ("LIMIT_REACHED", "unattached_files")
    assert (room.rows(), room.stored_bytes()) == (2, 14)
    room.attach(first, (await room.sent(room.admin)).message_id)
    assert await room.created(room.admin)


async def test_a_person_has_at_most_so_many_transfers_at_once(room: FileRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "MOST_OF_USER", 2)
    member, _ = await room.member()
    content, held = os.urandom(2 * PART), asyncio.Event()
    file_id = await room.created(room.admin, content)
    shared = await room.attached(room.admin)

    async def chunks() -> AsyncIterator[bytes]:
        yield content[:PART]
        await held.wait()
        yield content[PART:]

    running = [asyncio.ensure_future(_answer(room.stream(room.admin, file_id, chunks()))) for _ in range(2)]
    await room.received(room.admin, file_id, PART)
    for call in (room.download(room.admin, shared), room.upload(room.admin, file_id, content)):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
    assert await room.download(member, shared) == b"content"
    monkeypatch.setattr(transfers, "MOST", 2)
    assert (await refused(room.download(member, shared))).reason == "OVERLOADED"
    held.set()
    assert {answer.file.state for answer in await asyncio.gather(*running)} == {pb.FILE_STATE_READY}
    assert await room.download(room.admin, shared) == b"content"


async def _created(room: FileRoom, size_bytes: int) -> str | Refusal:
    for _ in range(500):
        try:
            return await room.created(room.admin, size_bytes=size_bytes)
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                return refusal_of(error)
            await asyncio.sleep(0.02)
    raise TimeoutError("messaging never came back")


async def _answer(call: object) -> object:
    return await call  # type: ignore[misc]


async def _row(room: FileRoom, file_id: str) -> object:
    writer = Viewer(room.workspace_id, room.admin.user_id, room.admin_member_id, None)
    return await uploads_of(room).get_own(writer, file_id)


async def _store_last(room: FileRoom, file_id: str, content: bytes) -> None:
    """Has all of a file stored, and nobody look at it yet."""
    writer = Viewer(room.workspace_id, room.admin.user_id, room.admin_member_id, None)
    assert await uploads_of(room).store(writer, file_id, offset=2 * PART, data=content[2 * PART :])


async def test_many_files_uploaded_at_once_all_come_through_as_they_were(room: FileRoom) -> None:
    people = [room.admin, *[(await room.member())[0] for _ in range(2)]]
    contents = [os.urandom(4 * PART + number) for number in range(30)]
    senders = [people[number % 3] for number in range(30)]
    ids = [await room.created(*each) for each in zip(senders, contents, strict=True)]
    sizes = (PART, 65_536, 100_001)
    calls = [room.upload(senders[n], ids[n], contents[n], frame=sizes[n % 3]) for n in range(30)]
    answers = await asyncio.gather(*calls)
    assert {answer.file.state for answer in answers} == {pb.FILE_STATE_READY}
    assert room.stored_bytes() == sum(map(len, contents))
    for sender, file_id, content in zip(senders, ids, contents, strict=True):
        assert await room.download(sender, file_id) == content


async def test_a_sender_who_falls_silent_is_told_so_and_keeps_what_is_recorded(
    room: FileRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "IDLE_SECONDS", 0.5)
    content, never = os.urandom(2 * PART), asyncio.Event()
    file_id = await room.created(room.admin, content)

    async def chunks() -> AsyncIterator[bytes]:
        yield content[:PART]
        yield content[PART : PART + 1]
        await never.wait()

    refusal = await refused(room.stream(room.admin, file_id, chunks()))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    assert (await room.progress(room.admin, file_id)).received_bytes == PART
    assert (await room.upload(room.admin, file_id, content[PART:], offset=PART)).file.state == pb.FILE_STATE_READY


async def test_slow_senders_keep_no_turn_from_the_others(room: FileRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "MOST_TURNS", 1)
    await room.restarted()
    content, held = os.urandom(2 * PART), asyncio.Event()
    slow_ids = [await room.created(room.admin, content) for _ in range(3)]

    async def chunks() -> AsyncIterator[bytes]:
        yield content[:PART]
        await held.wait()
        yield content[PART:]

    slow = [asyncio.ensure_future(_answer(room.stream(room.admin, file_id, chunks()))) for file_id in slow_ids]
    for file_id in slow_ids:
        await room.received(room.admin, file_id, PART)
    assert await room.download(room.admin, await room.uploaded(room.admin, content)) == content
    assert not any(each.done() for each in slow)
    held.set()
    assert {answer.file.state for answer in await asyncio.gather(*slow)} == {pb.FILE_STATE_READY}
    monkeypatch.undo()
    await room.restarted()
