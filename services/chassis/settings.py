"""Settings: environment variables `GUILDHALL_…`, and files for secrets. The only place that reads the environment."""

import email.policy
import ipaddress
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.chassis.templates import holds_templates

PREFIX = "GUILDHALL_"
SettingsClass = TypeVar("SettingsClass", bound=BaseSettings)


def readable(path: Path) -> Path:
    """Refuses a path that is not a readable file."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror} ({path})") from error
    return path


def address(value: str) -> str:
    """Refuses what is not HOST:PORT."""
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ValueError(f"is not HOST:PORT: {value!r}")
    return value


def key_file(path: Path) -> Path:
    """Refuses a file whose content is not hexadecimal, or too short to be a key."""
    try:
        size = len(bytes.fromhex(path.read_text().strip()))
    except ValueError:
        raise ValueError("does not hold hexadecimal digits; make one with: openssl rand -hex 32") from None
    if size < 32:
        raise ValueError(f"holds {size} bytes; at least 32 are needed: openssl rand -hex 32")
    return path


def is_loopback(host: str) -> bool:
    """Whether a host is this machine; of names, `localhost` only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def webhook_url(value: str) -> str:
    """Refuses a URL that would carry tokens in clear over a network."""
    parts = urlsplit(value)
    if not parts.hostname or parts.username or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("is not an https URL without a user in it")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise ValueError("is not https; http is for this machine only, as mails hold tokens")
    return value


def traceable(value: str) -> str:
    """Refuses to trace without the packages for it."""
    try:
        find_spec("opentelemetry.exporter.otlp.proto.grpc")
    except ModuleNotFoundError:
        raise ValueError("needs pip install 'guildhall[traces]'") from None
    return value


def sender(value: str) -> str:
    """Refuses what is not one mailbox: `no-reply@example.com`, or `Name <no-reply@example.com>`."""
    _, header = email.policy.default.header_store_parse("From", value)
    if header.defects or len(header.addresses) != 1 or not header.addresses[0].domain:
        raise ValueError("is not one address, like: Name <no-reply@example.com>")
    return value


ReadableFile = Annotated[Path, AfterValidator(readable)]
KeyFile = Annotated[ReadableFile, AfterValidator(key_file)]
Address = Annotated[str, AfterValidator(address)]


class DatabaseSettings(BaseSettings):
    """What `migrate` needs."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    database_url: str = Field(pattern="^postgresql://", description="`postgresql://ROLE@HOST/guildhall`, no password")
    database_password_file: ReadableFile = Field(description="the role's password; read again at each new connection")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the least that is logged"
    )

    @property
    def database_password(self) -> str:
        """Read anew each time, so that a rotated file is used by the next connection."""
        return self.database_password_file.read_text().strip()


class BrokerSettings(BaseSettings):
    """What beat needs."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    redis_url: str = Field(pattern="^(unix|redis|rediss)://", description="`unix://`, `redis://` or `rediss://`")


class MailSettings(BaseSettings):
    """How mails are delivered, and by whose templates."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    mail_delivery: Literal["files", "smtp", "webhook"] = Field(default="files", description="see [mail](mail.md)")
    mail_templates_dir: Annotated[Path, AfterValidator(holds_templates)] | None = Field(
        default=None, description="a product's own templates, which replace ours one by one"
    )
    mail_from: Annotated[str, AfterValidator(sender)] = Field(
        default="Guildhall <no-reply@guildhall.invalid>", description="the sender"
    )
    mail_dir: Path = Field(default=Path(".guildhall/mail"), description="where `.eml` files are written")
    smtp_host: str | None = Field(default=None, min_length=1, description="the relay; for `smtp`")
    smtp_port: int = Field(default=587, ge=1, le=65535, description="the relay's port")
    smtp_starttls: bool = Field(default=True, description="with its certificate verified")
    smtp_ca_file: ReadableFile | None = Field(default=None, description="in place of the system's CAs")
    smtp_username: str | None = Field(default=None, min_length=1, description="where the relay wants a sign-in")
    smtp_password_file: ReadableFile | None = Field(default=None, description="its password")
    mail_webhook_url: Annotated[str, AfterValidator(webhook_url)] | None = Field(
        default=None, description="where mails are handed over, by https; for `webhook`"
    )
    mail_webhook_secret_file: KeyFile | None = Field(
        default=None, description="what signs them: 32 bytes or more, in hex"
    )

    @field_validator("smtp_host", "mail_webhook_url", "mail_webhook_secret_file")
    @classmethod
    def is_given_where_it_is_needed(cls, value: object, info: ValidationInfo) -> object:
        """Refuses a delivery that lacks what it takes."""
        delivery = "smtp" if info.field_name == "smtp_host" else "webhook"
        if value is None and info.data.get("mail_delivery") == delivery:
            raise ValueError(f"is not set, and mail by {delivery} needs it")
        return value

    @field_validator("smtp_username")
    @classmethod
    def is_not_shown_to_the_network(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Refuses a sign-in at the relay that anybody on the way could read."""
        if value and not info.data.get("smtp_starttls", True) and not is_loopback(info.data.get("smtp_host") or ""):
            raise ValueError("would be sent in clear with its password: GUILDHALL_SMTP_STARTTLS is off")
        return value

    @field_validator("smtp_password_file")
    @classmethod
    def belongs_to_a_user(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        """Refuses half a sign-in."""
        if (value is None) != (info.data.get("smtp_username") is None):
            raise ValueError("and GUILDHALL_SMTP_USERNAME need each other")
        return value

    @property
    def mail_webhook_secret(self) -> bytes:
        """The key of the webhook's signatures; empty without one. Read anew each time, so that it can rotate."""
        return bytes.fromhex(self.mail_webhook_secret_file.read_text()) if self.mail_webhook_secret_file else b""


class WorkerSettings(DatabaseSettings, BrokerSettings, MailSettings):
    """What `worker` needs."""

    secret_key_file: KeyFile = Field(description="the service's own key: 32 bytes or more, in hex; it does not rotate")
    public_url: str = Field(
        default="http://127.0.0.1:8080", pattern="^https?://", description="the product's site, where mails' links lead"
    )

    otlp_endpoint: Annotated[str, AfterValidator(traceable)] | None = Field(
        default=None, pattern="^https?://", description="a collector of traces, by gRPC; with `guildhall[traces]`"
    )
    traces_ratio: float = Field(default=0.01, ge=0, le=1, description="traced of calls without a traceparent")
    worker_metrics_listen: Address | None = Field(default=None, description="the worker's metrics; none without it")

    @property
    def secret_key(self) -> bytes:
        """The service's own key: at least 32 bytes, in hexadecimal."""
        return bytes.fromhex(self.secret_key_file.read_text().strip())


class ServeSettings(WorkerSettings):
    """What `serve` needs."""

    listen: Address = Field(description="gRPC by mutual TLS")
    health_listen: Address = Field(description="grpc.health.v1, in plain text")
    metrics_listen: Address = Field(description="Prometheus")
    tls_cert_file: ReadableFile = Field(description="its DNS name is the service's; read again at each handshake")
    tls_key_file: ReadableFile = Field(description="its key")
    tls_ca_file: ReadableFile = Field(description="whose certificates peers must have")
    identity_address: str = Field(min_length=1, description="gRPC target of identity")
    membership_address: str = Field(min_length=1, description="gRPC target of membership")
    guest_address: str = Field(min_length=1, description="gRPC target of guest")
    messaging_address: str = Field(min_length=1, description="gRPC target of messaging")
    drain_seconds: float = Field(
        default=5, ge=0, le=60, description="between NOT_SERVING and the last call; streams are told to leave after 2"
    )


def load(settings_class: type[SettingsClass]) -> SettingsClass:
    """Reads the settings, or names everything that is wrong with them on stderr and exits with 2."""
    try:
        return settings_class()
    except ValidationError as error:
        for fault in error.errors():
            name = PREFIX + "_".join(str(part) for part in fault["loc"]).upper()
            what = "is not set" if fault["type"] == "missing" else fault["msg"].removeprefix("Value error, ")
            print(f"{name}: {what}", file=sys.stderr)  # noqa: T201
    sys.exit(2)
