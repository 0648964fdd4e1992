"""Which RPC goes to which service, with what time-outs, retries and need of a token. What is not named is not found."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from deploy.envoy import limits
from deploy.envoy.descriptors import PublicRpc
from deploy.envoy.pages import page_routes
from deploy.envoy.settings import GatewaySettings, Json, any_of, extension

SIGNED_IN = "signed-in"
NOT_FOUND = "not-found"
NOWHERE = "nowhere"  # a cluster that does not exist
CLIENT_ADDRESS_HEADER = "x-guildhall-client-address"
UNARY_SECONDS = 10
DEFAULT_UNARY_SECONDS = 5
STREAM_IDLE_SECONDS = 60  # more than twice the 25 s heartbeat: one that is late does not cost the stream
JWT_FILTER = "envoy.filters.http.jwt_authn"
BUFFER_FILTER = "envoy.filters.http.buffer"
_REFLECTION = tuple(
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha")
)


def virtual_host(settings: GatewaySettings, rpcs: Iterable[PublicRpc]) -> Json:
    """Every public RPC by its exact path, reflection, and last a 404 for everything else."""
    reflection = [
        PublicRpc(path=path, upstream="identity", needs_token=False, streaming=True, has_json=False)
        for path in _REFLECTION
    ]
    return {
        "name": "guildhall",
        "domains": ["*"],
        "routes": [*(_route(rpc) for rpc in (*rpcs, *reflection)), *page_routes(settings), _not_found()],
        "retry_policy": _retry_policy(),
        # x-forwarded-for is a list, of which a service would have to know how many hops to believe.
        "request_headers_to_add": [
            {
                "header": {"key": CLIENT_ADDRESS_HEADER, "value": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
        "typed_per_filter_config": {"envoy.filters.http.cors": _cors(settings)},
    }


def _route(rpc: PublicRpc) -> Json:
    # The route's own time-out, 15 s unless said otherwise, would cut every stream.
    action: Json = {"cluster": rpc.upstream, "timeout": "0s", "idle_timeout": f"{STREAM_IDLE_SECONDS}s"}
    if rpc.streaming or rpc.path == limits.KEYS:
        # Limits of its own in the cluster. Without the keys the gateway would refuse every service's calls, so that
        # too many of identity's must not stop them.
        action["priority"] = "HIGH"
    if not rpc.streaming:
        action["max_stream_duration"] = {
            "grpc_timeout_header_max": f"{UNARY_SECONDS}s",
            "max_stream_duration": f"{DEFAULT_UNARY_SECONDS}s",  # for callers that send no grpc-timeout
        }
    requirement = {"requirement_name": SIGNED_IN} if rpc.needs_token else {"disabled": True}
    filters = {JWT_FILTER: _jwt_per_route(requirement)}
    if rpc.streaming:
        filters[BUFFER_FILTER] = any_of("envoy.extensions.filters.http.buffer.v3.BufferPerRoute", disabled=True)
    return {
        "name": rpc.path,
        "match": {"path": rpc.path},
        "route": action,
        "typed_per_filter_config": filters,
        **limits.route_metadata(rpc),
    }


def _not_found() -> Json:
    """Not a direct response, because the CORS filter passes those by.

    A JSON call is on this route, by its own path, until the transcoder has given it the path of an RPC.
    """
    return {
        "name": NOT_FOUND,
        "match": {"prefix": "/"},
        "route": {"cluster": NOWHERE, "cluster_not_found_response_code": "NOT_FOUND"},
        "typed_per_filter_config": {JWT_FILTER: _jwt_per_route({"disabled": True})},
    }


def _jwt_per_route(requirement: Json) -> Json:
    return any_of("envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig", **requirement)


def _retry_policy() -> Json:
    """Repeats only what no service has begun; the clusters hold the budget."""
    return {
        "retry_on": "connect-failure,refused-stream,reset-before-request",
        "num_retries": 2,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        "retry_host_predicate": [
            extension(
                "envoy.retry_host_predicates.previous_hosts",
                "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            )
        ],
        "host_selection_retry_max_attempts": 3,
    }


def _cors(settings: GatewaySettings) -> Json:
    url = urlsplit(settings.public_url)
    origins: list[Json] = [{"exact": origin} for origin in (f"{url.scheme}://{url.netloc}", *settings.allowed_origins)]
    if settings.allowed_origin_regex:
        origins.append({"safe_regex": {"regex": settings.allowed_origin_regex}})
    return any_of(
        "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        allow_origin_string_match=origins,
        allow_methods="GET, POST, PUT, PATCH, DELETE, OPTIONS",
        allow_headers="authorization, content-type, grpc-timeout, traceparent, tracestate, x-grpc-web, x-user-agent",
        expose_headers="grpc-message, grpc-status, grpc-status-details-bin, retry-after, x-request-id",
        max_age="600",
        allow_credentials=False,
        forward_not_matching_preflights=False,
    )
