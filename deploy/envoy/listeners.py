"""The two ports of the gateway, plain and TLS: one set of filters for gRPC, gRPC-Web and JSON."""

from collections.abc import Sequence

from deploy.envoy.certificates import edge_tls
from deploy.envoy.clusters import OWN_LISTENER, socket_address
from deploy.envoy.descriptors import PublicRpc
from deploy.envoy.limits import TOKEN_CLAIMS, rate_limit
from deploy.envoy.pages import MOST_BYTES
from deploy.envoy.replies import local_replies
from deploy.envoy.routes import BUFFER_FILTER, JWT_FILTER, SIGNED_IN, STREAM_IDLE_SECONDS, virtual_host
from deploy.envoy.settings import GatewaySettings, Json, extension
from deploy.envoy.tracing import tracing

# Headers by which somebody outside could pass for another user, another address or Envoy itself.
IDENTITY_HEADERS = (
    "forwarded",
    "true-client-ip",
    "x-client-ip",
    "x-forwarded-client-cert",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-original-url",
    "x-real-ip",
    "x-request-id",
    "x-rewrite-url",
)
IDENTITY_HEADER_PREFIXES = ("x-envoy-", "x-guildhall-")
PROXY_HEADERS = ("x-forwarded-for", "x-forwarded-proto")  # believed only where a proxy of one's own sets them
_MAX_JSON_REQUEST_BYTES = 2 << 20  # 1 MiB of protobuf, grown by base64 and names
_MAX_JSON_RESPONSE_BYTES = 16 << 20
_MAX_REQUEST_BYTES = (1 << 20) + 5  # what a service reads of one message, and the five bytes before it
_HANDSHAKE_SECONDS = 10
_HEADERS_SECONDS = 5
_READ_CLAIMS = f"{JWT_FILTER}.read"


def listeners(settings: GatewaySettings, rpcs: Sequence[PublicRpc]) -> list[Json]:
    """The plain listener (HTTP/1.1 and HTTP/2 with prior knowledge) and the TLS listener."""
    return [
        _listener("plain", settings, settings.port, {"filters": [_connection_manager("plain", settings, rpcs)]}),
        _listener(
            "tls",
            settings,
            settings.tls_port,
            {
                "filters": [_connection_manager("tls", settings, rpcs)],
                "transport_socket": edge_tls(settings),
                "transport_socket_connect_timeout": f"{_HANDSHAKE_SECONDS}s",
            },
        ),
    ]


def _listener(name: str, settings: GatewaySettings, port: int, chain: Json) -> Json:
    return {
        "name": name,
        "address": socket_address(settings.host, port),
        # A few long-lived connections: left to the kernel's hash, they can all meet on one worker.
        "connection_balance_config": {"exact_balance": {}},
        "per_connection_buffer_limit_bytes": 1 << 17,
        "filter_chains": [{"name": name, **chain}],
    }


def _connection_manager(name: str, settings: GatewaySettings, rpcs: Sequence[PublicRpc]) -> Json:
    return extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        codec_type="AUTO",
        server_name="guildhall",
        **_trust(settings),
        **_limits(),
        **tracing(settings),
        access_log=[_access_log()],
        local_reply_config=local_replies(),
        route_config={
            "name": name,
            "virtual_hosts": [virtual_host(settings, rpcs)],
            "max_direct_response_body_size_bytes": MOST_BYTES,
            "validate_clusters": False,  # the last route's cluster does not exist, on purpose
        },
        http_filters=[
            extension("envoy.filters.http.cors", "envoy.extensions.filters.http.cors.v3.Cors"),
            extension("envoy.filters.http.grpc_web", "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"),
            _json_transcoder(settings, rpcs),  # before the others: every filter after it sees the RPC's own path
            _statistics(rpcs),
            _read_claims(settings),
            rate_limit(settings),
            _jwt_authn(settings),
            # A unary call goes on when it is whole: bodies that trickle in wait here, and take no service's time.
            extension(
                BUFFER_FILTER,
                "envoy.extensions.filters.http.buffer.v3.Buffer",
                max_request_bytes=_MAX_REQUEST_BYTES,
            ),
            extension(
                "envoy.filters.http.router",
                "envoy.extensions.filters.http.router.v3.Router",
                suppress_envoy_headers=True,
            ),
        ],
    )


def _trust(settings: GatewaySettings) -> Json:
    """Whose word is taken for what: nobody's, but that of the proxies in front."""
    exact = IDENTITY_HEADERS if settings.trusted_hops else (*IDENTITY_HEADERS, *PROXY_HEADERS)
    removals: list[Json] = [{"remove": name} for name in exact]
    removals += [{"remove_on_match": {"key_matcher": {"prefix": prefix}}} for prefix in IDENTITY_HEADER_PREFIXES]
    return {
        # Before every filter: what a route removes, the filters have seen already.
        "early_header_mutation_extensions": [
            extension(
                "envoy.http.early_header_mutation.header_mutation",
                "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                mutations=removals,
            )
        ],
        "use_remote_address": True,
        "xff_num_trusted_hops": settings.trusted_hops,
        # An internal caller's x-envoy headers are believed, and an empty list means loopback and private networks:
        # so the list holds the one address that nobody calls from.
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
        "always_set_request_id_in_response": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
    }


def _limits() -> Json:
    return {
        "request_headers_timeout": f"{_HEADERS_SECONDS}s",
        "stream_idle_timeout": f"{STREAM_IDLE_SECONDS}s",
        "max_request_headers_kb": 16,
        "common_http_protocol_options": {
            "idle_timeout": "300s",
            "max_headers_count": 100,
            # `x_a` and `x-a` are one name to some servers: a way round the removals above.
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 1_000,
            "initial_stream_window_size": 1 << 18,
            "initial_connection_window_size": 1 << 20,
            "connection_keepalive": {"interval": "30s", "timeout": "10s"},
        },
    }


def _json_transcoder(settings: GatewaySettings, rpcs: Sequence[PublicRpc]) -> Json:
    return extension(
        "envoy.filters.http.grpc_json_transcoder",
        "envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        proto_descriptor=settings.descriptor_file,
        services=sorted({rpc.service for rpc in rpcs if rpc.has_json}),
        auto_mapping=False,
        convert_grpc_status=True,
        print_options={"stream_newline_delimited": True},
        request_validation_options={
            "reject_unknown_method": True,
            "reject_unknown_query_parameters": True,
            "reject_binding_body_field_collisions": True,
        },
        max_request_body_size=_MAX_JSON_REQUEST_BYTES,
        max_response_body_size=_MAX_JSON_RESPONSE_BYTES,
    )


def _statistics(rpcs: Sequence[PublicRpc]) -> Json:
    """Counts calls and their times by method, and only by ours: what is no method of ours must not fill the memory."""
    methods: dict[str, list[str]] = {}
    for rpc in rpcs:
        methods.setdefault(rpc.service, []).append(rpc.path.rpartition("/")[2])
    return extension(
        "envoy.filters.http.grpc_stats",
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
        individual_method_stats_allowlist={
            "services": [{"name": service, "method_names": names} for service, names in sorted(methods.items())]
        },
        enable_upstream_stats=True,
    )


def _read_claims(settings: GatewaySettings) -> Json:
    """Tells the rate limits who calls, and refuses nobody: the filter behind them does, of whom they let through."""
    return extension(
        _READ_CLAIMS,
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        providers={"guildhall": {**_provider(settings), "payload_in_metadata": TOKEN_CLAIMS}},
        rules=[
            {
                "match": {"prefix": "/"},
                "requires": {
                    "requires_any": {"requirements": [{"provider_name": "guildhall"}, {"allow_missing_or_failed": {}}]}
                },
            }
        ],
    )


def _jwt_authn(settings: GatewaySettings) -> Json:
    """Insists on a valid token. A route that says nothing needs one."""
    return extension(
        JWT_FILTER,
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        providers={"guildhall": _provider(settings)},
        requirement_map={SIGNED_IN: {"provider_name": "guildhall"}},
        rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "guildhall"}}],
    )


def _provider(settings: GatewaySettings) -> Json:
    """How access tokens are checked: signature, issuer, audience and time."""
    return {
        "issuer": "guildhall",
        "audiences": ["guildhall"],
        "require_expiration": True,
        "clock_skew_seconds": 30,
        "forward": True,
        # Otherwise also the query parameter access_token, which other people's logs keep.
        "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],
        "jwt_cache_config": {"jwt_cache_size": 10_000},
        "remote_jwks": {
            "http_uri": {
                "uri": "http://gateway/.well-known/jwks.json",
                "cluster": OWN_LISTENER,
                "timeout": "2s",
            },
            # Shorter than the time for which identity publishes a key before it signs with it.
            "cache_duration": f"{settings.jwks_cache_seconds}s",
            # The listener must not wait for the keys: they come through it.
            "async_fetch": {"fast_listener": True, "failed_refetch_duration": "1s"},
        },
    }


def _access_log() -> Json:
    """One JSON line per call. It names the route, never the path: `/join/{token}` holds a secret.

    Of calls refused as too many, one in a hundred: a flood would otherwise fill the disk, and the writing take
    processor time from the calls that are served. Envoy's statistics count them all (`upstream_rq_active_overflow`).
    """
    log = extension(
        "envoy.access_loggers.stdout",
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        log_format={
            "json_format": {
                "time": "%START_TIME%",
                "listener": "%FILTER_CHAIN_NAME%",
                "request_id": "%REQ(X-REQUEST-ID)%",
                "rpc": "%ROUTE_NAME%",
                "http_method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
                "protocol": "%PROTOCOL%",
                "http_status": "%RESPONSE_CODE%",
                "grpc_status": "%GRPC_STATUS(SNAKE_STRING)%",
                "details": "%RESPONSE_CODE_DETAILS%",
                "flags": "%RESPONSE_FLAGS%",
                "milliseconds": "%DURATION%",
                "request_bytes": "%BYTES_RECEIVED%",
                "response_bytes": "%BYTES_SENT%",
                "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
                "upstream": "%UPSTREAM_CLUSTER%",
                "replica": "%UPSTREAM_HOST%",
                "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
            }
        },
    )
    others = {"grpc_status_filter": {"statuses": ["RESOURCE_EXHAUSTED"], "exclude": True}}
    sample = {"runtime_filter": {"runtime_key": "access_log.refused", "percent_sampled": {"numerator": 1}}}
    return {**log, "filter": {"or_filter": {"filters": [others, sample]}}}
