"""The edges of the suite as proxies: every service reaches its peers, PostgreSQL and Valkey through one of its own."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from deploy.stack.settings import HOST, SERVICES
from tests.faults.bench import Bench
from tests.faults.tcp_proxy import Endpoint, Proxy

POSTGRESQL, VALKEY = "PostgreSQL", "Valkey"
_SOCKET = ".s.PGSQL.5432"


class Edge:
    """What a service reaches another by: one proxy for each of the other's replicas."""

    def __init__(self, service: str, other: str, proxies: list[Proxy]) -> None:
        self.service = service
        self.other = other
        self.proxies = proxies

    @property
    def name(self) -> str:
        """Who asks whom."""
        return f"{self.service} → {self.other}"


@asynccontextmanager
async def proxied(bench: Bench, *services: str, launcher: tuple[str, ...] = ()) -> AsyncIterator[list[Edge]]:
    """Services, all of them if none is named, both replicas, behind their proxies; as they were at the end."""
    edges: list[Edge] = []
    services = services or SERVICES
    try:
        for service in services:
            edges += await _of(bench, service)
        for service in services:
            environment = _environment(bench, service, edges)
            await bench.cluster.run_as(service, launcher=launcher, environment=environment)
        yield edges
    finally:
        for service in services:
            await bench.cluster.run_as(service)
        for edge in edges:
            for proxy in edge.proxies:
                await proxy.stop()


async def _of(bench: Bench, service: str) -> list[Edge]:
    settings, postgres = bench.cluster.settings, bench.cluster.stack.postgres
    folder = _folder(bench, service)
    folder.mkdir(mode=0o700, exist_ok=True)
    edges = []
    for peer in SERVICES:
        if peer != service:
            ports = [settings.ports.service(peer, replica) for replica in range(settings.replicas)]
            edges.append(Edge(service, peer, [await _started((HOST, 0), (HOST, port)) for port in ports]))
    edges.append(
        Edge(service, POSTGRESQL, [await _started(folder / _SOCKET, postgres.socket_folder / _SOCKET)]),
    )
    edges.append(Edge(service, VALKEY, [await _started(folder / "valkey", _valkey_socket(bench))]))
    return edges


async def _started(listen: Endpoint, upstream: Endpoint) -> Proxy:
    proxy = Proxy(listen, upstream)
    await proxy.start()
    return proxy


def _environment(bench: Bench, service: str, edges: list[Edge]) -> Mapping[str, str]:
    declared = bench.cluster.program(service).environment
    own, folder = bench.cluster.stack.postgres.socket_folder, _folder(bench, service)
    changed = {
        "GUILDHALL_DATABASE_URL": declared["GUILDHALL_DATABASE_URL"].replace(str(own), str(folder)),
        "GUILDHALL_REDIS_URL": f"unix://{folder / 'valkey'}",
    }
    for edge in edges:
        if edge.service == service and edge.other in SERVICES:
            targets = ",".join(f"{HOST}:{proxy.port}" for proxy in edge.proxies)
            changed[f"GUILDHALL_{edge.other.upper()}_ADDRESS"] = f"ipv4:{targets}"
    return changed


def _folder(bench: Bench, service: str) -> Path:
    # Short: a Unix socket's path holds 107 bytes.
    return bench.cluster.settings.layout.sockets / f"e{SERVICES.index(service)}"


def _valkey_socket(bench: Bench) -> Path:
    return Path(bench.cluster.stack.valkey.url.removeprefix("unix://"))
