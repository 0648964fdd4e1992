"""A locked guest reads on, takes back what they wrote and moves their read position; nothing else."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from guildhall.messaging.v1 import conversation_service_pb2 as conversations
from guildhall.messaging.v1 import message_service_pb2 as messages
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc

from tests.service.test_messaging_streams import listening
from tests.support.guest_rooms import Yard, new_yard
from tests.support.suite import Suite, refused

Act = Callable[[Yard, messages.Message], Awaitable[Any]]


@pytest.fixture
async def yard(suite: Suite) -> Yard:
    """A workspace of this test's own."""
    return await new_yard(suite)


def mention(yard: Yard, _own: messages.Message) -> Any:
    request = messages.ResolveMentionsRequest(
        workspace_id=yard.hall.workspace_id, conversation_id=yard.channel_id, handles=["here"]
    )
    return yard.guest.call(yard.hall.suite.stub(messages_rpc.MessageServiceStub).ResolveMentions, request)


def about_channel(method: str, **fields: Any) -> Act:
    return lambda yard, _own: yard.hall.of(method, yard.channel_id, by=yard.guest, **fields)


MAY: dict[str, Act] = {
    "send": lambda yard, _own: yard.hall.send(yard.guest),
    "edit": lambda yard, own: yard.chat.edit(yard.guest, own),
    "react": lambda yard, own: yard.chat.react(yard.guest, own, "🎉"),
    "take a reaction back": lambda yard, own: yard.chat.unreact(yard.guest, own),
    "type": lambda yard, _own: yard.chat.type(yard.guest),
    "mention": mention,
    "upload": lambda yard, _own: yard.chat.with_files.create(yard.guest),
}
NEVER: dict[str, Act] = {
    "open a conversation": lambda yard, _own: yard.hall.direct(yard.friend_id, by=yard.guest),
    "make a channel": lambda yard, _own: yard.hall.channel(yard.guest),
    "join": about_channel("JoinConversation"),
    "bring somebody": about_channel("AddParticipant", member_id=str(uuid.uuid4())),
    "take somebody out": about_channel("RemoveParticipant", member_id=str(uuid.uuid4())),
    "archive": about_channel("ArchiveConversation"),
    "rename": lambda yard, _own: yard.hall.update(yard.channel_id, topic="mine", by=yard.guest),
}
TABLES = ("conversations", "participants", "messages", "reactions", "conversation_events", "files")


def written(yard: Yard) -> list[Any]:
    """All rows of the workspace's conversations that a change would alter or add to."""
    ours = "SELECT id FROM conversations WHERE workspace_id = %s"
    by = {"conversations": "id"}
    queries = (f"SELECT t::text FROM {name} t WHERE {by.get(name, 'conversation_id')} IN ({ours})" for name in TABLES)
    return [sorted(yard.hall.rows(query, yard.hall.workspace_id)) for query in queries]


@pytest.mark.parametrize("act", sorted(MAY | NEVER))
async def test_a_locked_guest_is_told_so_and_nothing_is_written(yard: Yard, act: str) -> None:
    own = await yard.hall.sent(yard.guest, "mine")
    await yard.chat.react(yard.guest, own)
    before = written(yard)
    yard.hall.lock(yard.stay)
    refusal = await refused((MAY | NEVER)[act](yard, own))
    assert (refusal.reason, set(refusal.metadata)) == ("GUEST_LOCKED", {"lock_time", "grace_end_time"})
    assert written(yard) == before


@pytest.mark.parametrize("act", sorted(MAY | NEVER))
async def test_before_that_they_may_or_are_told_that_guests_never_do(yard: Yard, act: str) -> None:
    own = await yard.hall.sent(yard.guest, "mine")
    await yard.chat.react(yard.guest, own)
    if act in MAY:
        await MAY[act](yard, own)
    else:
        assert (await refused(NEVER[act](yard, own))).reason == "PERMISSION_DENIED"


async def test_a_locked_guest_reads_hears_fetches_and_takes_back(yard: Yard) -> None:
    own = await yard.hall.sent(yard.guest, "mine")
    _, file_id = await yard.chat.sent_with_file(yard.admin)
    yard.hall.lock(yard.stay)
    async with listening(yard.hall, yard.guest) as listener:
        await yard.hall.sent(yard.admin, "still here")
        await listener.until(lambda: listener.texts(yard.channel_id) == ["still here"])
    assert "mine" in await yard.hall.texts(yard.guest)
    assert (await yard.hall.get(yard.channel_id, by=yard.guest)).kind == conversations.CONVERSATION_KIND_CHANNEL
    assert (await yard.chat.with_files.get(yard.guest, file_id)).file.file_id == file_id
    assert (await yard.chat.mark_read(yard.guest, 2)).read_state.read_seq == 2
    assert (await yard.chat.delete(yard.guest, own)).message.HasField("delete_time")
    yard.hall.end(yard.stay)
    for each in (yard.hall.read(yard.guest), yard.chat.mark_read(yard.guest, 3), yard.hall.send(yard.guest)):
        assert (await refused(each)).reason == "NOT_FOUND"
