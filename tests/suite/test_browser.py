"""A real suite in headless Chromium: a product's page by gRPC-Web and JSON, and the reference page (tests/browser)."""

import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.suite.conftest import Running, Tools

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "tests" / "browser"
OTHERS = (
    "buf/validate/validate.proto",
    "google/api/annotations.proto",
    "google/api/http.proto",
    "google/rpc/status.proto",
)
GENERATE = """
import sys, build_protos
plugin, target, *others = sys.argv[1:]
flags = [f"--plugin=protoc-gen-es={plugin}", f"--es_out={target}", "--es_opt=target=js"]
build_protos.run_protoc(flags, [*build_protos.own_files(), *others])
"""


def run(folder: Path, *command: str, environment: dict[str, str]) -> str:
    """What a command prints; fails with it if it fails."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=420)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(running: Running, tool: Tools) -> dict[str, str]:
    """What the tests in Node are told: the suite, the browser, and somebody who is signed up."""
    chromium, _ = tool("chromium"), tool("curl")
    address, password = f"browser.{uuid.uuid4().hex[:8]}@example.com", "a long enough password"
    done = running.guildhall("token", address, "--password", password)
    assert done.returncode == 0, done.stderr
    return {
        **running.environment,
        "PYTHONPATH": str(ROOT),
        "CHROMIUM": chromium,
        "GUILDHALL_URL": f"http://{running.gateway}",
        "GUILDHALL_EMAIL": address,
        "GUILDHALL_PASSWORD": password,
        "GUILDHALL_TOKEN": done.stdout.strip(),
    }


@pytest.fixture(scope="module")
def built(tool: Tools, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with its packages, the code generated from our contracts, and the client as one file."""
    tool("node")
    npm = tool("npm")
    folder = tmp_path_factory.mktemp("browser") / "browser"
    shutil.copytree(SOURCES, folder, ignore=shutil.ignore_patterns("node_modules", "dist", "generated"))
    run(folder, npm, "ci", "--no-audit", "--no-fund", environment=environment)
    (folder / "generated").mkdir()
    plugin = str(folder / "node_modules" / ".bin" / "protoc-gen-es")
    run(folder, sys.executable, "-c", GENERATE, plugin, str(folder / "generated"), *OTHERS, environment=environment)
    run(folder, npm, "run", "build", environment=environment)
    return folder


@pytest.mark.parametrize(("file", "tests"), [("calls.test.js", 3), ("reference.test.js", 6)])
def test_chromium_passes(file: str, tests: int, built: Path, environment: dict[str, str], tool: Tools) -> None:
    told = run(built, tool("npm"), "test", "--", file, environment=environment)

    for name, count in (("pass", tests), ("fail", 0), ("skipped", 0), ("cancelled", 0)):
        assert re.search(rf"^ℹ {name} {count}$", told, re.MULTILINE), told
