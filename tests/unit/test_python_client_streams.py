"""clients/python while a stream of events is not to be had: what it waits for, and what it tells at once.

The server is the test's own.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.client import Client, NotSignedIn, TooMuch
from guildhall.messaging.v1 import event_service_pb2 as pb
from guildhall.messaging.v1 import event_service_pb2_grpc as rpc

from services.chassis.errors import Fault, Overloaded, SessionEnded, Unauthenticated, status_of
from services.messaging.errors import TooManyStreams

Step = Fault | str
FULL, SERVED = Overloaded(retry_after_seconds=0.01), "served"


class Events(rpc.EventServiceServicer):
    """Answers one stream after another as it is told: with a refusal, or with one event and the end of the stream."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.tokens: list[str] = []

    async def Subscribe(self, request: pb.SubscribeRequest, context: Any) -> AsyncIterator[pb.SubscribeResponse]:
        metadata = dict(context.invocation_metadata())
        self.tokens.append(metadata["authorization"])
        step = self.steps.pop(0)
        if isinstance(step, Fault):
            status = status_of(step, domain="guildhall.messaging", request_id="")
            details = (("grpc-status-details-bin", status.SerializeToString()),)
            await context.abort(step.code, str(step), details)
        yield pb.SubscribeResponse(opened=pb.Opened())
        event = pb.Event(conversation_id="general", event_seq=len(self.tokens))
        yield pb.SubscribeResponse(events=pb.EventBatch(events=[event]))
        yield pb.SubscribeResponse(end=pb.StreamEnd())


@pytest.fixture
def server() -> Events:
    return Events()


@pytest.fixture
async def client(server: Events) -> AsyncIterator[Client]:
    listening = grpc.aio.server()
    rpc.add_EventServiceServicer_to_server(server, listening)
    port = listening.add_insecure_port("127.0.0.1:0")
    await listening.start()
    given = 0

    async def renew() -> tuple[str, Timestamp]:
        nonlocal given
        given += 1
        return f"token {given}", Timestamp(seconds=4_000_000_000)

    async with Client(f"127.0.0.1:{port}") as made:
        made.use_tokens(renew)
        yield made
    await listening.stop(None)


async def hear(client: Client, count: int) -> None:
    """Listens until so many events have come."""
    async with asyncio.timeout(20), aclosing(client.events("workspace")) as stream:
        for _ in range(count):
            await anext(stream)


async def test_events_wait_for_a_server_that_is_full_from_the_first_stream_on(client: Client, server: Events) -> None:
    server.steps = [FULL, FULL, SERVED, FULL, SERVED]
    await hear(client, 2)
    assert server.steps == []
    assert set(server.tokens) == {"Bearer token 1"}


async def test_events_wait_for_a_stream_of_their_own_to_end_and_for_nobody_elses(
    client: Client, server: Events
) -> None:
    server.steps = [SERVED, TooManyStreams(), SERVED]
    await hear(client, 2)

    server.steps = [TooManyStreams(), SERVED]
    with pytest.raises(TooMuch) as refused:
        await hear(client, 1)
    assert refused.value.reason == "TOO_MANY_STREAMS"
    assert server.steps == [SERVED]


async def test_each_token_that_events_are_refused_for_is_answered_once_with_another(
    client: Client, server: Events
) -> None:
    server.steps = [Unauthenticated(), SERVED, Unauthenticated(), FULL, Unauthenticated(), SERVED]
    await hear(client, 2)
    assert [token.removeprefix("Bearer token ") for token in server.tokens] == ["1", "2", "2", "3", "3", "4"]

    # A second in a row is of no use, and none at all where it is the session that has ended.
    for refusals in ([Unauthenticated(), Unauthenticated()], [SessionEnded()]):
        server.steps = [*refusals, SERVED]
        with pytest.raises(NotSignedIn):
            await hear(client, 1)
        assert server.steps == [SERVED]
