"""guildhall.messaging.v1.ReactionService."""

import functools
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

from guildhall.messaging.v1 import reaction_service_pb2 as pb
from guildhall.messaging.v1 import reaction_service_pb2_grpc as rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import NotFound
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.messaging import messages, reactions, wire
from services.messaging.access import Access, Viewer
from services.messaging.changes import Changes
from services.messaging.guest_sight import Sights
from services.messaging.ids import uuid_of

Answer = TypeVar("Answer", pb.AddReactionResponse, pb.RemoveReactionResponse)
React = Callable[[AsyncConnection, Viewer, Row[Any]], Awaitable[None]]


class ReactionService(rpc.ReactionServiceServicer):
    """guildhall.messaging.v1.ReactionService."""

    def __init__(
        self, database: Database, secret: SecretKey, *, access: Access, changes: Changes, sights: Sights
    ) -> None:
        self._database = database
        self._secret = secret
        self._access = access
        self._changes = changes
        self._sights = sights

    async def AddReaction(self, request: pb.AddReactionRequest, context: Any) -> pb.AddReactionResponse:
        """One row for each person and emoji."""
        message_id, emoji_key = uuid_of(request.message_id), reactions.key_of(request.emoji)

        async def react(tx: AsyncConnection, viewer: Viewer, locked: Row[Any]) -> None:
            await reactions.add(
                tx, reacting=viewer, locked=locked, message_id=message_id, emoji=request.emoji, emoji_key=emoji_key
            )

        return await self._react(request, pb.AddReactionResponse, react)

    async def RemoveReaction(self, request: pb.RemoveReactionRequest, context: Any) -> pb.RemoveReactionResponse:
        """The caller's own, whatever its spelling."""
        message_id, emoji_key = uuid_of(request.message_id), reactions.key_of(request.emoji)

        async def react(tx: AsyncConnection, viewer: Viewer, locked: Row[Any]) -> None:
            await reactions.remove(tx, reacting=viewer, locked=locked, message_id=message_id, emoji_key=emoji_key)

        return await self._react(request, pb.RemoveReactionResponse, react)

    async def _react(
        self, request: pb.AddReactionRequest | pb.RemoveReactionRequest, answer_class: type[Answer], react: React
    ) -> Answer:
        """Writes, reads what there is now, and asks once more: others' reactions are for who still may read."""
        call = current_call()
        place = {
            "workspace_id": uuid_of(request.workspace_id),
            "conversation_id": uuid_of(request.conversation_id),
        }

        async def work(tx: AsyncConnection, viewer: Viewer, locked: Row[Any]) -> Answer:
            await react(tx, viewer, locked)
            return answer_class()

        await self._changes.make(
            request, answer_class, **place, permit=lambda: self._access.require_writer(call, **place), work=work
        )
        message_id = uuid_of(request.message_id)
        page = await self._database.read(
            lambda tx: messages.read_one(tx, **place, user_id=call.user_id, message_id=message_id)
        )
        reader = await self._access.require_reader(call, **place)
        if page is None or not page.rows or not page.is_seen_by(reader):
            raise NotFound
        shown = wire.shown(page.rows[0], **place, since=reader.since(place["conversation_id"]))
        await self._sights.show_messages(call, reader, place["conversation_id"], [shown])
        return answer_class(reactions=shown.reactions)

    async def ListReactions(self, request: pb.ListReactionsRequest, context: Any) -> pb.ListReactionsResponse:
        """Reads, then asks, then answers."""
        call = current_call()
        place = {
            "workspace_id": uuid_of(request.workspace_id),
            "conversation_id": uuid_of(request.conversation_id),
        }
        message_id, size = uuid_of(request.message_id), page_size(request.page_size)
        scope = (call.rpc, call.user_id, *place.values(), message_id)
        key = page_key(self._secret, scope, request.page_token)
        after = (str(key[0]), str(key[1]), str(key[2])) if key else reactions.FIRST

        async def read(among: Collection[str] | None = None, as_of: str = "infinity") -> tuple[Viewer, list[Row[Any]]]:
            page = await self._database.read(
                functools.partial(
                    reactions.read_page,
                    workspace_id=place["workspace_id"],
                    conversation_id=place["conversation_id"],
                    message_id=message_id,
                    user_id=call.user_id,
                    after=after,
                    limit=size + 1,
                    among=among,
                    as_of=as_of,
                )
            )
            reader = await self._access.require_reader(call, **place)
            if page is None or not page.rows or not page.is_seen_by(reader):
                raise NotFound
            if not reader.is_in_history(place["conversation_id"], page.rows[0].sent_at):
                raise NotFound
            return reader, [row for row in page.rows if row.emoji is not None]

        reader, rows = await read()
        if reader.granted is not None and rows:
            # Asked once about everybody who reacted: page by page, those whom a guest does not see would have no end.
            reactors = await self._sights.read_reactors_to(message_id, conversation_id=place["conversation_id"])
            seen = await self._sights.visible(
                workspace_id=reader.workspace_id, member_id=reader.member_id, member_ids=reactors.member_ids
            )
            _, rows = await read(seen, reactors.as_of)
        token = page_token(self._secret, scope, reactions.place_of(rows[size - 1])) if len(rows) > size else ""
        return pb.ListReactionsResponse(reactions=[wire.reaction(row) for row in rows[:size]], next_page_token=token)
