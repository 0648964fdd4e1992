"""What runs inside a child's pytest: it notes what each test enters, or ends the child at the first failure."""

import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest


class Recorder:
    """Notes of each test how long it takes, what became of it, and which functions of the services it enters.

    Only the thread of the tests is watched: the services of a test session run in its event loop.
    """

    def __init__(self, root: Path, file: Path) -> None:
        self._prefix = f"{root}/"
        self._file = file
        self._names: dict[CodeType, str | None] = {}
        self._now: set[str] = set()
        self._reached: dict[str, set[str]] = {}
        self._seconds: dict[str, float] = defaultdict(float)
        self._outcomes: dict[str, str] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        self._now = self._reached.setdefault(nodeid, set())
        sys.settrace(self._enter)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test's set-up, the test or its end is over."""
        self._seconds[report.nodeid] += report.duration
        if report.when == "call" or report.outcome != "passed":
            self._outcomes[report.nodeid] = report.outcome

    def pytest_sessionfinish(self) -> None:
        """All are over."""
        sys.settrace(None)
        tests = {
            nodeid: {
                "seconds": round(self._seconds[nodeid], 3),
                "outcome": self._outcomes.get(nodeid, "none"),
                "reached": sorted(reached),
            }
            for nodeid, reached in self._reached.items()
        }
        self._file.write_text(json.dumps(tests))

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> None:
        code = frame.f_code
        try:
            name = self._names[code]
        except KeyError:
            name = self._names[code] = self._name(code)
        if name is not None:
            self._now.add(name)

    def _name(self, code: CodeType) -> str | None:
        path = code.co_filename.removeprefix(self._prefix)
        return f"{path}:{code.co_qualname}" if path.startswith("services/") else None


class Ender:
    """Ends the child at the first failure, and says which test it was: tidying up would take longer than the test."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file could not be imported: the mutant is no program at all."""
        if report.failed:
            self._end("(import)", str(report.longrepr))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has failed, or its set-up or its end has."""
        if report.failed:
            self._end(report.nodeid, report.longreprtext)

    def _end(self, nodeid: str, text: str) -> None:
        print(text, flush=True)
        os.write(self._descriptor, nodeid.encode())
        os._exit(1)
