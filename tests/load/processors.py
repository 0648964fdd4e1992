"""Who has used how much processor time, from /proc."""

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def process_seconds(pid: int) -> float:
    """User and system time of a process so far; 0 if it has ended."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0


def tree_seconds(pid: int) -> float:
    """The same with its children, also with those that have ended: a PostgreSQL session is a child."""
    fields = _stat(pid)
    ended = (int(fields[13]) + int(fields[14])) / _TICKS if fields else 0.0
    return process_seconds(pid) + ended + sum(map(tree_seconds, _children(pid)))


def machine_seconds() -> float:
    """What all processors of this machine together have worked since it started."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = map(int, fields)
    return (user + nice + system + interrupts + soft_interrupts + stolen) / _TICKS


def _stat(pid: int) -> list[str]:
    """The fields after the program's name, which may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _children(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []
