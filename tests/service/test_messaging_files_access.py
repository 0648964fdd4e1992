"""Who uploads, sees, fetches and deletes files; a hidden file is answered like an unknown one."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.messaging.v1 import conversation_service_pb2 as conversations_pb
from guildhall.messaging.v1 import conversation_service_pb2_grpc as conversations_rpc
from guildhall.messaging.v1 import file_service_pb2 as pb

from services.messaging import uploads as own
from tests.support.conversations import Hall, key
from tests.support.files import PART, FileRoom, unknown
from tests.support.guest_calls import call as guest_call
from tests.support.statements import groups_asked_about, statements_sent
from tests.support.suite import Person, Refusal, Suite, refusal_of, refused


@pytest.fixture
async def room(suite: Suite) -> FileRoom:
    """A workspace of this test's own."""
    made = await FileRoom.make(suite)
    assert isinstance(made, FileRoom)
    return made


async def refusals(room: FileRoom, person: Person, file_id: str) -> list[Refusal]:
    """What somebody gets to hear about a file, by every RPC that names one."""
    return [
        await refused(room.get(person, file_id)),
        await refused(room.progress(person, file_id)),
        await refused(room.download(person, file_id)),
        await refused(room.upload(person, file_id)),
        await refused(room.chunk(person, file_id, b"content")),
        await refused(room.delete(person, file_id)),
    ]


async def test_a_hidden_file_is_answered_like_an_unknown_one(room: FileRoom) -> None:
    private = await room.channel(private=True)
    member, _ = await room.member()
    guest, _ = await room.guest()
    elsewhere = await FileRoom.make(room.suite)
    assert isinstance(elsewhere, FileRoom)
    hidden = await room.attached(room.admin, to=private)
    unsent = await room.uploaded(room.admin)
    begun = await room.created(room.admin)
    foreign = await elsewhere.attached(elsewhere.admin)
    for person in (member, guest, room.outsider()):
        expected = await refusals(room, person, unknown())
        assert {refusal.reason for refusal in expected} == {"NOT_FOUND"}
        for file_id in (hidden, unsent, begun, foreign):
            assert [each.raw for each in await refusals(room, person, file_id)] == [each.raw for each in expected]
    assert [each.reason for each in await refusals(room, room.admin, foreign)] == ["NOT_FOUND"] * 6
    assert await room.download(room.admin, hidden) == await room.download(room.admin, unsent) == b"content"
    assert await elsewhere.download(elsewhere.admin, foreign) == b"content"


async def test_a_hidden_conversation_takes_and_shows_no_file_like_an_unknown_one(room: FileRoom) -> None:
    private = await room.channel(private=True)
    member, _ = await room.member()
    viewer, _ = await room.member(members.ROLE_VIEWER)
    guest, _ = await room.guest()
    elsewhere = await FileRoom.make(room.suite)
    for person in (member, viewer, guest, room.outsider()):
        for call in (lambda who, to: room.create(who, to=to), room.listed):
            found = [await refused(call(person, to)) for to in (unknown(), private, elsewhere.channel_id)]
            assert {refusal.reason for refusal in found} == {"NOT_FOUND"}
            assert len({refusal.raw for refusal in found}) == 1
    assert await room.ids(room.admin, private) == []
    assert await room.created(room.admin, to=private)
    assert room.rows() == 1


async def test_a_file_is_seen_by_others_once_a_message_holds_it(room: FileRoom) -> None:
    member, _ = await room.member()
    file_id = await room.uploaded(room.admin)
    assert (await refused(room.get(member, file_id))).reason == "NOT_FOUND"
    assert await room.ids(member) == []
    assert await room.ids(room.admin) == [file_id]
    room.attach(file_id, (await room.sent(room.admin)).message_id)
    assert (await room.get(member, file_id)).file == (await room.get(room.admin, file_id)).file
    assert await room.ids(member) == [file_id]
    assert await room.download(member, file_id) == b"content"


async def test_who_asks_for_a_file_is_asked_about_where_it_is_and_not_about_all_of_their_groups(
    room: FileRoom,
) -> None:
    hall = Hall(room.suite, room.admin, room.workspace_id, room.admin_member_id, room.channel_id)
    member, member_id = await room.member()
    group_ids = [await hall.group(name) for name in ("Choir", "Band")]
    for group_id in group_ids:
        await hall.put_into(group_id, member_id)
    own, _other = [await hall.group_conversation(group_id) for group_id in group_ids]
    file_id = await room.attached(room.admin, os.urandom(3 << 20), to=own)
    with statements_sent() as sent:
        assert (await room.get(member, file_id)).file.file_id == file_id
        assert await room.ids(member, own) == [file_id]
        assert len(await room.download(member, file_id)) == 3 << 20
    asked = [s for s in sent if "group_id IS NOT NULL" in s.text]
    assert asked == []
    await hall.take_out(group_ids[0], member_id)
    # It is still written down that they take part, and it is membership's word that counts.
    for refusal in (room.get(member, file_id), room.listed(member, own), room.download(member, file_id)):
        assert (await refused(refusal)).reason == "NOT_FOUND"
    assert await room.ids(room.admin, own) == [file_id]


async def test_who_deletes_a_file_is_asked_about_where_it_is_and_not_about_all_of_their_groups(room: FileRoom) -> None:
    hall = Hall(room.suite, room.admin, room.workspace_id, room.admin_member_id, room.channel_id)
    member, member_id = await room.member()
    group_ids = [await hall.group(name) for name in ("Choir", "Band")]
    for group_id in group_ids:
        await hall.put_into(group_id, member_id)
    own, _other = [await hall.group_conversation(group_id) for group_id in group_ids]
    in_group, in_channel = await room.attached(member, to=own), await room.attached(member)
    asked = []
    for file_id in (in_group, in_channel, unknown()):
        with statements_sent() as sent:
            await asyncio.gather(room.delete(member, file_id), return_exceptions=True)
        asked.append(set(groups_asked_about(sent)) & set(group_ids))
    assert asked == [{group_ids[0]}, set(), set()]
    assert await room.ids(member, own) == await room.ids(member) == []


async def test_only_its_uploader_goes_on_with_an_upload(room: FileRoom) -> None:
    member, _ = await room.member()
    file_id = await room.created(member)
    for call in (room.upload(room.admin, file_id), room.chunk(room.admin, file_id, b"content")):
        assert (await refused(call)).reason == "NOT_FOUND"
    assert (await room.upload(member, file_id)).file.state == pb.FILE_STATE_READY


async def test_a_viewer_fetches_and_does_not_upload(room: FileRoom) -> None:
    viewer, _ = await room.member(members.ROLE_VIEWER)
    file_id = await room.attached(room.admin)
    refusal = await refused(room.create(viewer))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert await room.download(viewer, file_id) == b"content"


async def test_a_guest_brings_and_fetches_files_where_granted(room: FileRoom) -> None:
    private = await room.channel(private=True)
    guest, _ = await room.guest(private)
    own_file = await room.attached(guest, b"from outside", to=private)
    other = await room.attached(room.admin, b"from inside", to=private)
    elsewhere = await room.attached(room.admin)
    assert await room.ids(guest, private) == [other, own_file]
    assert await room.download(guest, other) == b"from inside"
    assert (await refused(room.create(guest))).reason == "NOT_FOUND"
    assert (await refused(room.listed(guest))).reason == "NOT_FOUND"
    assert (await refused(room.get(guest, elsewhere))).reason == "NOT_FOUND"
    await room.delete(guest, own_file)


async def test_a_locked_guest_fetches_and_is_told_since_when_they_may_not_upload(room: FileRoom) -> None:
    person, guest = await room.guest()
    begun, sent = await room.created(person), await room.attached(person)
    room.lock(guest)
    for call in (room.create(person), room.upload(person, begun), room.chunk(person, begun, b"content")):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "GUEST_LOCKED")
        assert set(refusal.metadata) == {"lock_time", "grace_end_time"}
    assert await room.download(person, sent) == b"content"
    assert await room.ids(person) == [sent, begun]
    await room.delete(person, sent)
    room.end(guest)
    assert (await refused(room.get(person, begun))).reason == "NOT_FOUND"
    assert (await refused(room.upload(person, begun))).reason == "NOT_FOUND"


async def test_a_moderator_deletes_anybodys_file_and_a_member_only_their_own(room: FileRoom) -> None:
    (one, _), (two, _) = await room.member(), await room.member()
    first, second = await room.attached(one), await room.attached(one)
    refusal = await refused(room.delete(two, first))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    await room.delete(one, first)
    await room.delete(room.admin, second)
    for file_id in (first, second):
        assert (await refused(room.get(one, file_id))).reason == "NOT_FOUND"
        await room.nothing_left(file_id)


async def test_deleting_again_with_the_same_key_is_the_same(room: FileRoom) -> None:
    file_id, key = await room.uploaded(room.admin), str(uuid.uuid4())
    answers = await asyncio.gather(*(room.delete(room.admin, file_id, request_id=key) for _ in range(5)))
    assert len(answers) == 5
    assert (await refused(room.delete(room.admin, file_id))).reason == "NOT_FOUND"
    await room.delete(room.admin, file_id, request_id=key)
    await room.nothing_left(file_id)


async def test_a_deleted_file_of_a_message_is_an_event_and_an_unsent_one_is_none(room: FileRoom) -> None:
    sent, unsent = await room.attached(room.admin), await room.uploaded(room.admin)
    message_id = (await room.get(room.admin, sent)).file.message_id
    for file_id in (sent, unsent):
        await room.delete(room.admin, file_id)
    found = room.storage_sql(
        "SELECT kind, file_id::text, message_id::text, event_seq FROM conversation_events "
        "WHERE conversation_id = %(id)s",
        id=room.channel_id,
    )
    assert found == [("file_deleted", sent, message_id, 2)]


async def test_pages_join_to_the_whole_list_newest_first(room: FileRoom) -> None:
    member, _ = await room.member()
    made = [await room.attached(room.admin) for _ in range(5)]
    message_id = (await room.get(room.admin, made[2])).file.message_id
    found, token = [], ""
    while True:
        page = await room.listed(member, page_size=2, page_token=token)
        found += [file.file_id for file in page.files]
        token = page.next_page_token
        if not token:
            break
    assert found == made[::-1]
    assert await room.ids(member, message_id=message_id) == [made[2]]
    assert await room.ids(member, message_id=unknown()) == []
    token = (await room.listed(member, page_size=2)).next_page_token
    for person, filters in ((room.admin, {}), (member, {"message_id": message_id})):
        refusal = await refused(room.listed(person, page_token=token, **filters))
        assert (refusal.code, set(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {"page_token"})


async def test_a_message_past_its_retention_shows_its_files_no_more(room: FileRoom) -> None:
    file_id = await room.attached(room.admin)
    retain = "UPDATE conversations SET retention_seconds = %(seconds)s WHERE id = %(id)s"
    room.storage_sql(retain, seconds=3600, id=room.channel_id)
    assert await room.download(room.admin, file_id) == b"content"
    room.storage_sql("UPDATE files SET attached_at = attached_at - interval '2 hours' WHERE id = %(id)s", id=file_id)
    assert (await refused(room.get(room.admin, file_id))).reason == "NOT_FOUND"
    assert await room.ids(room.admin) == []


async def test_an_archived_conversation_takes_no_files(room: FileRoom) -> None:
    kept = await room.attached(room.admin)
    room.storage_sql(
        "UPDATE conversations SET archived_at = statement_timestamp() WHERE id = %(id)s", id=room.channel_id
    )
    refusal = await refused(room.create(room.admin))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CONVERSATION_ARCHIVED")
    assert await room.download(room.admin, kept) == b"content"


async def test_a_member_removed_in_the_middle_of_an_upload_is_refused_there(
    room: FileRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "PERMISSION_SECONDS", 60.0)
    member, member_id = await room.member()
    for person, is_removed in ((room.admin, False), (member, True)):
        file_id = await room.created(person, bytes(own.PERMISSION_BYTES + 2 * PART))
        gone = asyncio.Event()

        async def chunks(gone: asyncio.Event = gone) -> AsyncIterator[bytes]:
            yield bytes(PART)
            await gone.wait()
            for _ in range(own.PERMISSION_BYTES // PART + 1):
                yield bytes(PART)

        call = asyncio.ensure_future(_code(room.stream(person, file_id, chunks())))
        await room.received(person, file_id, PART)
        if is_removed:
            await room.remove(member_id)
        gone.set()
        assert await call == ("NOT_FOUND" if is_removed else "OK")


async def test_a_session_that_ends_in_the_middle_of_an_upload_ends_it(room: FileRoom) -> None:
    member, _ = await room.member()
    file_id = await room.created(member, bytes(10 * PART))
    ended = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(PART)
        await ended.wait()
        await asyncio.sleep(own.PERMISSION_SECONDS)  # here time itself is what is tested
        yield bytes(PART)

    call = asyncio.ensure_future(refused(room.stream(member, file_id, chunks())))
    await room.received(member, file_id, PART)
    await member.call(room.suite.stub(auth_rpc.AuthServiceStub).SignOut, auth.SignOutRequest())
    ended.set()
    assert (await call).reason == "SESSION_ENDED"


@pytest.mark.parametrize("who", ["member", "guest"])
async def test_no_request_id_used_before_tells_a_hidden_file_from_none(room: FileRoom, who: str) -> None:
    private = await room.channel(private=True)
    if who == "guest":
        person, stay = await room.guest(room.channel_id, private)
    else:
        person, member_id = await room.member()
        named = {"workspace_id": room.workspace_id, "conversation_id": private, "member_id": member_id}
        conversations = room.suite.stub(conversations_rpc.ConversationServiceStub)
        await room.admin.call(conversations.AddParticipant, conversations_pb.AddParticipantRequest(**named))
    own, hidden, used = await room.uploaded(person, to=private), await room.attached(room.admin, to=private), key()
    await room.delete(person, own, request_id=used)
    if who == "guest":
        await guest_call(room, "RevokeChannel", member_id=stay.member_id, conversation_id=private)
    else:
        await room.admin.call(conversations.RemoveParticipant, conversations_pb.RemoveParticipantRequest(**named))
    with room.suite.database("messaging_owner") as holder, holder.transaction():
        holder.execute("SELECT FROM conversations WHERE id = %s FOR UPDATE", (private,))
        # Nor does anybody wait for its lock.
        there = [await refused(room.delete(person, hidden, request_id=each)) for each in (used, key())]
    await room.delete(room.admin, hidden)
    for file_id in (hidden, str(uuid.uuid4())):
        gone = [await refused(room.delete(person, file_id, request_id=each)) for each in (used, key())]
        assert [refusal.raw for refusal in gone] == [refusal.raw for refusal in there]
    assert [refusal.reason for refusal in there] == ["IDEMPOTENCY_MISMATCH", "NOT_FOUND"]


@pytest.mark.parametrize("how", ["removed", "signed out", "hidden", "deleted"])
async def test_what_ends_access_in_the_middle_of_a_download_ends_it(room: FileRoom, how: str) -> None:
    content = os.urandom(12 << 20)
    member, member_id = await room.member()
    file_id = await room.attached(room.admin, content)
    request = pb.DownloadFileRequest(workspace_id=room.workspace_id, file_id=file_id)
    call = member.stream(room.files.DownloadFile, request)
    found = bytearray()
    for _ in range(4):
        found += (await call.read()).data
    if how == "removed":
        await room.remove(member_id)
    elif how == "signed out":
        await member.call(room.suite.stub(auth_rpc.AuthServiceStub).SignOut, auth.SignOutRequest())
    elif how == "hidden":
        hide = "UPDATE conversations SET visibility = 'private' WHERE id = %(id)s"
        room.storage_sql(hide, id=room.channel_id)
    else:
        await room.delete(room.admin, file_id)
    refusal = await refused(_rest(call, found))
    assert refusal.reason == ("SESSION_ENDED" if how == "signed out" else "NOT_FOUND")
    # What was on its way when it happened still comes: the windows of two connections at the most.
    assert len(found) < len(content)
    assert content.startswith(bytes(found))


@pytest.mark.parametrize("peer", ["membership", "guest"])
async def test_without_an_answer_about_permission_no_file_moves(room: FileRoom, peer: str) -> None:
    guest, _ = await room.guest()
    file_id, begun = await room.attached(guest), await room.created(guest)
    await room.suite.stop(peer)
    try:
        for call in (
            room.get(guest, file_id),
            room.download(guest, file_id),
            room.listed(guest),
            room.create(guest),
            room.upload(guest, begun),
            room.delete(guest, file_id),
        ):
            assert (await refused(call)).reason == "PEER_UNAVAILABLE"
    finally:
        await room.back(peer, seen_by=guest)
    assert await room.download(guest, file_id) == b"content"
    assert (await room.upload(guest, begun)).file.state == pb.FILE_STATE_READY


async def _rest(call: Any, found: bytearray) -> None:
    """Reads what still comes."""
    while frame := await call.read():
        found += frame.data


async def _code(call: Any) -> str:
    """ "OK", or the reason of a refusal."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return refusal_of(error).reason
    return "OK"
