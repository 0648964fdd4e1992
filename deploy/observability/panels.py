"""The panels of the dashboard: what they ask of Prometheus, row by row."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

OF = 'service=~"$service"'
EVERY = "$__rate_interval"
UNARY = 'grpc_type="unary"'
CLUSTER = "envoy_cluster_name"


@dataclass(frozen=True)
class Panel:
    """One graph. `queries` maps a query to the legend of its lines; `unit` is Grafana's name of a unit."""

    title: str
    unit: str
    queries: Mapping[str, str]
    description: str = ""


def _rate(metric: str, by: str, *matchers: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{','.join((OF, *matchers))}}}[{EVERY}]))"


def _quantile(share: float, metric: str, by: str, *matchers: str) -> str:
    return f"histogram_quantile({share}, {_rate(f'{metric}_bucket', f'le, {by}', *matchers)})"


def _quantiles(metric: str, by: str, *matchers: str) -> Mapping[str, str]:
    name = "{{" + by + "}}"
    return {_quantile(share, metric, by, *matchers): f"{name} p{share * 100:.0f}" for share in (0.5, 0.99)}


def _now(metric: str, by: str, how: str = "sum") -> str:
    return f"{how} by ({by}) ({metric}{{{OF}}})"


def _envoy(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}[{EVERY}]))"


RPCS = (
    Panel(
        "Calls",
        "reqps",
        {
            _rate("grpc_server_handled_total", "service"): "{{service}}",
            _rate("grpc_server_started_total", "service"): "{{service}} begun",
        },
        "Answered, whatever the answer; more begun than answered means that calls pile up, or streams open.",
    ),
    Panel(
        "Refused and failed",
        "reqps",
        {_rate("grpc_server_handled_total", "service, grpc_code", 'grpc_code!="OK"'): "{{service}} {{grpc_code}}"},
        "Internal is a defect. Unavailable is a peer or the database that is away. The rest are answers to callers.",
    ),
    Panel("Time of unary calls", "s", _quantiles("grpc_server_handling_seconds", "service", UNARY)),
    Panel(
        "Slowest RPCs, p99",
        "s",
        {
            f"topk(8, {_quantile(0.99, 'grpc_server_handling_seconds', 'grpc_method', UNARY)})": "{{grpc_method}}",
        },
    ),
    Panel(
        "In flight",
        "short",
        {
            _now("guildhall_calls_in_flight", "service"): "{{service}} calls",
            _now("guildhall_open_streams", "service"): "{{service}} streams",
        },
        "Of one process at most 1 024 calls and 1 000 streams; the rest is refused.",
    ),
    Panel(
        "Messages in streams",
        "cps",
        {
            _rate("grpc_server_msg_received_total", "service", 'grpc_type!="unary"'): "{{service}} received",
            _rate("grpc_server_msg_sent_total", "service", 'grpc_type!="unary"'): "{{service}} sent",
        },
    ),
)
COALESCING = (
    Panel(
        "Items in a batch",
        "short",
        {
            f"{_rate('guildhall_coalescer_batch_items_sum', 'service, queue')} / "
            f"{_rate('guildhall_coalescer_batch_items_count', 'service, queue')}": "{{service}} {{queue}}"
        },
        "The mean. It grows with the load: that is how a call becomes cheaper.",
    ),
    Panel("Time of a batch, p99", "s", _quantiles("guildhall_coalescer_flush_seconds", "queue")),
    Panel(
        "Waiting",
        "short",
        {
            _now("guildhall_coalescer_waiting_items", "service, queue"): "{{service}} {{queue}}",
            _now("guildhall_side_lanes", "service"): "{{service}} side lanes",
        },
        "Items behind the batch that is being asked; side lanes are conversations whose row somebody else has locked.",
    ),
    Panel("Refused", "cps", {_rate("guildhall_coalescer_refused_total", "service, queue"): "{{service}} {{queue}}"}),
)
STREAMS = (
    Panel("Subscriptions", "short", {_now("guildhall_subscriptions", "state"): "{{state}}"}),
    Panel(
        "From a message's creation to its delivery",
        "s",
        _quantiles("guildhall_delivery_lag_seconds", "service"),
        "Of live streams, one write a second of each.",
    ),
    Panel(
        "Ends",
        "cps",
        {_rate("guildhall_subscription_ends_total", "reason"): "{{reason}}"},
        "slow: the reader did not keep up. unavailable: no answer about permission for 30 s.",
    ),
    Panel("From a message to its being searchable", "s", _quantiles("guildhall_search_lag_seconds", "service")),
    Panel(
        "Not searchable yet",
        "short",
        {_now("guildhall_search_behind_conversations", "service", "max"): "conversations"},
    ),
)
DATABASE = (
    Panel(
        "Connections in use",
        "short",
        {
            _now("guildhall_database_pool_used_connections", "service, pool"): "{{service}} {{pool}}",
            _now("guildhall_database_pool_size_connections", "service, pool", "max"): "{{service}} {{pool}} at most",
        },
        "Each process has two pools: one for transactions, one for single statements.",
    ),
    Panel(
        "Waiting for a connection",
        "short",
        {_now("guildhall_database_pool_waiting_units", "service, pool"): "{{service}} {{pool}}"},
    ),
    Panel(
        "No connection within 1 s",
        "cps",
        {_rate("guildhall_database_pool_timeouts_total", "service, pool"): "{{service}} {{pool}}"},
        "Each of them is a call that was refused with RESOURCE_EXHAUSTED.",
    ),
)
BACKLOGS = (
    Panel(
        "Age of the oldest",
        "s",
        {
            _now("guildhall_outbox_oldest_seconds", "service", "max"): "{{service}} outbox",
            _now("guildhall_inbox_oldest_seconds", "service", "max"): "{{service}} inbox",
        },
        "NaN, a gap, where the database gave no answer.",
    ),
    Panel(
        "Waiting",
        "short",
        {
            _now("guildhall_outbox_waiting_rows", "service", "max"): "{{service}} outbox",
            _now("guildhall_inbox_waiting_rows", "service", "max"): "{{service}} inbox",
        },
    ),
    Panel(
        "Dead",
        "short",
        {
            _now("guildhall_outbox_dead_rows", "service", "max"): "{{service}} outbox",
            _now("guildhall_inbox_dead_rows", "service", "max"): "{{service}} inbox",
        },
        "Given up after 20 tries; they stay until somebody looks at them.",
    ),
    Panel(
        "Handed on",
        "cps",
        {
            _rate("guildhall_outbox_sent_rows_total", "service, target, outcome"): (
                "{{service}} to {{target}}: {{outcome}}"
            )
        },
    ),
    Panel("Applied", "cps", {_rate("guildhall_inbox_applied_events_total", "kind, outcome"): "{{kind}}: {{outcome}}"}),
)
WORKERS = (
    Panel("Works", "cps", {_rate("guildhall_worker_tasks_total", "kind, outcome"): "{{kind}}: {{outcome}}"}),
    Panel("Time of a work", "s", _quantiles("guildhall_worker_task_seconds", "kind")),
    Panel(
        "Sweeps",
        "cps",
        {_rate("guildhall_worker_sweeps_total", "service, sweep, outcome"): "{{service}} {{sweep}}: {{outcome}}"},
    ),
    Panel("Time of a sweep", "s", {_quantile(0.99, "guildhall_worker_sweep_seconds", "sweep"): "{{sweep}} p99"}),
    Panel(
        "Since the last sweep",
        "s",
        {f"time() - {_now('guildhall_worker_last_sweep_timestamp_seconds', 'service', 'max')}": "{{service}}"},
        "Beat has each worker sweep once a minute.",
    ),
    Panel("Mails", "cps", {_rate("guildhall_mails_total", "kind, outcome"): "{{kind}}: {{outcome}}"}),
    Panel(
        "Files removed",
        "cps",
        {
            _rate("guildhall_blobs_removed_total", "cause"): "bytes, {{cause}}",
            _rate("guildhall_files_expired_total", "service"): "not taken up by a message",
        },
    ),
)
GUESTS = (
    Panel(
        "Overdue",
        "s",
        {_now("guildhall_guests_overdue_oldest_seconds", "service", "max"): "the oldest"},
        "Nobody's rights depend on it: guests are refused by the clock. Their notices do.",
    ),
    Panel(
        "Overdue guests", "short", {_now("guildhall_guests_overdue", "service", "max"): "whose row is not changed yet"}
    ),
    Panel("Locked and ended", "cps", {_rate("guildhall_guest_expiries_total", "state"): "{{state}}"}),
    Panel(
        "Sweeps of guests",
        "cps",
        {_rate("guildhall_worker_sweeps_total", "outcome", 'sweep="expire_guests"'): "{{outcome}}"},
    ),
)
GATEWAY = (
    Panel(
        "Answers",
        "reqps",
        {_envoy("envoy_http_downstream_rq_xx", "envoy_response_code_class"): "{{envoy_response_code_class}}xx"},
        "By HTTP status: a gRPC call that was refused by a service is 2xx here.",
    ),
    Panel(
        "Time of the services, p99",
        "s",
        {
            "histogram_quantile(0.99, sum by (le, envoy_cluster_name) "
            f"(rate(envoy_cluster_upstream_rq_time_bucket[{EVERY}]))) / 1000": "{{envoy_cluster_name}}"
        },
        "As the gateway sees them, streams included.",
    ),
    Panel(
        "Healthy replicas",
        "short",
        {"max by (envoy_cluster_name) (envoy_cluster_membership_healthy)": "{{envoy_cluster_name}}"},
    ),
    Panel(
        "Refused as too many, and tried again",
        "cps",
        {
            _envoy(
                "envoy_cluster_upstream_rq_pending_overflow", "envoy_cluster_name"
            ): "{{envoy_cluster_name}} refused",
            _envoy("envoy_cluster_upstream_rq_retry", CLUSTER): "{{envoy_cluster_name}} retried",
        },
    ),
    Panel(
        "Tokens refused",
        "cps",
        {_envoy("envoy_http_jwt_authn_denied", "envoy_http_conn_manager_prefix"): "{{envoy_http_conn_manager_prefix}}"},
    ),
    Panel(
        "Open",
        "short",
        {
            "sum(envoy_http_downstream_cx_active)": "connections",
            "sum(envoy_http_downstream_rq_active)": "calls and streams",
        },
    ),
)
PROCESSES = (
    Panel(
        "Late event loop, p99",
        "s",
        {_quantile(0.99, "guildhall_event_loop_lag_seconds", "job, service"): "{{service}} {{job}}"},
        "For so long the process answered nobody.",
    ),
    Panel("Processor", "percentunit", {_rate("process_cpu_seconds_total", "job, service"): "{{service}} {{job}}"}),
    Panel("Memory", "bytes", {_now("process_resident_memory_bytes", "job, service"): "{{service}} {{job}}"}),
)
ROWS: Mapping[str, tuple[Panel, ...]] = MappingProxyType(
    {
        "RPCs": RPCS,
        "Coalescing": COALESCING,
        "Streams and search": STREAMS,
        "Database": DATABASE,
        "Outbox and inbox": BACKLOGS,
        "Workers": WORKERS,
        "Guests": GUESTS,
        "Gateway": GATEWAY,
        "Processes": PROCESSES,
    }
)
UNUSED: Mapping[str, str] = MappingProxyType(
    {"guildhall_event_loop_tasks": "for the soak of `make load`; elsewhere memory tells of it"}
)
"""Metrics of Guildhall's own that no panel shows, each with the reason."""
