"""A service process: the gRPC server and everything beside it, started and drained in the right order."""

import asyncio
import gc
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

import grpc
import jwt
import structlog
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import _async as reflection
from grpc_reflection.v1alpha import reflection_pb2
from guildhall.events.v1 import event_sink_pb2 as events
from guildhall.events.v1 import event_sink_pb2_grpc

from services.chassis import contracts, metrics
from services.chassis.celery import make_app, send
from services.chassis.channel import ask, open_channel
from services.chassis.database import Database
from services.chassis.inbox import Consumer, EventSink, Inbox
from services.chassis.interceptors import Interceptors
from services.chassis.outbox import Relay
from services.chassis.peers import Identity
from services.chassis.secret import SecretKey
from services.chassis.sessions import Sessions
from services.chassis.settings import ServeSettings
from services.chassis.telemetry import CallLog, configure_logging
from services.chassis.tls import server_credentials
from services.chassis.tokens import Verifier
from services.chassis.wakes import Wakes
from services.chassis.worker import perform_task

log = structlog.get_logger()

PEERS = ("identity", "membership", "guest", "messaging")
STOP_SECONDS = 20.0
NOTICE_SECONDS = 2.0
"""In which the gateway has asked about this server's health: it asks each second, for a second at most."""
SERVER_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.max_metadata_size", 16 << 10),
    # Or gRPC widens each stream's window by what the connection could carry: 100 uploads of 20 MiB took 1.4 GiB.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
]


class Frame:
    """One service process. To be made inside the running loop: channels belong to it."""

    def __init__(
        self,
        service: str,
        settings: ServeSettings,
        *,
        consumes: Mapping[str, Consumer],
        check_sessions: Callable[[Sequence[str], float], Awaitable[Sequence[bool]]] | None = None,
        public_keys: Callable[[], Awaitable[Mapping[str, jwt.PyJWK]]] | None = None,
        database: Database | None = None,
    ) -> None:
        """`consumes` are the events it takes in. identity gives its own sessions, keys and database."""
        configure_logging(service, settings.log_level)
        self.service = service
        self.settings = settings
        self.secret = SecretKey(settings.secret_key)
        self.database = database or Database(settings)
        self.wakes = Wakes(settings.redis_url)
        self.channels = {peer: open_channel(settings, peer) for peer in PEERS if peer != service}
        if check_sessions is None or public_keys is None:
            identity = Identity(self.channels["identity"])
            check_sessions, public_keys = identity.check_sessions, identity.public_keys
        self.sessions = Sessions(check_sessions)
        self.inbox = Inbox(self.database, consumes)
        self.relay = Relay(
            self.database,
            deliver={peer: _deliverer(channel) for peer, channel in self.channels.items()},
            hand_over=self._hand_over,
        )
        self.database.on_outbox = self.relay.wake
        self._celery = make_app(service, settings.redis_url)
        self._interceptors = Interceptors(
            service=service,
            verifier=Verifier(public_keys),
            sessions=self.sessions,
            log=CallLog(service, settings.log_level),
        )
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        self._health_server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._health = health.aio.HealthServicer()
        self._background: list[asyncio.Task[None]] = []
        self._heard: dict[str, Callable[[str], None]] = {
            f"{service}.outbox": lambda _message: self.relay.wake(),
            f"{service}.inbox": lambda _message: self.inbox.wake(),
        }
        self._drains: list[Callable[[], None]] = []
        self._closes: list[Callable[[], Awaitable[None]]] = []
        self.ports: dict[str, int] = {}
        self.add(event_sink_pb2_grpc.add_EventSinkServicer_to_server, EventSink(self.database, self.inbox))

    async def _hand_over(self, ids: Sequence[str]) -> None:
        await send(self._celery, perform_task(self.service), ids)

    def add(self, add_to_server: Callable[[Any, Any], None], servicer: object) -> None:
        """Registers a servicer by its generated function, each handler wrapped by the interceptors."""
        add_to_server(servicer, _Registrar(self._server, self._interceptors))

    def hear(self, channel: str, heard: Callable[[str], None]) -> None:
        """Has wake-ups of a Valkey channel heard."""
        self._heard[channel] = heard

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs something as long as the process serves."""
        task = asyncio.create_task(work)
        task.add_done_callback(_report_end)
        self._background.append(task)

    def on_drain(self, tell: Callable[[], None]) -> None:
        """Has streams told to reconnect when the process is about to stop."""
        self._drains.append(tell)

    def on_close(self, close: Callable[[], Awaitable[None]]) -> None:
        """Has something closed that calls needed, once there are none."""
        self._closes.append(close)

    async def start(self) -> None:
        """Opens the ports and serves. Readiness waits for nobody."""
        settings = self.settings
        self.ports["service"] = self._server.add_secure_port(settings.listen, server_credentials(settings))
        _add_reflection(self._server)
        await self._server.start()
        self.background(metrics.watch_loop())
        self.background(metrics.watch_table(self.database, metrics.BACKLOGS, metrics.OF_BACKLOGS))
        self.background(self.relay.run())
        self.background(self.inbox.run())
        self.background(self.wakes.listen(self._heard))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._health_server)
        self.ports["health"] = self._health_server.add_insecure_port(settings.health_listen)
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        await self._health_server.start()
        _collect_rarely()
        log.info("serving", listen=settings.listen)

    async def stop(self) -> None:
        """Drains: out of the balancing first, then the streams, then the calls, then everything else."""
        await self._health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        # Until the gateway has noticed, it sends calls to this server; streams that were told by then would come back.
        notice_seconds = min(NOTICE_SECONDS, self.settings.drain_seconds / 2)
        await asyncio.sleep(notice_seconds)
        for tell in self._drains:
            tell()
        await asyncio.sleep(self.settings.drain_seconds - notice_seconds)
        await self._server.stop(STOP_SECONDS)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._health_server.stop(None)
        for close in self._closes:
            await close()
        for channel in self.channels.values():
            await channel.close()
        await self.wakes.close()
        await self.database.close()
        log.info("stopped")

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT."""
        metrics_server = metrics.serve(self.settings.metrics_listen, asyncio.get_running_loop())
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        await self.start()
        await stopping.wait()
        await self.stop()
        metrics_server.shutdown()


def _collect_rarely() -> None:
    """Has the garbage collector leave alone what was made at start, and look at the rest less often.

    At Python's default of 700 new objects it took a twentieth of messaging's processor time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _report_end(task: asyncio.Task[None]) -> None:
    """Says so if background work ended by itself, which it never should."""
    if not task.cancelled():
        log.error("background_ended", work=task.get_name(), error=type(task.exception()).__name__)


class _Registrar:
    """Stands where generated code expects a server, to get hold of the handlers before they are registered."""

    def __init__(self, server: grpc.aio.Server, interceptors: Interceptors) -> None:
        self._server = server
        self._interceptors = interceptors

    def add_generic_rpc_handlers(self, _handlers: object) -> None:
        """Generated code registers twice; the second way is the one that is used."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Wraps each handler by what the protos say of its RPC."""
        rpcs = contracts.rpcs()
        wrapped = {
            method: self._interceptors.wrap(rpcs[f"/{service}/{method}"], handler)
            for method, handler in handlers.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, wrapped),))


def _deliverer(channel: grpc.aio.Channel) -> Callable[[Sequence[events.Event]], Awaitable[None]]:
    stub: event_sink_pb2_grpc.EventSinkAsyncStub = event_sink_pb2_grpc.EventSinkStub(channel)

    async def deliver(batch: Sequence[events.Event]) -> None:
        await ask(stub.DeliverEvents, events.DeliverEventsRequest(events=batch))

    return deliver


def _add_reflection(server: grpc.aio.Server) -> None:
    """Reflection of the whole suite, v1 and v1alpha, so that the gateway can send it to any service."""
    names = [service.full_name for service in contracts.services()]
    names += ["grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection"]
    pool = descriptor_pool.Default()
    v1 = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(v1)
    v1.name = "grpc/reflection/v1/reflection.proto"
    pool.Add(_renamed(v1))
    servicer = reflection.ReflectionServicer(names, pool=pool)
    for service in names[-2:]:
        handler = grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            reflection_pb2.ServerReflectionRequest.FromString,
            reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {"ServerReflectionInfo": handler}),)
        )


def _renamed(file: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    """reflection.proto of v1: it differs from v1alpha in nothing but the package."""
    file.package = "grpc.reflection.v1"
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(".v1alpha.", ".v1.")
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(".v1alpha.", ".v1.")
        method.output_type = method.output_type.replace(".v1alpha.", ".v1.")
    return file
