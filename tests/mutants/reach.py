"""What each test of a file enters, and how long it takes: recorded once, kept until the code or the test changes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.bench import Bench
from tests.rules.sources import ROOT, sources

KEPT = ROOT / ".guildhall/mutants-reach"
SECONDS = 1800


@dataclass(frozen=True)
class Test:
    """One test, as it is without a mutant."""

    nodeid: str
    seconds: float
    work: float
    """Seconds of the processor: how long it takes depends on what else the machine does."""
    reached: frozenset[str]


def tests_of(bench: Bench, file: str) -> list[Test]:
    """The tests of a file that pass, with what they enter. Those that fail without a mutant are named."""
    kept = KEPT / f"{file.replace('/', '.')}.json"
    key = _key(bench.tree.folder / file)
    told = json.loads(kept.read_text()) if kept.exists() else {}
    if told.get("key") != key:
        bench.tell(f"which functions the tests of {file} enter")
        told = {"key": key, "tests": _recorded(bench, file)}
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept.write_text(json.dumps(told))
    tests: Mapping[str, Mapping[str, object]] = told["tests"]
    failed = [nodeid for nodeid, test in tests.items() if test["outcome"] == "failed"]
    if failed:
        bench.tell(f"left out, as they fail without a mutant: {', '.join(failed)}")
    return [
        Test(nodeid, test["seconds"], test["work"], frozenset(test["reached"]))  # type: ignore[arg-type]
        for nodeid, test in tests.items()
        if test["outcome"] == "passed"
    ]


def _recorded(bench: Bench, file: str) -> object:
    tests = [nodeid for nodeid in bench.lasting.tests if nodeid.partition("::")[0] == file]
    answer = bench.ask(tests, seconds=SECONDS, record=True)
    if answer is None:
        raise RuntimeError(f"the tests of {file} could not be run: see {bench.log}")
    return answer["recorded"]


def _key(file: Path) -> str:
    digest = hashlib.sha256(file.read_bytes())
    for source in sources("services", "tests/support", "tests/mutants/plugins.py"):
        digest.update(source.text.encode())
    return digest.hexdigest()
