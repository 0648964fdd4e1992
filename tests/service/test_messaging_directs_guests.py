"""Direct conversations with guests: a member opens them, while everybody in them shares a channel."""

import asyncio

import grpc
import pytest
from guildhall.guest.v1 import guest_service_pb2 as guests
from guildhall.messaging.v1 import message_service_pb2 as messages
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc

from tests.service.test_messaging_streams import listening
from tests.support.guest_calls import call
from tests.support.guest_rooms import Yard, new_yard
from tests.support.suite import Suite, refused


@pytest.fixture
async def yard(suite: Suite) -> Yard:
    """A workspace of this test's own."""
    return await new_yard(suite)


async def test_a_member_who_shares_a_channel_opens_one_and_the_guest_replies(yard: Yard) -> None:
    async with listening(yard.hall, yard.guest) as listener:
        opened = (await yard.hall.direct(yard.guest_id, by=yard.friend)).conversation_id
        await listener.until(lambda: listener.has("conversation_gained", opened))
        first = await yard.hall.sent(yard.friend, "psst", to=opened)
        await yard.hall.sent(yard.guest, "yes?", to=opened)
        await listener.until(lambda: listener.texts(opened) == ["psst", "yes?"])
    assert await yard.hall.texts(yard.guest, opened) == ["psst", "yes?"]
    assert await yard.hall.texts(yard.friend, opened) == ["psst", "yes?"]
    assert set(await yard.hall.seen(yard.guest)) == {yard.channel_id, opened}
    assert (await yard.hall.get(opened, by=yard.guest)).initiated_by_member_id == yard.friend_id
    assert await yard.hall.taking_part(opened, by=yard.guest) == {yard.guest_id, yard.friend_id}
    await yard.chat.react(yard.guest, first)
    await yard.chat.replied(yard.guest, first)
    await yard.chat.mark_read(yard.guest, 1, opened)
    await yard.chat.edit(yard.friend, first, "psst!")


async def test_who_shares_no_channel_opens_none_and_learns_nothing(yard: Yard) -> None:
    unknown = await refused(yard.hall.direct(yard.stay.workspace_id, by=yard.stranger))
    refusal = await refused(yard.hall.direct(yard.guest_id, by=yard.stranger))
    assert (refusal.code, refusal.raw) == (grpc.StatusCode.NOT_FOUND, unknown.raw)
    with_friend = await refused(yard.hall.direct(yard.guest_id, yard.stranger_id, by=yard.friend))
    assert with_friend.raw == unknown.raw, "everybody in it must share one"
    await yard.hall.of("JoinConversation", yard.channel_id, by=yard.stranger)
    assert (await yard.hall.direct(yard.guest_id, by=yard.stranger)).conversation_id
    assert (await yard.hall.direct(yard.guest_id, yard.stranger_id, by=yard.friend)).conversation_id


async def test_two_guests_have_none_and_a_guest_opens_none(yard: Yard) -> None:
    _, fellow = await yard.hall.guest()
    assert (await refused(yard.hall.direct(yard.guest_id, fellow.member_id))).reason == "NOT_FOUND"
    for ids in ([yard.friend_id], [fellow.member_id]):
        assert (await refused(yard.hall.direct(*ids, by=yard.guest))).reason == "PERMISSION_DENIED"
    yard.hall.lock(yard.stay)
    assert (await refused(yard.hall.direct(yard.friend_id, by=yard.guest))).reason == "GUEST_LOCKED"
    query = "SELECT 1 FROM conversations WHERE workspace_id = %s AND kind = 'direct'"
    assert yard.hall.rows(query, yard.hall.workspace_id) == []
    assert (await yard.hall.direct(fellow.member_id)).conversation_id


async def test_two_members_who_open_it_at_once_get_the_same_one(yard: Yard) -> None:
    one, other = await asyncio.gather(
        yard.hall.direct(yard.guest_id, yard.hall.admin_member_id, by=yard.friend),
        yard.hall.direct(yard.friend_id, yard.guest_id),
    )
    assert one.conversation_id == other.conversation_id
    assert await yard.hall.taking_part(one.conversation_id) == {
        yard.guest_id,
        yard.friend_id,
        yard.hall.admin_member_id,
    }


async def test_when_the_member_leaves_the_shared_channel_the_guest_sees_nothing_newer(yard: Yard) -> None:
    opened = (await yard.hall.direct(yard.guest_id, by=yard.friend)).conversation_id
    message = await yard.hall.sent(yard.friend, "before", to=opened)
    async with listening(yard.hall, yard.guest) as listener, listening(yard.hall, yard.friend) as own:
        await yard.hall.of("LeaveConversation", yard.channel_id, by=yard.friend)
        await yard.hall.sent(yard.friend, "after", to=opened)
        await own.until(lambda: own.texts(opened) == ["after"])
        await listener.until(lambda: listener.has("conversation_lost", opened))
        assert listener.texts(opened) == []
        await refuse_everything(yard, message)
        assert await yard.hall.seen(yard.guest) == [yard.channel_id]
        assert await yard.hall.texts(yard.friend, opened) == ["before", "after"]
        await yard.hall.of("JoinConversation", yard.channel_id, by=yard.friend)
        assert await yard.hall.texts(yard.guest, opened) == ["before", "after"]
        await listener.until(lambda: listener.has("conversation_gained", opened))
        await yard.hall.sent(yard.guest, "again", to=opened)
        await listener.until(lambda: "again" in listener.texts(opened))


async def refuse_everything(yard: Yard, message: messages.Message) -> None:
    """Reads and writes of the guest are answered as if there were no such conversation."""
    opened = message.conversation_id
    calls = [
        yard.hall.read(yard.guest, opened),
        yard.hall.get(opened, by=yard.guest),
        yard.chat.get(yard.guest, message),
        yard.hall.send(yard.guest, "no", to=opened),
        yard.chat.react(yard.guest, message),
        yard.chat.reactions(yard.guest, message),
        yard.chat.mark_read(yard.guest, 1, opened),
        yard.chat.read_states(yard.guest, opened),
        yard.chat.type(yard.guest, opened),
        yard.hall.taking_part(opened, by=yard.guest),
    ]
    refusals = [await refused(each) for each in calls]
    assert {refusal.reason for refusal in refusals} == {"NOT_FOUND"}


async def test_a_revoked_channel_takes_the_conversation_and_another_that_both_share_keeps_it(yard: Yard) -> None:
    second = await yard.hall.channel()
    await yard.grant(second)
    opened = (await yard.hall.direct(yard.guest_id)).conversation_id
    message = await yard.hall.sent(yard.admin, "here", to=opened)
    await yard.revoke()
    assert await yard.hall.texts(yard.guest, opened) == ["here"], "the second is shared still"
    await yard.revoke(second)
    await refuse_everything(yard, message)
    await yard.grant(second)
    await yard.hall.sent(yard.guest, "back", to=opened)
    assert await yard.hall.texts(yard.admin, opened) == ["here", "back"]


async def test_an_expired_grant_takes_the_conversation_at_the_instant(yard: Yard) -> None:
    opened = (await yard.hall.direct(yard.guest_id)).conversation_id
    message = await yard.hall.sent(yard.admin, "here", to=opened)
    query = "UPDATE guest_grants SET expire_at = statement_timestamp() {} WHERE member_id = %(id)s"
    yard.hall.sql(query.format("+ interval '1 hour'"), id=yard.guest_id)
    await yard.hall.sent(yard.guest, "in time", to=opened)
    yard.hall.sql(query.format(""), id=yard.guest_id)
    await refuse_everything(yard, message)


async def test_who_opened_it_must_still_be_there(yard: Yard) -> None:
    opened = (await yard.hall.direct(yard.guest_id, yard.hall.admin_member_id, by=yard.friend)).conversation_id
    message = await yard.hall.sent(yard.admin, "here", to=opened)
    assert await yard.hall.texts(yard.guest, opened) == ["here"]
    yard.hall.rows("DELETE FROM participants WHERE member_id = %s", yard.friend_id)
    await refuse_everything(yard, message)
    assert await yard.hall.texts(yard.admin, opened) == ["here"]


async def test_a_locked_guest_reads_it_and_is_told_since_when_they_may_not_write(yard: Yard) -> None:
    opened = (await yard.hall.direct(yard.guest_id)).conversation_id
    message = await yard.hall.sent(yard.admin, "here", to=opened)
    own = await yard.hall.sent(yard.guest, "mine", to=opened)
    yard.hall.lock(yard.stay)
    for each in (yard.hall.send(yard.guest, "no", to=opened), yard.chat.react(yard.guest, message)):
        refusal = await refused(each)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "GUEST_LOCKED")
        assert set(refusal.metadata) == {"lock_time", "grace_end_time"}
    assert await yard.hall.texts(yard.guest, opened) == ["here", "mine"]
    await yard.chat.delete(yard.guest, own)
    assert await yard.hall.texts(yard.admin, opened) == ["here", ""]
    await yard.hall.of("LeaveConversation", yard.channel_id)
    assert (await refused(yard.hall.send(yard.guest, "no", to=opened))).reason == "NOT_FOUND"
    yard.hall.end(yard.stay)
    assert (await refused(yard.hall.read(yard.guest, opened))).reason == "NOT_FOUND"


async def test_a_promoted_guest_keeps_it_by_taking_part(yard: Yard) -> None:
    opened = (await yard.hall.direct(yard.guest_id, by=yard.friend)).conversation_id
    await yard.hall.sent(yard.friend, "before", to=opened)
    await call(yard.hall, "PromoteGuest", member_id=yard.guest_id, role=guests.PROMOTED_ROLE_MEMBER)
    await yard.hall.of("LeaveConversation", yard.channel_id, by=yard.friend)
    await yard.hall.sent(yard.guest, "after", to=opened)
    assert await yard.hall.texts(yard.guest, opened) == ["before", "after"]


async def test_a_guest_types_and_sends_a_stream_of_messages_in_it(yard: Yard) -> None:
    opened = (await yard.hall.direct(yard.guest_id)).conversation_id
    async with listening(yard.hall, yard.admin) as listener:
        await yard.chat.type(yard.guest, opened)
        await listener.until(lambda: listener.has("typing", opened))
    stub = yard.hall.suite.stub(messages_rpc.MessageServiceStub)
    requests = [yard.hall.send_request(text, to=opened) for text in ("one", "two")]
    published = yard.guest.stream(stub.PublishMessages, iter([messages.PublishMessagesRequest(messages=requests)]))
    results = [result async for response in published for result in response.results]
    assert [result.WhichOneof("outcome") for result in results] == ["receipt", "receipt"]
    assert await yard.hall.texts(yard.admin, opened) == ["one", "two"]
