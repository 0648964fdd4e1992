"""What the embedded stack is told (environment variables) and where it keeps things (folders and ports)."""

import contextlib
import difflib
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.envoy.options import OPTIONS, read_options

SERVICES = ("identity", "membership", "guest", "messaging")
HOST = "127.0.0.1"
_PREFIX = "GUILDHALL_"
MAX_REPLICAS = 9  # replica r listens 100 * r higher, and the next offset begins at 1 000
_MAX_OFFSET = 49_000  # the highest port of the stack, 15 974, must stay under 65 536
_OF_SERVICES = (
    "GUILDHALL_BLOB_ENDPOINT",
    "GUILDHALL_BLOB_KEY_ID",
    "GUILDHALL_BLOB_REGION",
    "GUILDHALL_BLOB_SECRET_KEY_FILE",
    "GUILDHALL_BLOB_URL",
    "GUILDHALL_DRAIN_SECONDS",
    "GUILDHALL_INVITATION_MAILS_OF_USER",
    "GUILDHALL_INVITATION_MAILS_TO_ADDRESS",
    "GUILDHALL_MAILS_PER_ADDRESS",
    "GUILDHALL_MAILS_PER_NETWORK",
    "GUILDHALL_MAIL_DELIVERY",
    "GUILDHALL_MAIL_FROM",
    "GUILDHALL_MAIL_TEMPLATES_DIR",
    "GUILDHALL_MAIL_WEBHOOK_SECRET_FILE",
    "GUILDHALL_MAIL_WEBHOOK_URL",
    "GUILDHALL_MESSAGES_PER_SECOND_OF_SENDER",
    "GUILDHALL_MESSAGES_PER_SECOND_OF_WORKSPACE",
    "GUILDHALL_MOST_FILE_BYTES",
    "GUILDHALL_OTLP_ENDPOINT",
    "GUILDHALL_SIGNING_KEY_DELAY_SECONDS",
    "GUILDHALL_SIGN_UP",
    "GUILDHALL_SMTP_CA_FILE",
    "GUILDHALL_SMTP_HOST",
    "GUILDHALL_SMTP_PASSWORD_FILE",
    "GUILDHALL_SMTP_PORT",
    "GUILDHALL_SMTP_STARTTLS",
    "GUILDHALL_SMTP_USERNAME",
    "GUILDHALL_STORAGE_BYTES_PER_WORKSPACE",
    "GUILDHALL_TRACES_RATIO",
    "GUILDHALL_UNATTACHED_BYTES_PER_MEMBER",
    "GUILDHALL_WORKSPACES_A_DAY",
    "GUILDHALL_WORKSPACE_CREATION",
)
"""All that services read and `up` does not make for them. By their whole names, so that a misspelt one is found."""
_OF_THE_COMMAND = ("GUILDHALL_GATEWAY", "GUILDHALL_GATEWAY_CA_FILE")  # what `deploy.remote` reads
OF_OTHERS = (
    *("GUILDHALL_PORT", "GUILDHALL_TLS_PORT", "GUILDHALL_IMAGE"),  # deploy/compose.yaml: docs/containers.md
    *("GUILDHALL_URL", "GUILDHALL_SERVICE_KEY"),  # examples
    *("GUILDHALL_FUZZ", "GUILDHALL_TEST_WORLDS", "GUILDHALL_TEST_ROUNDS"),  # the tests
)
"""What people are told to set for something that is not `up`: the same shell may have it."""
_MOST_DRAIN_SECONDS = 60
_ALIKE = 0.75  # of a misspelt name and the one that was meant; 1 is the same
_LOG_LEVELS = ("debug", "info", "warning", "error")
VARIABLES: Mapping[str, tuple[str, str]] = {
    "GUILDHALL_DATA_DIR": ("`.guildhall`", "where the embedded suite keeps everything"),
    "GUILDHALL_PORT_OFFSET": (
        "`0`",
        "for `guildhall up`: added to all its ports, a multiple of 1 000, up to 49 000; other commands know those of "
        "the suite that runs in the data directory",
    ),
    "GUILDHALL_LOG_LEVEL": ("`info`", "`debug`, `info`, `warning` or `error`, of all its processes"),
    **{
        option.variable: (f"`{option.default}`" if option.default else "none", option.what)
        for option in OPTIONS
        if option.variable not in _OF_SERVICES
    },
}
"""What the stack itself is told: the default, and what it is; docs/configuration.md is made of it."""


class StackError(Exception):
    """Why the stack cannot do what it was asked, in words for the person who asked."""

    exit_code = 1


class SettingsError(StackError):
    """Everything that is wrong with the settings, one line each."""

    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Ports:
    """The fixed ports of the suite, all shifted by one offset."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.gateway = 8080 + offset
        self.gateway_tls = 8443 + offset
        self.envoy_admin = 9901 + offset

    def service(self, service: str, replica: int = 0) -> int:
        """Where a service answers its peers and the gateway, by mutual TLS."""
        return self._of(15051, service, replica)

    def health(self, service: str, replica: int = 0) -> int:
        """Where it answers grpc.health.v1, in plaintext."""
        return self._of(15061, service, replica)

    def metrics(self, service: str, replica: int = 0) -> int:
        """Where Prometheus asks."""
        return self._of(15071, service, replica)

    def worker_metrics(self, service: str) -> int:
        """Where Prometheus asks the service's worker."""
        return self._of(15081, service, 0)

    def needed(self, replicas: int) -> dict[int, str]:
        """Every port that a stack of so many replicas listens on, and who needs it."""
        ports = {
            self.gateway: "the gateway",
            self.gateway_tls: "the gateway's TLS",
            self.envoy_admin: "Envoy's admin interface",
        }
        for service in SERVICES:
            ports[self.worker_metrics(service)] = f"{service}-worker's metrics"
            for replica in range(replicas):
                name = instance_name(service, replica)
                ports[self.service(service, replica)] = name
                ports[self.health(service, replica)] = f"{name}'s health check"
                ports[self.metrics(service, replica)] = f"{name}'s metrics"
        return ports

    def _of(self, first: int, service: str, replica: int) -> int:
        return first + SERVICES.index(service) + 100 * replica + self.offset


def instance_name(service: str, replica: int) -> str:
    """The name of one replica's process: the first bears the service's name alone."""
    return service if replica == 0 else f"{service}-{replica + 1}"


class Layout:
    """The folders of one data directory; `create` makes those that are missing, for the owner only."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.postgres = data / "postgres"
        self.certificates = data / "certs"
        self.secrets = data / "secrets"
        self.keys = data / "keys"
        self.mail = data / "mail"
        self.blobs = data / "blobs"
        self.logs = data / "logs"
        self.envoy = data / "envoy"
        self.blob_url_file = data / "blobs.url"
        self.sockets = _socket_folder(data)
        # Of its own, because where PostgreSQL has to run as another user the folder becomes that user's.
        self.postgres_sockets = self.sockets / "pg"

    def create(self) -> None:
        """Make what is missing. Raises `StackError` if the directory is another user's."""
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.data.stat().st_uid != os.getuid():
            raise StackError(f"{self.data} belongs to another user; set GUILDHALL_DATA_DIR to a folder of your own")
        self.data.chmod(0o700)
        for folder in (self.certificates, self.secrets, self.keys, self.mail, self.blobs, self.logs, self.envoy):
            folder.mkdir(mode=0o700, exist_ok=True)
        ensure_private_folder(self.sockets)
        self.postgres_sockets.mkdir(mode=0o700, exist_ok=True)


def _socket_folder(data: Path) -> Path:
    """A short private folder outside the data directory: a Unix socket's path holds at most 107 bytes."""
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    name = f"guildhall-{os.getuid()}-{digest}"
    folder = Path(tempfile.gettempdir()) / name
    longest = folder / "pg" / ".s.PGSQL.5432.lock"
    fits = len(os.fsencode(longest)) <= 107
    return folder if fits else Path("/tmp") / name  # noqa: S108 - checked by ensure_private_folder


def ensure_private_folder(folder: Path) -> None:
    """Make a folder that only its owner enters.

    The temporary folder is open to everybody, so a folder, file or link that somebody else put there
    under this name is refused: whoever owns it could swap the sockets.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise StackError(f"{folder} is not a private folder of this user; remove it, or set TMPDIR to another folder")
    if found.st_mode & 0o077:
        folder.chmod(0o700)


@dataclass(frozen=True)
class Settings:
    """One embedded stack: where its data is, how far its ports are shifted, how many replicas it runs."""

    layout: Layout
    ports: Ports
    replicas: int
    log_level: str
    of_services: Mapping[str, str] = field(default_factory=dict)
    """What was set for the services themselves, and is handed on to them as it is."""
    of_gateway: Mapping[str, Any] = field(default_factory=dict)
    """What was set for the gateway, by its names there."""

    told_public_url: str = ""
    """The product's site, if it was named."""

    @property
    def public_url(self) -> str:
        """The product's site as people see it, where links in mails lead; the gateway itself unless it was named."""
        return self.told_public_url or self.gateway_url

    @property
    def gateway_url(self) -> str:
        """The gateway on this machine, without TLS."""
        return f"http://{HOST}:{self.ports.gateway}"

    @property
    def blob_url(self) -> str:
        """Where the bytes of files are kept."""
        return self.of_services.get("GUILDHALL_BLOB_URL", self.layout.blobs.as_uri())

    @property
    def gateway_address(self) -> str:
        """The gateway as a gRPC target, without TLS."""
        return f"{HOST}:{self.ports.gateway}"


def load(environment: Mapping[str, str], *, replicas: int = 1, only_known: bool = False) -> Settings:
    """Read the stack's settings. Raises `SettingsError` with every problem at once.

    With `only_known`, a GUILDHALL_ variable that is none of the settings is a problem as well: whoever misspells
    GUILDHALL_SIGN_UP=closed must not get a suite that is open.
    """
    problems: list[str] = []
    offset_text = environment.get("GUILDHALL_PORT_OFFSET", "0")
    offset = int(offset_text) if re.fullmatch("[0-9]{1,5}", offset_text) else -1
    if not (0 <= offset <= _MAX_OFFSET and offset % 1000 == 0):
        problems.append(
            f"GUILDHALL_PORT_OFFSET must be a multiple of 1000 from 0 to {_MAX_OFFSET}, not {offset_text!r}"
        )
    folder = environment.get("GUILDHALL_DATA_DIR", ".guildhall")
    if not folder.strip() or "\0" in folder:
        problems.append("GUILDHALL_DATA_DIR must name a folder; leave it unset for .guildhall")
    elif any(os.path.lexists(place) and not os.path.isdir(place) for place in _with_parents(Path(folder))):
        problems.append(f"GUILDHALL_DATA_DIR must name a folder, and {folder!r} is, or lies inside, a file")
    level = environment.get("GUILDHALL_LOG_LEVEL", "info")
    if level not in _LOG_LEVELS:
        problems.append(f"GUILDHALL_LOG_LEVEL must be one of {', '.join(_LOG_LEVELS)}, not {level!r}")
    if not 1 <= replicas <= MAX_REPLICAS:
        problems.append(f"--replicas must be from 1 to {MAX_REPLICAS}, not {replicas}")
    of_gateway, wrong = read_options(environment)
    problems += wrong
    site = environment.get("GUILDHALL_PUBLIC_URL", "")
    if site and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", site):
        problems.append(f"GUILDHALL_PUBLIC_URL must be like https://app.example.com, not {site!r}")
    drain = environment.get("GUILDHALL_DRAIN_SECONDS", "0")
    if not re.fullmatch(r"[0-9]{1,2}(\.[0-9]{1,3})?", drain) or float(drain) > _MOST_DRAIN_SECONDS:
        problems.append(f"GUILDHALL_DRAIN_SECONDS must be from 0 to {_MOST_DRAIN_SECONDS}, not {drain!r}")
    if only_known:
        problems += _unknown(environment)
    if problems:
        raise SettingsError(problems)
    return Settings(
        layout=Layout(Path(folder).resolve()),
        ports=Ports(offset),
        replicas=replicas,
        log_level=level,
        of_services={name: environment[name] for name in _OF_SERVICES if name in environment},
        of_gateway=of_gateway,
        told_public_url=site,
    )


def _unknown(environment: Mapping[str, str]) -> list[str]:
    """Variables that look like settings and that nobody would read, each with what may have been meant."""
    known = {
        name.removeprefix(_PREFIX) for name in ("GUILDHALL_PUBLIC_URL", *_OF_SERVICES, *_OF_THE_COMMAND, *VARIABLES)
    }
    given = {name.removeprefix(_PREFIX) for name in environment if name.startswith(_PREFIX) and name not in OF_OTHERS}
    problems = []
    for name in sorted(given - known):
        meant = difflib.get_close_matches(name, known, 1, _ALIKE)
        hint = f" (is {_PREFIX}{meant[0]} meant?)" if meant else ""
        problems.append(f"{_PREFIX}{name} is no setting of guildhall up{hint}: unset it, or see docs/configuration.md")
    return problems


def _with_parents(folder: Path) -> list[Path]:
    return [folder, *folder.absolute().parents]
