"""Edits: who may, until when, what is kept of what was said before, and who sees that."""

import asyncio
import uuid
from datetime import timedelta

import grpc
import pytest
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.messaging.v1 import message_service_pb2 as pb

from services.messaging import changes
from tests.service.test_messaging_messages import _invited_again as invited_again
from tests.service.test_messaging_messages import _until_waiting as until_waiting
from tests.support.chats import Chat
from tests.support.suite import Suite, refused


@pytest.fixture
async def room(suite: Suite) -> Chat:
    """A workspace of this test's own."""
    made = await Chat.make(suite)
    assert isinstance(made, Chat)
    return made


async def test_the_sender_edits_and_what_was_said_before_is_kept(room: Chat) -> None:
    member, member_id = await room.member()
    sent = await room.sent(member, "one")
    edited = (await room.edit(member, sent, "two", mentions=pb.Mentions(member_ids=[member_id]))).message
    assert (edited.text, edited.seq, edited.event_seq) == ("two", sent.seq, sent.event_seq)
    assert list(edited.mentions.member_ids) == [member_id]
    assert edited.HasField("edit_time")
    assert edited.create_time == sent.create_time
    assert edited.etag != sent.etag
    again = (await room.edit(member, edited, "three", etag=edited.etag)).message
    assert not again.HasField("mentions")
    assert await room.got(room.admin, sent) == again
    assert (await room.texts(room.admin)) == ["three"]
    found = (await room.revisions(member, sent)).revisions
    assert [(item.version, item.text) for item in found] == [(2, "two"), (1, "one")]
    assert [item.create_time for item in found] == [edited.edit_time, sent.create_time]
    assert room.event_kinds() == ["message_edited"] * 2
    assert room.heads() == (1, 3)


async def test_plain_and_encrypted_turn_into_each_other(room: Chat) -> None:
    sent = await room.sent(room.admin, "plain")
    payload = pb.EncryptedPayload(ciphertext=b"\x00\xff", scheme="box", header=b"nonce")
    edited = (await room.edit(room.admin, sent, "", encrypted=payload)).message
    assert (edited.text, edited.encrypted) == ("", payload)
    assert (await room.edit(room.admin, sent, "plain again")).message.text == "plain again"
    found = (await room.revisions(room.admin, sent)).revisions
    assert [(item.text, item.encrypted) for item in found] == [("", payload), ("plain", pb.EncryptedPayload())]


async def test_an_edit_that_changes_nothing_answers_and_tells_nobody(room: Chat) -> None:
    _, member_id = await room.member()
    sent = await room.sent(room.admin, "same")
    assert (await room.edit(room.admin, sent, "same")).message == sent
    mentions = pb.Mentions(member_ids=[member_id.upper(), room.admin_member_id])
    edited = (await room.edit(room.admin, sent, "same", mentions=mentions)).message
    assert (await room.edit(room.admin, sent, "same", mentions=mentions)).message == edited != sent
    assert room.event_kinds() == ["message_edited"]
    assert room.heads() == (1, 2)
    assert len((await room.revisions(room.admin, sent)).revisions) == 1


async def test_nobody_else_edits_not_even_an_admin(room: Chat) -> None:
    member, _ = await room.member()
    sent = await room.sent(member, "mine")
    assert (await refused(room.edit(room.admin, sent))).reason == "PERMISSION_DENIED"
    assert (await room.edit(member, sent)).message.text == "edited"


async def test_who_came_back_edits_nothing_of_their_former_stay(room: Chat) -> None:
    member, member_id = await room.member()
    sent = await room.sent(member, "before")
    await room.remove(member_id)
    await invited_again(room, member)
    assert (await refused(room.edit(member, sent))).reason == "PERMISSION_DENIED"
    assert (await refused(room.delete(member, sent))).reason == "PERMISSION_DENIED"
    assert (await refused(room.revisions(member, sent))).reason == "PERMISSION_DENIED"
    assert (await room.edit(member, await room.sent(member, "after"))).message.text == "edited"


async def test_who_may_not_send_any_more_may_not_edit(room: Chat) -> None:
    guest, stay = await room.guest()
    sent = await room.sent(guest, "in time")
    assert (await room.edit(guest, sent)).message.text == "edited"
    room.lock(stay)
    assert (await refused(room.edit(guest, sent, "late"))).reason == "GUEST_LOCKED"
    room.end(stay)
    assert (await refused(room.edit(guest, sent, "late"))).reason == "NOT_FOUND"


async def test_a_member_turned_viewer_edits_nothing_but_deletes_what_is_theirs(room: Chat) -> None:
    from guildhall.membership.v1 import member_service_pb2_grpc as members_rpc

    member, member_id = await room.member()
    sent = await room.sent(member, "mine")
    stub = room.suite.stub(members_rpc.MemberServiceStub)
    request = members.UpdateMemberRoleRequest(
        workspace_id=room.workspace_id, member_id=member_id, role=members.ROLE_VIEWER
    )
    await room.admin.call(stub.UpdateMemberRole, request)
    assert (await refused(room.edit(member, sent))).reason == "PERMISSION_DENIED"
    assert (await room.delete(member, sent)).message.HasField("delete_time")


async def test_an_archived_conversation_takes_no_edit(room: Chat) -> None:
    sent = await room.sent(room.admin, "before")
    assert (await room.edit(room.admin, sent)).message.text == "edited"
    room.archive()
    refusal = await refused(room.edit(room.admin, sent, "late"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CONVERSATION_ARCHIVED")


async def test_after_the_workspaces_time_a_message_stays_as_it_is(room: Chat) -> None:
    young, old = await room.sent(room.admin, "young"), await room.sent(room.admin, "old")
    room.age(old, hours=1)
    assert (await room.edit(room.admin, old, "no limit yet")).message.text == "no limit yet"
    await room.allow_edits_for(timedelta(hours=1))
    assert (await room.edit(room.admin, young)).message.text == "edited"
    refusal = await refused(room.edit(room.admin, old))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "EDIT_WINDOW_OVER")
    assert (await room.delete(room.admin, old)).message.HasField("delete_time")


async def test_an_etag_that_is_out_of_date_is_refused(room: Chat) -> None:
    sent = await room.sent(room.admin, "one")
    await room.edit(room.admin, sent, "two", etag=sent.etag)
    refusal = await refused(room.edit(room.admin, sent, "three", etag=sent.etag))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert (await room.edit(room.admin, sent, "three")).message.text == "three"


async def test_of_two_edits_with_the_same_etag_one_wins(room: Chat) -> None:
    sent = await room.sent(room.admin, "one")
    calls = (room.edit(room.admin, sent, f"by {n}", etag=sent.etag) for n in range(10))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, pb.EditMessageResponse) for answer in answers) == 1
    assert room.event_kinds() == ["message_edited"]


async def test_a_repeated_edit_is_done_once_and_never_shows_what_was_deleted_since(room: Chat) -> None:
    sent, request_id = await room.sent(room.admin, "one"), str(uuid.uuid4())
    first = await room.edit(room.admin, sent, "two", request_id=request_id)
    await room.edit(room.admin, sent, "three")
    again = await room.edit(room.admin, sent, "two", request_id=request_id)
    assert (first.message.text, again.message.text) == ("two", "three")
    refusal = await refused(room.edit(room.admin, sent, "other", request_id=request_id))
    assert refusal.reason == "IDEMPOTENCY_MISMATCH"
    await room.delete(room.admin, sent)
    gone = (await room.edit(room.admin, sent, "two", request_id=request_id)).message
    assert gone.HasField("delete_time")
    assert (gone.text, room.event_kinds()) == ("", ["message_edited", "message_edited", "message_deleted"])


async def test_a_deleted_message_is_not_edited(room: Chat) -> None:
    sent = await room.sent(room.admin)
    await room.delete(room.admin, sent)
    refusal = await refused(room.edit(room.admin, sent))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MESSAGE_DELETED")


async def test_revisions_are_the_senders_and_the_moderators(room: Chat) -> None:
    member, _ = await room.member()
    other, _ = await room.member()
    guest, _ = await room.guest()
    sent = await room.sent(member, "one")
    await room.edit(member, sent, "two")
    for person in (member, room.admin):
        assert [item.text for item in (await room.revisions(person, sent)).revisions] == ["one"]
    for person in (other, guest):
        refusal = await refused(room.revisions(person, sent))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")


async def test_revisions_come_in_pages(room: Chat) -> None:
    sent = await room.sent(room.admin, "0")
    for number in range(1, 6):
        await room.edit(room.admin, sent, f"{number}")
    found, token = [], ""
    while True:
        page = await room.revisions(room.admin, sent, page_size=2, page_token=token)
        found += [item.text for item in page.revisions]
        token = page.next_page_token
        if not token:
            break
    assert found == ["4", "3", "2", "1", "0"]
    first = await room.revisions(room.admin, sent, page_size=2)
    other = await room.sent(room.admin, "other")
    refusal = await refused(room.revisions(room.admin, other, page_token=first.next_page_token))
    assert set(refusal.fields) == {"page_token"}


async def test_what_is_hidden_is_answered_like_what_is_unknown(room: Chat) -> None:
    member, _ = await room.member()
    guest, _ = await room.guest()
    elsewhere = await Chat.make(room.suite)
    assert isinstance(elsewhere, Chat)
    hidden = await room.sent(room.admin, to=await room.channel(private=True))
    unknown = pb.Message(conversation_id=hidden.conversation_id, message_id=str(uuid.uuid4()))
    nowhere = pb.Message(conversation_id=str(uuid.uuid4()), message_id=str(uuid.uuid4()))
    foreign = await elsewhere.sent(elsewhere.admin)
    for person in (member, guest, room.outsider()):
        for call in (room.get, room.edit, room.delete, room.revisions):
            refusals = [await refused(call(person, message)) for message in (hidden, unknown, nowhere, foreign)]
            assert {refusal.raw for refusal in refusals} == {refusals[0].raw}
            assert (refusals[0].code, refusals[0].reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    for call in (room.get, room.edit, room.delete, room.revisions):
        missing = pb.Message(conversation_id=room.channel_id, message_id=str(uuid.uuid4()))
        assert (await refused(call(room.admin, missing))).raw == refusals[0].raw
    assert (await room.got(room.admin, hidden)).text == "hello"


async def test_an_edit_that_waited_for_its_lock_asks_again(room: Chat) -> None:
    member, member_id = await room.member()
    sent = await room.sent(member, "one")
    with room.suite.database("messaging") as database, database.transaction():
        database.execute("SELECT 1 FROM conversations WHERE id = %s FOR NO KEY UPDATE", (room.channel_id,))
        waiting = asyncio.ensure_future(refused(room.edit(member, sent, "too late")))
        await until_waiting(room, 1)
        await room.remove(member_id)
        await asyncio.sleep(changes.ANSWER_SECONDS)
    assert (await waiting).reason == "NOT_FOUND"
    assert (await room.got(room.admin, sent)).text == "one"
