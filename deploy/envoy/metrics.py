"""A listener for Prometheus: of Envoy's admin interface the metrics, and nothing else.

The admin interface ends Envoy, drains it and shows its configuration to whoever reaches it, so it stays on loopback.
"""

from deploy.envoy.clusters import discovery, socket_address
from deploy.envoy.settings import GatewaySettings, Json, extension

PATH = "/stats/prometheus"
_ADMIN = "admin"
_SCRAPE_SECONDS = 10  # Prometheus gives up after as much unless told otherwise


def metrics_listener(settings: GatewaySettings) -> list[Json]:
    """The listener; none without a port for it."""
    if not settings.metrics_port:
        return []
    return [
        {
            "name": "metrics",
            "address": socket_address(settings.host, settings.metrics_port),
            # In an overload calls are refused, and this is when the metrics are looked at.
            "ignore_global_conn_limit": True,
            "bypass_overload_manager": True,
            "filter_chains": [{"name": "metrics", "filters": [_connection_manager()]}],
        }
    ]


def admin_cluster(settings: GatewaySettings) -> list[Json]:
    """The admin interface as somewhere to go, for that listener alone."""
    if not settings.metrics_port:
        return []
    place = {"endpoint": {"address": socket_address(settings.admin_host, settings.admin_port)}}
    return [
        {
            "name": _ADMIN,
            **discovery([settings.admin_host]),
            "connect_timeout": "1s",
            "load_assignment": {"cluster_name": _ADMIN, "endpoints": [{"lb_endpoints": [place]}]},
        }
    ]


def _connection_manager() -> Json:
    scrape = {
        "name": "metrics",
        "match": {"path": PATH, "headers": [{"name": ":method", "string_match": {"exact": "GET"}}]},
        "route": {"cluster": _ADMIN, "timeout": f"{_SCRAPE_SECONDS}s"},
    }
    return extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="metrics",
        codec_type="AUTO",
        server_name="guildhall",
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        request_timeout="5s",
        stream_idle_timeout=f"{_SCRAPE_SECONDS}s",
        common_http_protocol_options={"idle_timeout": "300s"},
        # Any other path has no route, and is not found.
        route_config={
            "name": "metrics",
            "virtual_hosts": [{"name": "metrics", "domains": ["*"], "routes": [scrape]}],
        },
        http_filters=[
            extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router"),
        ],
    )
