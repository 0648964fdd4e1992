"""The README's tour, as a stranger would take it: each block as it stands, and what it says that is printed."""

import re
import subprocess
import sys
from pathlib import Path

from tests.suite.conftest import Running, Tools
from tests.support.documents import masked, steps

ROOT = Path(__file__).resolve().parents[2]
TOUR = "Ten-minute tour"
MARK = "--- step"


def test_the_tour_prints_what_it_says(running: Running, tool: Tools, tmp_path: Path) -> None:
    tool("curl")
    tour = steps((ROOT / "README.md").read_text(), TOUR)
    assert len(tour) >= 4
    # The folder that a stranger has after `make up`, and a home of its own. All that differs is where the suite is.
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "README.md").symlink_to(ROOT / "README.md")
    environment = {**running.environment, "XDG_CONFIG_HOME": str(tmp_path / "config"), "no_proxy": "*"}
    script = "".join(f"{step.shell}\necho '{MARK}'\n" for step in tour).replace("127.0.0.1:8080", running.gateway)

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout.replace(running.gateway, "127.0.0.1:8080").split(f"{MARK}\n")
    for step, output in zip(tour, printed, strict=False):
        if step.printed is not None:
            assert masked(output) == step.printed, step.shell


def test_the_command_is_described_whole(running: Running) -> None:
    listed = set(re.findall(r"^│ ([a-z]+) +\S", running.guildhall("--help").stdout, re.MULTILINE))
    (section,) = re.findall(
        r"^## The command$(.*?)^`--output", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert {"up", "login", "admin"} <= listed
    assert listed == set(re.findall(r"\b[a-z]+\b", " ".join(re.findall(r"`([a-z]+)(?: …)?`", section)))) - {"guildhall"}
