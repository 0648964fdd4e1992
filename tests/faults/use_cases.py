"""Every RPC that changes something, with what it needs; membership's come from its own tests' table."""

import hashlib
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import symbol_database
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.guest.v1 import guest_service_pb2 as guests
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.messaging.v1 import conversation_service_pb2 as conversations

from services.chassis import contracts
from services.membership import members as membership
from tests.service.test_membership_revisions import CHANGES, Change
from tests.service.test_membership_workspaces import somebody
from tests.support.accounts import service_account
from tests.support.membership_world import new_world
from tests.support.reflected import do
from tests.support.suite import Person, Suite

Call = Callable[[], Awaitable[Any]]
"""The use case, ready to be done: again and again with the same key, as a client repeats it."""


@dataclass(frozen=True)
class UseCase:
    """One RPC that changes something: "guest.GuestService/ExtendGuest"."""

    rpc: str
    prepare: Callable[[Suite], Awaitable[Call]]


@dataclass(frozen=True)
class Town:
    """A workspace with two members, a channel in which both take part, and a message of Bob's in it."""

    suite: Suite
    admin: Person
    bob: Person
    workspace_id: str
    bob_id: str
    channel_id: str
    message_id: str

    @property
    def place(self) -> dict[str, Any]:
        """The channel."""
        return {"workspace_id": self.workspace_id, "conversation_id": self.channel_id}

    @property
    def message(self) -> dict[str, Any]:
        """The message."""
        return {**self.place, "message_id": self.message_id}

    async def channel(self, name: str = "another") -> str:
        """Another channel of the admin's."""
        fields = {"workspace_id": self.workspace_id, "name": name, "visibility": conversations.VISIBILITY_PUBLIC}
        made = await do(self.suite, self.admin, "messaging.ConversationService/CreateChannel", **fields)
        return str(made.conversation.conversation_id)

    async def guest_link(self) -> Any:
        """A link into the channel."""
        fields = {"workspace_id": self.workspace_id, "conversation_ids": [self.channel_id], "guest_ttl": _seconds(3600)}
        return await do(self.suite, self.admin, "guest.GuestInviteService/CreateGuestInvite", **fields)

    async def guest(self) -> dict[str, Any]:
        """A guest of the channel: the fields that name them."""
        token, gil = (await self.guest_link()).token, await somebody(self.suite, "Gil")
        made = await do(self.suite, gil, "guest.GuestInviteService/RedeemGuestInvite", token=token)
        return {"workspace_id": self.workspace_id, "member_id": made.guest.member_id}

    async def file(self) -> str:
        """A file that Bob has announced."""
        made = await do(self.suite, self.bob, "messaging.FileService/CreateUpload", **self.place, **UPLOAD)
        return str(made.file.file_id)


CONTENT = b"content"
UPLOAD = {
    "name": "a.pdf",
    "mime_type": "application/pdf",
    "size_bytes": len(CONTENT),
    "sha256": hashlib.sha256(CONTENT).digest(),
}


async def new_town(suite: Suite) -> Town:
    """A town of its own for each use case."""
    admin, bob = await somebody(suite, "Admin"), await somebody(suite, "Bob")
    made = await do(suite, admin, "membership.WorkspaceService/CreateWorkspace", name="Town")
    workspace_id = str(made.workspace.workspace_id)
    row = await suite.frames["membership"].database.transaction(
        lambda tx: membership.join(tx, workspace_id=workspace_id, user_id=bob.user_id, role="member")
    )
    assert row is not None
    fields = {"workspace_id": workspace_id, "name": "channel", "visibility": conversations.VISIBILITY_PUBLIC}
    channel = await do(suite, admin, "messaging.ConversationService/CreateChannel", **fields)
    place = {"workspace_id": workspace_id, "conversation_id": channel.conversation.conversation_id}
    await do(suite, bob, "messaging.ConversationService/JoinConversation", **place)
    sent = {**place, "client_message_id": str(uuid.uuid4()), "text": "hello"}
    message = (await do(suite, bob, "messaging.MessageService/SendMessage", **sent)).message
    return Town(suite, admin, bob, workspace_id, str(row.id), place["conversation_id"], message.message_id)


Fields = Callable[[Town], Awaitable[tuple[Person, dict[str, Any]]]]
"""Who calls, and with what."""


def in_town(rpc: str, fields: Fields) -> UseCase:
    """A use case of guest or messaging."""

    async def prepare(suite: Suite) -> Call:
        town = await new_town(suite)
        person, given = await fields(town)
        return keyed(suite, person, rpc, given)

    return UseCase(rpc, prepare)


def keyed(suite: Suite, person: Person, rpc: str, fields: Mapping[str, Any]) -> Call:
    """A unary call that can be repeated: with a request id, if its request takes one."""
    package, name = rpc.split(".")
    request = contracts.request_class(contracts.rpcs()[f"/guildhall.{package}.v1.{name}"])
    takes_key = "request_id" in request.DESCRIPTOR.fields_by_name  # type: ignore[attr-defined]
    key = {"request_id": str(uuid.uuid4())} if takes_key else {}
    return lambda: do(suite, person, rpc, **fields, **key)


def by_bob(**more: Any) -> Fields:
    """A call of Bob's about the channel."""

    async def fields(town: Town) -> tuple[Person, dict[str, Any]]:
        return town.bob, {**town.place, **more}

    return fields


def about_message(**more: Any) -> Fields:
    """A call of Bob's about his message."""

    async def fields(town: Town) -> tuple[Person, dict[str, Any]]:
        return town.bob, {**town.message, **more}

    return fields


def by_admin(*, of_bob: bool = False, **more: Any) -> Fields:
    """A call of the admin's about the channel, or about Bob in it."""

    async def fields(town: Town) -> tuple[Person, dict[str, Any]]:
        return town.admin, {**town.place, **({"member_id": town.bob_id} if of_bob else {}), **more}

    return fields


def about_guest(**more: Any) -> Fields:
    """A call of the admin's about a guest."""

    async def fields(town: Town) -> tuple[Person, dict[str, Any]]:
        return town.admin, {**await town.guest(), **more}

    return fields


def _seconds(seconds: int) -> Duration:
    return Duration(seconds=seconds)


async def _new_channel(town: Town) -> tuple[Person, dict[str, Any]]:
    visibility = conversations.VISIBILITY_PRIVATE
    return town.bob, {"workspace_id": town.workspace_id, "name": "new", "visibility": visibility}


async def _group_conversation(town: Town) -> tuple[Person, dict[str, Any]]:
    named = {"workspace_id": town.workspace_id, "name": "Team"}
    made = await do(town.suite, town.admin, "membership.GroupService/CreateGroup", **named)
    return town.admin, {**named, "group_id": made.group.group_id}


async def _direct(town: Town) -> tuple[Person, dict[str, Any]]:
    return town.admin, {"workspace_id": town.workspace_id, "member_ids": [town.bob_id]}


async def _renamed(town: Town) -> tuple[Person, dict[str, Any]]:
    return town.admin, {
        "conversation": {**town.place, "name": "other"},
        "update_mask": FieldMask(paths=["name"]),
    }


async def _join(town: Town) -> tuple[Person, dict[str, Any]]:
    return town.bob, {"workspace_id": town.workspace_id, "conversation_id": await town.channel()}


async def _add(town: Town) -> tuple[Person, dict[str, Any]]:
    _, named = await _join(town)
    return town.admin, {**named, "member_id": town.bob_id}


async def _unreact(town: Town) -> tuple[Person, dict[str, Any]]:
    fields = {**town.message, "emoji": "👍"}
    await do(town.suite, town.bob, "messaging.ReactionService/AddReaction", **fields)
    return town.bob, fields


async def _chunk(town: Town) -> tuple[Person, dict[str, Any]]:
    return town.bob, {"workspace_id": town.workspace_id, "file_id": await town.file(), "data": CONTENT}


async def _delete_file(town: Town) -> tuple[Person, dict[str, Any]]:
    return town.bob, {"workspace_id": town.workspace_id, "file_id": await town.file()}


async def _send(town: Town) -> tuple[Person, dict[str, Any]]:
    return town.bob, {**town.place, "client_message_id": str(uuid.uuid4()), "text": "once"}


async def _publish(suite: Suite) -> Call:
    """One message in a frame; what is refused in it is an answer, which counts as a refusal here."""
    town = await new_town(suite)
    _, message = await _send(town)

    async def call() -> Any:
        answer = await _stream(suite, town.bob, "messaging.MessageService/PublishMessages", [{"messages": [message]}])
        if not answer.results[0].HasField("receipt"):
            raise RefusedInStreamError
        return answer

    return call


async def _upload(suite: Suite) -> Call:
    town = await new_town(suite)
    start = {"workspace_id": town.workspace_id, "file_id": await town.file()}
    frames = [{"start": start}, {"data": CONTENT}]
    return lambda: _stream(suite, town.bob, "messaging.FileService/UploadFile", frames)


class RefusedInStreamError(Exception):
    """A stream was answered, and the answer is a refusal."""


async def _stream(suite: Suite, person: Person, name: str, frames: list[dict[str, Any]]) -> Any:
    """The first answer to some frames."""
    package, service = name.split(".")
    rpc = contracts.rpcs()[f"/guildhall.{package}.v1.{service}"]
    request: Any = contracts.request_class(rpc)
    response: Any = symbol_database.Default().GetSymbol(rpc.response)
    shape = "stream_stream" if rpc.server_streaming else "stream_unary"
    method = getattr(suite.channel(package), shape)(rpc.name, request.SerializeToString, response.FromString)

    async def given() -> Any:
        for frame in frames:
            yield request(**frame)

    call = method(given(), timeout=30, metadata=person.metadata)
    if not rpc.server_streaming:
        return await call
    async for answer in call:
        return answer
    raise RefusedInStreamError


async def _link(town: Town) -> tuple[Person, dict[str, Any]]:
    ids, ttl = [town.channel_id], _seconds(3600)
    return town.admin, {"workspace_id": town.workspace_id, "conversation_ids": ids, "guest_ttl": ttl}


async def _revoke_link(town: Town) -> tuple[Person, dict[str, Any]]:
    return town.admin, {"workspace_id": town.workspace_id, "invite_id": (await town.guest_link()).invite.invite_id}


async def _redeem(town: Town) -> tuple[Person, dict[str, Any]]:
    return await somebody(town.suite, "Gil"), {"token": (await town.guest_link()).token}


async def _extend(town: Town) -> tuple[Person, dict[str, Any]]:
    later = Timestamp()
    later.GetCurrentTime()
    later.seconds += 86_400
    return town.admin, {**await town.guest(), "expire_time": later}


async def _grant(town: Town) -> tuple[Person, dict[str, Any]]:
    return town.admin, {**await town.guest(), "conversation_id": await town.channel()}


async def _revoke(town: Town) -> tuple[Person, dict[str, Any]]:
    _, fields = await _grant(town)
    await do(town.suite, town.admin, "guest.GuestService/GrantChannel", **fields)
    return town.admin, fields


async def _transfer(town: Town) -> tuple[Person, dict[str, Any]]:
    promoted = {"workspace_id": town.workspace_id, "member_id": town.bob_id, "role": members.ROLE_ADMIN}
    await do(town.suite, town.admin, "membership.MemberService/UpdateMemberRole", **promoted)
    return town.admin, {**await town.guest(), "sponsor_member_id": town.bob_id}


async def _policy(town: Town) -> tuple[Person, dict[str, Any]]:
    await town.guest()
    policy = guests.GuestPolicy(workspace_id=town.workspace_id, grace=_seconds(60))
    return town.admin, {"policy": policy, "update_mask": FieldMask(paths=["grace"])}


def _of_membership(change: Change) -> UseCase:
    """One of the changes that membership's own tests make, under a key."""

    async def prepare(suite: Suite) -> Call:
        world, key = await new_world(suite), str(uuid.uuid4())
        await somebody(suite, "Eve")  # before it is looked at: some changes need her
        prepared = await change.prepare(world) if change.prepare else None
        plain = world.call

        async def with_key(rpc: str, **fields: Any) -> Any:
            taken = {"request_id": key} if "certificate" not in fields else {}
            return await plain(rpc, **taken, **fields)

        world.call = with_key  # type: ignore[method-assign]
        return lambda: change.make(world, prepared)

    return UseCase(f"membership.{change.rpc}", prepare)


async def _add_member(suite: Suite) -> Call:
    world, eve = await new_world(suite), await somebody(suite, "Eve")
    account = service_account(suite, "membership.members")
    fields = {"workspace_id": world.id, "user_id": eve.user_id, "role": members.ROLE_MEMBER}
    return keyed(suite, account, "membership.MemberService/AddMember", fields)


async def _add_guest(suite: Suite) -> Call:
    world, gil, redemption_id = await new_world(suite), await somebody(suite, "Gil"), str(uuid.uuid4())
    return lambda: world.place.workspace.add_guest(gil, redemption_id)


async def _bump(suite: Suite) -> Call:
    world, event_id = await new_world(suite), str(uuid.uuid4())
    return lambda: world.call("AccessService/BumpAccessRevision", certificate="guest", event_id=event_id)


async def _new_workspace(suite: Suite) -> Call:
    return keyed(suite, await somebody(suite, "Ada"), "membership.WorkspaceService/CreateWorkspace", {"name": "New"})


# Those that a key of their own makes repeatable, and what is no RPC.
_OWN_WAY = {"add a member", "add a guest", "bump", "delete a person"}
MEMBERSHIP = {
    **{f"membership: {name}": _of_membership(change) for name, change in CHANGES.items() if name not in _OWN_WAY},
    "membership: add a member": UseCase("membership.MemberService/AddMember", _add_member),
    "membership: add a guest": UseCase("membership.MemberService/AddGuestMember", _add_guest),
    "membership: bump": UseCase("membership.AccessService/BumpAccessRevision", _bump),
    "membership: create a workspace": UseCase("membership.WorkspaceService/CreateWorkspace", _new_workspace),
}
_IN_TOWN: Mapping[str, Fields] = {
    "guest.GuestInviteService/CreateGuestInvite": _link,
    "guest.GuestInviteService/RevokeGuestInvite": _revoke_link,
    "guest.GuestInviteService/RedeemGuestInvite": _redeem,
    "guest.GuestService/ExtendGuest": _extend,
    "guest.GuestService/GrantChannel": _grant,
    "guest.GuestService/RevokeChannel": _revoke,
    "guest.GuestService/RemoveGuest": about_guest(),
    "guest.GuestService/PromoteGuest": about_guest(role=guests.PROMOTED_ROLE_MEMBER),
    "guest.GuestService/TransferSponsor": _transfer,
    "guest.GuestService/UpdateGuestPolicy": _policy,
    "messaging.ConversationService/CreateChannel": _new_channel,
    "messaging.ConversationService/CreateGroupConversation": _group_conversation,
    "messaging.ConversationService/OpenDirectConversation": _direct,
    "messaging.ConversationService/UpdateConversation": _renamed,
    "messaging.ConversationService/ArchiveConversation": by_admin(),
    "messaging.ConversationService/JoinConversation": _join,
    "messaging.ConversationService/LeaveConversation": by_bob(),
    "messaging.ConversationService/AddParticipant": _add,
    "messaging.ConversationService/RemoveParticipant": by_admin(of_bob=True),
    "messaging.FileService/CreateUpload": by_bob(**UPLOAD),
    "messaging.FileService/UploadChunk": _chunk,
    "messaging.FileService/DeleteFile": _delete_file,
    "messaging.MessageService/SendMessage": _send,
    "messaging.MessageService/EditMessage": about_message(text="edited"),
    "messaging.MessageService/DeleteMessage": about_message(),
    "messaging.ReactionService/AddReaction": about_message(emoji="🎉"),
    "messaging.ReactionService/RemoveReaction": _unreact,
    "messaging.ReadStateService/MarkRead": by_bob(seq=1),
    "messaging.ReadStateService/MarkUnread": by_bob(seq=1),
}
USE_CASES: Mapping[str, UseCase] = {
    **MEMBERSHIP,
    **{rpc: in_town(rpc, fields) for rpc, fields in _IN_TOWN.items()},
    "messaging.MessageService/PublishMessages": UseCase("messaging.MessageService/PublishMessages", _publish),
    "messaging.FileService/UploadFile": UseCase("messaging.FileService/UploadFile", _upload),
}
