"""What the gateway is told: where it listens, where the services are, and which files hold its certificates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from deploy.envoy.descriptors import PublicRpc

Json: TypeAlias = dict[str, Any]

DEVELOPMENT_ORIGINS = r"http://localhost(:[0-9]+)?"  # for `allowed_origin_regex`: a front end's development server


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """Everything that differs from one installation to the next.

    `upstreams` maps a service (`identity`) to the host and port of each replica; a host that is no IP address is looked
    up by DNS, again and again, and stands for every address it resolves to. `health_ports` is parallel to it: the
    replica's plaintext health port. `cert_file` and `key_file` are the client certificate named `gateway`; `ca_file` is
    what the services' certificates are checked against. `edge_cert_file` and `edge_key_file` are shown to the public.
    `public_url` is the product's site, whose pages may call, as may those of `allowed_origins`.
    `trusted_hops` counts the proxies of one's own in front of the gateway, whose x-forwarded-for is believed.
    `metrics_port` is where Prometheus asks, on `host`; 0 opens none, and leaves the admin interface, on loopback.
    `extra_rpcs` are routed as those of the contracts are, each to an upstream of its own; none in any installation:
    by them a load test puts a bare service behind the very same listener, filters and mutual TLS.
    `max_unary_calls` is how many unary calls each service has in flight from this gateway; those beyond are refused as
    OVERLOADED. Divided by the rate of a service, it is how long a call waits there at most: far below its deadline.
    `calls_per_second_of_…` and `sign_ins_per_second_of_address` are the limits of `limits.py`, each with as much as in
    10 s at once. `secrets_folder` is where `write_secrets` writes; without one, new certificates need a restart.
    `otlp_endpoint` is a collector of traces, `http://HOST:PORT`, by gRPC; without one nothing is traced. `traces_ratio`
    is the share of calls that are traced of those that come without a `traceparent`.
    """

    host: str
    port: int
    tls_port: int
    admin_port: int
    upstreams: Mapping[str, Sequence[tuple[str, int]]]
    health_ports: Mapping[str, Sequence[int]]
    cert_file: str
    key_file: str
    ca_file: str
    edge_cert_file: str
    edge_key_file: str
    descriptor_file: str
    public_url: str
    admin_host: str = "127.0.0.1"
    metrics_port: int = 0
    trusted_hops: int = 0
    allowed_origins: Sequence[str] = ()
    allowed_origin_regex: str | None = None
    extra_rpcs: Sequence[PublicRpc] = ()
    jwks_cache_seconds: int = 20
    max_connections: int = 20_000
    max_unary_calls: int = 256
    max_heap_bytes: int = 1 << 30
    otlp_endpoint: str = ""
    traces_ratio: float = 0.01
    calls_per_second_of_user: int = 300
    calls_per_second_of_service_account: int = 3_000
    calls_per_second_of_address: int = 100
    sign_ins_per_second_of_address: int = 5
    most_counted_callers: int = 10_000
    secrets_folder: str = ""

    @property
    def pages_folder(self) -> Path:
        """Where the files of the pages are that the gateway answers by itself: beside the descriptor file."""
        return Path(self.descriptor_file).parent / "pages"

    def __post_init__(self) -> None:
        problems = [
            f"{service} has {len(replicas)} replicas but {len(self.health_ports.get(service, ()))} health ports"
            for service, replicas in self.upstreams.items()
            if not replicas or len(replicas) != len(self.health_ports.get(service, ()))
        ]
        if self.otlp_endpoint and not self.otlp_endpoint.startswith("http://"):
            problems.append(f"the gateway sends traces in plain text, to http://HOST:PORT, not to {self.otlp_endpoint}")
        if problems:
            raise ValueError("; ".join(problems))


def any_of(type_name: str, **fields: Any) -> Json:
    """A google.protobuf.Any in JSON."""
    return {"@type": f"type.googleapis.com/{type_name}", **fields}


def extension(name: str, type_name: str, **fields: Any) -> Json:
    """A named Envoy extension with its typed configuration."""
    return {"name": name, "typed_config": any_of(type_name, **fields)}
