"""The bare echo that the suite is measured against: grpc.aio, mutual TLS, bytes in and the same bytes out.

    python -m tests.load.echo PORT HEALTH_PORT CERTIFICATE KEY CA

No message is parsed, nobody is asked, nothing is stored: what is left is the cost of gRPC and the gateway. It runs on
the event loop that the services run on.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2_grpc

from tests.load.wire import ECHO, ECHO_STREAM

NAME = "echo"


async def _echo(request: bytes, _context: Any) -> bytes:
    return request


async def _echo_stream(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def serve(port: int, health_port: int, credentials: grpc.ServerCredentials) -> None:
    """Serve until SIGTERM."""
    options = [("grpc.so_reuseport", 0)]  # as the services
    server, health_server = grpc.aio.server(options=options), grpc.aio.server(options=options)
    service, _, unary = ECHO.strip("/").partition("/")
    stream = ECHO_STREAM.rpartition("/")[2]
    handlers: dict[str, Any] = {
        unary: grpc.unary_unary_rpc_method_handler(_echo),
        stream: grpc.stream_stream_rpc_method_handler(_echo_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_secure_port(f"127.0.0.1:{port}", credentials)
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), health_server)
    health_server.add_insecure_port(f"127.0.0.1:{health_port}")
    await server.start()
    await health_server.start()
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()
    await server.stop(0)
    await health_server.stop(0)


if __name__ == "__main__":
    _certificate, _key, _ca = (Path(file).read_bytes() for file in sys.argv[3:])
    _credentials = grpc.ssl_server_credentials([(_key, _certificate)], _ca, require_client_auth=True)
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]), _credentials))
