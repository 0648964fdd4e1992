"""The gateway's own span of each call, sent to a collector by OTLP; the services go on with its `traceparent`."""

from urllib.parse import urlsplit

from deploy.envoy.clusters import discovery, socket_address
from deploy.envoy.settings import GatewaySettings, Json, any_of, extension

COLLECTOR = "traces"
_SAMPLERS = "envoy.extensions.tracers.opentelemetry.samplers.v3"


def tracing(settings: GatewaySettings) -> Json:
    """Of the connection manager. A call that comes with a sampled `traceparent` is always traced."""
    if not settings.otlp_endpoint:
        return {}
    provider = extension(
        "envoy.tracers.opentelemetry",
        "envoy.config.trace.v3.OpenTelemetryConfig",
        grpc_service={"envoy_grpc": {"cluster_name": COLLECTOR}, "timeout": "1s"},
        service_name="guildhall-gateway",
        sampler=_sampler(settings),
    )
    return {
        "tracing": {
            "provider": provider,
            # The sampler decides: without its word, a caller's sampled `traceparent` would be overruled.
            "random_sampling": {"value": 100},
            # Paths and queries hold secrets and what people look for: `/join/{token}`.
            "max_path_tag_length": 0,
        }
    }


def _sampler(settings: GatewaySettings) -> Json:
    share = {"numerator": round(settings.traces_ratio * 1_000_000), "denominator": "MILLION"}
    of_others = extension(
        "envoy.tracers.opentelemetry.samplers.trace_id_ratio_based",
        f"{_SAMPLERS}.TraceIdRatioBasedSamplerConfig",
        sampling_percentage=share,
    )
    return extension(
        "envoy.tracers.opentelemetry.samplers.parent_based",
        f"{_SAMPLERS}.ParentBasedSamplerConfig",
        wrapped_sampler=of_others,
    )


def collector_cluster(settings: GatewaySettings) -> list[Json]:
    """Where the spans go; no cluster without a collector. It is beside the gateway, so in plain text."""
    if not settings.otlp_endpoint:
        return []
    url = urlsplit(settings.otlp_endpoint)
    host, port = url.hostname or "", url.port or 4317
    return [
        {
            "name": COLLECTOR,
            **discovery([host]),
            "connect_timeout": "1s",
            "load_assignment": {
                "cluster_name": COLLECTOR,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(host, port)}}]}],
            },
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": any_of(
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    explicit_http_config={"http2_protocol_options": {}},
                )
            },
        }
    ]
