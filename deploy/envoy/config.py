"""The gateway's whole configuration, made from the contracts and `GatewaySettings`.

    write_files(settings)
    Path("envoy.json").write_text(render(settings))

and then `envoy --disable-hot-restart -c envoy.json`: with hot restart, a second gateway on the machine does not start.
"""

import json

from deploy.envoy.certificates import write_secrets
from deploy.envoy.clusters import clusters, socket_address
from deploy.envoy.descriptors import public_rpcs, write_descriptor_set
from deploy.envoy.listeners import listeners
from deploy.envoy.metrics import admin_cluster, metrics_listener
from deploy.envoy.pages import write_pages
from deploy.envoy.settings import DEVELOPMENT_ORIGINS, GatewaySettings, Json, extension
from deploy.envoy.tracing import collector_cluster

__all__ = ["DEVELOPMENT_ORIGINS", "GatewaySettings", "render", "write_files"]

# CVE-2023-44487: a client that opens streams only to reset them. Most of these many streams reset within this second:
# the connection is closed.
_HARDENING = {
    "overload.premature_reset_total_stream_count": 500,
    "overload.premature_reset_min_stream_lifetime_seconds": 1,
    # And of what is read at once, the other connections of the worker get their turn after so many requests.
    "http.max_requests_per_io_cycle": 50,
}


def write_files(settings: GatewaySettings) -> None:
    """Writes every file that the configuration refers to, but for the certificates themselves."""
    write_descriptor_set(settings.descriptor_file)
    write_pages(settings.pages_folder)
    write_secrets(settings)


def render(settings: GatewaySettings) -> str:
    """Envoy's bootstrap (v3 API) as JSON, for a file whose name ends in `.json`.

    Raises `ValueError` if a service has no upstream.
    """
    rpcs = [*public_rpcs(), *settings.extra_rpcs]
    missing = {rpc.upstream for rpc in rpcs} - set(settings.upstreams)
    if missing:
        raise ValueError(f"no upstream for {', '.join(sorted(missing))}")
    bootstrap: Json = {
        "node": {"id": "gateway", "cluster": "guildhall"},
        "admin": {"address": socket_address(settings.admin_host, settings.admin_port)},
        "static_resources": {
            "listeners": [*listeners(settings, rpcs), *metrics_listener(settings)],
            "clusters": [*clusters(settings), *collector_cluster(settings), *admin_cluster(settings)],
        },
        "overload_manager": _overload_manager(settings),
        "layered_runtime": {"layers": [{"name": "hardening", "static_layer": _HARDENING}]},
    }
    return json.dumps(bootstrap, indent=2)


def _overload_manager(settings: GatewaySettings) -> Json:
    """Refuses connections and then calls before the memory is used up."""
    connections = extension(
        "envoy.resource_monitors.global_downstream_max_connections",
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=settings.max_connections,
    )
    heap_name = "envoy.resource_monitors.fixed_heap"
    heap = extension(
        heap_name,
        "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
        max_heap_size_bytes=settings.max_heap_bytes,
    )
    actions = {
        "envoy.overload_actions.shrink_heap": 0.9,
        "envoy.overload_actions.disable_http_keepalive": 0.92,
        "envoy.overload_actions.stop_accepting_connections": 0.95,
        "envoy.overload_actions.stop_accepting_requests": 0.98,
    }
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [connections, heap],
        "actions": [
            {"name": name, "triggers": [{"name": heap_name, "threshold": {"value": share}}]}
            for name, share in actions.items()
        ],
    }
