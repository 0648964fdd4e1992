"""PostgreSQL, Valkey and the workers, as real processes, for one test session, or for one after the other."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import IO, Protocol

import psutil

from deploy.stack import services, settings, suite
from deploy.stack.processes import Program, last_lines, spawn

FIRST_OFFSET = 1_000
LAST_OFFSET = 15_000
"""Above it, ports would lie in Linux's ephemeral range."""


REFUSED_BY_BROWSERS = {10080}
"""Ports that fetch does not call, in Node as little as in a browser (Fetch Standard, "bad port")."""


def free_settings(folder: Path, *, replicas: int = 1, log_level: str = "error") -> settings.Settings:
    """Settings for a stack in `folder`, on ports that nobody has, nor will until `release`."""
    for offset in range(FIRST_OFFSET, LAST_OFFSET, 1000):
        environment = {
            "GUILDHALL_DATA_DIR": str(folder),
            "GUILDHALL_PORT_OFFSET": str(offset),
            "GUILDHALL_LOG_LEVEL": log_level,
        }
        found = settings.load(environment, replicas=replicas)
        if found.ports.gateway in REFUSED_BY_BROWSERS:
            continue
        if reserve(offset) and not suite.taken_ports(found):
            return found
    raise RuntimeError("no free range of ports")


def reserve(offset: int) -> bool:
    """Keeps an offset for this process until it ends, against other test sessions on the machine."""
    lock = (Path(tempfile.gettempdir()) / f"guildhall-test-ports-{os.getuid()}-{offset}").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return False
    _RESERVED[offset] = lock
    return True


def release(given: settings.Settings) -> None:
    """Lets others have the ports of a stack that has ended."""
    _RESERVED.pop(given.ports.offset).close()


_RESERVED: dict[int, IO[str]] = {}


class Process(Protocol):
    """What is asked of a process here."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...

    def send_signal(self, sig: int, /) -> None: ...

    def wait(self, timeout: float | None = None) -> int | None: ...


class Foreign(psutil.Process):
    """A process of another one's: what becomes of it is not told, but that it has ended."""

    returncode: int | None = None

    def poll(self) -> int | None:
        """None while it runs."""
        return None if self.is_running() and self.status() != psutil.STATUS_ZOMBIE else 0

    def wait(self, timeout: float | None = None) -> int | None:
        """Waits for its end."""
        try:
            wait_until(lambda: self.poll() is not None, f"process {self.pid} ends", seconds=timeout or 60)
        except TimeoutError:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 60) from None
        return 0


class Processes:
    """Programs that this test session started, and ends."""

    def __init__(self, spawn: Callable[[Program], Process] = spawn) -> None:
        self._spawn = spawn
        self._running: list[tuple[Program, Process]] = []

    def start(self, program: Program) -> Process:
        """Starts a program and waits until it is ready."""
        return self.start_together([program])[0]

    def start_together(self, programs: Sequence[Program]) -> list[Process]:
        """Starts programs that wait for none of each other, and waits until all are ready, or have ended well."""
        started = []
        for program in programs:
            if program.prepare:
                program.prepare()
            started.append(self._spawn(program))
            self._running.append((program, started[-1]))
        for program, process in zip(programs, started, strict=True):
            if program.ready:
                wait_until(partial(self._is_ready, program, process), f"{program.name} is ready")
            if program.one_shot and process.wait(60) != 0:
                raise RuntimeError("\n".join([f"{program.name} failed", *last_lines(program.log_file)]))
        return started

    def adopt(self, program: Program, pid: int) -> None:
        """Takes what another process has started for one's own."""
        self._running.append((program, Foreign(pid)))

    def pids(self) -> dict[str, int]:
        """Of each program that was started, by its name."""
        return {program.name: process.pid for program, process in self._running}

    def revive(self) -> None:
        """Starts again what has ended."""
        ended = [pair for pair in self._running if pair[1].poll() is not None and not pair[0].one_shot]
        for pair in ended:
            self._running.remove(pair)
            self.start(pair[0])

    def _is_ready(self, program: Program, process: Process) -> bool:
        if process.poll() is not None:
            raise RuntimeError("\n".join([f"{program.name} ended", *last_lines(program.log_file)]))
        return program.ready is not None and program.ready()

    def stop(self, *, suffix: str = "") -> list[Program]:
        """Ends them, or those whose name ends so, each stage together; what was ended can be started again."""
        ended = [pair for pair in self._running if pair[0].name.endswith(suffix)]
        for _, stage in groupby(sorted(ended, key=_stage), key=_stage):
            self._stop_together(list(stage))
        return [program for program, _ in ended]

    def abandon(self, *, suffix: str) -> None:
        """Ends those whose name ends so by SIGKILL: for when nobody looks at what they do any more."""
        for program, process in self._running:
            if program.name.endswith(suffix) and process.poll() is None:
                process.send_signal(signal.SIGKILL)

    def _stop_together(self, pairs: Sequence[tuple[Program, Process]]) -> None:
        for program, process in pairs:
            if process.poll() is None:
                process.send_signal(program.stop_signal)
        for program, process in pairs:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
            self._running.remove((program, process))


def _stage(pair: tuple[Program, Process]) -> int:
    return pair[0].stop_stage


@contextlib.contextmanager
def running_backends(processes: Processes) -> Iterator[suite.Suite]:
    """PostgreSQL with its roles and migrated schemas, Valkey, and a Celery worker per service.

    PostgreSQL leaves it to the kernel when to write to the disk: no test ends the machine, and what a killed process
    has written is kept without that.
    """
    folder = Path(tempfile.mkdtemp(prefix="guildhall-test-"))
    stack = suite.prepare(free_settings(folder))
    try:
        postgres, *migrations = stack.migration_programs()
        processes.start(replace(postgres, command=[*postgres.command, "-c", "fsync=off"]))
        processes.start_together([*migrations, stack.valkey.program()])
        declared = services.programs(stack.settings, postgres=stack.postgres, valkey=stack.valkey)
        processes.start_together([program for program in declared if program.name.endswith("-worker")])
        yield stack
    finally:
        # They would take seconds to end as they should, which other tests see to.
        processes.abandon(suffix="-worker")
        processes.stop()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(stack.settings.layout.sockets, ignore_errors=True)
        release(stack.settings)


SHARED = "GUILDHALL_TEST_BACKENDS"
"""The variable that names the file by which a test session uses backends which another process keeps running."""


def share(stack: suite.Suite, processes: Processes, file: Path) -> None:
    """Writes down where backends are, for `shared_backends` in another process."""
    told = {
        "folder": str(stack.settings.layout.data),
        "offset": stack.settings.ports.offset,
        "processes": processes.pids(),
    }
    file.write_text(json.dumps(told))


@contextlib.contextmanager
def shared_backends(processes: Processes, file: Path) -> Iterator[suite.Suite]:
    """Backends that another process runs, and revives: what this session stops of them it need not start again."""
    told = json.loads(file.read_text())
    environment = {
        "GUILDHALL_DATA_DIR": told["folder"],
        "GUILDHALL_PORT_OFFSET": str(told["offset"]),
        "GUILDHALL_LOG_LEVEL": "error",
    }
    stack = suite.assemble(settings.load(environment))
    for program in stack.programs():
        if program.name in told["processes"] and not program.one_shot:
            processes.adopt(program, told["processes"][program.name])
    yield stack


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float = 30) -> None:
    """Waits for an effect, not for a time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"never happened: {what}")
        time.sleep(0.02)
