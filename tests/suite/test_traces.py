"""One trace of one call, from the gateway to the statements, as a real collector gets it by OTLP."""

import contextlib
import http.client
import threading
import uuid
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspaces_rpc
from guildhall.messaging.v1 import conversation_service_pb2 as conversations
from guildhall.messaging.v1 import conversation_service_pb2_grpc as conversations_rpc
from guildhall.messaging.v1 import message_service_pb2 as messages
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_rpc

from tests.suite.conftest import Running, booted, new_folder

MARK = f"canary{uuid.uuid4().hex[:8]}"
SEND = "guildhall.messaging.v1.MessageService/SendMessage"
CHECK_SESSIONS = "guildhall.identity.v1.SessionService/CheckSessions"
CHECK_ACCESS = "guildhall.membership.v1.AccessService/BatchCheckAccess"


@dataclass(frozen=True)
class Seen:
    """A span as the collector has it."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[tuple[str, str], ...]
    attributes: dict[str, str]


@dataclass
class Collector(otlp_rpc.TraceServiceServicer):
    """Takes spans in, as any collector does."""

    spans: list[Seen] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def Export(self, request: otlp.ExportTraceServiceRequest, _context: Any) -> otlp.ExportTraceServiceResponse:
        """guildhall's processes and Envoy call it."""
        with self.changed:
            self.raw.append(request.SerializeToString())
            for group in request.resource_spans:
                named = {each.key: each.value.string_value for each in group.resource.attributes}
                for scope in group.scope_spans:
                    self.spans += [_seen(named.get("service.name", ""), span) for span in scope.spans]
            self.changed.notify_all()
        return otlp.ExportTraceServiceResponse()

    def until(self, condition: Any, *, seconds: float = 30) -> None:
        """Waits for spans."""
        with self.changed:
            assert self.changed.wait_for(condition, seconds), sorted({(s.service, s.name) for s in self.spans})

    def of(self, trace_id: str) -> list[Seen]:
        """The spans of one trace."""
        return [span for span in self.spans if span.trace_id == trace_id]


def _seen(service: str, span: Any) -> Seen:
    return Seen(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        {each.key: each.value.string_value or str(each.value.int_value) for each in span.attributes},
    )


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[Collector, int]]:
    """A collector on a free port."""
    server, servicer = grpc.server(futures.ThreadPoolExecutor(4)), Collector()
    otlp_rpc.add_TraceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, port
    server.stop(1).wait()


@pytest.fixture(scope="module")
def traced(collector: tuple[Collector, int]) -> Iterator[Running]:
    """A suite of its own that sends its traces there."""
    environment = {
        "GUILDHALL_OTLP_ENDPOINT": f"http://127.0.0.1:{collector[1]}",
        "GUILDHALL_TRACES_RATIO": "0",
        "OTEL_BSP_SCHEDULE_DELAY": "200",  # ms; by itself it is five seconds
    }
    with new_folder("traces") as folder, booted(folder, **environment) as suite:
        yield suite


class Caller:
    """Somebody with a workspace and a channel, through the gateway."""

    def __init__(self, running: Running, channel: grpc.Channel) -> None:
        self._token = running.token(f"{MARK}@example.com")
        self._channel = channel
        made = self.call(
            workspaces_rpc.WorkspaceServiceStub(channel).CreateWorkspace,
            workspaces.CreateWorkspaceRequest(name=MARK),
        )
        self.workspace_id = made.workspace.workspace_id
        request = conversations.CreateChannelRequest(
            workspace_id=self.workspace_id, name=f"{MARK}-channel", visibility=conversations.VISIBILITY_PUBLIC
        )
        created = self.call(conversations_rpc.ConversationServiceStub(channel).CreateChannel, request)
        self.conversation_id = created.conversation.conversation_id

    def call(self, rpc: Any, request: Any, traceparent: str = "") -> Any:
        """One call."""
        return rpc(request, timeout=10, metadata=self._metadata(traceparent))

    def send(self, traceparent: str = "") -> Any:
        """Begins to send a message; `result()` waits for it."""
        request = messages.SendMessageRequest(
            workspace_id=self.workspace_id,
            conversation_id=self.conversation_id,
            client_message_id=str(uuid.uuid4()),
            text=f"{MARK} text",
        )
        stub: Any = messages_rpc.MessageServiceStub(self._channel)
        return stub.SendMessage.future(request, timeout=10, metadata=self._metadata(traceparent))

    def _metadata(self, traceparent: str) -> list[tuple[str, str]]:
        own = [("traceparent", traceparent)] if traceparent else []
        return [("authorization", f"Bearer {self._token}"), *own]


@pytest.fixture(scope="module")
def caller(traced: Running) -> Iterator[Caller]:
    with grpc.insecure_channel(traced.gateway, options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield Caller(traced, channel)


def new_trace(*, sampled: bool = True) -> tuple[str, str]:
    """A trace of a client's own: its id, and the header that says so (W3C Trace Context)."""
    trace_id, span_id = uuid.uuid4().hex, uuid.uuid4().hex[:16]
    return trace_id, f"00-{trace_id}-{span_id}-{'01' if sampled else '00'}"


def is_whole(spans: list[Seen]) -> bool:
    """Whether the last to be sent are there too."""
    names = {(span.service, span.name) for span in spans}
    wanted = {
        ("guildhall-messaging", SEND),
        ("guildhall-identity", CHECK_SESSIONS),
        ("guildhall-membership", CHECK_ACCESS),
    }
    return wanted <= names and any(span.service == "guildhall-gateway" for span in spans)


def test_one_call_is_one_trace_from_the_gateway_to_the_statements(
    caller: Caller, collector: tuple[Collector, int]
) -> None:
    found, (trace_id, traceparent) = collector[0], new_trace()
    caller.send(traceparent).result()
    found.until(lambda: is_whole(found.of(trace_id)))
    spans = {span.span_id: span for span in found.of(trace_id)}

    def above(span: Seen) -> list[tuple[str, str]]:
        way = []
        while (parent := spans.get(span.parent_id)) is not None:
            way.append((parent.service, parent.name))
            span = parent
        assert span.parent_id == traceparent.split("-")[2], "the client's own span is the root"
        return way

    statements = [span for span in spans.values() if span.attributes.get("db.system.name") == "postgresql"]
    for service, rpc in (("guildhall-identity", CHECK_SESSIONS), ("guildhall-membership", CHECK_ACCESS)):
        [statement, *_] = [span for span in statements if span.service == service]
        way = above(statement)
        assert way[:4] == [
            (service, rpc),
            ("guildhall-messaging", rpc),
            ("guildhall-messaging", "batch messages"),
            ("guildhall-messaging", SEND),
        ]
        assert {service for service, _ in way[4:]} == {"guildhall-gateway"}
    [stored] = [span for span in statements if "INSERT INTO messages" in span.attributes["db.query.text"]]
    assert above(stored)[:2] == [("guildhall-messaging", "batch messages"), ("guildhall-messaging", SEND)]


def test_calls_that_shared_a_batch_are_linked_with_it(caller: Caller, collector: tuple[Collector, int]) -> None:
    found = collector[0]
    for _ in range(20):
        parents = [new_trace() for _ in range(8)]
        for answer in [caller.send(traceparent) for _, traceparent in parents]:
            answer.result()
        ids = {trace_id for trace_id, _ in parents}
        found.until(lambda: ids <= {span.trace_id for span in found.spans if span.name == SEND})  # noqa: B023
        batches = [
            span for span in found.spans if span.name == "batch messages" and span.trace_id in ids and span.links
        ]
        if batches:
            break
    else:
        pytest.fail("eight calls at once never shared a batch")
    calls = {span.span_id: span for span in found.spans if span.name == SEND}
    for batch in batches:
        for trace_id, span_id in batch.links:
            assert calls[span_id].trace_id == trace_id != batch.trace_id
            assert (batch.trace_id, batch.span_id) in calls[span_id].links, "from the call, its batch is found"


def test_a_call_that_is_not_to_be_traced_is_not(caller: Caller, collector: tuple[Collector, int]) -> None:
    found, (unsampled, silent), (sampled, traceparent) = collector[0], new_trace(sampled=False), new_trace()
    caller.send(silent).result()
    caller.send().result()
    # The processes send their spans in order, so what came before this one would be there by then.
    caller.send(traceparent).result()
    found.until(lambda: is_whole(found.of(sampled)))
    assert found.of(unsampled) == []


def test_no_text_of_a_persons_is_in_a_span(traced: Running, caller: Caller, collector: tuple[Collector, int]) -> None:
    found, (trace_id, traceparent) = collector[0], new_trace()
    token, path = traced.token(f"{MARK}@example.com"), f"/v1/users?emailPrefix={MARK}"
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", traced.settings.ports.gateway)) as connection:
        connection.request("GET", path, headers={"authorization": f"Bearer {token}", "traceparent": traceparent})
        connection.getresponse().read()
    found.until(lambda: {"guildhall-gateway", "guildhall-identity"} <= {s.service for s in found.of(trace_id)})
    last, traceparent = new_trace()
    caller.send(traceparent).result()
    found.until(lambda: is_whole(found.of(last)))
    assert [raw for raw in found.raw if MARK.encode() in raw or token.encode() in raw] == []
