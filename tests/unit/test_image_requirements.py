"""What the image installs, without building it."""

import subprocess
import sys
import tomllib

import pytest

from tests.rules.sources import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def installed(part: str) -> set[str]:
    """What the Dockerfile gives pip."""
    command = [sys.executable, "deploy/docker/requirements.py", part]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    return set(done.stdout.splitlines())


def test_the_image_has_what_the_project_and_its_traces_need_and_nothing_of_the_other_extras() -> None:
    extras = PROJECT["project"]["optional-dependencies"]

    assert installed("project") == {*PROJECT["project"]["dependencies"], *extras["traces"]}
    for name in set(extras) - {"traces"}:
        assert not installed("project") & set(extras[name]), name


@pytest.mark.parametrize("name", ["opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-grpc"])
def test_the_packages_that_send_traces_are_in_the_image(name: str) -> None:
    assert any(requirement.startswith(name) for requirement in installed("project"))


def test_what_builds_it_is_what_pyproject_says() -> None:
    assert installed("build-system") == set(PROJECT["build-system"]["requires"])
