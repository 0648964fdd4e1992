"""`python -m deploy.envoy write | drain`: what stands beside an Envoy that runs in a container of its own.

`write` makes its configuration, from the same source as the embedded stack's. `drain` waits for SIGTERM, and then has
Envoy ask its clients to go elsewhere: on SIGTERM alone Envoy drops their calls, and its image has no shell to ask from.
"""

import argparse
import http.client
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.envoy.options import OPTIONS, read_options

_ADMIN_HOST = "127.0.0.1"
_DRAINS = ("/healthcheck/fail", "/drain_listeners?graceful")
Upstream = tuple[str, str, int, int]


def main(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Does what the command line says, and for `write` the environment, which counts less.

    Returns the exit code: 0, 1 if Envoy could not be told to drain, or 2 if something is set to what it cannot be.
    """
    options = parser().parse_args(arguments)
    if options.command == "write":
        given = {each.variable: getattr(options, each.field) for each in OPTIONS}
        flags = {name: text for name, text in given.items() if text is not None}
        fields, problems = read_options({**(environment or {}), **flags})
        if problems:
            sys.stderr.write("\n".join([*problems, ""]))
            return 2
        write(options, fields)
        return 0
    waited = {signal.SIGTERM, signal.SIGINT}
    # Blocked, not handled: the first process of a container has no default action for SIGTERM.
    signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    sys.stderr.write("waiting for SIGTERM\n")
    signal.sigwait(waited)
    return 0 if drain(options.admin_port) else 1


def parser() -> argparse.ArgumentParser:
    """The command line, which tests hold the manifests' arguments against."""
    made = argparse.ArgumentParser(prog="python -m deploy.envoy")
    commands = made.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write", help="write envoy.json and descriptors.binpb into a folder")
    writing.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    writing.add_argument("--upstream", type=_upstream, action="append", required=True, metavar="NAME=HOST:PORT:HEALTH")
    writing.add_argument("--public-url", required=True, help="the product's site; its origin may call")
    writing.add_argument("--tls", type=Path, required=True, help="the gateway's tls.crt, tls.key and ca.crt")
    writing.add_argument("--edge-tls", type=Path, required=True, help="tls.crt and tls.key, shown to the public")
    for option in OPTIONS:
        fallback = option.default or "none"
        writing.add_argument(option.flag, metavar="VALUE", help=f"or {option.variable}; {fallback} without")
    writing.add_argument("--max-heap-bytes", type=int, default=1 << 30, help="above it, calls are refused")
    writing.add_argument("--host", default="0.0.0.0")  # noqa: S104 — a pod's every address is its own
    writing.add_argument("--port", type=int, default=8080)
    writing.add_argument("--tls-port", type=int, default=8443)
    writing.add_argument("--metrics-port", type=int, default=15075, help="where Prometheus asks; 0 opens none")
    draining = commands.add_parser("drain", help="wait for SIGTERM, then have Envoy send its clients away")
    for each in (writing, draining):
        each.add_argument("--admin-port", type=int, default=9901, help="on loopback")
    return made


def write(options: argparse.Namespace, fields: Mapping[str, Any]) -> None:
    """Writes envoy.json and the files it names into the folder; `fields` are those of `options.py` that are set.

    ValueError if a service has no upstream.
    """
    # Imported late: it reads every contract, and `drain` is to stay small.
    from deploy.envoy import config

    descriptor_file = options.output / "descriptors.binpb"
    upstreams, health_ports = _by_service(options.upstream)
    settings = config.GatewaySettings(
        host=options.host,
        port=options.port,
        tls_port=options.tls_port,
        admin_host=_ADMIN_HOST,
        admin_port=options.admin_port,
        metrics_port=options.metrics_port,
        upstreams=upstreams,
        health_ports=health_ports,
        cert_file=str(options.tls / "tls.crt"),
        key_file=str(options.tls / "tls.key"),
        ca_file=str(options.tls / "ca.crt"),
        edge_cert_file=str(options.edge_tls / "tls.crt"),
        edge_key_file=str(options.edge_tls / "tls.key"),
        descriptor_file=str(descriptor_file),
        secrets_folder=str(options.output),
        public_url=options.public_url,
        max_heap_bytes=options.max_heap_bytes,
        **fields,
    )
    config.write_files(settings)
    (options.output / "envoy.json").write_text(config.render(settings))


def drain(admin_port: int) -> bool:
    """Tells Envoy to send its clients away and to close its listeners after its drain time. Whether it heard."""
    heard = [_post(admin_port, path) for path in _DRAINS]  # the second as well, if the first goes unheard
    return all(heard)


def _post(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(_ADMIN_HOST, port, timeout=2)
    try:
        connection.request("POST", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"Envoy's admin interface: {error}\n")
        return False
    finally:
        connection.close()


def _upstream(text: str) -> Upstream:
    name, _, place = text.partition("=")
    host, *ports = place.split(":")
    if not name or not host or len(ports) != 2 or not all(map(str.isdecimal, ports)):
        raise argparse.ArgumentTypeError(f"is not NAME=HOST:PORT:HEALTH: {text!r}")
    return name, host, int(ports[0]), int(ports[1])


def _by_service(given: Sequence[Upstream]) -> tuple[Mapping[str, list[tuple[str, int]]], Mapping[str, list[int]]]:
    upstreams: dict[str, list[tuple[str, int]]] = {}
    health_ports: dict[str, list[int]] = {}
    for name, host, port, health_port in given:
        upstreams.setdefault(name, []).append((host, port))
        health_ports.setdefault(name, []).append(health_port)
    return upstreams, health_ports


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
