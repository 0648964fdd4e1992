"""guildhall.messaging.v1.EventService."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from guildhall.messaging.v1 import event_service_pb2 as events_pb
from guildhall.messaging.v1 import event_service_pb2_grpc as events_rpc

from services.chassis.call import current_call
from services.messaging.hub import Hub
from services.messaging.ids import uuid_of


class EventService(events_rpc.EventServiceServicer):
    """guildhall.messaging.v1.EventService."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def Subscribe(self, request: events_pb.SubscribeRequest, context: Any) -> AsyncGenerator[Any, None]:
        """The hub delivers; this only writes: messages, or bytes of them that were serialised once for all."""
        resume = {uuid_of(position.conversation_id): position.event_seq for position in request.positions}
        subscription = self._hub.subscribe(current_call(), workspace_id=uuid_of(request.workspace_id), resume=resume)
        async with contextlib.aclosing(subscription) as responses:
            async for response in responses:
                yield response
