"""guildhall.messaging.v1.EventService."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from guildhall.messaging.v1 import event_service_pb2 as events_pb
from guildhall.messaging.v1 import event_service_pb2_grpc as events_rpc

from services.chassis.call import current_call
from services.chassis.database import Database
from services.messaging import signals
from services.messaging.access import Access
from services.messaging.hub import Hub
from services.messaging.ids import uuid_of
from services.messaging.signals import Signals


class EventService(events_rpc.EventServiceServicer):
    """guildhall.messaging.v1.EventService."""

    def __init__(self, database: Database, *, access: Access, hub: Hub, signals: Signals) -> None:
        self._database = database
        self._access = access
        self._hub = hub
        self._signals = signals

    async def Subscribe(self, request: events_pb.SubscribeRequest, context: Any) -> AsyncGenerator[Any, None]:
        """The hub delivers; this only writes: messages, or bytes of them that were serialised once for all."""
        resume = {uuid_of(position.conversation_id): position.event_seq for position in request.positions}
        subscription = self._hub.subscribe(current_call(), workspace_id=uuid_of(request.workspace_id), resume=resume)
        async with contextlib.aclosing(subscription) as responses:
            async for response in responses:
                yield response

    async def SendTyping(self, request: events_pb.SendTypingRequest, context: Any) -> events_pb.SendTypingResponse:
        """Asked for as a message would be, and then told to whoever listens."""
        place = {
            "workspace_id": uuid_of(request.workspace_id),
            "conversation_id": uuid_of(request.conversation_id),
        }
        writer = await self._access.require_writer(current_call(), **place)
        conversation_id = place["conversation_id"]
        await self._database.read(lambda tx: signals.require_open(tx, writer=writer, conversation_id=conversation_id))
        self._signals.type(conversation_id, member_id=writer.member_id, user_id=writer.user_id)
        return events_pb.SendTypingResponse()
