"""The services as Envoy sees them: mutual TLS, health checks each second, and what happens when one fails."""

import ipaddress

from deploy.envoy.certificates import mutual_tls
from deploy.envoy.settings import GatewaySettings, Json, any_of, extension

OWN_LISTENER = "own-listener"


def clusters(settings: GatewaySettings) -> list[Json]:
    """One cluster per service, and the gateway's own plain listener, from which it fetches the signing keys."""
    return [*(_service(settings, name) for name in settings.upstreams), _own_listener(settings)]


def _service(settings: GatewaySettings, name: str) -> Json:
    return {
        "name": name,
        **discovery([host for host, _ in settings.upstreams[name]]),
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        # Below this share of healthy replicas Envoy would send to the dead ones as well.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": _endpoints(settings, name)}],
        },
        "health_checks": [_health_check()],
        "outlier_detection": _outlier_detection(),
        "circuit_breakers": _circuit_breakers(settings),
        "transport_socket": mutual_tls(settings, name),
        "transport_socket_matches": [
            {
                "name": "health",
                "match": {"health": True},
                "transport_socket": extension(
                    "envoy.transport_sockets.raw_buffer",
                    "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
                ),
            }
        ],
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _http2()},
    }


def discovery(hosts: list[str]) -> Json:
    """How a cluster's hosts are found: addresses as they are, names by DNS."""
    if all(map(_is_address, hosts)):
        return {"type": "STATIC"}
    return {
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "dns_refresh_rate": "5s",
        "dns_failure_refresh_rate": {"base_interval": "1s", "max_interval": "5s"},
    }


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _endpoints(settings: GatewaySettings, name: str) -> list[Json]:
    return [
        {
            "endpoint": {
                "address": socket_address(host, port),
                "health_check_config": {"port_value": health_port},
            }
        }
        for (host, port), health_port in zip(settings.upstreams[name], settings.health_ports[name], strict=True)
    ]


def _health_check() -> Json:
    """A refusal counts at once, so draining takes a second; silence counts the second time."""
    return {
        "timeout": "1s",
        "interval": "1s",
        # Before a cluster's first call Envoy would look once a minute only, and a late service stay out that long.
        "no_traffic_interval": "1s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "grpc_health_check": {},
        # The health port is in plain text: the orchestrator's probes, too, have no certificate.
        "transport_socket_match_criteria": {"health": True},
    }


def _outlier_detection() -> Json:
    """Rests a replica that breaks connections.

    Answers are not counted: a service that says UNAVAILABLE because its own peer is away would be taken out for every
    other RPC as well. Half of the replicas stay in, so the only one is never taken out by this.
    """
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 5,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "enforcing_failure_percentage": 0,
        "interval": "1s",
        "base_ejection_time": "2s",
        "max_ejection_time": "30s",
        "max_ejection_percent": 50,
    }


def _circuit_breakers(settings: GatewaySettings) -> Json:
    """What a service may have in flight from this gateway; the rest is refused here, before it costs the service.

    A refusal by the service itself costs most of a served call, so that a crowd would stop it all the same. Streams
    have a priority, and thus limits, connections and a retry budget, of their own: they are not in the way of calls,
    nor calls in theirs. Theirs are above what the services admit (they answer better); Envoy's own 1 024 would not be.
    """
    most = settings.max_unary_calls
    calls = {"priority": "DEFAULT", "max_pending_requests": most, "max_requests": most}
    streams = {"priority": "HIGH", "max_pending_requests": 10_000, "max_requests": 50_000}
    retries = {"budget_percent": {"value": 20}, "min_retry_concurrency": 5}
    return {"thresholds": [{**one, "max_connections": 1_000, "retry_budget": retries} for one in (calls, streams)]}


def _http2() -> Json:
    return any_of(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        explicit_http_config={
            "http2_protocol_options": {
                # What a slow reader's stream may hold back here, so that the service soon notices; the connection's
                # window has room for a thousand of them, or they would stop the streams beside them.
                "initial_stream_window_size": 1 << 18,
                "initial_connection_window_size": 1 << 28,
                "connection_keepalive": {"interval": "30s", "timeout": "10s"},
            }
        },
    )


def _own_listener(settings: GatewaySettings) -> Json:
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 — compared, not bound
    return {
        "name": OWN_LISTENER,
        **discovery([host]),
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": OWN_LISTENER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(host, settings.port)}}]}],
        },
    }


def socket_address(host: str, port: int) -> Json:
    """An Envoy address; the host may be a DNS name."""
    return {"socket_address": {"address": host, "port_value": port}}
