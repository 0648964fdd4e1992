"""What runs inside a child's pytest: it answers requests to run tests, or ends the child at the first failure."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import IO, Any

import pytest

from tests.mutants.surgery import NotPossible, Surgery
from tests.rules.sources import Source


class Attendant:
    """Runs tests as it is told, one request a line, with a mutant in the running code or without one.

    What all tests share, the services above all, is started once and stays.
    """

    def __init__(self, root: Path, requests: int, answers: int) -> None:
        self._root = root
        self._requests: IO[str] = os.fdopen(requests)
        self._answers = answers
        self._reports: list[pytest.TestReport] = []
        self._watch = Watch(root)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of pytest's own loop; the child ends when nobody asks any more."""
        paths = sorted((self._root / "services").rglob("*.py"))
        sources = [Source(path.relative_to(self._root).as_posix(), path.read_text()) for path in paths]
        surgery = Surgery(self._root, sources)
        self._items = {item.nodeid: item for item in session.items}
        self._answer({"tests": list(self._items)})
        for line in self._requests:
            request = json.loads(line)
            try:
                if request["mutant"]:
                    surgery.operate(**request["mutant"])
                answer = self._run(session, request["tests"], record=request["record"])
            except NotPossible as error:
                answer = {"not_possible": str(error)}
            finally:
                surgery.heal()
            self._answer(answer)
        os._exit(0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test's set-up, the test or its end is over."""
        self._reports.append(report)

    def _run(self, session: pytest.Session, tests: Sequence[str], *, record: bool) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for nodeid in tests:
            item = self._items[nodeid]
            self._reports.clear()
            began = time.process_time()
            # What the test before shares with others and this one does not need.
            session._setupstate.teardown_exact(item)
            reached = self._watch.during(lambda item=item: self._protocol(item)) if record else self._protocol(item)
            failed = [report for report in self._reports if report.failed]
            if record:
                outcome = "failed" if failed else "skipped" if any(r.skipped for r in self._reports) else "passed"
                seconds = round(sum(report.duration for report in self._reports), 3)
                work = round(time.process_time() - began, 3)
                told[nodeid] = {"seconds": seconds, "work": work, "outcome": outcome, "reached": sorted(reached or ())}
            if failed:
                print(failed[0].longreprtext, flush=True)
            if failed and not record:
                return {"failed": nodeid}
        return {"failed": "", "recorded": told}

    def _protocol(self, item: pytest.Item) -> None:
        # The next test says what may stay; another one of the same file if there is one.
        others = sorted((each for each in self._items.values() if each is not item), key=lambda o: o.path != item.path)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=others[0] if others else None)

    def _answer(self, answer: object) -> None:
        os.write(self._answers, (json.dumps(answer) + "\n").encode())


class Watch:
    """Notes which functions of the services are entered.

    Only the thread of the tests is watched: the services of a test session run in its event loop.
    """

    def __init__(self, root: Path) -> None:
        self._prefix = f"{root}/"
        self._names: dict[CodeType, str | None] = {}
        self._entered: set[str] = set()

    def during(self, run: Any) -> set[str]:
        """Those that are entered while something runs."""
        self._entered = set()
        sys.settrace(self._enter)
        try:
            run()
        finally:
            sys.settrace(None)
        return self._entered

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> None:
        code = frame.f_code
        try:
            name = self._names[code]
        except KeyError:
            name = self._names[code] = self._name(code)
        if name is not None:
            self._entered.add(name)

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
