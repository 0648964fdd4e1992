"""`guildhall tail`: what happens in a workspace, as it happens."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from datetime import UTC
from typing import Any

from google.protobuf.json_format import MessageToDict
from guildhall.client import Client, NotFound
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as members_rpc
from guildhall.messaging.v1 import conversation_service_pb2 as conversations
from guildhall.messaging.v1 import conversation_service_pb2_grpc as conversations_rpc
from guildhall.messaging.v1 import event_service_pb2 as events
from guildhall.messaging.v1 import message_service_pb2 as messages

from deploy.remote import places
from deploy.remote.texts import plain


async def tail(
    client: Client,
    *,
    workspace: str,
    conversation: str,
    count: int | None,
    last: int,
    as_json: bool,
    show: Callable[[str], None],
    tell: Callable[[str], None],
) -> None:
    """Shows each event as a line, for as long as the caller may see the workspace, or `count` lines.

    The workspace and the conversation are named by id or name; no conversation means all. It begins with the `last`
    events of each conversation. `tell` gets what is about the stream itself.
    """
    chosen = await places.find_workspace(client, workspace)
    seen = await places.list_conversations(client, chosen.workspace_id)
    only = places.choose_conversation(seen, conversation).conversation_id if conversation else ""
    lines = _Lines(client, chosen.workspace_id, {each.conversation_id: _name_of(each) for each in seen})
    streams = 0

    def opened(_positions: Mapping[str, int]) -> None:
        nonlocal streams
        streams += 1
        what = f"conversation {conversation}" if only else f"workspace {chosen.name}"
        tell(f"listening to {plain(what)}; Ctrl-C ends" if streams == 1 else "the stream goes on after a break")

    shown = 0
    positions: dict[str, int] = {}
    if last and seen:
        archived = await places.list_conversations(client, chosen.workspace_id, archived=True)
        positions = begin_at(seen, archived, last=last)
    async with aclosing(client.events(chosen.workspace_id, positions=positions, opened=opened)) as stream:
        async for event in stream:
            if only and event.conversation_id != only:
                continue
            line = json.dumps(MessageToDict(event)) if as_json else await lines.line(event)
            if line:
                show(line)
                shown += 1
            if shown == count:
                return


def begin_at(
    live: Iterable[conversations.Conversation], archived: Iterable[conversations.Conversation], *, last: int
) -> dict[str, int]:
    """After which event of each conversation to begin, to have the `last` of each that is not archived.

    The archived are named as well, or they would be taken for gained just now; but first, for of too many the client
    asks for the last. One that was archived between the two lists is taken for live.
    """
    return {
        **{each.conversation_id: each.last_event_seq for each in archived},
        **{each.conversation_id: max(0, each.last_event_seq - last) for each in live},
    }


class _Lines:
    """Events as lines for people, who know others and conversations by their names."""

    def __init__(self, client: Client, workspace_id: str, conversation_names: dict[str, str]) -> None:
        self._client = client
        self._workspace_id = workspace_id
        self._conversation_names = conversation_names
        self._member_names: dict[str, str] = {}

    async def line(self, event: events.Event) -> str:
        """The line; empty for what only programs care about: who types, who has read how far."""
        what = await self._what(event)
        if not what:
            return ""
        conversation = await self._conversation(event)
        return f"{_clock(event)}  {plain(conversation)}  {plain(what)}"

    async def _what(self, event: events.Event) -> str:
        kind = event.WhichOneof("payload")
        match kind:
            case "message_created" | "message_edited" | "message_deleted":
                return await self._message(kind, getattr(event, kind))
            case "reaction_added" | "reaction_removed":
                reaction: Any = getattr(event, kind)
                did = "reacted" if kind == "reaction_added" else "took back"
                return f"{await self._member(reaction.member_id)} {did} {reaction.emoji or 'all their reactions'}"
            case "participant_joined" | "participant_left":
                participant: Any = getattr(event, kind)
                return f"{await self._member(participant.member_id)} {kind.removeprefix('participant_')}"
            case "conversation_updated":
                self._conversation_names[event.conversation_id] = _name_of(event.conversation_updated)
                return "the conversation was changed"
            case "conversation_gained":
                return "you see this conversation now"
            case "conversation_lost":
                return "you do not see this conversation any more"
            case "file_deleted":
                return "a file was deleted"
            case "reset":
                return "some events are not to be had any more; read the conversation anew"
            case _:
                return ""

    async def _message(self, kind: str, message: messages.Message) -> str:
        sender = await self._member(message.sender_member_id)
        if kind == "message_deleted" or message.HasField("delete_time"):
            return f"{sender} deleted a message"
        text = "(encrypted)" if message.HasField("encrypted") else message.text
        held = f"  [{', '.join(file.name for file in message.files)}]" if message.files else ""
        return f"{sender}{' (edited)' if kind == 'message_edited' else ''}: {text}{held}"

    async def _member(self, member_id: str) -> str:
        if not member_id:
            return "somebody"
        if member_id not in self._member_names:
            request = members.GetMemberRequest(workspace_id=self._workspace_id, member_id=member_id)
            try:
                answer: Any = await self._client.call(
                    self._client.stub(members_rpc.MemberServiceStub).GetMember, request
                )
                self._member_names[member_id] = answer.member.name or "somebody"
            except NotFound:
                self._member_names[member_id] = "somebody"
        return self._member_names[member_id]

    async def _conversation(self, event: events.Event) -> str:
        key = event.conversation_id
        if key not in self._conversation_names:
            request = conversations.GetConversationRequest(workspace_id=self._workspace_id, conversation_id=key)
            try:
                answer: Any = await self._client.call(
                    self._client.stub(conversations_rpc.ConversationServiceStub).GetConversation, request
                )
                self._conversation_names[key] = _name_of(answer.conversation)
            except NotFound:
                return key
        return self._conversation_names[key]


def _name_of(conversation: conversations.Conversation) -> str:
    return conversation.name or "(direct)"


def _clock(event: events.Event) -> str:
    """When it was sent, or else now; in the time of this machine."""
    if event.HasField("message_created"):
        at = event.message_created.create_time.ToDatetime(tzinfo=UTC).timestamp()
    else:
        at = time.time()
    return time.strftime("%H:%M:%S", time.localtime(at))
