"""One structured log line per call, and Prometheus metrics named as in go-grpc-prometheus."""

import asyncio
import functools
import json
import logging
import sys
from datetime import UTC, datetime

import structlog
from prometheus_client import Counter, Gauge, Histogram

from services.chassis.call import Call
from services.chassis.contracts import Rpc

LABELS = ("grpc_type", "grpc_service", "grpc_method")

STARTED = Counter("grpc_server_started", "Calls begun.", LABELS)
HANDLED = Counter("grpc_server_handled", "Calls answered, by code.", (*LABELS, "grpc_code"))
HANDLING = Histogram(
    "grpc_server_handling_seconds",
    "Seconds from a call's arrival to its answer.",
    LABELS,
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
RECEIVED = Counter("grpc_server_msg_received", "Messages received.", LABELS)
SENT = Counter("grpc_server_msg_sent", "Messages sent.", LABELS)
STREAMS = Gauge("guildhall_open_streams", "Streams that are open.")


# Made once: json.dumps would make an encoder for every line.
ENCODE = json.JSONEncoder(ensure_ascii=False, default=str).encode


class CallLog:
    """The one line of each call. Written straight to stdout: a logger's way there costs more than the line.

    Calls that end in the same turn of the event loop are written together: unbuffered, each line is a system call.
    """

    def __init__(self, service: str, level: str) -> None:
        self._service = service
        self._wanted = level in ("debug", "info")
        self._lines: list[str] = []

    def write(self, call: Call, *, code: str, reason: str, seconds: float) -> None:
        """Writes who called what, and what came of it; no text that a person wrote."""
        if not self._wanted:
            return
        # By hand: only a peer's request id can hold what JSON must escape.
        self._lines.append(
            f'{{"service": "{self._service}", "rpc": "{call.rpc}", "code": "{code}", "reason": "{reason}", '
            f'"ms": {seconds * 1000:.2f}, "request_id": {ENCODE(call.request_id)}, "peer": "{call.peer}", '
            f'"caller_id": "{call.caller_id}", "event": "call", "level": "info", '
            f'"time": "{datetime.now(UTC).isoformat()}"}}\n'
        )
        if len(self._lines) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        sys.stdout.write("".join(self._lines))
        self._lines.clear()


class Counters:
    """The metrics of one RPC, found once: looking them up by their labels costs as much as counting."""

    def __init__(self, rpc: Rpc, kind: str) -> None:
        labels = (kind, rpc.service, rpc.method)
        self.rpc = rpc
        self.streaming = rpc.server_streaming or rpc.client_streaming
        self.received, self.sent = RECEIVED.labels(*labels), SENT.labels(*labels)
        self._started, self._handling = STARTED.labels(*labels), HANDLING.labels(*labels)
        self._handled = functools.cache(lambda code: HANDLED.labels(*labels, code_name(code)))
        # Shown as 0 from the start: a counter that is first seen at 1 has not risen for Prometheus.
        for code in ("OK", "INTERNAL"):
            self._handled(code)

    def begin(self) -> None:
        """Counts a call that arrived; the messages of a stream of requests are counted as they come."""
        self._started.inc()
        if not self.rpc.client_streaming:
            self.received.inc()

    def end(self, code: str, seconds: float) -> None:
        """Counts its answer; the messages of a stream were counted as they went."""
        self._handling.observe(seconds)
        self._handled(code).inc()
        if code == "OK" and not self.streaming:
            self.sent.inc()


def configure_logging(service: str, level: str) -> None:
    """JSON lines on stdout, this process's service named in each; libraries' own lines from warning on."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            lambda _logger, _method, event: {"service": service, **event},
            structlog.processors.JSONRenderer(serializer=lambda event, **_options: ENCODE(event)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(levelname)s %(name)s %(message)s")


def code_name(code: str) -> str:
    """A status code's name as Go writes it: NOT_FOUND is NotFound."""
    # Go spells one of them with a single l.
    words = code.replace("CANCELLED", "CANCELED").split("_")
    return code if code == "OK" else "".join(word.capitalize() for word in words)


def places(error: BaseException) -> str:
    """Where a defect is, without its text, which could hold personal data or a statement's parameters."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(f"{trace.tb_frame.f_code.co_filename.rsplit('/', 2)[-1]}:{trace.tb_lineno}")
        trace = trace.tb_next
    cause = f" from {type(error.__cause__).__name__}" if error.__cause__ else ""
    return f"{type(error).__name__}{cause} at {' > '.join(frames[-6:])}"
