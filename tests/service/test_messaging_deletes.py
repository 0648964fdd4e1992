"""Deletions: who may, in which state, and that nothing of the content is left."""

import uuid

import grpc
import pytest
from guildhall.messaging.v1 import message_service_pb2 as pb

from tests.support.chats import Chat
from tests.support.suite import Person, Suite, refused

EVERYWHERE = """
    SELECT c.relname, a.attname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE n.nspname = 'messaging' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""


@pytest.fixture
async def room(suite: Suite) -> Chat:
    """A workspace of this test's own."""
    made = await Chat.make(suite)
    assert isinstance(made, Chat)
    return made


def places_of(room: Chat, text: str) -> set[str]:
    """The columns of messaging's schema in which a text stands, as it is or as bytes."""
    found = set()
    with room.suite.database("messaging_owner") as database:
        for table, column in database.execute(EVERYWHERE).fetchall():
            query = (
                f'SELECT count(*) FROM messaging."{table}" WHERE "{column}"::text LIKE %s OR "{column}"::text LIKE %s'
            )
            if database.execute(query.encode(), (f"%{text}%", f"%{text.encode().hex()}%")).fetchone() != (0,):
                found.add(f"{table}.{column}")
    return found


async def test_of_a_deleted_message_a_tombstone_is_left(room: Chat) -> None:
    member, member_id = await room.member()
    sent = await room.sent(member, "secret")
    edited = (await room.edit(member, sent, "other", mentions=pb.Mentions(everyone=True))).message
    await room.react(room.admin, sent)
    reply = await room.replied(room.admin, sent)
    answer = await room.delete(member, sent)
    gone = answer.message
    assert list(answer.deleted_file_ids) == []
    assert (gone.seq, gone.event_seq, gone.sender_member_id) == (sent.seq, sent.event_seq, member_id)
    assert (gone.create_time, gone.edit_time, gone.etag) == (sent.create_time, edited.edit_time, "2d")
    assert (gone.text, gone.HasField("mentions"), gone.HasField("delete_time")) == ("", False, True)
    assert await room.got(room.admin, sent) == gone
    assert list((await room.reactions(room.admin, sent)).reactions) == []
    assert list((await room.revisions(room.admin, sent)).revisions) == []
    assert (await room.got(room.admin, reply)).reply_to_message_id == ""
    assert room.event_kinds() == ["message_edited", "reaction_added", "message_deleted"]


async def test_no_column_holds_what_was_deleted(room: Chat) -> None:
    marks = [uuid.uuid4().hex for _ in range(5)]
    sent = await room.sent(room.admin, marks[0])
    request_ids = [str(uuid.uuid4()) for _ in range(2)]
    await room.edit(room.admin, sent, marks[1], request_id=request_ids[0])
    payload = pb.EncryptedPayload(ciphertext=marks[2].encode(), scheme="box", header=marks[3].encode())
    await room.edit(room.admin, sent, "", encrypted=payload)
    await room.react(room.admin, sent, marks[4][:32], request_id=request_ids[1])
    assert [bool(places_of(room, mark)) for mark in marks] == [True] * 5
    await room.delete(room.admin, sent, request_id=str(uuid.uuid4()))
    assert [places_of(room, mark) for mark in marks] == [set()] * 5


async def test_files_go_with_their_message_and_edits_leave_them(room: Chat) -> None:
    sent, file_id = await room.sent_with_file(room.admin)
    edited = (await room.edit(room.admin, sent)).message
    assert [file.file_id for file in edited.files] == [file_id]
    answer = await room.delete(room.admin, sent)
    assert list(answer.deleted_file_ids) == [file_id]
    assert list((await room.got(room.admin, sent)).files) == []
    assert (await refused(room.with_files.get(room.admin, file_id))).reason == "NOT_FOUND"
    await room.with_files.nothing_left(file_id)


async def test_deleting_again_changes_nothing(room: Chat) -> None:
    sent, request_id = await room.sent(room.admin), str(uuid.uuid4())
    first = await room.delete(room.admin, sent, request_id=request_id)
    assert await room.delete(room.admin, sent, request_id=request_id) == first
    assert (await room.delete(room.admin, sent, etag=sent.etag)).message == first.message
    assert room.event_kinds() == ["message_deleted"]
    assert room.heads() == (1, 2)


async def test_a_moderator_deletes_what_others_wrote_and_nobody_else_does(room: Chat) -> None:
    member, _ = await room.member()
    other, _ = await room.member()
    sent = await room.sent(member)
    refusal = await refused(room.delete(other, sent))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert (await room.delete(room.admin, sent)).message.HasField("delete_time")


async def test_a_locked_guest_deletes_only_what_is_theirs_and_an_ended_one_nothing(room: Chat) -> None:
    guest, stay = await room.guest()
    mine, also_mine, others = await room.sent(guest), await room.sent(guest), await room.sent(room.admin)
    room.lock(stay)
    assert (await room.delete(guest, mine)).message.HasField("delete_time")
    assert (await refused(room.delete(guest, others))).reason == "PERMISSION_DENIED"
    room.end(stay)
    assert (await refused(room.delete(guest, also_mine))).reason == "NOT_FOUND"


async def test_in_an_archived_conversation_one_still_deletes(room: Chat) -> None:
    sent = await room.sent(room.admin)
    room.archive()
    assert (await room.delete(room.admin, sent)).message.HasField("delete_time")


async def test_an_etag_that_is_out_of_date_is_refused(room: Chat) -> None:
    sent = await room.sent(room.admin)
    edited = (await room.edit(room.admin, sent)).message
    assert (await refused(room.delete(room.admin, sent, etag=sent.etag))).reason == "ETAG_MISMATCH"
    assert (await room.delete(room.admin, sent, etag=edited.etag)).message.HasField("delete_time")


async def test_who_sends_a_deleted_message_again_is_told_of_its_tombstone(room: Chat) -> None:
    key = str(uuid.uuid4())
    sent = await room.sent(room.admin, "once", key=key)
    gone = (await room.delete(room.admin, sent)).message
    assert await room.sent(room.admin, "once", key=key) == gone
    assert (await refused(room.send(room.admin, "other", key=key))).reason == "IDEMPOTENCY_MISMATCH"


async def test_a_tombstone_is_answered_by_no_reply(room: Chat) -> None:
    kept, gone = await room.sent(room.admin), await room.sent(room.admin)
    await room.delete(room.admin, gone)

    async def reply(person: Person, message: pb.Message) -> pb.Message:
        return await room.replied(person, message)

    assert (await refused(reply(room.admin, gone))).reason == "REFERENCE_GONE"
    assert (await reply(room.admin, kept)).reply_to_message_id == kept.message_id
