"""Settings: environment variables `GUILDHALL_…`, and files for secrets. The only place that reads the environment."""

import sys
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

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


ReadableFile = Annotated[Path, AfterValidator(readable)]
KeyFile = Annotated[ReadableFile, AfterValidator(key_file)]
Address = Annotated[str, AfterValidator(address)]


class DatabaseSettings(BaseSettings):
    """What `migrate` needs."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    database_url: str = Field(pattern="^postgresql://", description="without a password")
    database_password_file: ReadableFile
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def database_password(self) -> str:
        """Read anew each time, so that a rotated file is used by the next connection."""
        return self.database_password_file.read_text().strip()


class BrokerSettings(BaseSettings):
    """What beat needs."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    redis_url: str = Field(pattern="^(unix|redis|rediss)://")


class WorkerSettings(DatabaseSettings, BrokerSettings):
    """What `worker` needs."""

    secret_key_file: KeyFile
    mail_dir: Path = Field(default=Path(".guildhall/mail"), description="where .eml files are written")
    public_url: str = Field(default="http://127.0.0.1:8080", pattern="^https?://", description="the gateway, for links")

    @property
    def secret_key(self) -> bytes:
        """The service's own key: at least 32 bytes, in hexadecimal."""
        return bytes.fromhex(self.secret_key_file.read_text().strip())


class ServeSettings(WorkerSettings):
    """What `serve` needs."""

    listen: Address
    health_listen: Address
    metrics_listen: Address
    tls_cert_file: ReadableFile
    tls_key_file: ReadableFile
    tls_ca_file: ReadableFile
    identity_address: str = Field(min_length=1, description="gRPC target of identity")
    membership_address: str = Field(min_length=1, description="gRPC target of membership")
    guest_address: str = Field(min_length=1, description="gRPC target of guest")
    messaging_address: str = Field(min_length=1, description="gRPC target of messaging")
    drain_seconds: float = Field(default=5, ge=0, le=60, description="between NOT_SERVING and the last call")


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
