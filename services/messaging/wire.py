"""Rows as the messages of the protos."""

from typing import Any

from guildhall.messaging.v1 import conversation_service_pb2 as conversations_pb
from guildhall.messaging.v1 import message_service_pb2 as messages_pb
from sqlalchemy import Row

VISIBILITIES = {
    "public": conversations_pb.VISIBILITY_PUBLIC,
    "private": conversations_pb.VISIBILITY_PRIVATE,
}
VISIBILITY_NAMES = {value: name for name, value in VISIBILITIES.items()}


def conversation(row: Row[Any]) -> conversations_pb.Conversation:
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
        event_seq=row.event_seq,
        sender_member_id=row.sender_member_id,
        sender_user_id=row.sender_user_id,
        client_message_id=row.client_message_id,
        text=row.text,
    )
    found.create_time.FromDatetime(row.created_at)
    return found
