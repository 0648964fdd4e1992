"""One structured log line per call, and Prometheus metrics named as in go-grpc-prometheus."""

import logging
import sys

import structlog
from prometheus_client import Counter, Gauge, Histogram

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


def configure_logging(service: str, level: str) -> None:
    """JSON lines on stdout, this process's service named in each; libraries' own lines from warning on."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            lambda _logger, _method, event: {"service": service, **event},
            structlog.processors.JSONRenderer(ensure_ascii=False),
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
