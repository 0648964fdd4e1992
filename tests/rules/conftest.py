"""The contracts as buf and the rules read them: one descriptor set, with comments."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from tests.rules.sources import ROOT


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The descriptor set that `build_protos.py --image` writes."""
    path = tmp_path_factory.mktemp("contracts") / "image.binpb"
    command = [sys.executable, str(ROOT / "build_protos.py"), "--image", str(path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return path


@pytest.fixture
def files(image: Path) -> descriptor_pb2.FileDescriptorSet:
    """A copy of it, for a test to read or to spoil."""
    return descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())
