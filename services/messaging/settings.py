"""messaging's own settings: where files are kept, how much of them, and how much is sent."""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.chassis.settings import PREFIX, ReadableFile, ServeSettings, WorkerSettings, is_loopback

GIB = 1 << 30
HIGHEST_RATE = 1_000_000
LARGEST_FILE = 16 * GIB
"""A part of 256 KiB is a row, and a file's rows are deleted in one transaction."""


def store_url(value: str) -> str:
    """Refuses what is neither file:///ABSOLUTE/PATH nor s3://BUCKET or s3://BUCKET/PREFIX."""
    parts = urlsplit(value)
    is_folder = parts.scheme == "file" and not parts.netloc and parts.path.startswith("/")
    is_bucket = parts.scheme == "s3" and parts.hostname and not parts.username and not parts.port
    if not (is_folder or is_bucket) or parts.query or parts.fragment:
        raise ValueError("is neither file:///FOLDER nor s3://BUCKET or s3://BUCKET/PREFIX")
    return value


def endpoint(value: str) -> str:
    """Refuses a URL by which files would travel in clear over a network."""
    parts = urlsplit(value)
    plain = parts.scheme == "http" and is_loopback(parts.hostname or "")
    if not parts.hostname or parts.username or not (parts.scheme == "https" or plain):
        raise ValueError("is not https; http is for this machine only")
    return value


def _default_folder() -> str:
    return Path(".guildhall/blobs").absolute().as_uri()


class BlobSettings(BaseSettings):
    """Where the bytes of files are, for `serve` and `worker` alike."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    blob_url: Annotated[str, AfterValidator(store_url)] = Field(
        default_factory=_default_folder,
        description="`file:///FOLDER`, shared by all replicas and the worker, or `s3://BUCKET[/PREFIX]`",
    )
    blob_endpoint: Annotated[str, AfterValidator(endpoint)] | None = Field(
        default=None, description="of an S3 that is not Amazon's; https, or http on this machine"
    )
    blob_region: str = Field(default="us-east-1", min_length=1, description="the bucket's region")
    blob_key_id: str | None = Field(
        default=None, min_length=1, description="without it, the machine's own role is used"
    )
    blob_secret_key_file: ReadableFile | None = Field(default=None, description="the key's secret half; read at start")

    @field_validator("blob_secret_key_file")
    @classmethod
    def belongs_to_a_key(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        """Refuses half of a key."""
        if (value is None) != (info.data.get("blob_key_id") is None):
            raise ValueError("and GUILDHALL_BLOB_KEY_ID need each other")
        return value

    @property
    def blob_secret_key(self) -> str | None:
        """The secret half of the key; None without one. Read when the store is opened."""
        return self.blob_secret_key_file.read_text().strip() if self.blob_secret_key_file else None


class RateSettings(BaseSettings):
    """How much may be sent through one process; as much as in 10 s may come at once."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    messages_per_second_of_sender: int = Field(
        default=100, ge=1, le=HIGHEST_RATE, description="through one process, in all workspaces together"
    )
    messages_per_second_of_workspace: int = Field(
        default=2000, ge=1, le=HIGHEST_RATE, description="through one process"
    )


class MessagingSettings(ServeSettings, BlobSettings, RateSettings):
    """What `serve` needs."""

    most_file_bytes: int = Field(default=GIB, ge=1, le=LARGEST_FILE, description="the largest file")
    storage_bytes_per_workspace: int = Field(
        default=100 * GIB, ge=1, le=1 << 60, description="of all its files together, by their announced sizes"
    )
    unattached_bytes_per_member: int | None = Field(
        default=None,
        ge=1,
        le=1 << 60,
        description="of the files of one member that no message holds, by their announced sizes; without it a twentieth"
        " of the workspace's, a guest's a hundredth, and room for one file of the largest size",
    )

    def unattached_bytes(self, *, is_guest: bool) -> int:
        """How much of a workspace's storage one member may take up, before a message holds it."""
        if self.unattached_bytes_per_member is not None:
            return self.unattached_bytes_per_member
        return max(self.storage_bytes_per_workspace // (100 if is_guest else 20), self.most_file_bytes)


class MessagingWorkerSettings(WorkerSettings, BlobSettings):
    """What `worker` needs."""
