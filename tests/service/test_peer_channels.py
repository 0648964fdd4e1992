"""The channels that services keep to each other."""

import uuid

from guildhall.identity.v1 import session_service_pb2 as pb
from guildhall.identity.v1 import session_service_pb2_grpc as rpc

from services.chassis.channel import ask, open_channel
from tests.faults.tcp_proxy import Mode, Proxy
from tests.support.suite import Suite

READ_SECONDS = 0.15
"""For each part of a handshake, which has four: a busy peer, but one that is there."""


async def test_a_peer_that_is_slow_to_shake_hands_is_there(suite: Suite) -> None:
    proxy = Proxy(("127.0.0.1", 0), ("127.0.0.1", suite.stack.settings.ports.service("identity")))
    await proxy.start()
    proxy.set_mode(Mode.DELAY, delay_seconds=READ_SECONDS)
    try:
        settings = suite.settings("messaging", identity_address=f"127.0.0.1:{proxy.port}")
        async with open_channel(settings, "identity") as channel:
            request = pb.CheckSessionsRequest(session_ids=[str(uuid.uuid4())])
            answer = await ask(rpc.SessionServiceStub(channel).CheckSessions, request)
    finally:
        await proxy.stop()
    assert (answer, proxy.accepted) == (pb.CheckSessionsResponse(alive=[False]), 1)
