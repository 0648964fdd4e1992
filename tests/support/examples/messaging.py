"""Examples of messaging's RPCs."""

import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.messaging.v1 import conversation_service_pb2 as conversations

from tests.support.examples import Example
from tests.support.examples.cast import Caller
from tests.support.examples.world import CONTENT, UPLOAD, House, word


def place(house: House, _caller: Caller) -> dict[str, Any]:
    """The workspace."""
    return house.workspace


def channel(house: House, _caller: Caller) -> dict[str, Any]:
    """The channel."""
    return house.channel_fields


def message(house: House, _caller: Caller) -> dict[str, Any]:
    """The boss's message."""
    return house.message_fields


def own_message(house: House, caller: Caller) -> dict[str, Any]:
    """The caller's, where they could ever write one."""
    return {**house.channel_fields, "message_id": caller.message_id or house.message_id}


async def new_message(house: House, _caller: Caller) -> dict[str, Any]:
    """A message of the boss's to be deleted."""
    return {**house.channel_fields, "message_id": await house.message()}


def sending(house: House, _caller: Caller) -> dict[str, Any]:
    """A message to be sent."""
    return {**house.channel_fields, "client_message_id": str(uuid.uuid4()), "text": "hello"}


async def newcomer(house: House, _caller: Caller) -> dict[str, Any]:
    """Somebody who takes no part in the channel."""
    return {**house.channel_fields, "member_id": await house.member_id()}


async def participant(house: House, caller: Caller) -> dict[str, Any]:
    """Somebody who does."""
    named = await newcomer(house, caller)
    fields = {"conversation_id": named["conversation_id"], "member_id": named["member_id"]}
    await house.call("messaging.ConversationService/AddParticipant", **fields)
    return named


def file(house: House, _caller: Caller) -> dict[str, Any]:
    """A file that a message holds."""
    return {**house.workspace, "file_id": house.file_id}


async def own_upload(house: House, caller: Caller) -> dict[str, Any]:
    """What the caller has announced; what the boss has, where they could not."""
    return {**house.workspace, "file_id": caller.file_id or await house.upload()}


async def new_file(house: House, _caller: Caller) -> dict[str, Any]:
    """A file of the boss's to be deleted."""
    return {**house.workspace, "file_id": await house.attached_file()}


async def start(house: House, caller: Caller) -> dict[str, Any]:
    """The first frame of an upload."""
    return {"start": await own_upload(house, caller)}


async def chunk(house: House, caller: Caller) -> dict[str, Any]:
    """A file in one piece."""
    return {**await own_upload(house, caller), "data": CONTENT}


EXAMPLES: Mapping[str, Example] = MappingProxyType(
    {
        "messaging.ConversationService/CreateChannel": Example(
            lambda h, c: {**h.workspace, "name": word("channel"), "visibility": conversations.VISIBILITY_PUBLIC}
        ),
        "messaging.ConversationService/CreateGroupConversation": Example(
            lambda h, c: {**h.group_fields, "name": word("rehearsal")}
        ),
        "messaging.ConversationService/OpenDirectConversation": Example(
            lambda h, c: {**h.workspace, "member_ids": [h.bob_id]}
        ),
        "messaging.ConversationService/GetConversation": Example(channel),
        "messaging.ConversationService/ListConversations": Example(place),
        "messaging.ConversationService/UpdateConversation": Example(
            lambda h, c: {
                "conversation": {**h.channel_fields, "topic": word("topic")},
                "update_mask": FieldMask(paths=["topic"]),
            }
        ),
        "messaging.ConversationService/ArchiveConversation": Example(
            lambda h, c: {**h.channel_fields, "unarchive": True}
        ),
        "messaging.ConversationService/JoinConversation": Example(channel),
        "messaging.ConversationService/LeaveConversation": Example(channel),
        "messaging.ConversationService/AddParticipant": Example(newcomer),
        "messaging.ConversationService/RemoveParticipant": Example(participant),
        "messaging.ConversationService/ListParticipants": Example(channel),
        "messaging.ConversationService/BatchGetConversations": Example(
            lambda h, c: {**h.workspace, "conversation_ids": [h.channel_id], "member_id": h.boss_id}
        ),
        "messaging.ConversationService/ListCoParticipants": Example(
            lambda h, c: {**h.workspace, "conversation_ids": [h.channel_id]}
        ),
        "messaging.MessageService/SendMessage": Example(sending),
        "messaging.MessageService/PublishMessages": Example(lambda h, c: {"messages": [sending(h, c)]}),
        "messaging.MessageService/GetMessage": Example(message),
        "messaging.MessageService/ListMessages": Example(channel),
        "messaging.MessageService/EditMessage": Example(lambda h, c: {**message(h, c), "text": "edited"}),
        "messaging.MessageService/EditMessage (own)": Example(
            lambda h, c: {**own_message(h, c), "text": "edited"}, personal=True
        ),
        "messaging.MessageService/DeleteMessage": Example(new_message),
        "messaging.MessageService/ListMessageRevisions (own)": Example(own_message, personal=True),
        "messaging.MessageService/DeleteMessage (own)": Example(own_message, personal=True),
        "messaging.MessageService/ListMessageRevisions": Example(message),
        "messaging.MessageService/SearchMessages": Example(lambda h, c: {**h.workspace, "query": "hello"}),
        "messaging.MessageService/ResolveMentions": Example(lambda h, c: {**channel(h, c), "handles": [h.crew]}),
        "messaging.ReactionService/AddReaction": Example(lambda h, c: {**message(h, c), "emoji": "👍"}),
        "messaging.ReactionService/RemoveReaction": Example(lambda h, c: {**message(h, c), "emoji": "👍"}),
        "messaging.ReactionService/ListReactions": Example(message),
        "messaging.FileService/CreateUpload": Example(lambda h, c: {**channel(h, c), **UPLOAD}),
        "messaging.FileService/UploadFile": Example(start, personal=True),
        "messaging.FileService/UploadChunk": Example(chunk, personal=True),
        "messaging.FileService/GetUpload": Example(own_upload, personal=True),
        "messaging.FileService/GetFile": Example(file),
        "messaging.FileService/DownloadFile": Example(file),
        "messaging.FileService/DeleteFile": Example(new_file),
        "messaging.FileService/DeleteFile (own)": Example(own_upload, personal=True),
        "messaging.FileService/ListFiles": Example(channel),
        "messaging.EventService/Subscribe": Example(place),
        "messaging.EventService/SendTyping": Example(channel),
        "messaging.ReadStateService/MarkRead": Example(lambda h, c: {**channel(h, c), "seq": 1}),
        "messaging.ReadStateService/MarkUnread": Example(lambda h, c: {**channel(h, c), "seq": 1}),
        "messaging.ReadStateService/ListReadStates": Example(channel),
    }
)
