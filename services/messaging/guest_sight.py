"""What guests are told: nobody whom they do not see, and nothing from before their history.

Every answer and every stream of a guest passes one function of this module. Whom a guest sees is guest's word, asked
after the content was read. The sender of a message and the uploader of its files stay: they are part of the channel.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from guildhall.messaging.v1 import conversation_service_pb2 as conversations_pb
from guildhall.messaging.v1 import event_service_pb2 as events_pb
from guildhall.messaging.v1 import message_service_pb2 as messages_pb
from guildhall.messaging.v1 import reaction_service_pb2 as reactions_pb
from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import Call
from services.chassis.database import Database
from services.messaging.access import Access, Viewer
from services.messaging.events import Reading, Written
from services.messaging.peers import Guests

OF_MESSAGES = """
    FROM unnest(CAST(:conversation_ids AS uuid[]), CAST(:message_ids AS uuid[])) AS asked (conversation_id, message_id)
    JOIN reactions r ON r.conversation_id = asked.conversation_id AND r.message_id = asked.message_id
"""
REACTORS = text(f"""
    SELECT CAST(statement_timestamp() AS text) AS as_of,
        ARRAY(SELECT DISTINCT CAST(r.member_id AS text) {OF_MESSAGES}) AS member_ids
""")
# What reactions.COUNTED says, of those alone whom the guest sees.
COUNTED = text(f"""
    SELECT CAST(r.message_id AS text) AS message_id, (array_agg(r.emoji ORDER BY r.created_at, r.user_id))[1] AS emoji,
        count(*) AS number, bool_or(r.user_id = :user_id) AS mine
    {OF_MESSAGES}
    WHERE r.created_at <= CAST(:as_of AS timestamptz)
        AND (r.user_id = :user_id OR r.member_id = ANY(CAST(:member_ids AS uuid[])))
    GROUP BY r.message_id, r.emoji_key
    ORDER BY min(r.created_at), (array_agg(r.user_id ORDER BY r.created_at, r.user_id))[1]
""")


@dataclass(frozen=True, slots=True)
class Reactors:
    """Who reacted to some messages. What they reacted with is read later, once it is known whom the guest sees."""

    member_ids: frozenset[str]
    as_of: str
    """Younger reactions are left out: whether those may be told has not been asked since."""


NOBODY = Reactors(frozenset(), "-infinity")
MESSAGES = ("message_created", "message_edited", "message_deleted")
REACTIONS = ("reaction_added", "reaction_removed")
PARTICIPANTS = ("participant_joined", "participant_left")


class Sights:
    """Asks whom a guest sees, of those whom an answer would name, and leaves the others out."""

    def __init__(self, database: Database, *, access: Access, guests: Guests) -> None:
        self._database = database
        self._access = access
        self._guests = guests

    async def visible(self, *, workspace_id: str, member_id: str, member_ids: Iterable[str]) -> frozenset[str]:
        """Those of some members whom a guest sees now; to be asked after what names them was read."""
        asked = set(member_ids)
        if not asked:
            return frozenset()
        return await self._guests.visible(asked, workspace_id=workspace_id, member_id=member_id)

    async def _seen_by(self, reader: Viewer, member_ids: Iterable[str]) -> frozenset[str]:
        named = {"workspace_id": reader.workspace_id, "member_id": reader.member_id}
        return await self.visible(**named, member_ids=member_ids)

    async def show_messages(
        self, call: Call, reader: Viewer, conversation_id: str, shown: Sequence[messages_pb.Message]
    ) -> None:
        """Takes out of the messages of one conversation what a guest may not see. NOT_FOUND if access was lost."""
        if reader.granted is None:
            return
        reactors = await self.read_reactors(shown)
        if reactors.member_ids:
            # They were read after the caller was asked about.
            await self._access.require_again(call, reader, conversation_id=conversation_id)
        await self.show(reader, shown, reactors=reactors)

    async def show(self, reader: Viewer, shown: Sequence[messages_pb.Message], *, reactors: Reactors) -> None:
        """The same for messages of any conversations, whose reactions were read before the guest was asked about."""
        named = {key for message in shown for key in message.mentions.member_ids}
        seen = await self._seen_by(reader, named | reactors.member_ids)
        counts = await self._count(reader, shown, seen=seen & reactors.member_ids, as_of=reactors.as_of)
        for message in shown:
            _redact_mentions(message, seen)
            del message.reactions[:]
            message.reactions.extend(counts.get(message.message_id, ()))

    async def read_reactors(self, shown: Sequence[messages_pb.Message]) -> Reactors:
        """Who reacted to messages that are to be shown with reactions."""
        reacted = [message for message in shown if message.reactions]
        if not reacted:
            return NOBODY
        return await self._read_reactors(_messages(reacted))

    async def read_reactors_to(self, message_id: str, *, conversation_id: str) -> Reactors:
        """Who reacted to one message."""
        return await self._read_reactors({"conversation_ids": [conversation_id], "message_ids": [message_id]})

    async def _read_reactors(self, asked: Mapping[str, object]) -> Reactors:
        row = (await self._read(REACTORS, asked))[0]
        return Reactors(frozenset(row.member_ids), row.as_of)

    async def _count(
        self, reader: Viewer, shown: Sequence[messages_pb.Message], *, seen: Collection[str], as_of: str
    ) -> Mapping[str, Sequence[reactions_pb.ReactionCount]]:
        reacted = [message for message in shown if message.reactions]
        if not reacted:
            return {}
        asked = {**_messages(reacted), "user_id": reader.user_id, "member_ids": list(seen), "as_of": as_of}
        counts: dict[str, list[reactions_pb.ReactionCount]] = {}
        for row in await self._read(COUNTED, asked):
            counted = reactions_pb.ReactionCount(emoji=row.emoji, count=row.number, mine=row.mine)
            counts.setdefault(row.message_id, []).append(counted)
        return counts

    async def _read(self, statement: TextClause, parameters: Mapping[str, object]) -> Sequence[Row[Any]]:
        async def read(tx: AsyncConnection) -> Sequence[Row[Any]]:
            return (await tx.execute(statement, parameters)).all()

        return await self._database.read(read)

    async def show_conversations(self, reader: Viewer, shown: Sequence[conversations_pb.Conversation]) -> None:
        """Takes out of conversations what a guest may not see."""
        if reader.granted is None:
            return
        named = {each.initiated_by_member_id for each in shown}
        named |= {key for each in shown for key in each.last_message.mentions.member_ids}
        seen = await self._seen_by(reader, named)
        for each in shown:
            _redact_conversation(each, seen)


def names(events: Iterable[Written]) -> set[str]:
    """The members whom events name, besides senders."""
    return {key for written in events for key in _names(written.event)}


def redacted(reading: Reading, viewer: Viewer, seen: Collection[str]) -> Reading:
    """What a guest's stream gets of what was read: each event in its place, or that there is one."""
    return replace(reading, events=[_redacted(each, reading.conversation_id, viewer, seen) for each in reading.events])


def _redacted(written: Written, conversation_id: str, viewer: Viewer, seen: Collection[str]) -> Written:
    kind = written.event.WhichOneof("payload")
    about = kind in REACTIONS or kind in PARTICIPANTS
    is_old = written.at is not None and not viewer.is_in_history(conversation_id, written.at)
    if is_old or (about and not _names(written.event) <= set(seen)):
        hidden = events_pb.Event(
            conversation_id=conversation_id, event_seq=written.event_seq, hidden=events_pb.EventHidden()
        )
        return Written.of(hidden)
    event = events_pb.Event()
    event.CopyFrom(written.event)
    if kind in MESSAGES:
        message: messages_pb.Message = getattr(event, kind)
        _redact_mentions(message, seen)
        if written.reply_to_at is None or not viewer.is_in_history(conversation_id, written.reply_to_at):
            message.reply_to_message_id = "" if viewer.since(conversation_id) else message.reply_to_message_id
    if kind == "conversation_updated":
        _redact_conversation(event.conversation_updated, seen)
    return written if event == written.event else Written.of(event)


def _names(event: events_pb.Event) -> set[str]:
    kind = event.WhichOneof("payload") or ""
    if kind in MESSAGES:
        return set(getattr(event, kind).mentions.member_ids)
    if kind in REACTIONS or kind in PARTICIPANTS:
        return {getattr(event, kind).member_id}
    return {event.conversation_updated.initiated_by_member_id} if kind == "conversation_updated" else set()


def _redact_mentions(message: messages_pb.Message, seen: Collection[str]) -> None:
    """Without user groups: who is in those is nobody whom a guest is told of."""
    if not message.HasField("mentions"):
        return
    kept = [key for key in message.mentions.member_ids if key in seen]
    everyone = message.mentions.everyone
    message.ClearField("mentions")
    if kept or everyone:
        message.mentions.CopyFrom(messages_pb.Mentions(member_ids=kept, everyone=everyone))


def _redact_conversation(conversation: conversations_pb.Conversation, seen: Collection[str]) -> None:
    if conversation.initiated_by_member_id not in seen:
        conversation.initiated_by_member_id = ""
    if conversation.HasField("last_message"):
        _redact_mentions(conversation.last_message, seen)


def _messages(shown: Sequence[messages_pb.Message]) -> dict[str, object]:
    return {
        "conversation_ids": [message.conversation_id for message in shown],
        "message_ids": [message.message_id for message in shown],
    }
