"""The processes: do they run, do they answer, and may they open as many files as they will need?"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from deploy.stack import health
from deploy.stack.doctor.findings import Finding, fail, ok, warn
from deploy.stack.runs import ChildRecord, Run
from deploy.stack.settings import Settings

_HEALTH_SECONDS = 3.0
_OLDEST_PYTHON = (3, 11)
_FEWEST_FILES = 4096
_CROWDED = 0.8
_RECENT_SECONDS = 3600
_GIB = 1 << 30


def check_children(run: Run, settings: Settings) -> Iterator[Finding]:
    """Each process of the suite."""
    for child in run.children:
        if child.state != "done":  # a migration, which has ended
            yield _check_child(child, settings)


def _check_child(child: ChildRecord, settings: Settings) -> Finding:
    check, log = f"process {child.name}", settings.layout.logs / f"{child.name}.log"
    if child.pid is None or child.state in ("restarting", "stopped"):
        return fail(check, f"{child.state}, {child.restarts} restarts", f"read why it ends: tail -n 50 {log}")
    state = _state_of(child.pid)
    if state == "T":
        return fail(check, f"pid {child.pid} was halted (SIGSTOP)", f"let it go on: kill -CONT {child.pid}")
    if state in ("", "Z"):
        return fail(check, f"pid {child.pid} is gone", f"read why it ended: tail -n 50 {log}")
    if child.health_port is not None:
        answer = health.health(child.health_port, _HEALTH_SECONDS)
        if answer != "SERVING":
            seen = f"pid {child.pid}, health on port {child.health_port}: {answer}"
            return fail(
                check, seen, f"read its log: tail -n 50 {log}; if it hangs, kill -9 {child.pid}: it is restarted"
            )
    if child.restarts and time.time() - child.started_at < _RECENT_SECONDS:
        return warn(check, f"runs, after {child.restarts} restarts", f"read why it ended: tail -n 50 {log}")
    return ok(check, f"runs, pid {child.pid}")


def check_open_files(run: Run) -> Iterator[Finding]:
    """The limit on open files of each service, Envoy and PostgreSQL; every stream and connection is one."""
    worst: Finding | None = None
    least = sys.maxsize
    for child in run.children:
        if child.pid is None:
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile, which another check tells
            limit, count = _files_of(child.pid)
            least = min(least, limit)
            seen = f"{child.name} has {count} open, of {limit} allowed"
            advice = f"raise it for this process: prlimit --pid {child.pid} --nofile=65536; for good: ulimit -n 65536"
            if count > _CROWDED * limit:
                worst = fail("open files", seen, f"{advice}, then guildhall down and up")
            elif limit < _FEWEST_FILES and worst is None:
                worst = warn("open files", seen, f"{advice}, then guildhall down and up")
    yield worst or ok("open files", f"at least {least} allowed for each process")


def check_disk(settings: Settings, *, least_free_gib: float) -> Iterator[Finding]:
    """Room where the data is: without it PostgreSQL stops taking writes."""
    for name, folder in (("data", settings.layout.data), ("sockets", settings.layout.sockets)):
        if not folder.exists():
            continue
        usage = shutil.disk_usage(folder)
        seen = f"{usage.free / _GIB:.1f} GiB free of {usage.total / _GIB:.1f} in {folder}"
        advice = (
            f"see what takes it: du -xh --max-depth=2 {folder} | sort -h | tail; logs and mails may go, then add room"
        )
        if name == "sockets":
            if usage.free < 1 << 20:
                yield fail("disk sockets", seen, advice)
        elif usage.free < least_free_gib * _GIB:
            yield fail("disk", seen, advice)
        elif usage.free < 2 * least_free_gib * _GIB:
            yield warn("disk", seen, advice)
        else:
            yield ok("disk", seen)


def check_python() -> Iterator[Finding]:
    """The interpreter, which is that of the services too."""
    seen = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < _OLDEST_PYTHON:
        yield fail("python", seen, "Python 3.11 or newer is needed: make clean, then make PYTHON=python3.12 up")
    else:
        yield ok("python", seen)


def _state_of(pid: int) -> str:
    """A process's state as in proc(5); empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _files_of(pid: int) -> tuple[int, int]:
    """How many files a process may open, and how many it has open."""
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    soft = next(line for line in limits if line.startswith("Max open files")).split()[3]
    return (sys.maxsize if soft == "unlimited" else int(soft)), len(os.listdir(f"/proc/{pid}/fd"))
