"""membership's own settings, beside those of every service."""

from typing import Literal

from pydantic import Field

from services.chassis.settings import ServeSettings


class MembershipSettings(ServeSettings):
    """What `serve` needs."""

    workspace_creation: Literal["everybody", "administrators"] = Field(
        default="everybody", description="who may make workspaces; administrators are the suite's"
    )
    workspaces_a_day: int = Field(default=100, ge=1, description="that one person makes within 24 h")
    invitation_mails_of_user: int = Field(default=1_000, ge=1, description="within 24 h, in all workspaces together")
    invitation_mails_to_address: int = Field(default=20, ge=1, description="within 24 h, whoever sends them")
