"""identity's own settings, beside those of every service."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from services.chassis.settings import DatabaseSettings, KeyFile, ReadableFile, ServeSettings, WorkerSettings
from services.identity import seals
from services.identity.keys import read_keys

SignUpMode = Literal["open", "invited", "closed"]


def holds_keys(folder: Path) -> Path:
    """Refuses a folder that holds no signing key, or one that cannot be read."""
    read_keys(folder)
    return folder


def holds_provider_keys(file: Path) -> Path:
    """Refuses a file that holds no key for providers' tokens, or anything else."""
    seals.read_keys(file)
    return file


class AdminSettings(DatabaseSettings):
    """What `admin` needs."""

    secret_key_file: KeyFile = Field(description="as identity's serve has it")
    signing_keys_dir: Annotated[Path, AfterValidator(holds_keys)] = Field(description="as identity's serve has it")
    signing_key_delay_seconds: float = Field(default=600, ge=0, le=86_400, description="as identity's serve has it")

    @property
    def secret_key(self) -> bytes:
        """The service's own key."""
        return bytes.fromhex(self.secret_key_file.read_text().strip())


class IdentityWorkerSettings(WorkerSettings):
    """What `worker` needs."""

    provider_keys_file: Annotated[ReadableFile, AfterValidator(holds_provider_keys)] = Field(
        description="Fernet keys, one a line; the first seals providers' tokens, all open them"
    )


class IdentitySettings(IdentityWorkerSettings, ServeSettings):
    """What `serve` needs."""

    signing_keys_dir: Annotated[Path, AfterValidator(holds_keys)] = Field(
        description="Ed25519 keys, `*.pem` (PKCS8): all are published, the newest signs once it is old enough"
    )
    signing_key_delay_seconds: float = Field(
        default=600,
        ge=0,
        le=86_400,
        description="how old that is: more than the 300 s for which others remember the published keys",
    )
    sign_up: SignUpMode = Field(
        default="open",
        description="`invited`: with the secret of an invitation or a guest link, or a group's code; `closed`: nobody",
    )
    mails_per_address: int = Field(default=5, ge=1, description="in an hour, that people ask for without signing in")
    mails_per_network: int = Field(default=30, ge=1, description="in an hour; a /24 of IPv4 or a /56 of IPv6")
