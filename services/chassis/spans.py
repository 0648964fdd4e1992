"""The spans of a trace: one for each RPC answered, peer asked, batch and statement. They hold no text of a person's.

Of statements only the text with its placeholders is kept, of RPCs their names and codes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import grpc
from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from sqlalchemy import Engine, event

MOST_SQL = 4000
"""Characters of a statement."""
MOST_LINKS = 128
DEFECTS = ("INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED", "DATA_LOSS", "UNIMPLEMENTED")
"""Codes that are a server's fault, not its answer (OpenTelemetry's conventions for gRPC)."""
NO_TEXT: Mapping[str, Any] = MappingProxyType({"record_exception": False, "set_status_on_exception": False})
"""An exception's text may hold a person's: that of a unique key does."""

W3C = TraceContextTextMapPropagator()


class Spans:
    """Makes the spans of one process and sends them to a collector, by OTLP over gRPC, in a thread."""

    def __init__(self, service: str, endpoint: str, *, ratio: float) -> None:
        """`ratio` is the share of calls that are traced of those that come without a `traceparent`."""
        provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(ratio), resource=Resource.create({"service.name": f"guildhall-{service}"})
        )
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))
        provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = provider.get_tracer("guildhall")

    def begin(self, rpc: str, metadata: Iterable[tuple[str, Any]] | None, *, request_id: str) -> Span:
        """The span of a call that is answered, below the caller's. It is the task's current one from now on."""
        parent = W3C.extract({key: value for key, value in metadata or () if key in W3C.fields})
        span = self._tracer.start_span(
            rpc.removeprefix("/"), parent, SpanKind.SERVER, {**_rpc(rpc), "guildhall.request_id": request_id}
        )
        # Never detached: each call has a task, and so a context, of its own.
        context.attach(trace.set_span_in_context(span))
        return span

    def end(self, span: Span, code: str, reason: str) -> None:
        """Ends it by the call's answer."""
        _end(span, code, faults=DEFECTS)
        if reason:
            span.set_attribute("error.type", reason)
        span.end()

    def current(self) -> Span:
        """The span of whoever asks."""
        return trace.get_current_span()

    def client_interceptors(self) -> Sequence[grpc.aio.ClientInterceptor]:
        """What a channel needs for its calls to have spans, and to carry a `traceparent`."""
        return [_Asking(self._tracer)]

    def linked(
        self, flush: Callable[[Any, float], Awaitable[Any]], *, name: str, callers: Iterable[Span | None]
    ) -> Callable[[Any, float], Awaitable[Any]]:
        """A flush with a span of its own: below the first traced caller, and linked with all the others.

        A span has one parent only, and the batch works for many.
        """
        traced = list({id(span): span for span in callers if span is not None and span.is_recording()}.values())
        if not traced:
            return flush

        async def flush_in_span(items: Any, timeout_seconds: float) -> Any:
            with self._tracer.start_as_current_span(
                f"batch {name}",
                trace.set_span_in_context(traced[0]),
                attributes={"guildhall.queue": name, "guildhall.batch_items": len(items)},
                links=[Link(span.get_span_context()) for span in traced[1:MOST_LINKS]],
                **NO_TEXT,
            ) as batch:
                for span in traced[1:]:
                    span.add_link(batch.get_span_context())
                try:
                    return await flush(items, timeout_seconds)
                except Exception:
                    batch.set_status(Status(StatusCode.ERROR))
                    raise

        return flush_in_span

    def watch(self, engine: Engine) -> None:
        """Has each statement of an engine that is executed inside of a span be one as well."""

        def before(connection: Any, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
            connection.info.pop("span", None)
            if trace.get_current_span().is_recording():
                text = " ".join(statement.split())
                attributes = {"db.system.name": "postgresql", "db.query.text": text[:MOST_SQL]}
                name = text.split(" ", 1)[0]
                connection.info["span"] = self._tracer.start_span(name, None, SpanKind.CLIENT, attributes)

        def after(connection: Any, *_arguments: Any) -> None:
            if (span := connection.info.pop("span", None)) is not None:
                span.end()

        def failed(failure: Any) -> None:
            span = failure.connection.info.pop("span", None) if failure.connection is not None else None
            if span is not None:
                span.set_attribute("db.response.status_code", getattr(failure.original_exception, "sqlstate", "") or "")
                span.set_status(Status(StatusCode.ERROR))
                span.end()

        event.listen(engine, "before_cursor_execute", before)
        event.listen(engine, "after_cursor_execute", after)
        event.listen(engine, "handle_error", failed)


class _Asking(grpc.aio.UnaryUnaryClientInterceptor):
    """One span for each call to a peer, whose own span will be below it."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    async def intercept_unary_unary(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        """Sends the call with a `traceparent`, and waits for its end."""
        method = details.method if isinstance(details.method, str) else details.method.decode()
        with self._tracer.start_as_current_span(
            method.removeprefix("/"), kind=SpanKind.CLIENT, attributes=_rpc(method), **NO_TEXT
        ) as span:
            carried: dict[str, str] = {}
            W3C.inject(carried)
            metadata = grpc.aio.Metadata(*(details.metadata or ()), *carried.items())
            sent = grpc.aio.ClientCallDetails(
                details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
            )
            call = await continuation(sent, request)
            try:
                _end(span, (await call.code()).name, faults=[code.name for code in grpc.StatusCode if code.value[0]])
            except asyncio.CancelledError:
                call.cancel()
                raise
            return call


def _rpc(path: str) -> dict[str, str]:
    service, _, method = path.removeprefix("/").partition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}


def _end(span: Span, code: str, *, faults: Sequence[str]) -> None:
    span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[code].value[0])
    if code in faults:
        span.set_status(Status(StatusCode.ERROR))
