"""Somebody who is about to lose access, and everything they get to see: on a stream and by every read."""

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import grpc
from guildhall.messaging.v1 import conversation_service_pb2 as conversations
from guildhall.messaging.v1 import conversation_service_pb2_grpc as conversations_rpc
from guildhall.messaging.v1 import event_service_pb2 as events
from guildhall.messaging.v1 import event_service_pb2_grpc as events_rpc
from guildhall.messaging.v1 import message_service_pb2 as messages
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc
from guildhall.messaging.v1 import reaction_service_pb2 as reactions
from guildhall.messaging.v1 import reaction_service_pb2_grpc as reactions_rpc

from tests.faults.ledger import key_of
from tests.faults.people import Person

_OF_WORKSPACE = frozenset({"Subscribe", "ListConversations", "SearchMessages"})
"""Calls that are answered to whoever is still in the workspace."""
_CALM_SECONDS = 0.3
_HURRY_SECONDS = 0.15
"""Around the loss they read without a pause, for so long on either side."""


@dataclass
class Posts:
    """What was posted, and for each post the moment before which it was certainly not written."""

    not_written_before: dict[str, float] = field(default_factory=dict)
    under_way: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    edited: set[str] = field(default_factory=set)
    """Those whose message may say something else by now: who comes later is told of that only."""

    @property
    def to_be_told(self) -> set[str]:
        """What reaches everybody who stays."""
        return self.stored - self.edited

    def begin(self, key: str) -> None:
        """A post is about to be sent."""
        self.not_written_before[key] = time.monotonic()
        self.under_way.add(key)

    def held_back_until_now(self, *, since: float) -> None:
        """Nothing was written since a moment: what was begun after it and has no answer is still to be written."""
        now = time.monotonic()
        for key in self.under_way:
            if self.not_written_before[key] > since:
                self.not_written_before[key] = now

    def after(self, moment: float) -> set[str]:
        """The posts that were certainly written after a moment."""
        return {key for key, earliest in self.not_written_before.items() if earliest > moment and key in self.stored}


@dataclass
class Seen:
    """What a witness got."""

    streamed: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)
    opened: list[tuple[str, float]] = field(default_factory=list)
    """Calls that were answered: which, and when they began."""
    ended_at: float | None = None
    reasons: list[str] = field(default_factory=list)


class Witness:
    """One person in one workspace. `lost_at` is when the loss of their access had been acknowledged."""

    def __init__(
        self, person: Person, *, member_id: str, workspace_id: str, conversation_id: str, how: str, keeps: str = ""
    ) -> None:
        """`keeps` is what is left to them: nothing, the "workspace", or the "conversation" without its messages."""
        self.person = person
        self.member_id = member_id
        self.how = how
        self._keeps = keeps
        self.lost_at: float | None = None
        self.near_loss_from: float | None = None
        self.seen = Seen()
        self._workspace_id = workspace_id
        self._conversation_id = conversation_id
        self._tasks: list[asyncio.Task[None]] = []
        self._own_id = ""
        self._latest_id = ""

    async def start(self) -> None:
        """Opens the stream, then begins to read."""
        is_open = asyncio.Event()
        self._tasks.append(asyncio.create_task(self._follow(is_open.set)))
        async with asyncio.timeout(20):
            await is_open.wait()
        self._tasks.append(asyncio.create_task(self._read_again_and_again()))

    async def stop(self) -> None:
        """Looks no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def is_told_of_the_end(self) -> bool:
        """Whether the stream ends, or says that the conversation is lost."""
        return self._keeps != "conversation"

    def leaks(self, posts: Posts) -> dict[str, int]:
        """What reached them although it was written, or asked for, after the loss."""
        assert self.lost_at is not None
        secret = posts.after(self.lost_at)
        kept = _OF_WORKSPACE if self._keeps else frozenset()
        opened = [
            method
            for method, began in self.seen.opened
            if began > self.lost_at and method not in kept and self._keeps != "conversation"
        ]
        return {
            "streamed": len(self.seen.streamed & secret),
            "read": len(self.seen.read & secret),
            "opened": len(opened),
        }

    async def _follow(self, opened: Callable[[], object]) -> None:
        """Keeps a stream open for as long as one can be had, and tries again even then."""
        while True:
            request = events.SubscribeRequest(workspace_id=self._workspace_id)
            began = time.monotonic()
            call = events_rpc.EventServiceStub(self.person.channel).Subscribe(request, metadata=self.person.metadata)
            try:
                async for frame in call:
                    if frame.HasField("opened"):
                        self.seen.opened.append(("Subscribe", began))
                        opened()
                    elif frame.HasField("end"):
                        self.seen.reasons.append(str(events.StreamEndReason.Name(frame.end.reason)))
                        self.seen.ended_at = self.seen.ended_at or time.monotonic()
                    if any(event.HasField("conversation_lost") for event in frame.events.events):
                        self.seen.ended_at = self.seen.ended_at or time.monotonic()
                    for event in frame.events.events:
                        self.seen.streamed |= _keys_of(event)
            except grpc.aio.AioRpcError as error:
                self.seen.reasons.append(error.code().name)
            finally:
                call.cancel()
            await asyncio.sleep(random.uniform(0.05, 0.2))

    async def _read_again_and_again(self) -> None:
        while True:
            for read in (
                self._list_messages,
                self._get_message,
                self._list_reactions,
                self._list_revisions,
                self._list_conversations,
                self._search,
            ):
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await read()
            if not self._is_near_loss():
                await asyncio.sleep(_CALM_SECONDS * random.uniform(0.2, 1.0))

    def _is_near_loss(self) -> bool:
        now = time.monotonic()
        begun = self.near_loss_from is not None and now > self.near_loss_from - _HURRY_SECONDS
        return begun and (self.lost_at is None or now < self.lost_at + _HURRY_SECONDS)

    async def _list_messages(self) -> None:
        request = messages.ListMessagesRequest(
            workspace_id=self._workspace_id, conversation_id=self._conversation_id, page_size=30
        )
        began = time.monotonic()
        page = await self.person.call(messages_rpc.MessageServiceStub, "ListMessages", request)
        self.seen.opened.append(("ListMessages", began))
        self.seen.read |= {key for message in page.messages for key in _said(message)}
        if page.messages:
            self._latest_id = page.messages[0].message_id

    async def _search(self) -> None:
        """In all that they see: what they no longer see must not be found there."""
        request = messages.SearchMessagesRequest(workspace_id=self._workspace_id, query="secret", page_size=30)
        began = time.monotonic()
        page = await self.person.call(messages_rpc.MessageServiceStub, "SearchMessages", request)
        self.seen.opened.append(("SearchMessages", began))
        self.seen.read |= {key for message in page.messages for key in _said(message)}

    async def _get_message(self) -> None:
        request = messages.GetMessageRequest(**self._place(self._latest_id))
        began = time.monotonic()
        got = await self.person.call(messages_rpc.MessageServiceStub, "GetMessage", request)
        self.seen.opened.append(("GetMessage", began))
        self.seen.read |= _said(got.message)

    async def _list_reactions(self) -> None:
        request = reactions.ListReactionsRequest(**self._place(self._latest_id))
        began = time.monotonic()
        page = await self.person.call(reactions_rpc.ReactionServiceStub, "ListReactions", request)
        self.seen.opened.append(("ListReactions", began))
        self.seen.read |= {reaction.emoji for reaction in page.reactions}

    async def _list_revisions(self) -> None:
        """Of what they wrote: others' are not theirs to see at any time."""
        request = messages.ListMessageRevisionsRequest(**self._place(self._own_id))
        began = time.monotonic()
        await self.person.call(messages_rpc.MessageServiceStub, "ListMessageRevisions", request)
        self.seen.opened.append(("ListMessageRevisions", began))

    async def write(self) -> None:
        """Writes and edits a message of their own, whose revisions they then read."""
        key = str(uuid.uuid4())
        place = {"workspace_id": self._workspace_id, "conversation_id": self._conversation_id}
        request = messages.SendMessageRequest(**place, client_message_id=key, text=f"{key} here")
        sent = await self.person.call(messages_rpc.MessageServiceStub, "SendMessage", request)
        self._own_id = str(sent.message.message_id)
        edit = messages.EditMessageRequest(**place, message_id=self._own_id, text=f"{key} still here")
        await self.person.call(messages_rpc.MessageServiceStub, "EditMessage", edit)

    def _place(self, message_id: str) -> dict[str, str]:
        place = {"workspace_id": self._workspace_id, "conversation_id": self._conversation_id}
        return {**place, "message_id": message_id}

    async def _list_conversations(self) -> None:
        request = conversations.ListConversationsRequest(workspace_id=self._workspace_id)
        began = time.monotonic()
        await self.person.call(conversations_rpc.ConversationServiceStub, "ListConversations", request)
        self.seen.opened.append(("ListConversations", began))


def _said(message: messages.Message) -> set[str]:
    """The keys in a message and in the reactions to it."""
    return {key_of(message.text), *(reaction.emoji for reaction in message.reactions)}


def _keys_of(event: events.Event) -> set[str]:
    match event.WhichOneof("payload"):
        case "message_created":
            return _said(event.message_created)
        case "message_edited":
            return _said(event.message_edited)
        case "reaction_added":
            return {event.reaction_added.emoji}
    return set()


def sums(found: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Counts added up by name."""
    total: dict[str, int] = {}
    for counts in found:
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
    return total
