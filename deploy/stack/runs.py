"""The run of a stack on a data directory: at most one at a time, and what other commands can learn about it."""

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from deploy.stack.settings import Ports, Settings, StackError
from deploy.stack.supervisor import Child

_LOCK_SECONDS = 0.5


@dataclass(frozen=True)
class ChildRecord:
    """One child process, as `guildhall status` shows it."""

    name: str
    state: str
    pid: int | None
    restarts: int
    started_at: float
    health_port: int | None


@dataclass(frozen=True)
class Run:
    """A running stack, as its `run.json` tells. `ready` stays true once everything has been ready."""

    pid: int
    ready: bool
    gateway_address: str
    mail: str
    logs: str
    children: list[ChildRecord]
    replicas: int = 1
    port_offset: int | None = None
    """None while it has written nothing yet."""


class RunLock:
    """The lock on a data directory that one `up` (or `migrate`) holds for as long as it lives, however it dies."""

    def __init__(self, data: Path) -> None:
        self._descriptor = os.open(_lock_file(data), os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + _LOCK_SECONDS
        # Tried for a moment: `find` holds the lock, shared, for the instant of its look.
        while not _try_lock(self._descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                pid = int(os.pread(self._descriptor, 20, 0) or b"0")
                os.close(self._descriptor)
                raise already_running(data, pid)
            time.sleep(0.02)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        _run_file(data).unlink(missing_ok=True)

    def release(self) -> None:
        """Let the next run begin."""
        os.close(self._descriptor)


def already_running(data: Path, pid: int) -> StackError:
    """What to raise where a run is found that must not be there."""
    return StackError(f"already running on {data} (pid {pid}); `guildhall status` shows it, `guildhall down` stops it")


def record(settings: Settings, children: dict[str, Child], *, ready: bool) -> None:
    """Write what the stack of this process is now."""
    run = Run(
        pid=os.getpid(),
        ready=ready,
        gateway_address=settings.gateway_address,
        mail=str(settings.layout.mail),
        logs=str(settings.layout.logs),
        children=[
            ChildRecord(name, child.state, child.pid, child.restarts, child.started_at, child.program.health_port)
            for name, child in children.items()
        ],
        replicas=settings.replicas,
        port_offset=settings.ports.offset,
    )
    file = _run_file(settings.layout.data)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(run), indent=1))
    partial.replace(file)


def find(data: Path) -> Run | None:
    """The stack that runs on this data directory now; None if there is none."""
    pid = find_pid(data)
    if pid is None:
        return None
    try:
        values = json.loads(_run_file(data).read_text())
    except FileNotFoundError:
        return Run(pid, False, "", "", "", [])
    return Run(**{**values, "children": [ChildRecord(**child) for child in values["children"]]})


def as_running(settings: Settings) -> Settings:
    """The settings with the ports and the replicas of the suite that runs on their data directory, if one does.

    With those of this process, whose environment may be another, one would ask another suite.
    """
    run = find(settings.layout.data)
    if run is None or run.port_offset is None:
        return settings
    return replace(settings, ports=Ports(run.port_offset), replicas=run.replicas)


def find_pid(data: Path) -> int | None:
    """The process that holds the lock; the lock, not the pid alone, proves that it lives."""
    try:
        descriptor = os.open(_lock_file(data), os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        if _try_lock(descriptor, fcntl.LOCK_SH):
            return None
        return int(os.pread(descriptor, 20, 0) or b"0") or None
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_file(data: Path) -> Path:
    return data / "run.lock"


def _run_file(data: Path) -> Path:
    return data / "run.json"
