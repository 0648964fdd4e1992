"""Rows as the messages of the protos."""

import functools
from collections.abc import Mapping
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.messaging.v1 import conversation_service_pb2 as conversations_pb
from guildhall.messaging.v1 import message_service_pb2 as messages_pb
from guildhall.messaging.v1 import reaction_service_pb2 as reactions_pb
from guildhall.messaging.v1 import read_state_service_pb2 as read_states_pb
from sqlalchemy import Row

from services.messaging import wire_files
from services.messaging.access import Viewer
from services.messaging.sends import Send, Stored

VISIBILITIES = {
    "public": conversations_pb.VISIBILITY_PUBLIC,
    "private": conversations_pb.VISIBILITY_PRIVATE,
}
VISIBILITY_NAMES = {value: name for name, value in VISIBILITIES.items()}
KINDS = {
    "channel": conversations_pb.CONVERSATION_KIND_CHANNEL,
    "group": conversations_pb.CONVERSATION_KIND_GROUP,
    "direct": conversations_pb.CONVERSATION_KIND_DIRECT,
}
KIND_NAMES = {value: name for name, value in KINDS.items()}


def conversation(row: Any) -> conversations_pb.Conversation:
    """A row with conversations.CONVERSATION's columns."""
    found = conversations_pb.Conversation(
        conversation_id=row.id,
        workspace_id=row.workspace_id,
        kind=KINDS[row.kind],
        name=row.name,
        topic=row.topic,
        visibility=VISIBILITIES[row.visibility],
        group_id=row.group_id or "",
        initiated_by_member_id=row.created_by_member_id,
        etag=str(row.version),
        last_seq=row.last_seq,
        last_event_seq=row.last_event_seq,
    )
    if row.retention_seconds is not None:
        found.retention.FromSeconds(row.retention_seconds)
    if row.archived_at is not None:
        found.archive_time.FromDatetime(row.archived_at)
    found.create_time.FromDatetime(row.created_at)
    return found


def conversation_of_json(row: Mapping[str, Any]) -> conversations_pb.Conversation:
    """The same from a whole row as PostgreSQL's to_jsonb gives it."""
    times = {name: row[name] and datetime.fromisoformat(row[name]) for name in ("created_at", "archived_at")}
    return conversation(SimpleNamespace(**{**row, **times}))


def conversation_for(row: Row[Any], viewer: Viewer) -> conversations_pb.Conversation:
    """A row of conversations.read_one or one of its lists, with what is the viewer's own."""
    found = conversation_of_json(row.conversation)
    own = (row.stays or {}).get(viewer.member_id)
    if own is not None:
        found.joined, found.read_seq, found.unread_count = own["joined"], own["read_seq"], own["unread"]
    elif viewer.granted is not None:
        found.unread_count = row.everything
    if viewer.granted is None:
        found.participant_count = row.participant_count or 0
    if row.message_id is not None:
        place = {"workspace_id": found.workspace_id, "conversation_id": found.conversation_id}
        last = message(row, **place, since=viewer.since(found.conversation_id))
        found.last_message.CopyFrom(last)
    return found


def participant(row: Row[Any]) -> conversations_pb.Participant:
    """A row with participants.PARTICIPANT's columns."""
    found = conversations_pb.Participant(member_id=row.member_id, user_id=row.user_id)
    found.join_time.FromDatetime(row.joined_at)
    return found


def message(
    row: Row[Any], *, workspace_id: str, conversation_id: str, since: datetime | None = None
) -> messages_pb.Message:
    """A row with messages.MESSAGE's columns; `since` is when the reader's history starts."""
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
    if since is None or (row.reply_to_at is not None and row.reply_to_at >= since):
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


def shown(
    row: Row[Any], *, workspace_id: str, conversation_id: str, since: datetime | None = None
) -> messages_pb.Message:
    """The same with its reactions, as one reader has it."""
    found = message(row, workspace_id=workspace_id, conversation_id=conversation_id, since=since)
    for counted in row.reactions or ():
        found.reactions.add(emoji=counted["emoji"], count=counted["count"], mine=counted["mine"])
    return found


def revision(row: Row[Any]) -> messages_pb.MessageRevision:
    """A row of message_revisions."""
    found = messages_pb.MessageRevision(version=row.version, text=row.text)
    if row.ciphertext is not None:
        found.encrypted.ciphertext, found.encrypted.scheme = row.ciphertext, row.scheme
        found.encrypted.header = row.header or b""
    found.create_time.FromDatetime(row.created_at)
    return found


def reaction(row: Row[Any]) -> reactions_pb.Reaction:
    """A row of reactions."""
    found = reactions_pb.Reaction(
        message_id=row.message_id, member_id=row.member_id, user_id=row.user_id, emoji=row.emoji
    )
    found.create_time.FromDatetime(row.created_at)
    return found


def read_state(row: Any, *, unread_count: int = 0) -> read_states_pb.ReadState:
    """A row of read_states."""
    found = read_states_pb.ReadState(
        conversation_id=row.conversation_id,
        member_id=row.member_id,
        user_id=row.user_id,
        read_seq=row.read_seq,
        unread_count=unread_count,
    )
    if row.updated_at is not None:
        found.update_time.FromDatetime(row.updated_at)
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
