"""S7: what an idle subscriber costs in memory, and how long a warm start takes."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from deploy.stack.processes import PROJECT
from tests.load.delivery import hang_up, listen
from tests.load.lab import Figure, Lab
from tests.load.system import free_settings

GOAL_KIB = 60
GOAL_UP_SECONDS = 15
_IDLE = 500
_WARMING = 50
_SETTLE_SECONDS = 5
_COMMAND_SECONDS = 120


def warm_up_seconds(console: Console) -> float:
    """How long `guildhall up --detach` takes, command and all, on data that is there already."""
    folder = Path(tempfile.mkdtemp(prefix="guildhall-load-up-"))
    settings = free_settings(folder)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GUILDHALL_")},
        "GUILDHALL_DATA_DIR": str(folder),
        "GUILDHALL_PORT_OFFSET": str(settings.ports.offset),
    }

    def guildhall(*arguments: str) -> float:
        begun = time.monotonic()
        command = [sys.executable, "-m", "deploy.stack.cli", *arguments]
        subprocess.run(command, cwd=PROJECT, env=environment, check=True, capture_output=True, timeout=_COMMAND_SECONDS)
        return time.monotonic() - begun

    try:
        with console.status("S7: a first start, to have data"):
            guildhall("up", "--detach")
            guildhall("down")
        with console.status("S7: a warm start"):
            seconds = guildhall("up", "--detach")
            guildhall("down")
    finally:
        subprocess.run([sys.executable, "-m", "deploy.stack.cli", "down"], cwd=PROJECT, env=environment, check=False,
                       capture_output=True, timeout=_COMMAND_SECONDS)  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(settings.layout.sockets, ignore_errors=True)
    return seconds


async def s7(lab: Lab, up_seconds: float) -> Figure:
    """Resident memory of messaging per idle subscriber, and `up` warm to ready.

    Must be measured before other scenarios: memory that they have left behind would hide what the streams take.
    """
    warming = await listen(lab, _WARMING)  # what the first streams cost is not of each
    await hang_up(warming)
    before = await _settled(lab)
    running = await listen(lab, _IDLE)
    after = await _settled(lab)
    await hang_up(running)
    grown = {name: after[name] - before[name] for name in after}
    kib = grown["messaging"] / _IDLE
    detail = {
        "up_seconds": round(up_seconds, 1),
        "up_goal_seconds": GOAL_UP_SECONDS,
        "subscribers": _IDLE,
        "messaging_kib_before": before["messaging"],
        "messaging_kib_after": after["messaging"],
        "envoy_kib_per_subscriber": round(grown["envoy"] / _IDLE, 1),
    }
    return Figure(kib, GOAL_KIB, kib <= GOAL_KIB and up_seconds <= GOAL_UP_SECONDS, detail)


async def _settled(lab: Lab) -> dict[str, int]:
    """Resident memory once what was started has been done with. Here time itself is waited for: there is no sign."""
    lab.show("letting the memory settle")
    await asyncio.sleep(_SETTLE_SECONDS)
    return {name: lab.inside.resident_kib(name) for name in ("messaging", "envoy")}
