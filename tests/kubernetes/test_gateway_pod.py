"""The gateway's pod: its configuration comes from `deploy/envoy`, and Envoy takes it; told to, Envoy drains."""

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from deploy.envoy.__main__ import drain, main, parser
from tests.kubernetes.gateways import ENVOY, accepts, configuration, free_ports, running, wait_for
from tests.kubernetes.objects import Objects, changed, container, get, of_kind
from tests.kubernetes.wholeness import gateway_arguments
from tests.rules.sources import SERVICES


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

    assert "https://app.example.com" in text
    assert "$(" not in text


def test_what_the_gateways_configmap_says_is_in_its_configuration(prod: Objects, folder: Path) -> None:
    told = changed(prod)
    (found,) = [one for one in of_kind(told, "ConfigMap") if one["metadata"]["name"].startswith("gateway-")]
    found["data"] |= {"GUILDHALL_TRUSTED_HOPS": "1", "GUILDHALL_CALLS_PER_SECOND_OF_USER": "77"}
    text = json.dumps(configuration(told, folder))

    assert '"xff_num_trusted_hops": 1' in text
    assert '"tokens_per_fill": 77' in text


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
    assert not drain(free_ports(1)[0])
    assert "admin interface" in capsys.readouterr().err


def test_envoy_that_is_told_to_drain_answers_first_and_then_closes_its_door(base: Objects, folder: Path) -> None:
    with (
        running(base, folder) as gateway,
        _draining(gateway.admin_port) as draining,
        _begun(gateway.port) as begun,
    ):
        kept = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=5)
        assert _status(kept) == http.HTTPStatus.NOT_FOUND

        draining.send_signal(signal.SIGTERM)
        assert draining.wait(10) == 0

        # Still served, on the connection that was there; and told that this was its last call.
        kept.request("GET", "/nothing")
        answer = kept.getresponse()
        assert answer.status == http.HTTPStatus.NOT_FOUND
        assert answer.getheader("connection") == "close"
        wait_for(lambda: not accepts(gateway.port))
        assert _finished(begun).startswith(b"HTTP/1.1 404")


def test_envoy_that_is_only_stopped_drops_what_was_begun(base: Objects, folder: Path) -> None:
    """Why there is a container beside it."""
    with running(base, folder) as gateway, _begun(gateway.port) as begun:
        gateway.process.terminate()
        gateway.process.wait(10)

        assert not _finished(begun)


def test_the_command_that_drains_waits_until_it_is_told(base: Objects, folder: Path) -> None:
    with running(base, folder) as gateway, _draining(gateway.admin_port) as draining:
        with pytest.raises(subprocess.TimeoutExpired):
            draining.wait(1)
        assert accepts(gateway.port)


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
