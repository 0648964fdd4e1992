"""Children that run tests, forked from a process that has imported all libraries and nothing of the project.

Importing them takes longer than most tests; what is the project's own each child imports anew, from the copy.
"""

import ctypes
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tests.mutants.plugins import Attendant, Ender

OURS = ("services", "deploy", "tests")
BOUND_TO_OURS = ("prometheus_client",)
"""Libraries that keep what our modules register with them, and would take it for registered twice."""
OPTIONS = ("-q", "-p", "no:xdist", "-p", "no:terminalreporter", "--tb=short")
QUIET = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def import_libraries() -> None:
    """Imports what the services and the tests import, and lets go of what is the project's own."""
    for name in ("identity", "membership", "guest", "messaging"):
        importlib.import_module(f"services.{name}.__main__")
    for name in ("pytest_asyncio", "hypothesis", "psycopg", "httpx", "tests.support.suite"):
        importlib.import_module(name)
    kept = ("tests.mutants", "tests.rules")
    for name in list(sys.modules):
        own = name.partition(".")[0] in (*OURS, *BOUND_TO_OURS)
        if own and name != "tests" and not name.startswith(kept):
            del sys.modules[name]


@dataclass(frozen=True)
class Outcome:
    """What became of a child."""

    status: int | None
    """pytest's; None if it took too long and was ended."""
    failed: str
    """The test that failed."""
    seconds: float


def run(tree: Path, tests: Sequence[str], *, environment: Mapping[str, str], seconds: float, log: Path) -> Outcome:
    """Runs tests in a child, to the first that fails."""
    began = time.monotonic()
    reading, writing = os.pipe()
    child = _fork(lambda: _test(tree, environment, log, ["-x", *tests], Ender(writing)))
    os.close(writing)
    ended, failed = False, b""
    try:
        ended = bool(select.select([reading], [], [], seconds)[0])
        failed = os.read(reading, 4096) if ended else b""
    finally:
        os.close(reading)
        status = _end(child, wait=ended)
    return Outcome(status if ended else None, failed.decode(), time.monotonic() - began)


class Lasting:
    """A child that stays, and runs tests of its files as often as it is asked."""

    def __init__(self, tree: Path, files: Sequence[str], *, environment: Mapping[str, str], log: Path) -> None:
        asked, self._requests = os.pipe()
        self._answers, answered = os.pipe()
        requests, answers = self._requests, self._answers

        def attend() -> int:
            os.close(requests)
            os.close(answers)
            return _test(tree, environment, log, files, Attendant(tree, asked, answered))

        self._child = _fork(attend)
        os.close(asked)
        os.close(answered)
        self._told = b""
        told = self._answer(120)
        if told is None:
            self.end()
            raise RuntimeError(f"no test session came up: see {log}")
        self.tests: list[str] = told["tests"]

    def ask(
        self, tests: Sequence[str], *, seconds: float, mutant: Mapping[str, Any] | None = None, record: bool = False
    ) -> dict[str, Any] | None:
        """What came of the tests: "failed" or "not_possible", and what was "recorded". None: no answer in time."""
        request = json.dumps({"tests": tests, "mutant": mutant, "record": record}) + "\n"
        try:
            sent = request.encode()
            while sent:
                sent = sent[os.write(self._requests, sent) :]
        except BrokenPipeError:
            return None
        return self._answer(seconds)

    def end(self) -> None:
        """Ends it."""
        os.close(self._requests)
        os.close(self._answers)
        _end(self._child, wait=False)

    def _answer(self, seconds: float) -> dict[str, Any] | None:
        over = time.monotonic() + seconds
        while b"\n" not in self._told:
            if not select.select([self._answers], [], [], max(0, over - time.monotonic()))[0]:
                return None
            more = os.read(self._answers, 1 << 16)
            if not more:
                return None
            self._told += more
        line, _, self._told = self._told.partition(b"\n")
        told: dict[str, Any] = json.loads(line)
        return told


def _fork(work: Callable[[], int]) -> int:
    child = os.fork()
    if child == 0:
        _work(work)
    return child


def _work(work: Callable[[], int]) -> NoReturn:
    """The child's whole life: nothing of what its parent would do is its to do."""
    status = 70
    try:
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        os.setpgid(0, 0)
        status = work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _end(child: int, *, wait: bool) -> int:
    if not wait:
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _test(tree: Path, environment: Mapping[str, str], log: Path, arguments: Sequence[str], plugin: object) -> int:
    import pytest

    os.environ.update(environment)
    os.chdir(tree)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    # Where the project is installed from stays on the path, after the copy: the generated code is there.
    sys.path[0] = str(tree)
    where = [f"--rootdir={tree}", f"-c{tree / 'pyproject.toml'}"]
    return int(pytest.main([*OPTIONS, *QUIET, *where, *arguments], plugins=[plugin]))
