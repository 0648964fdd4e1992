"""Channels: who makes them, and who sees which. Also how the other messaging tests get theirs."""

import asyncio
import time
import uuid
from datetime import timedelta
from typing import Any

import grpc
import pytest
from guildhall.events.v1 import event_sink_pb2 as sink_pb
from guildhall.guest.v1 import guest_service_pb2 as guests
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.messaging.v1 import conversation_service_pb2 as pb
from guildhall.messaging.v1 import conversation_service_pb2_grpc as rpc
from guildhall.messaging.v1 import message_service_pb2 as messages
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc

from tests.service.test_guest_invites import House
from tests.support.suite import Person, Suite, refused


class Room(House):
    """A workspace with a public channel, in which people send and read."""

    def send_request(self, text: str = "hello", *, to: str = "", key: str = "") -> messages.SendMessageRequest:
        """A message to the house's channel, or another."""
        return messages.SendMessageRequest(
            workspace_id=self.workspace_id,
            conversation_id=to or self.channel_id,
            client_message_id=key or str(uuid.uuid4()),
            text=text,
        )

    def send(self, person: Person, text: str = "hello", *, to: str = "", key: str = "") -> Any:
        """Sends a message; await it for the response."""
        stub = self.suite.stub(messages_rpc.MessageServiceStub)
        return person.call(stub.SendMessage, self.send_request(text, to=to, key=key))

    async def sent(self, person: Person, text: str = "hello", *, to: str = "", key: str = "") -> messages.Message:
        """The message that was sent."""
        answer = await self.send(person, text, to=to, key=key)
        assert isinstance(answer.message, messages.Message)
        return answer.message

    def read(self, person: Person, conversation_id: str = "", **page: Any) -> Any:
        """ListMessages; await it for the response."""
        stub = self.suite.stub(messages_rpc.MessageServiceStub)
        request = messages.ListMessagesRequest(
            workspace_id=self.workspace_id, conversation_id=conversation_id or self.channel_id, **page
        )
        return person.call(stub.ListMessages, request)

    async def texts(self, person: Person, conversation_id: str = "") -> list[str]:
        """What somebody reads, oldest first."""
        return [message.text for message in reversed((await self.read(person, conversation_id)).messages)]

    def conversations(self, person: Person, **page: Any) -> Any:
        """ListConversations; await it for the response."""
        stub = self.suite.stub(rpc.ConversationServiceStub)
        return person.call(stub.ListConversations, pb.ListConversationsRequest(workspace_id=self.workspace_id, **page))

    async def seen(self, person: Person) -> list[str]:
        """The ids of the conversations that somebody sees."""
        return [item.conversation_id for item in (await self.conversations(person)).conversations]

    def lock(self, guest: guests.Guest) -> None:
        """Lets a guest's time be over since a second ago, their grace still running."""
        self._shift(guest, timedelta(seconds=-1), timedelta(hours=1))

    def end(self, guest: guests.Guest) -> None:
        """Lets a guest's grace be over since a second ago."""
        self._shift(guest, timedelta(seconds=-2), timedelta(seconds=-1))

    async def back(self, peer: str, *, seen_by: Person | None = None) -> None:
        """Starts a service that was stopped, and waits until messaging has found it again."""
        await self.suite.start(peer)
        deadline = time.monotonic() + 10
        while True:
            try:
                await self.conversations(seen_by or self.admin)
                return
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)

    def _shift(self, guest: guests.Guest, expiry: timedelta, grace: timedelta) -> None:
        self.sql(
            "UPDATE guests SET expire_at = statement_timestamp() + %(expiry)s, "
            "grace_end_at = statement_timestamp() + %(grace)s WHERE member_id = %(id)s",
            expiry=expiry,
            grace=grace,
            id=guest.member_id,
        )


@pytest.fixture
async def room(suite: Suite) -> Room:
    """A workspace of this test's own."""
    made = await Room.make(suite)
    assert isinstance(made, Room)
    return made


async def test_a_member_makes_a_channel_and_takes_part_in_it(room: Room) -> None:
    member, _ = await room.member()
    channel = await room.channel(member, private=True)
    assert channel in await room.seen(member)


async def test_making_a_channel_again_with_the_same_key_makes_one(room: Room) -> None:
    stub = room.suite.stub(rpc.ConversationServiceStub)
    request = pb.CreateChannelRequest(
        workspace_id=room.workspace_id, name="once", visibility=pb.VISIBILITY_PUBLIC, request_id=str(uuid.uuid4())
    )
    first = await room.admin.call(stub.CreateChannel, request)
    again = await room.admin.call(stub.CreateChannel, request)
    assert again == first
    request.name = "other"
    refusal = await refused(room.admin.call(stub.CreateChannel, request))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_MISMATCH")


async def test_a_viewer_and_a_guest_make_no_channels(room: Room) -> None:
    viewer, _ = await room.member(members.ROLE_VIEWER)
    guest, _ = await room.guest()
    for person in (viewer, guest):
        assert (await refused(room.channel(person))).reason == "PERMISSION_DENIED"
    outsider = await refused(room.channel(room.outsider()))
    assert (outsider.code, outsider.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_members_see_public_channels_and_private_ones_they_take_part_in(room: Room) -> None:
    member, _ = await room.member()
    public, hidden, own = (
        await room.channel(),
        await room.channel(private=True),
        await room.channel(member, private=True),
    )
    assert await room.seen(member) == [room.channel_id, public, own]
    assert await room.seen(room.admin) == [room.channel_id, public, hidden]


async def test_a_guest_sees_only_what_was_granted_and_nothing_after_the_grace(room: Room) -> None:
    private = await room.channel(private=True)
    await room.channel()
    person, guest = await room.guest(private)
    assert await room.seen(person) == [private]
    room.lock(guest)
    assert await room.seen(person) == [private]
    room.end(guest)
    assert (await refused(room.conversations(person))).reason == "NOT_FOUND"


async def test_pages_join_to_the_whole_list(room: Room) -> None:
    made = [room.channel_id, *[await room.channel() for _ in range(4)]]
    found, token = [], ""
    while True:
        page = await room.conversations(room.admin, page_size=2, page_token=token)
        found += [item.conversation_id for item in page.conversations]
        token = page.next_page_token
        if not token:
            break
    assert found == made
    member, _ = await room.member()
    page = await room.conversations(room.admin, page_size=2)
    refusal = await refused(room.conversations(member, page_token=page.next_page_token))
    assert (refusal.code, set(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {"page_token"})


async def test_the_list_of_an_unknown_workspace_is_not_found_like_a_hidden_one(room: Room) -> None:
    outsider = room.outsider()
    hidden = await refused(room.conversations(outsider))
    room.workspace_id = str(uuid.uuid4())
    unknown = await refused(room.conversations(outsider))
    assert hidden.reason == "NOT_FOUND"
    assert hidden.raw == unknown.raw


async def test_guest_is_told_of_the_channels_that_the_member_sees(room: Room) -> None:
    _, member_id = await room.member()
    private = await room.channel(private=True)
    stub = room.suite.stub(rpc.ConversationServiceStub, certificate="guest")

    async def told(member: str, workspace_id: str) -> set[str]:
        ids = [room.channel_id.upper(), private, str(uuid.uuid4())]
        request = pb.BatchGetConversationsRequest(workspace_id=workspace_id, conversation_ids=ids, member_id=member)
        answer = await stub.BatchGetConversations(request, timeout=10)
        return {item.conversation_id for item in answer.conversations}

    assert await told(member_id, room.workspace_id) == {room.channel_id}
    assert await told(room.admin_member_id, room.workspace_id) == {room.channel_id, private}
    assert await told(room.admin_member_id, str(uuid.uuid4())) == set()


async def test_a_removed_member_takes_part_in_nothing_any_more_however_often_it_is_told(room: Room) -> None:
    member, member_id = await room.member()
    own = await room.channel(member, private=True)
    event = sink_pb.Event(
        event_id=str(uuid.uuid4()),
        member_removed=sink_pb.MemberRemoved(
            workspace_id=room.workspace_id, member_id=member_id, user_id=member.user_id
        ),
    )
    sink = room.suite.sink("messaging", certificate="membership")
    inbox = room.suite.frames["messaging"].inbox
    for event_id in (event.event_id, event.event_id, str(uuid.uuid4())):
        event.event_id = event_id
        await sink.DeliverEvents(sink_pb.DeliverEventsRequest(events=[event]), timeout=10)
        while await inbox.apply_next():
            pass
    with room.suite.database("messaging") as database:
        left = database.execute("SELECT 1 FROM participants WHERE member_id = %s", (member_id,)).fetchall()
    assert left == []
    assert own not in await room.seen(member)
    assert room.channel_id in await room.seen(member)
