"""One suite as a user starts it: `guildhall up --detach`, with everything in processes of its own."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def booted(folder: Path, *, replicas: int = 1, up: bool = True, **environment: str) -> Iterator[Running]:
    """A suite in this folder on free ports, with `environment` besides, stopped at the end by `guildhall down`."""
    settings = free_settings(folder, replicas=replicas, log_level=environment.get("GUILDHALL_LOG_LEVEL", "info"))
    addressed = {
        "GUILDHALL_DATA_DIR": str(folder),
        "GUILDHALL_PORT_OFFSET": str(settings.ports.offset),
        "GUILDHALL_LOG_LEVEL": "info",
    }
    # The developer's own gateway is not the one that is tested, nor are the tests' own variables settings.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GUILDHALL_")}
    suite = Running(settings, {**ours, **addressed, **environment})
    try:
        if up:
            done = suite.guildhall("up", "--detach", "--replicas", str(replicas), seconds=180)
            assert done.returncode == 0, done.stdout + done.stderr
        yield suite
    finally:
        suite.guildhall("down", seconds=120)
        shutil.rmtree(settings.layout.sockets, ignore_errors=True)
        release(settings)


@contextmanager
def new_folder(name: str) -> Iterator[Path]:
    """A folder that is gone afterwards, with a short path: pytest's own are too long for sockets."""
    folder = Path(tempfile.mkdtemp(prefix=f"guildhall-{name}-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    """The suite that tests share."""
    with new_folder("suite") as folder, booted(folder, **OUT_OF_THE_WAY) as suite:
        yield suite


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
