"""What must not be in the repository: paths of one machine, and where its packages come from."""

import re
import subprocess

import pytest

from tests.rules.sources import ROOT, report

MACHINE_PATHS = re.compile(rf"{re.escape(str(ROOT))}(?![\w-])|(?<![\w.}}/-])/(?:root|home)(?![\w-])")
REGISTRIES = re.compile(
    r"--(?:extra-)?index-url|--find-links|\bindex-url\s*=|\bregistry\s*=\s*http",
    re.IGNORECASE,
)


def machine_traces(path: str, text: str) -> list[str]:
    """Lines that work on one machine only."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if match := MACHINE_PATHS.search(line):
            found.append(f"{path}:{number}: {match[0]!r} is a path of one machine; make it relative or a setting")
        if match := REGISTRIES.search(line):
            found.append(f"{path}:{number}: {match[0]!r}: where packages come from is the machine's configuration")
    return found


def tracked_files() -> list[str]:
    """What git keeps, and what it would keep."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_tracked_file_knows_this_machine_or_its_registries() -> None:
    faults = []
    for name in tracked_files():
        content = (ROOT / name).read_bytes()
        # This file is the one that has to name them.
        if b"\0" not in content and ROOT / name != ROOT / "tests/rules/test_tracked_files.py":
            faults += machine_traces(name, content.decode(errors="replace"))

    assert not faults, report(faults)


@pytest.mark.parametrize(
    "line",
    [
        f"cd {ROOT} && make",
        "HOME=/root",
        "pip install --index-url somewhere",
        "--find-links somewhere",
        "registry = http",
    ],
)
def test_a_trace_of_the_machine_is_found(line: str) -> None:
    assert len(machine_traces("file", line)) == 1


@pytest.mark.parametrize(
    "line", ["/v1/workspaces/{workspace_id}", "tests/work", "/tmp", "the last route: /roots", "a/root/b"]
)
def test_an_innocent_line_is_left_alone(line: str) -> None:
    assert not machine_traces("file", line)
