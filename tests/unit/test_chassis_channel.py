"""Calls to peers: what no answer looks like to the one who waits. The peer is a real server that keeps silent."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
from guildhall.identity.v1 import session_service_pb2 as sessions
from guildhall.identity.v1 import session_service_pb2_grpc as rpc

from services.chassis.call import CURRENT, Call
from services.chassis.channel import HOP_SECONDS, SERVICE_CONFIG, ask
from services.chassis.coalesce import Coalescer
from services.chassis.errors import DeadlineExceeded, PeerUnavailable


class Silent(rpc.SessionServiceServicer):
    """Answers no question but the empty one, and says how much time it was given for each."""

    def __init__(self) -> None:
        self.given: list[float] = []
        self.asked = asyncio.Event()
        self.metadata: list[dict[str, Any]] = []

    async def CheckSessions(
        self, request: sessions.CheckSessionsRequest, context: Any
    ) -> sessions.CheckSessionsResponse:
        self.given.append(context.time_remaining())
        self.metadata.append({str(key): value for key, value in context.invocation_metadata()})
        self.asked.set()
        if request.session_ids:
            await asyncio.Event().wait()
        return sessions.CheckSessionsResponse()


@pytest.fixture
def peer() -> Silent:
    return Silent()


@pytest.fixture
async def channel(peer: Silent) -> AsyncIterator[grpc.aio.Channel]:
    """The way to the peer."""
    server = grpc.aio.server()
    rpc.add_SessionServiceServicer_to_server(peer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield channel
    await server.stop(None)


@pytest.fixture
def silent(peer: Silent, channel: grpc.aio.Channel) -> tuple[Silent, Any]:
    """The peer, and a stub to ask it by."""
    return peer, rpc.SessionServiceStub(channel)


@pytest.fixture
def call() -> Call:
    """A call with a second left."""
    deadline = time.monotonic() + 1
    return Call(rpc="/a.B/C", request_id="request-1", peer="gateway", deadline=deadline, token="the token")


UNANSWERED = sessions.CheckSessionsRequest(session_ids=["x"])


async def test_a_call_whose_channel_is_closed_under_it_says_that_the_peer_is_unavailable(
    silent: tuple[Silent, Any], channel: grpc.aio.Channel
) -> None:
    asking = asyncio.create_task(ask(silent[1].CheckSessions, UNANSWERED, timeout_seconds=60))
    await silent[0].asked.wait()

    await channel.close()

    with pytest.raises(PeerUnavailable):
        await asking


async def test_a_caller_who_is_cancelled_is_told_nothing_else(silent: tuple[Silent, Any]) -> None:
    asking = asyncio.create_task(ask(silent[1].CheckSessions, UNANSWERED, timeout_seconds=60))
    await silent[0].asked.wait()

    asking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_peer_that_does_not_answer_is_unavailable(silent: tuple[Silent, Any]) -> None:
    with pytest.raises(PeerUnavailable):
        await ask(silent[1].CheckSessions, UNANSWERED, timeout_seconds=0.1)


async def test_a_peer_that_is_not_there_is_unavailable() -> None:
    options = [("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel("unix:///nobody/listens/here", options=options) as channel:
        with pytest.raises(PeerUnavailable):
            await ask(rpc.SessionServiceStub(channel).CheckSessions, UNANSWERED, timeout_seconds=5)


async def test_a_batch_that_a_peer_does_not_answer_is_unavailable_before_the_callers_time_is_over(
    silent: tuple[Silent, Any],
) -> None:
    async def flush(items: Sequence[str], timeout_seconds: float) -> Sequence[bool]:
        request = sessions.CheckSessionsRequest(session_ids=items)
        return list((await ask(silent[1].CheckSessions, request, timeout_seconds=timeout_seconds)).alive)

    queue: Coalescer[str, bool] = Coalescer(flush, name="test")
    deadline = time.monotonic() + 0.5

    with pytest.raises(PeerUnavailable):
        await queue.ask("x", deadline=deadline)

    assert time.monotonic() < deadline


async def test_a_call_made_for_a_call_gets_what_is_left_of_its_time_less_a_hop(
    silent: tuple[Silent, Any], call: Call
) -> None:
    peer, stub = silent
    CURRENT.set(call)

    await ask(stub.CheckSessions, sessions.CheckSessionsRequest())

    assert peer.given[0] <= 1 - HOP_SECONDS
    assert peer.metadata[0]["x-request-id"] == "request-1"
    assert "authorization" not in peer.metadata[0]


async def test_the_users_token_is_forwarded_only_when_asked_for(silent: tuple[Silent, Any], call: Call) -> None:
    peer, stub = silent
    CURRENT.set(call)

    await ask(stub.CheckSessions, sessions.CheckSessionsRequest(), for_user=True)

    assert peer.metadata[0]["authorization"] == "Bearer the token"


async def test_a_call_without_time_left_asks_nobody(silent: tuple[Silent, Any], call: Call) -> None:
    peer, stub = silent
    call.deadline = time.monotonic() + HOP_SECONDS / 2
    CURRENT.set(call)

    with pytest.raises(DeadlineExceeded):
        await ask(stub.CheckSessions, sessions.CheckSessionsRequest())

    assert not peer.given


async def test_a_call_that_a_stopping_server_has_not_begun_is_made_at_another() -> None:
    async def server(port: int = 0) -> tuple[grpc.aio.Server, int, Silent]:
        started, peer = grpc.aio.server(options=[("grpc.so_reuseport", 0)]), Silent()
        rpc.add_SessionServiceServicer_to_server(peer, started)
        port = started.add_insecure_port(f"127.0.0.1:{port}")
        await started.start()
        return started, port, peer

    servers = [await server(), await server()]
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for _, port, _ in servers)
    options = [("grpc.enable_http_proxy", 0), ("grpc.service_config", SERVICE_CONFIG)]
    options += [(f"grpc.{which}_reconnect_backoff_ms", 100) for which in ("initial", "min", "max")]
    failed: list[str] = []
    stopped = asyncio.Event()
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        stub = rpc.SessionServiceStub(channel)

        async def ask_again_and_again() -> None:
            while not stopped.is_set():
                try:
                    await stub.CheckSessions(sessions.CheckSessionsRequest(), timeout=5)
                except grpc.aio.AioRpcError as error:
                    failed.append(error.code().name)

        asking = [asyncio.create_task(ask_again_and_again()) for _ in range(20)]
        for turn in range(8):
            leaving, port, _ = servers[turn % 2]
            await leaving.stop(10)
            servers[turn % 2] = await server(port)
            async with asyncio.timeout(10):
                await servers[turn % 2][2].asked.wait()
        stopped.set()
        await asyncio.gather(*asking)
    for each, _, _ in servers:
        await each.stop(None)
    assert failed == []
