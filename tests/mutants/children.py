"""Children that run tests, forked from a process that has imported all libraries and nothing of the project.

Importing them takes longer than most tests; what is the project's own each child imports anew, from the copy.
"""

import ctypes
import importlib
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.plugins import Ender, Recorder

OURS = ("services", "deploy", "tests")
BOUND_TO_OURS = ("prometheus_client",)
"""Libraries that keep what our modules register with them, and would take it for registered twice."""
OPTIONS = (
    "-x",
    "-q",
    "-p",
    "no:xdist",
    "-p",
    "no:terminalreporter",
    "--tb=short",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
)
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Outcome:
    """What became of a child."""

    status: int | None
    """pytest's; None if it took too long and was ended."""
    failed: str
    """The test that failed."""
    seconds: float


def import_libraries() -> None:
    """Imports what the services and the tests import, and lets go of what is the project's own."""
    for name in ("identity", "membership", "guest", "messaging"):
        importlib.import_module(f"services.{name}.__main__")
    for name in ("pytest_asyncio", "hypothesis", "psycopg", "httpx", "tests.support.suite"):
        importlib.import_module(name)
    _let_go()


def _let_go() -> None:
    kept = "tests.mutants"
    for name in list(sys.modules):
        own = name.partition(".")[0] in (*OURS, *BOUND_TO_OURS)
        if own and name != "tests" and not name.startswith(kept):
            del sys.modules[name]


def run(
    tree: Path, tests: Sequence[str], *, environment: Mapping[str, str], seconds: float, log: Path, record: Path | None
) -> Outcome:
    """Runs tests in a child, to the first that fails; or all of them, and `record` has what they enter."""
    began = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            _become(tree, environment, log)
            plugin = Recorder(tree, record) if record else Ender(writing)
            os._exit(_test(tree, tests, plugin, first_failure_ends=record is None))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(70)  # nothing of what the parent would do is the child's to do
    os.close(writing)
    try:
        ended = bool(select.select([reading], [], [], seconds)[0])
        failed = os.read(reading, 4096).decode() if ended else ""
        if not ended:
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    finally:
        os.close(reading)
    return Outcome(os.waitstatus_to_exitcode(status) if ended else None, failed, time.monotonic() - began)


def _become(tree: Path, environment: Mapping[str, str], log: Path) -> None:
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    os.setpgid(0, 0)
    os.environ.update(environment)
    os.chdir(tree)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def _test(tree: Path, tests: Sequence[str], plugin: object, *, first_failure_ends: bool) -> int:
    import pytest

    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    # Where the project is installed from stays on the path, after the copy: the generated code is there.
    sys.path[0] = str(tree)
    options = OPTIONS if first_failure_ends else OPTIONS[1:]
    return int(pytest.main([*options, f"--rootdir={tree}", f"-c{tree / 'pyproject.toml'}", *tests], plugins=[plugin]))
