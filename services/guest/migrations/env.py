"""Alembic's environment, as every service has it."""

from services.chassis.migrations import run_environment

run_environment()
