"""membership's own settings, beside those of every service."""

from typing import Literal

from pydantic import Field

from services.chassis.settings import ServeSettings


class MembershipSettings(ServeSettings):
    """What `serve` needs."""

    workspace_creation: Literal["everybody", "administrators"] = Field(
        default="everybody", description="who may make workspaces; administrators are the suite's"
    )
