"""identity's own settings, beside those of every service."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from services.chassis.settings import ServeSettings
from services.identity.keys import read_keys


def holds_keys(folder: Path) -> Path:
    """Refuses a folder that holds no signing key, or one that cannot be read."""
    read_keys(folder)
    return folder


class IdentitySettings(ServeSettings):
    """What `serve` needs."""

    signing_keys_dir: Annotated[Path, AfterValidator(holds_keys)] = Field(
        description="Ed25519 private keys, PKCS8 PEM, *.pem"
    )
