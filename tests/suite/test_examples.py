"""The examples, each run with its own tool, against the output that stands beside it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.suite.conftest import Running, Tools
from tests.support.documents import masked

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
TOOLS = {
    "buf": ("buf",),
    "curl": ("curl",),
    "grpcurl": ("grpcurl",),
    "python": (),
    "typescript": ("node", "npm", "buf"),
}
Done = subprocess.CompletedProcess[str]


def run(folder: Path, environment: dict[str, str], *command: str) -> Done:
    """Runs a command to its end."""
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def play(name: str, environment: dict[str, str], folder: Path) -> Done:
    """Runs one example as its README says."""
    if name == "python":
        return run(EXAMPLES / name, environment, sys.executable, "story.py")
    if name != "typescript":
        return run(EXAMPLES / name, environment, "./story.sh")
    copy = folder / name
    shutil.copytree(
        EXAMPLES / name, copy, ignore=shutil.ignore_patterns("node_modules", "dist", "generated", "*.binpb")
    )
    contracts = [sys.executable, str(ROOT / "build_protos.py"), "--image", "contracts.binpb"]
    for command in (contracts, ["npm", "ci", "--no-audit", "--no-fund"], ["npm", "run", "build"]):
        done = run(copy, environment, *command)
        if done.returncode != 0:
            return done
    return run(copy, environment, "npm", "start", "--silent")


@pytest.fixture(scope="module")
def playing(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Done]]]:
    """All examples whose tools are here, at the same time: most of their time is waiting."""
    beside_python = Path(sys.executable).parent
    environment = {
        **running.environment,
        "PATH": os.pathsep.join((str(beside_python), running.environment["PATH"])),
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "generated", "clients/python")),
        "GUILDHALL_GATEWAY": running.gateway,
    }
    running.token("you@example.com")
    with ThreadPoolExecutor() as pool:
        yield {
            name: pool.submit(play, name, environment, tmp_path_factory.mktemp(name))
            for name, tools in TOOLS.items()
            if all(shutil.which(tool, path=environment["PATH"]) for tool in tools)
        }


@pytest.mark.parametrize("name", TOOLS)
def test_an_example_prints_what_stands_beside_it(name: str, playing: dict[str, Future[Done]], tool: Tools) -> None:
    for each in TOOLS[name]:
        tool(each)

    done = playing[name].result()

    assert done.returncode == 0, done.stdout + done.stderr
    assert masked(done.stdout) == masked((EXAMPLES / name / "expected.txt").read_text())


def test_every_example_is_run_by_a_test() -> None:
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    assert folders == {*TOOLS, "authjs"}
