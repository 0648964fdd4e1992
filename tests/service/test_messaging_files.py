"""Files from end to end: encrypted, uploaded over broken connections, fetched in ranges; and what is refused."""

import asyncio
import hashlib
import os
import uuid
from typing import Any

import grpc
import nacl.bindings as sodium
import pytest
from guildhall.messaging.v1 import file_service_pb2 as pb

from tests.support.files import PART, FileRoom
from tests.support.suite import Suite, refused


@pytest.fixture
async def room(suite: Suite) -> FileRoom:
    """A workspace of this test's own."""
    made = await FileRoom.make(suite)
    assert isinstance(made, FileRoom)
    return made


def encrypted(clear: bytes, key: bytes, *, step: int = 65_536) -> tuple[bytes, bytes]:
    """The header and the ciphertext of a libsodium secretstream."""
    state = sodium.crypto_secretstream_xchacha20poly1305_state()
    header = sodium.crypto_secretstream_xchacha20poly1305_init_push(state, key)
    message, final = (
        sodium.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE,
        sodium.crypto_secretstream_xchacha20poly1305_TAG_FINAL,
    )
    pieces = [clear[at : at + step] for at in range(0, len(clear), step)]
    pushed = [
        sodium.crypto_secretstream_xchacha20poly1305_push(state, piece, None, final if last else message)
        for piece, last in zip(pieces, [False] * (len(pieces) - 1) + [True], strict=True)
    ]
    return header, b"".join(pushed)


def decrypted(header: bytes, cipher: bytes, key: bytes, *, step: int = 65_536) -> bytes:
    """The way back; fails for a single wrong byte."""
    state = sodium.crypto_secretstream_xchacha20poly1305_state()
    sodium.crypto_secretstream_xchacha20poly1305_init_pull(state, header, key)
    size = step + sodium.crypto_secretstream_xchacha20poly1305_ABYTES
    pulled = [
        sodium.crypto_secretstream_xchacha20poly1305_pull(state, cipher[at : at + size])
        for at in range(0, len(cipher), size)
    ]
    assert pulled[-1][1] == sodium.crypto_secretstream_xchacha20poly1305_TAG_FINAL
    return b"".join(piece for piece, _ in pulled)


async def test_an_encrypted_file_survives_three_broken_connections_and_comes_back_in_ranges(room: FileRoom) -> None:
    reader, _ = await room.member()
    clear, key = os.urandom(2_500_000), sodium.crypto_secretstream_xchacha20poly1305_keygen()
    header, cipher = encrypted(clear, key)
    file_id = await room.created(room.admin, cipher, header=header, name="ciphertext of a name")
    done = 0
    for until in (PART, 3 * PART, 6 * PART):
        await room.break_after(room.admin, file_id, cipher, offset=done, until=until)
        done = (await room.progress(room.admin, file_id)).received_bytes
        assert done >= until
        assert done % PART == 0
    answer = await room.upload(room.admin, file_id, cipher[done:], offset=done, frame=50_001)
    assert (answer.file.state, answer.received_bytes) == (pb.FILE_STATE_READY, len(cipher))
    room.attach(file_id, (await room.sent(room.admin)).message_id)

    file = (await room.get(reader, file_id)).file
    ranges = [(0, 1), (1, 700_000), (700_001, 999_999), (1_700_000, 0)]
    found = b"".join([await room.download(reader, file_id, *stretch) for stretch in ranges])
    assert hashlib.sha256(found).digest() == file.sha256
    assert decrypted(file.header, found, key) == clear
    assert await room.download(reader, file_id) == cipher


async def test_what_is_announced_is_what_is_shown(room: FileRoom) -> None:
    content = os.urandom(10)
    file_id = await room.created(room.admin, content, name="a", mime_type="text/plain; charset=utf-8")
    begun = await room.progress(room.admin, file_id)
    assert (begun.state, begun.received_bytes, begun.size_bytes) == (pb.FILE_STATE_UPLOADING, 0, 10)
    assert not begun.HasField("complete_time")
    done = (await room.upload(room.admin, file_id, content)).file
    assert done == (await room.get(room.admin, file_id)).file == await room.progress(room.admin, file_id)
    assert (done.name, done.mime_type, done.message_id) == ("a", "text/plain; charset=utf-8", "")
    assert (done.uploader_member_id, done.uploader_user_id) == (room.admin_member_id, room.admin.user_id)
    assert (done.sha256, done.header) == (hashlib.sha256(content).digest(), b"")
    assert done.HasField("complete_time")


async def test_the_same_request_announces_one_file_and_another_body_is_refused(room: FileRoom) -> None:
    request_id = str(uuid.uuid4())
    made = await asyncio.gather(*(room.create(room.admin, request_id=request_id) for _ in range(8)))
    assert len({answer.file.file_id for answer in made}) == 1
    assert (room.rows(), room.stored_bytes()) == (1, len(b"content"))
    refusal = await refused(room.create(room.admin, request_id=request_id, name="other"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_MISMATCH")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"header": bytes(23)}, "header"),
        ({"header": bytes(25)}, "header"),
        ({"sha256": bytes(31)}, "sha256"),
        ({"sha256": bytes(33)}, "sha256"),
        ({"size_bytes": 0}, "size_bytes"),
        ({"size_bytes": -1}, "size_bytes"),
        ({"size_bytes": (1 << 30) + 1}, "size_bytes"),
        ({"name": ""}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"mime_type": "x/" + "y" * 126}, "mime_type"),
        ({"mime_type": "no type"}, "mime_type"),
        ({"mime_type": "text/html\r\nx: y"}, "mime_type"),
    ],
)
async def test_a_field_that_breaks_its_rule_is_named_and_nothing_is_kept(
    room: FileRoom, changes: dict[str, Any], field: str
) -> None:
    refusal = await refused(room.create(room.admin, **changes))
    assert (refusal.code, set(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {field})
    assert (room.rows(), room.stored_bytes()) == (0, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"header": bytes(24)},
        {"header": b""},
        {"name": "x" * 255},
        {"name": "😀" * 255},
        {"mime_type": "x/" + "y" * 125},
        {"size_bytes": 1 << 30},
    ],
)
async def test_a_field_at_its_edge_is_taken(room: FileRoom, changes: dict[str, Any]) -> None:
    file = (await room.create(room.admin, **changes)).file
    assert all(getattr(file, name) == value for name, value in changes.items())


def hostile_names() -> list[str]:
    """Names that have broken something somewhere."""
    up = ["../" * n + "etc/passwd" for n in range(1, 61)] + ["..\\" * n + "boot.ini" for n in range(1, 61)]
    encoded = [f"{dots}{slash}secret" for dots in ("..", "%2e%2e", "%252e%252e", "．．", "‥") for slash in "/∕⧸\\⁄"]
    devices = [
        f"{name}{end}" for name in ("CON", "PRN", "AUX", "NUL", "COM1", "LPT9") for end in ("", ".txt", ":", " ")
    ]
    controls = [f"a{chr(code)}b" for code in (*range(1, 32), 127, *range(128, 160))]
    marks = [f"a{mark}gnp.exe" for mark in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"]
    unseen = [f"a{mark}b" for mark in "\u200b\u200c\u200d\u2060\ufeff\u00ad\u2028\u2029\u00a0\u3000\ufffd\ufffe\uffff"]
    shells = [
        "; rm -rf /",
        "$(reboot)",
        "`id`",
        "| cat",
        "&& ls",
        "-rf",
        "--help",
        "~",
        "~root",
        "*",
        "?",
        "a\nb",
        "'",
        '"',
    ]
    sql = ["'; DROP TABLE files; --", "%s", "%(id)s", ":name", "{0}", "{}", "\\x00", "\\", "E'\\000'", "$1"]
    plain = [
        ".",
        "..",
        "...",
        " ",
        "  a  ",
        ".htaccess",
        "a.",
        "a ",
        "/",
        "//",
        "\\\\host\\share",
        "C:\\a",
        "file:///a",
    ]
    emoji = ["😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "e\u0301" * 100, "ﷺ" * 255, "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A", "שלום", "مرحبا", "日本語.txt"]
    web = ["<script>alert(1)</script>", "javascript:alert(1)", "a.png?x=1#y", "\ud7ff\ue000", "😀" * 255, "x" * 255]
    return [*up, *encoded, *devices, *controls, *marks, *unseen, *shells, *sql, *plain, *emoji, *web]


async def test_three_hundred_hostile_names_are_kept_as_they_are_and_reach_no_path(room: FileRoom) -> None:
    names = hostile_names()
    assert len(names) >= 300
    before = {entry.name for entry in room.folder.parent.iterdir()}
    ids = [await room.uploaded(room.admin, b"x", name=name) for name in names[::20]]
    for at in range(0, len(names), 10):
        made = await asyncio.gather(*(room.create(room.admin, b"x", name=name) for name in names[at : at + 10]))
        assert [answer.file.name for answer in made] == names[at : at + 10]
    for file_id, name in zip(ids, names[::20], strict=True):
        assert (await room.get(room.admin, file_id)).file.name == name
        assert room.blobs(file_id) == [f"0-{hashlib.sha256(b'x').hexdigest()}"]
    assert {entry.name for entry in room.folder.parent.iterdir()} == before | {"blobs"}


async def test_a_wrong_hash_is_told_and_nothing_is_left(room: FileRoom) -> None:
    content = os.urandom(PART + 10)
    file_id = await room.created(room.admin, content, sha256=hashlib.sha256(b"other").digest())
    refusal = await refused(room.upload(room.admin, file_id, content))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "DIGEST_MISMATCH")
    assert "CreateUpload" in refusal.text
    assert (await refused(room.get(room.admin, file_id))).reason == "NOT_FOUND"
    await room.nothing_left(file_id)


@pytest.mark.parametrize("frame", [PART, 1000])
async def test_a_body_one_byte_over_is_told_and_nothing_is_left(room: FileRoom, frame: int) -> None:
    content = os.urandom(PART + 1000)
    file_id = await room.created(room.admin, content)
    refusal = await refused(room.upload(room.admin, file_id, content + b"x", frame=frame))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_TOO_LONG")
    assert "size_bytes" in refusal.text
    await room.nothing_left(file_id)


async def test_a_body_one_byte_short_is_not_complete_and_the_byte_completes_it(room: FileRoom) -> None:
    content = os.urandom(PART + 1000)
    file_id = await room.created(room.admin, content)
    answer = await room.upload(room.admin, file_id, content[:-1])
    assert (answer.received_bytes, answer.HasField("file")) == (PART, False)
    assert (await refused(_download(room, file_id))).reason == "NOT_FOUND"
    answer = await room.upload(room.admin, file_id, content[PART:], offset=PART)
    assert answer.file.state == pb.FILE_STATE_READY


async def test_too_much_for_a_file_that_is_ready_does_it_no_harm(room: FileRoom) -> None:
    file_id = await room.uploaded(room.admin)
    assert (await refused(room.upload(room.admin, file_id, b"content!"))).reason == "UPLOAD_TOO_LONG"
    assert await room.download(room.admin, file_id) == b"content"


async def test_an_offset_beyond_what_has_arrived_is_told_with_where_to_go_on(room: FileRoom) -> None:
    content = os.urandom(2 * PART)
    file_id = await room.created(room.admin, content)
    await room.upload(room.admin, file_id, content[:PART])
    for call in (
        room.upload(room.admin, file_id, content[PART + 1 :], offset=PART + 1),
        room.chunk(room.admin, file_id, b"x", offset=PART + 1),
    ):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_OFFSET")
        assert refusal.metadata == {"received_bytes": str(PART)}
    assert (await room.upload(room.admin, file_id, content[PART:], offset=PART)).file.state == pb.FILE_STATE_READY


async def test_what_is_stored_already_is_skipped(room: FileRoom) -> None:
    content = os.urandom(3 * PART + 5)
    file_id = await room.created(room.admin, content)
    await room.upload(room.admin, file_id, content[: 2 * PART])
    await room.upload(room.admin, file_id, content[1000 : PART + 2000], offset=1000, frame=777)
    answer = await room.upload(room.admin, file_id, content[PART + 7 :], offset=PART + 7, frame=99_999)
    assert answer.file.state == pb.FILE_STATE_READY
    assert (await room.upload(room.admin, file_id, content)).file == answer.file
    assert (await room.upload(room.admin, file_id, b"", offset=len(content))).file == answer.file
    assert await room.download(room.admin, file_id) == content
    assert len(room.blobs(file_id)) == 4


async def test_a_browser_uploads_chunk_by_chunk_and_may_repeat_each(room: FileRoom) -> None:
    content = os.urandom(2 * PART + 100)
    file_id = await room.created(room.admin, content)
    at = 0
    while at < len(content):
        for _ in range(2):
            answer = await room.chunk(room.admin, file_id, content[at : at + PART], offset=at)
        assert answer.received_bytes == min(at + PART, len(content))
        at = answer.received_bytes
    assert answer.file.state == pb.FILE_STATE_READY
    assert await room.download(room.admin, file_id) == content


async def test_a_chunk_that_ends_within_a_part_is_refused_with_what_to_send(room: FileRoom) -> None:
    content = os.urandom(2 * PART)
    file_id = await room.created(room.admin, content)
    refusal = await refused(room.chunk(room.admin, file_id, content[: PART - 1]))
    assert (refusal.code, set(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {"data"})
    assert str(PART) in refusal.fields["data"]
    assert (await room.chunk(room.admin, file_id, content[:PART])).received_bytes == PART


@pytest.mark.parametrize(
    ("frames", "field"),
    [
        ([pb.UploadFileRequest(data=b"x")], "start"),
        ([], "start"),
        ([pb.UploadFileRequest()], "frame"),
        ([pb.UploadFileRequest(data=bytes(PART + 1))], "data"),
        ([pb.UploadFileRequest(data=b"")], "data"),
    ],
)
async def test_a_stream_that_begins_otherwise_is_refused(
    room: FileRoom, frames: list[pb.UploadFileRequest], field: str
) -> None:
    refusal = await refused(room.files.UploadFile(iter(frames), timeout=10, metadata=room.admin.metadata))
    assert (refusal.code, set(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {field})


async def test_a_second_start_in_a_stream_is_refused(room: FileRoom) -> None:
    file_id = await room.created(room.admin)
    start = pb.UploadFileRequest(start=pb.UploadStart(workspace_id=room.workspace_id, file_id=file_id))
    refusal = await refused(room.files.UploadFile(iter([start, start]), timeout=10, metadata=room.admin.metadata))
    assert (refusal.code, set(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {"start"})


async def test_a_range_ends_with_the_file_and_cannot_begin_after_it(room: FileRoom) -> None:
    content = os.urandom(5 * PART + 3)
    file_id = await room.uploaded(room.admin, content)
    for offset, length in ((0, 0), (PART - 1, 2), (4 * PART, 2 * PART), (len(content) - 1, 0), (1, 5 * PART)):
        expected = content[offset : offset + length] if length else content[offset:]
        assert await room.download(room.admin, file_id, offset, length) == expected
    assert await room.download(room.admin, file_id, len(content)) == b""
    refusal = await refused(room.download(room.admin, file_id, len(content) + 1))
    assert (refusal.code, set(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {"offset"})


async def _download(room: FileRoom, file_id: str) -> bytes:
    return await room.download(room.admin, file_id)
