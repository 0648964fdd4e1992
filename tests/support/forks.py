"""Python programs of the project, forked from a process that has imported what they import: most of what a start takes.

What runs is the same: `python -m MODULE …` as a process of its own, with its environment, its log and its signals.
`python -m tests.support.forks` is the process that they are forked from. It reads a line of JSON for each order, and
answers each by a line.
"""

import ctypes
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any, NoReturn

from deploy.stack.processes import PROJECT, Program, inherited_environment, spawn

DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
FORKED = ("services.", "tests.support.cut_guest")
SERVICES = ("identity", "membership", "guest", "messaging")


class Fork:
    """A process that was forked, as subprocess.Popen would show it."""

    def __init__(self, forks: "Forks", pid: int) -> None:
        self._forks = forks
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """None while it runs, then what it ended with, negative if a signal ended it."""
        if self.returncode is None:
            self.returncode = self._forks.order(poll=self.pid)
        return self.returncode

    def send_signal(self, number: int, /) -> None:
        """Its pid is nobody else's before `poll` has told of its end."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end."""
        deadline = time.monotonic() + (timeout or 60)
        while (found := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 60)
            time.sleep(0.01)
        return found


class Forks:
    """Starts programs: those of the project by forking, others as ever."""

    def __init__(self) -> None:
        self._parent: subprocess.Popen[str] | None = None
        self._turn = threading.Lock()

    def spawn(self, program: Program) -> Any:
        """A program's process. Who has a path of its own imports anew."""
        is_ours = program.command[1:2] == ["-m"] and program.command[2].startswith(FORKED)
        if not is_ours or "PYTHONPATH" in program.environment:
            return spawn(program)
        program.log_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        environment = {**inherited_environment(), **program.environment}
        begin = {"arguments": program.command[2:], "environment": environment, "log": str(program.log_file)}
        return Fork(self, self.order(begin=begin))

    def order(self, **order: Any) -> Any:
        """Has something done."""
        with self._turn:
            if self._parent is None:
                command = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "tests.support.forks"]
                self._parent = subprocess.Popen(
                    command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            assert self._parent.stdin is not None
            assert self._parent.stdout is not None
            self._parent.stdin.write(json.dumps(order) + "\n")
            self._parent.stdin.flush()
            return json.loads(self._parent.stdout.readline())

    def close(self) -> None:
        """Ends the process that they were forked from; it takes along what still runs."""
        if self._parent is not None:
            self._parent.communicate()
            self._parent = None


def serve() -> None:
    """Does what is ordered until nothing more can be."""
    for service in SERVICES:
        importlib.import_module(f"services.{service}.__main__")
    # Or it would not be run anew, with a warning.
    for service in SERVICES:
        del sys.modules[f"services.{service}.__main__"]
    for line in sys.stdin:
        order = json.loads(line)
        answer = _poll(order["poll"]) if "poll" in order else _begin(order["begin"])
        print(json.dumps(answer), flush=True)


def _poll(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _begin(begin: dict[str, Any]) -> int:
    child = os.fork()
    if child == 0:
        _run(**begin)
    return child


def _run(arguments: list[str], environment: dict[str, str], log: str) -> NoReturn:
    """The child's whole life: nothing of what its parent would do is its to do."""
    status: Any = 70
    try:
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        os.setsid()
        os.environ.clear()
        os.environ.update(environment)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        module, *rest = arguments
        sys.argv = [str(Path(module)), *rest]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter would, for threads that still work
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    warnings.simplefilter("default")
    serve()
