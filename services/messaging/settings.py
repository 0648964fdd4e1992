"""messaging's own settings, beside those of every service."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.chassis.settings import PREFIX, ServeSettings

HIGHEST_RATE = 1_000_000


class RateSettings(BaseSettings):
    """How much may be sent through one process; as much as in 10 s may come at once."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    messages_per_second_of_sender: int = Field(default=100, ge=1, le=HIGHEST_RATE)
    messages_per_second_of_workspace: int = Field(default=2000, ge=1, le=HIGHEST_RATE)


class MessagingSettings(ServeSettings, RateSettings):
    """What `serve` needs."""
