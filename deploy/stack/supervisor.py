"""Start programs in the order of their dependencies, keep them running, stop them in order.

One thread, one loop: `step` looks at every child once. That also makes every child a child of the main thread,
which `processes.spawn` needs.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from types import FrameType, TracebackType
from typing import Self

from deploy.stack.processes import Program, describe_exit, last_lines, shorten_log, spawn
from deploy.stack.settings import StackError

_POLL_SECONDS = 0.05
_PROBE_SECONDS = 0.1
_BOOT_CRASHES = 3  # so often may one child end during the boot; then `up` gives up
_STEADY_SECONDS = 30  # a child that ran this long starts its backoff anew
_BACKOFF_SECONDS = 0.5  # before the first restart, doubled each time
_MAX_BACKOFF_SECONDS = 10.0
_HURRY_SECONDS = 1.0  # what each stage gets once Ctrl-C has been pressed again
_LOG_SECONDS = 10.0  # between two looks at how large the logs are


class State(StrEnum):
    """Where a child is in its life. `done` is a one-shot program that has ended well."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    BACKOFF = "restarting"
    DONE = "done"
    STOPPED = "stopped"


class Interrupted(Exception):
    """The person who started the stack asked it to stop before it was ready."""


@dataclass
class Child:
    """A program and the process that runs it now."""

    program: Program
    state: State = State.WAITING
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    crashes: int = 0  # in a row, without a steady time between them
    started_at: float = 0.0
    next_at: float = 0.0  # of the next probe or restart, by the monotonic clock
    log_start: int = 0
    ended: str = ""
    report: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int | None:
        """The process that runs now; None if there is none."""
        return self.process.pid if self.process is not None and self.process.returncode is None else None


def _ignore(child: Child, event: str) -> None:
    """Nobody is told: what tests want."""


class Supervisor:
    """Runs programs. `notify(child, event)` hears `started`, `ready`, `crashed` (with `ended`, `report`), `stopped`."""

    def __init__(self, programs: Iterable[Program], notify: Callable[[Child, str], None] = _ignore) -> None:
        self.children = {program.name: Child(program) for program in programs}
        self.interrupted = 0
        self._booted = False  # before, a child that keeps ending stops the boot; after, it is started again for ever
        self._notify = notify

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def handle_signals(self) -> None:
        """Let Ctrl-C, SIGTERM and a closed terminal ask for a clean stop; the second time bounds it to seconds."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted += 1

    def boot(self, timeout_seconds: float = 120) -> None:
        """Start everything and wait until it is ready. Raises `StackError` if it cannot be, `Interrupted` if told."""
        deadline = time.monotonic() + timeout_seconds
        while not all(child.state in (State.READY, State.DONE) for child in self.children.values()):
            if self.interrupted:
                raise Interrupted
            if time.monotonic() > deadline:
                late = [name for name, c in self.children.items() if c.state not in (State.READY, State.DONE)]
                raise StackError(f"not ready after {timeout_seconds:.0f} s: {', '.join(late)}")
            self.step()
            time.sleep(_POLL_SECONDS)
        self._booted = True

    def watch(self, until: Callable[[], bool]) -> None:
        """Keep the children running until `until` is true or somebody asks for a stop."""
        look_at_logs = 0.0
        while not self.interrupted and not until():
            self.step()
            if time.monotonic() >= look_at_logs:
                for child in self.children.values():
                    shorten_log(child.program.log_file)
                look_at_logs = time.monotonic() + _LOG_SECONDS
            time.sleep(2 * _POLL_SECONDS)

    def step(self) -> None:
        """Look at each child once: start, probe, restart what is due."""
        for child in self.children.values():
            if child.process is not None and (code := child.process.poll()) is not None:
                self._handle_exit(child, code)
            elif child.state is State.WAITING and self._may_start(child):
                self._start(child)
            elif child.state is State.BACKOFF and time.monotonic() >= child.next_at:
                child.restarts += 1
                self._start(child)
            elif child.state is State.STARTING and not child.program.one_shot:
                self._probe(child)

    def _may_start(self, child: Child) -> bool:
        return all(self.children[name].state in (State.READY, State.DONE) for name in child.program.after)

    def _start(self, child: Child) -> None:
        if child.program.prepare is not None:
            child.program.prepare()
        log = child.program.log_file
        child.log_start = log.stat().st_size if log.exists() else 0
        child.process = spawn(child.program)
        child.started_at = time.time()
        child.next_at = 0.0
        self._enter(child, State.STARTING, "started")

    def _probe(self, child: Child) -> None:
        if time.monotonic() < child.next_at:
            return
        if child.program.ready is None or child.program.ready():
            self._enter(child, State.READY, "ready")
        child.next_at = time.monotonic() + _PROBE_SECONDS

    def _handle_exit(self, child: Child, code: int) -> None:
        child.process = None
        child.ended = describe_exit(code)
        child.report = last_lines(child.program.log_file, start=child.log_start)
        if child.program.one_shot:
            if code != 0:
                raise StackError("\n".join([f"{child.program.name} failed ({child.ended})", *child.report]))
            self._enter(child, State.DONE, "ready")
            return
        if time.time() - child.started_at > _STEADY_SECONDS:
            child.crashes = 0
        child.crashes += 1
        backoff = min(_BACKOFF_SECONDS * 2 ** (child.crashes - 1), _MAX_BACKOFF_SECONDS)
        child.next_at = time.monotonic() + backoff
        child.state = State.BACKOFF
        if not self._booted and child.crashes <= child.program.quiet_retries:
            return
        if not self._booted and (code == 2 or child.crashes >= child.program.quiet_retries + _BOOT_CRASHES):
            raise StackError("\n".join([f"{child.program.name} does not start ({child.ended})", *child.report]))
        self._notify(child, "crashed")

    def _enter(self, child: Child, state: State, event: str) -> None:
        child.state = state
        self._notify(child, event)

    def stop(self) -> None:
        """Stop every child, stage by stage, in bounded time: what outlives its seconds is killed. Idempotent."""
        running = [child for child in self.children.values() if child.process is not None]
        for child in self.children.values():
            if child.process is None and child.state is not State.DONE:
                child.state = State.STOPPED
        for child in running:
            if child.program.drain is not None and child.state is State.READY:
                child.program.drain()
        already = self.interrupted
        for stage in sorted({child.program.stop_stage for child in running}):
            self._stop_together([child for child in running if child.program.stop_stage == stage], already)

    def _stop_together(self, children: list[Child], already: int) -> None:
        for child in children:
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(child.program.stop_signal)
        begun = time.monotonic()
        while remaining := [child for child in children if child.process is not None]:
            for child in remaining:
                if child.process is None:
                    continue
                limit = _HURRY_SECONDS if self.interrupted > already else child.program.stop_seconds
                if child.process.poll() is None and time.monotonic() - begun > limit:
                    os.killpg(child.process.pid, signal.SIGKILL)
                    child.process.wait()
                if child.process.poll() is not None:
                    child.ended = describe_exit(child.process.returncode)
                    child.process = None
                    self._enter(child, State.STOPPED, "stopped")
            time.sleep(0.02)


def boot(programs: Iterable[Program], timeout_seconds: float = 60) -> Supervisor:
    """Start programs and wait until they are ready; nothing is left running if they cannot be. Call `stop` after."""
    supervisor = Supervisor(programs)
    try:
        supervisor.boot(timeout_seconds)
    except BaseException:
        supervisor.stop()
        raise
    return supervisor
