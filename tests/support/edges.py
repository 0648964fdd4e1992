"""Gateways beside the one of a running suite, with limits of their own, and a service that tells what it was sent."""

import contextlib
import copy
import dataclasses
import json
import socket
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from deploy.envoy.descriptors import PublicRpc
from deploy.stack import certificates, gateway
from deploy.stack.settings import HOST, Settings
from tests.support.backends import Processes

WITNESS = "witness"
WITNESSED = "/guildhall.witness.v1.WitnessService/Look"
WITNESSED_STREAM = "/guildhall.witness.v1.WitnessService/Watch"


@dataclass(frozen=True)
class Edge:
    """A gateway that runs: its ports, and where it writes."""

    settings: Settings

    @property
    def address(self) -> str:
        """HOST:PORT, plain."""
        return self.settings.gateway_address

    def statistics(self, filter_regex: str) -> dict[str, int]:
        """Envoy's counters and gauges whose names match."""
        url = f"http://{HOST}:{self.settings.ports.envoy_admin}/stats?format=json&filter={filter_regex}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            found = json.load(answer)["stats"]
        return {one["name"]: one["value"] for one in found if "name" in one}


@contextlib.contextmanager
def gateway_beside(
    settings: Settings, folder: Path, limits: Mapping[str, int], extra: gateway.Extra | None = None
) -> Iterator[Edge]:
    """One more gateway for the services of a running suite, ended at the end."""
    layout, ports = copy.copy(settings.layout), copy.copy(settings.ports)
    layout.envoy, layout.logs = folder / "envoy", folder / "logs"
    layout.envoy.mkdir(mode=0o700, parents=True)
    ports.gateway, ports.gateway_tls, ports.envoy_admin = free_ports(3)
    own = dataclasses.replace(settings, layout=layout, ports=ports, of_gateway=limits)
    processes = Processes()
    try:
        processes.start(gateway.program(own, extra))
        yield Edge(own)
    finally:
        processes.stop()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


class Witness:
    """A service in this process that keeps the headers of each call, as they came out of the gateway.

    `Look` answers; `Watch` answers each request with one, for as long as the caller likes.
    """

    def __init__(self, settings: Settings, ports: tuple[int, int] | None = None) -> None:
        self.calls: list[dict[str, str]] = []
        self.waiting = threading.Event()
        self.released = threading.Event()
        self.released.set()
        self.ports = port, health_port = ports or (*free_ports(2),)
        rpcs = tuple(
            PublicRpc(path=path, upstream=WITNESS, needs_token=False, streaming=streaming, has_json=False)
            for path, streaming in ((WITNESSED, False), (WITNESSED_STREAM, True))
        )
        self.extra = gateway.Extra(WITNESS, port, health_port, rpcs)
        files = certificates.ensure(settings.layout.certificates, (WITNESS,))[WITNESS]
        pair = (files.key.read_bytes(), files.certificate.read_bytes())
        credentials = grpc.ssl_server_credentials([pair], files.ca.read_bytes(), require_client_auth=True)
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        service, _, _ = WITNESSED.strip("/").partition("/")
        handlers: dict[str, Any] = {
            "Look": grpc.unary_unary_rpc_method_handler(self._look),
            "Watch": grpc.stream_stream_rpc_method_handler(self._watch),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self._server.add_secure_port(f"{HOST}:{port}", credentials)
        checks = health.HealthServicer()
        checks.set("", health_pb2.HealthCheckResponse.SERVING)
        self._health = grpc.server(futures.ThreadPoolExecutor(2))
        health_pb2_grpc.add_HealthServicer_to_server(checks, self._health)
        self._health.add_insecure_port(f"{HOST}:{health_port}")

    def _look(self, _request: bytes, context: grpc.ServicerContext) -> bytes:
        self._keep(context)
        self.waiting.set()
        self.released.wait(10)
        return b""

    def _watch(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._keep(context)
        yield from requests

    def _keep(self, context: grpc.ServicerContext) -> None:
        certificate = context.auth_context().get("x509_pem_cert", [b""])[0].decode()
        headers = {key: str(value) for key, value in context.invocation_metadata() or ()}
        self.calls.append({**headers, "certificate": certificate})

    def __enter__(self) -> "Witness":
        self._server.start()
        self._health.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        for server in (self._server, self._health):
            server.stop(0).wait()


@contextlib.contextmanager
def channel_to(address: str) -> Iterator[grpc.Channel]:
    """A plain channel with a connection of its own."""
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options=options) as channel:
        yield channel


def status_of(error: grpc.RpcError) -> status_pb2.Status:
    """The google.rpc.Status that a refusal carries; an empty one if it carries none."""
    assert isinstance(error, grpc.Call)
    found = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    assert isinstance(found, bytes)
    return status_pb2.Status.FromString(found)


def reason_of(status: status_pb2.Status) -> str:
    """The reason in a status's ErrorInfo; empty if there is none."""
    info = error_details_pb2.ErrorInfo()
    return next((info.reason for detail in status.details if detail.Unpack(info)), "")
