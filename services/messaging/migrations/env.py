"""Where Alembic begins."""

from services.chassis.migrations import run_environment

run_environment()
