"""New certificates on a running gateway: the next handshake shows them, and what is under way goes on."""

import queue
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from deploy.stack import certificates, gateway
from deploy.stack.certificates import CertificateFiles
from deploy.stack.settings import HOST
from tests.suite.conftest import Running
from tests.support.edges import WITNESSED, WITNESSED_STREAM, Edge, Witness, gateway_beside

TAKEN_SECONDS = 10.0


@dataclass
class Rotating:
    """A gateway whose certificates are renewed, and a service behind it."""

    edge: Edge
    witness: Witness


@pytest.fixture(scope="module")
def rotating(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rotating]:
    folder = tmp_path_factory.mktemp("edge")
    with Witness(running.settings) as witness:
        with gateway_beside(running.settings, folder, {}, witness.extra) as edge:
            yield Rotating(edge, witness)


def shown(port: int) -> int:
    """The serial number of the certificate that a new connection is shown."""
    pem = ssl.get_server_certificate((HOST, port), timeout=5)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def renew(edge: Edge) -> None:
    certificates.renew(edge.settings.layout.certificates, gateway.OWN_CERTIFICATES)
    gateway.publish_certificates(edge.settings)


def serial(settings_folder: Path, name: str) -> int:
    pem = certificates.files(settings_folder, name).certificate.read_bytes()
    return x509.load_pem_x509_certificate(pem).serial_number


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TAKEN_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the new certificate was not taken"
        time.sleep(0.05)


def secure_channel(edge: Edge) -> grpc.Channel:
    ca = (edge.settings.layout.certificates / "ca.pem").read_bytes()
    address = f"localhost:{edge.settings.ports.gateway_tls}"
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca), options=[("grpc.enable_http_proxy", 0)])


def test_the_command_renews_what_the_public_is_shown_without_a_restart(running: Running) -> None:
    port = running.settings.ports.gateway_tls
    before = shown(port)

    done = running.guildhall("rotate", "certificates")

    assert done.returncode == 0, done.stderr
    wait_until(lambda: shown(port) != before)
    assert shown(port) == serial(running.settings.layout.certificates, certificates.EDGE)


def test_a_call_in_flight_and_an_open_stream_go_on_while_the_certificates_are_swapped(rotating: Rotating) -> None:
    edge, witness = rotating.edge, rotating.witness
    port = edge.settings.ports.gateway_tls
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    witness.waiting.clear()
    witness.released.clear()
    with secure_channel(edge) as channel:
        stream = channel.stream_stream(WITNESSED_STREAM)(iter(requests.get, None), timeout=30)
        requests.put(b"before")
        assert next(stream) == b"before"
        in_flight = channel.unary_unary(WITNESSED).future(b"", timeout=9)
        assert witness.waiting.wait(5)
        before = shown(port)

        renew(edge)

        wait_until(lambda: shown(port) != before)
        requests.put(b"after")
        assert next(stream) == b"after"
        witness.released.set()
        assert in_flight.result(5) == b""
        requests.put(None)
        assert list(stream) == []


def test_the_services_are_shown_the_new_certificate_on_the_next_connection(
    running: Running, rotating: Rotating
) -> None:
    edge = rotating.edge
    secrets_taken = f"cluster.{rotating.witness.extra.name}.client_ssl_socket_factory.ssl_context_update_by_sds"
    before = edge.statistics(secrets_taken)[secrets_taken]
    renew(edge)
    wait_until(lambda: edge.statistics(secrets_taken)[secrets_taken] > before)

    # The service goes and comes back, so that there is no connection left to use.
    rotating.witness.__exit__()
    with Witness(running.settings, rotating.witness.ports) as witness, secure_channel(edge) as channel:
        look = channel.unary_unary(WITNESSED)
        wait_until(lambda: _answers(look))
        [*_, call] = witness.calls

    presented = x509.load_pem_x509_certificate(call["certificate"].encode()).serial_number
    assert presented == serial(edge.settings.layout.certificates, "gateway")


def _answers(look: grpc.UnaryUnaryMultiCallable) -> bool:
    try:
        look(b"", timeout=2)
    except grpc.RpcError:
        return False
    return True


def test_a_certificate_with_another_ones_key_is_not_taken(rotating: Rotating) -> None:
    edge = rotating.edge
    port = edge.settings.ports.gateway_tls
    before = shown(port)
    folder, target = edge.settings.layout.certificates, edge.settings.layout.envoy / "tls" / certificates.EDGE
    good, other = certificates.files(folder, certificates.EDGE), certificates.files(folder, "gateway")
    refused = "listener.*server_ssl_socket_factory|sds.edge.key_rotation_failed|sds.edge.update_rejected"
    counted = sum(edge.statistics(refused).values())

    certificates.publish(CertificateFiles(other.certificate, good.key, good.ca), target)
    wait_until(lambda: sum(edge.statistics(refused).values()) != counted)

    assert shown(port) == before
    certificates.publish(good, target)
    assert shown(port) == before
