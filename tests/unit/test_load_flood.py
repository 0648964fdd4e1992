"""The load generator's own HTTP/2: against gRPC's, so that what it counts is what a client would have seen."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.load.flood import Flood, huffman, status_in
from tests.load.generator import Control
from tests.load.wire import message
from tests.support.deliveries import until

SERVICE = "guildhall.load.v1.EchoService"
ID = "00000000-0000-7000-8000-000000000000"


async def echo(request: bytes, _context: Any) -> bytes:
    return request


async def refuse(_request: bytes, context: Any) -> bytes:
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")
    raise AssertionError("abort raises")


@pytest.fixture
async def target() -> AsyncIterator[str]:
    server = grpc.aio.server()
    methods: dict[str, Any] = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


@pytest.mark.parametrize(
    ("method", "code"), [("Echo", "OK"), ("Refuse", "RESOURCE_EXHAUSTED"), ("Unknown", "UNIMPLEMENTED")]
)
async def test_each_call_is_counted_once_under_its_own_code(target: str, method: str, code: str) -> None:
    tokens = ["short", "x" * 700]
    flood = Flood(target, f"/{SERVICE}/{method}", tokens, [message(ID, ID)], rate=400, seconds=0.5, connections=2)

    outcome = await flood.run(Control(lambda _news: None))

    assert +outcome.codes == {code: outcome.ended}
    assert 100 <= outcome.ended <= 200
    assert outcome.latency.total == (outcome.ended if code == "OK" else 0)


async def test_who_hangs_up_is_counted_and_the_call_is_cancelled_at_the_server() -> None:
    begun, cancelled = 0, 0

    async def wait(_request: bytes, _context: Any) -> bytes:
        nonlocal begun, cancelled
        begun += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return b""

    server = grpc.aio.server()
    methods = {"Wait": grpc.unary_unary_rpc_method_handler(wait)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    flood = Flood(
        f"127.0.0.1:{port}", f"/{SERVICE}/Wait", ["x"], [message(ID, ID)], rate=100, seconds=0.5, cancelled=1.0
    )

    outcome = await flood.run(Control(lambda _news: None))
    await until(lambda: cancelled == begun)
    await server.stop(0)

    assert +outcome.codes == {"CANCELLED": outcome.ended}
    assert begun > 0


def test_the_status_is_found_whether_or_not_its_name_is_huffman_coded() -> None:
    coded = huffman("grpc-status")

    assert status_in(b"\x00\x0bgrpc-status\x018") == "RESOURCE_EXHAUSTED"
    assert status_in(b"\x00" + bytes([0x80 | len(coded)]) + coded + b"\x0214") == "UNAVAILABLE"
    assert status_in(b"\x88") == ""
