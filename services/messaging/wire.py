"""Rows as the messages of the protos."""

import functools
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.messaging.v1 import conversation_service_pb2 as conversations_pb
from guildhall.messaging.v1 import message_service_pb2 as messages_pb
from sqlalchemy import Row

from services.messaging import wire_files
from services.messaging.sends import Send, Stored

VISIBILITIES = {
    "public": conversations_pb.VISIBILITY_PUBLIC,
    "private": conversations_pb.VISIBILITY_PRIVATE,
}
VISIBILITY_NAMES = {value: name for name, value in VISIBILITIES.items()}


def conversation(row: Any) -> conversations_pb.Conversation:
    """A row with conversations.CONVERSATION's columns."""
    found = conversations_pb.Conversation(
        conversation_id=row.id,
        workspace_id=row.workspace_id,
        name=row.name,
        visibility=VISIBILITIES[row.visibility],
        last_seq=row.last_seq,
        last_event_seq=row.last_event_seq,
    )
    found.create_time.FromDatetime(row.created_at)
    return found


def message(row: Row[Any], *, workspace_id: str, conversation_id: str) -> messages_pb.Message:
    """A row with messages.MESSAGE's columns."""
    found = messages_pb.Message(
        message_id=row.message_id,
        workspace_id=workspace_id,
        conversation_id=conversation_id,
        seq=row.seq,
        event_seq=row.message_event_seq,
        sender_member_id=row.sender_member_id,
        sender_user_id=row.sender_user_id,
        client_message_id=row.client_message_id,
        text=row.text,
        etag=etag(row.version, deleted=row.deleted_at is not None),
    )
    found.create_time.FromDatetime(row.created_at)
    if row.is_plain:
        return found
    if row.ciphertext is not None:
        found.encrypted.ciphertext, found.encrypted.scheme = row.ciphertext, row.scheme
        found.encrypted.header = row.header or b""
    found.reply_to_message_id = row.reply_to_id or ""
    if row.mentioned_member_ids or row.mentioned_user_group_ids or row.mentions_everyone:
        found.mentions.member_ids.extend(row.mentioned_member_ids or ())
        found.mentions.user_group_ids.extend(row.mentioned_user_group_ids or ())
        found.mentions.everyone = row.mentions_everyone
    found.files.extend(map(wire_files.file_in_json, row.files or ()))
    if row.edited_at is not None:
        found.edit_time.FromDatetime(row.edited_at)
    if row.deleted_at is not None:
        found.delete_time.FromDatetime(row.deleted_at)
    return found


def shown(row: Row[Any], *, workspace_id: str, conversation_id: str) -> messages_pb.Message:
    """The same with its reactions, as one reader has it."""
    found = message(row, workspace_id=workspace_id, conversation_id=conversation_id)
    for counted in row.reactions or ():
        found.reactions.add(emoji=counted["emoji"], count=counted["count"], mine=counted["mine"])
    return found


def etag(version: int, *, deleted: bool = False) -> str:
    """Of a message: what it says has changed, or it has been deleted, if it is another."""
    return f"{version}d" if deleted else str(version)


def sent(send: Send, stored: Stored) -> messages_pb.Message:
    """A message that was just stored."""
    found = messages_pb.Message(
        message_id=stored.message_id,
        workspace_id=send.workspace_id,
        conversation_id=send.conversation_id,
        seq=stored.seq,
        event_seq=stored.event_seq,
        sender_member_id=stored.sender_member_id,
        sender_user_id=send.user_id,
        client_message_id=send.client_message_id,
        text=send.text or "",
        etag=etag(1),
    )
    found.create_time.CopyFrom(_timestamp(stored.created_at))
    return found


def receipt(client_message_id: str, stored: Stored) -> messages_pb.PublishResult:
    """What the server adds to a message that is stored."""
    result = messages_pb.PublishResult(client_message_id=client_message_id)
    result.receipt.message_id = stored.message_id
    result.receipt.seq = stored.seq
    result.receipt.event_seq = stored.event_seq
    result.receipt.create_time.CopyFrom(_timestamp(stored.created_at))
    return result


# All messages of a batch have the same time.
@functools.lru_cache(maxsize=16)
def _timestamp(moment: datetime) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(moment)
    return found
