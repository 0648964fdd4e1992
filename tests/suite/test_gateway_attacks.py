"""Slow clients and floods: the gateway ends each within seconds, and answers the others meanwhile."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from guildhall.identity.v1 import user_service_pb2 as users

from deploy.stack.settings import HOST
from tests.suite.conftest import Running
from tests.support import attacks, http2
from tests.support.attacks import ATTACKS, Attack
from tests.support.edges import Edge

GET_USER = "/guildhall.identity.v1.UserService/GetUser"
ENDED_SECONDS = 15.0
"""The longest patience of the gateway is 10 s, with a TLS handshake; the rest is for a busy machine."""
SLOW_CALLS = 400
"""More than a service may have in flight from a gateway."""


@pytest.fixture
async def honest(running: Running) -> AsyncIterator["Honest"]:
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    token = await asyncio.to_thread(running.token, "ada.attacks@example.com")
    async with grpc.aio.insecure_channel(running.gateway, options=options) as channel:
        yield Honest(channel, token)


class Honest:
    """Somebody who just calls."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._call = channel.unary_unary(GET_USER, response_deserializer=users.GetUserResponse.FromString)
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def call(self) -> None:
        """One call, which is answered."""
        answer = await self._call(b"", timeout=5, metadata=self._metadata)
        assert answer.user.email == "ada.attacks@example.com"

    async def call_while(self, attack: asyncio.Task[attacks.Ended]) -> int:
        """Calls, one after the other, for as long as the attack lasts; returns how many."""
        answered = 0
        while not attack.done():
            await self.call()
            answered += 1
            await asyncio.wait({attack}, timeout=0.05)
        return answered


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_is_ended_and_others_are_answered_meanwhile(
    name: str, running: Running, honest: Honest
) -> None:
    attack = asyncio.create_task(ATTACKS[name]().run(HOST, running.settings.ports.gateway, ENDED_SECONDS))

    assert await honest.call_while(attack) > 0
    ended = await attack
    assert ended.by_gateway, f"it went on for {ended.seconds:.1f} s"
    assert ended.seconds < ENDED_SECONDS
    await honest.call()


async def test_who_connects_to_the_tls_port_and_says_nothing_is_hung_up_on(running: Running, honest: Honest) -> None:
    attack = asyncio.create_task(attacks.silence().run(HOST, running.settings.ports.gateway_tls, ENDED_SECONDS))

    assert await honest.call_while(attack) > 0
    assert (await attack).by_gateway


async def test_rapid_resets_are_known_for_what_they_are(running: Running) -> None:
    edge, ended_so = Edge(running.settings), "http.plain.downstream_rq_too_many_premature_resets"
    before = (await asyncio.to_thread(edge.statistics, ended_so))[ended_so]
    ended = await attacks.rapid_resets().run(HOST, running.settings.ports.gateway, ENDED_SECONDS)

    assert ended.by_gateway
    assert (await asyncio.to_thread(edge.statistics, ended_so))[ended_so] > before


async def test_calls_whose_bodies_trickle_in_take_no_place_from_others(running: Running, honest: Honest) -> None:
    block = http2.request_headers("gateway", GET_USER.replace("UserService/GetUser", "AuthService/SignIn"))
    opening = http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0)
    for stream in range(1, 2 * SLOW_CALLS, 2):
        opening += http2.frame(http2.HEADERS, http2.END_HEADERS, stream, block)
        opening += http2.frame(http2.DATA, 0, stream, b"\x00")
    opening += http2.frame(http2.PING, 0, 0, b"all sent")
    all_begun = asyncio.Event()

    def watch(received: bytes) -> bool:
        if any(kind == http2.PING and flags & http2.ACK for kind, flags, *_ in http2.frames(received)):
            all_begun.set()
        return attacks.stream_is_over(received)

    crowd = Attack(opening, lambda: iter([b""] * 100), watch)
    attack = asyncio.create_task(crowd.run(HOST, running.settings.ports.gateway, ENDED_SECONDS))
    await asyncio.wait_for(all_begun.wait(), 5)

    for _ in range(5):
        await honest.call()
    assert not attack.done(), "the slow calls were over before the honest ones were made"
    assert (await attack).by_gateway
