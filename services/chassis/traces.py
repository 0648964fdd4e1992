"""Traces (OpenTelemetry), if the settings name a collector. If not, none of it is imported, and calls pay nothing."""

from typing import TYPE_CHECKING

from services.chassis.settings import WorkerSettings

if TYPE_CHECKING:
    from services.chassis.spans import Spans

active: "Spans | None" = None
"""What makes the spans of this process; None while it traces nothing."""


def configure(service: str, settings: WorkerSettings) -> None:
    """Begins to trace if there is a collector. To be called before the database and channels are opened."""
    global active
    if settings.otlp_endpoint is not None:
        from services.chassis.spans import Spans

        active = Spans(service, settings.otlp_endpoint, ratio=settings.traces_ratio)
