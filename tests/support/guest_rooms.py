"""A workspace in which a guest shares a channel with some, and others are there whom they do not see."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from guildhall.guest.v1 import guest_service_pb2 as guests
from guildhall.messaging.v1 import message_service_pb2 as messages
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc

from tests.support.chats import Chat
from tests.support.conversations import Hall
from tests.support.guest_calls import at, call, clock
from tests.support.suite import Person, Suite


@dataclass
class Yard:
    """The workspace, its guest, a friend who takes part in the guest's channel, and a stranger who does not."""

    hall: Hall
    chat: Chat
    guest: Person
    stay: guests.Guest
    friend: Person
    friend_id: str
    stranger: Person
    stranger_id: str

    @property
    def admin(self) -> Person:
        """Who made the workspace and its channel."""
        return self.hall.admin

    @property
    def channel_id(self) -> str:
        """The channel that is granted to the guest."""
        return self.hall.channel_id

    @property
    def guest_id(self) -> str:
        """The guest's member id."""
        return self.stay.member_id

    async def mention(self, *member_ids: str, text: str = "hello", user_group_ids: Any = ()) -> messages.Message:
        """A message of the admin's that mentions people."""
        request = self.hall.send_request(text)
        request.mentions.member_ids.extend(member_ids)
        request.mentions.user_group_ids.extend(user_group_ids)
        answer = await self.admin.call(self.hall.suite.stub(messages_rpc.MessageServiceStub).SendMessage, request)
        assert isinstance(answer.message, messages.Message)
        return answer.message

    async def search(self, person: Person, query: str = "", **fields: Any) -> Any:
        """SearchMessages."""
        request = messages.SearchMessagesRequest(workspace_id=self.hall.workspace_id, query=query, **fields)
        return await person.call(self.hall.suite.stub(messages_rpc.MessageServiceStub).SearchMessages, request)

    async def regrant(self, **times: timedelta) -> None:
        """The channel granted anew, with times relative to the clock."""
        shifted = {name: at(clock(self.hall) + shift) for name, shift in times.items()}
        await call(self.hall, "GrantChannel", member_id=self.guest_id, conversation_id=self.channel_id, **shifted)

    async def revoke(self, conversation_id: str = "") -> None:
        """A channel taken away from the guest, which is acknowledged."""
        named = {"member_id": self.guest_id, "conversation_id": conversation_id or self.channel_id}
        await call(self.hall, "RevokeChannel", **named)

    async def grant(self, conversation_id: str) -> None:
        """Another channel for the guest."""
        await call(self.hall, "GrantChannel", member_id=self.guest_id, conversation_id=conversation_id)


async def new_yard(suite: Suite) -> Yard:
    """A workspace of a test's own."""
    hall = await Hall.make(suite)
    assert isinstance(hall, Hall)
    chat = Chat(suite, hall.admin, hall.workspace_id, hall.admin_member_id, hall.channel_id)
    friend, friend_id = await hall.newcomer("Fay")
    stranger, stranger_id = await hall.newcomer("Sid")
    await hall.of("JoinConversation", hall.channel_id, by=friend)
    guest, stay = await hall.guest()
    return Yard(hall, chat, guest, stay, friend, friend_id, stranger, stranger_id)
