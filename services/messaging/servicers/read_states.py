"""guildhall.messaging.v1.ReadStateService."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from guildhall.messaging.v1 import read_state_service_pb2 as pb
from guildhall.messaging.v1 import read_state_service_pb2_grpc as rpc
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.errors import NotFound
from services.chassis.idempotency import once
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.messaging import read_states, wire
from services.messaging.access import Access
from services.messaging.conversations import FIRST
from services.messaging.guest_sight import Sights
from services.messaging.ids import uuid_of
from services.messaging.signals import Signals

Answer = TypeVar("Answer", pb.MarkReadResponse, pb.MarkUnreadResponse)


class ReadStateService(rpc.ReadStateServiceServicer):
    """guildhall.messaging.v1.ReadStateService."""

    def __init__(
        self, database: Database, secret: SecretKey, *, access: Access, signals: Signals, sights: Sights
    ) -> None:
        self._database = database
        self._secret = secret
        self._access = access
        self._signals = signals
        self._sights = sights

    async def MarkRead(self, request: pb.MarkReadRequest, context: Any) -> pb.MarkReadResponse:
        """Never beyond the latest message, or what comes next would be read already."""
        return await self._mark(
            request, pb.MarkReadResponse, read_states.move_forward, seq_of=lambda head: min(request.seq, head)
        )

    async def MarkUnread(self, request: pb.MarkUnreadRequest, context: Any) -> pb.MarkUnreadResponse:
        """Never forward: a position before the message stays where it is."""
        return await self._mark(
            request, pb.MarkUnreadResponse, read_states.move_back, seq_of=lambda _head: request.seq - 1
        )

    async def _mark(
        self,
        request: pb.MarkReadRequest | pb.MarkUnreadRequest,
        answer_class: type[Answer],
        move: Callable[..., Awaitable[None]],
        *,
        seq_of: Callable[[int], int],
    ) -> Answer:
        """Writes, counts, and asks once more: how much others wrote is for who still may read it.

        Without the conversation's lock, for reading is not to wait for writing; a position has a row of its own.
        """
        call = current_call()
        place = {
            "workspace_id": uuid_of(request.workspace_id),
            "conversation_id": uuid_of(request.conversation_id),
        }
        conversation_id = place["conversation_id"]
        reader = await self._access.require_reader(call, **place)

        async def access(tx: AsyncConnection) -> int:
            return await read_states.head(tx, viewer=reader, conversation_id=conversation_id)

        async def work(tx: AsyncConnection, head: int) -> Answer:
            await move(tx, reader=reader, conversation_id=conversation_id, seq=seq_of(head))
            return answer_class()

        await once(self._database, self._secret, request, answer_class, access=access, work=work)
        self._signals.moved(conversation_id, reader.member_id)
        row = await self._database.read(lambda tx: read_states.get(tx, reader=reader, conversation_id=conversation_id))
        if (await self._access.require_reader(call, **place)).member_id != reader.member_id:
            raise NotFound
        return answer_class(read_state=wire.read_state(row, unread_count=row.unread_count))

    async def ListReadStates(self, request: pb.ListReadStatesRequest, context: Any) -> pb.ListReadStatesResponse:
        """Reads, then asks, then answers."""
        call = current_call()
        place = {
            "workspace_id": uuid_of(request.workspace_id),
            "conversation_id": uuid_of(request.conversation_id),
        }
        scope, size = (call.rpc, call.user_id, *place.values()), page_size(request.page_size)
        key = page_key(self._secret, scope, request.page_token)
        after = str(key[0]) if key else FIRST
        page = await self._database.read(
            lambda tx: read_states.read_page(tx, **place, user_id=call.user_id, after=after, limit=size + 1)
        )
        reader = await self._access.require_reader(call, **place)
        if page is None or not page.is_seen_by(reader):
            raise NotFound
        token = page_token(self._secret, scope, [page.rows[size - 1].member_id]) if len(page.rows) > size else ""
        shown = [wire.read_state(row) for row in page.rows[:size]]
        if reader.granted is not None:
            named = {"workspace_id": reader.workspace_id, "member_id": reader.member_id}
            seen = await self._sights.visible(**named, member_ids={state.member_id for state in shown})
            shown = [state for state in shown if state.member_id in seen]
        return pb.ListReadStatesResponse(read_states=shown, next_page_token=token)
