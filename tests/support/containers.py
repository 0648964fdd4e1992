"""The image as containers: built from the Dockerfile, run with a read-only root and no rights by an ordinary user."""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
IMAGE = "guildhall:test"
BASE_IMAGE = os.environ.get("BASE_IMAGE", "python:3.11-slim-bookworm")
IMAGE_USER = 65532
GRACE_SECONDS = 40
_BUILD_SECONDS = 900
_PULL_SECONDS = 120
_RESTRICTED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


def docker(*arguments: str, seconds: float = 60, check: bool = True) -> str:
    """What a docker command prints; AssertionError with what it said if it fails."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0 or not check, f"docker {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def require_engine() -> None:
    """Skips the test, saying why, where no image can be built."""
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed here")
    if subprocess.run(["docker", "info"], capture_output=True).returncode != 0:
        pytest.skip("no Docker engine answers here")
    if subprocess.run(["docker", "image", "inspect", BASE_IMAGE], capture_output=True).returncode != 0:
        pull = ["docker", "pull", "--quiet", BASE_IMAGE]
        try:
            pulled = subprocess.run(pull, capture_output=True, timeout=_PULL_SECONDS).returncode == 0
        except subprocess.TimeoutExpired:
            pulled = False
        if not pulled:
            pytest.skip(f"the base image {BASE_IMAGE} is not here and cannot be had")


def build() -> str:
    """Builds the image; its name."""
    given = ["--network", "host", "--build-arg", f"BASE_IMAGE={BASE_IMAGE}", "--build-arg", "REVISION=tested"]
    dockerfile = str(ROOT / "deploy/docker/Dockerfile")
    docker("build", *given, "--tag", IMAGE, "--file", dockerfile, str(ROOT), seconds=_BUILD_SECONDS)
    return IMAGE


def run_once(command: Sequence[str], *options: str, seconds: float = 120) -> str:
    """What a command in a container of its own prints."""
    return docker("run", "--rm", *_RESTRICTED, *options, IMAGE, *command, seconds=seconds)


@dataclass(frozen=True)
class Ended:
    """How a container ended."""

    exit_code: int
    log: str


class Containers:
    """Containers of one test, on the machine's own network. `user` owns what they read and write."""

    def __init__(self, user: int) -> None:
        self.user = user
        self._prefix = f"guildhall-test-{uuid.uuid4().hex[:8]}"
        self._names: list[str] = []

    def start(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str], mounts: Mapping[Path, str]
    ) -> None:
        """Starts a container; `mounts` maps the machine's folders to its own, with `:ro` after what it only reads."""
        options = [*self.options(mounts), *(f"--env={key}={value}" for key, value in environment.items())]
        self._names.append(name)
        docker("run", "--detach", "--name", self.full_name(name), *_RESTRICTED, *options, IMAGE, *command)

    def options(self, mounts: Mapping[Path, str]) -> list[str]:
        """How each of them is run."""
        volumes = [f"--volume={source}:{target}" for source, target in mounts.items()]
        return ["--network", "host", "--user", f"{self.user}:{self.user}", *volumes]

    def full_name(self, name: str) -> str:
        """The name that Docker knows it by."""
        return f"{self._prefix}-{name}"

    def inspect(self, name: str) -> Any:
        """What Docker knows of it."""
        return json.loads(docker("inspect", self.full_name(name)))[0]

    def log(self, name: str) -> str:
        """What it has written."""
        done = subprocess.run(["docker", "logs", self.full_name(name)], capture_output=True, text=True, timeout=30)
        return done.stdout + done.stderr

    def stop(self, name: str) -> Ended:
        """SIGTERM, and after the grace SIGKILL, which shows as exit code 137."""
        docker("stop", "--time", str(GRACE_SECONDS), self.full_name(name), seconds=GRACE_SECONDS + 20)
        return Ended(self.inspect(name)["State"]["ExitCode"], self.log(name))

    def names(self) -> list[str]:
        """All that were started."""
        return list(self._names)

    def remove(self) -> None:
        """Ends and removes those that this test started."""
        for name in self._names:
            docker("rm", "--force", "--volumes", self.full_name(name), check=False)
