"""One suite as a user starts it: `guildhall up --detach`, with everything in processes of its own."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.stack.settings import Settings
from tests.support.backends import free_settings, release
from tests.support.limits import OUT_OF_THE_WAY

GUILDHALL = [sys.executable, "-m", "deploy.stack.cli"]


@dataclass(frozen=True)
class Running:
    """A suite that runs."""

    settings: Settings
    environment: dict[str, str]

    @property
    def gateway(self) -> str:
        """HOST:PORT of the gateway."""
        return self.settings.gateway_address

    def guildhall(self, *arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs a command of the CLI on this suite."""
        return subprocess.run(
            [*GUILDHALL, *arguments], env=self.environment, capture_output=True, text=True, timeout=seconds
        )

    def token(self, email: str) -> str:
        """An access token, as the README says to get one."""
        done = self.guildhall("token", email)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    """A suite on free ports, stopped at the end by `guildhall down`."""
    folder = Path(tempfile.mkdtemp(prefix="guildhall-suite-"))
    settings = free_settings(folder, log_level="info")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GUILDHALL_GATEWAY")},
        "GUILDHALL_DATA_DIR": str(folder),
        "GUILDHALL_PORT_OFFSET": str(settings.ports.offset),
        "GUILDHALL_LOG_LEVEL": "info",
        **OUT_OF_THE_WAY,
    }
    suite = Running(settings, environment)
    done = suite.guildhall("up", "--detach", seconds=120)
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        yield suite
    finally:
        suite.guildhall("down", seconds=120)
        shutil.rmtree(folder, ignore_errors=True)
        release(settings)


@pytest.fixture(scope="session")
def tool() -> "Tools":
    """Optional programs: a test of one that is missing is skipped by name."""
    return Tools()


class Tools:
    """Finds optional programs."""

    def __call__(self, name: str) -> str:
        beside_python = Path(sys.executable).parent / name
        found = str(beside_python) if beside_python.exists() else shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed here")
        return found
