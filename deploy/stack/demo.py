"""`guildhall demo`: boot the suite in a temporary folder on ports of its own, play the story, take it down."""

import os
import shutil
import tempfile
import threading
from pathlib import Path

from rich.console import Console

from deploy.stack import settings as stack_settings
from deploy.stack import suite, up
from deploy.stack.settings import Settings, StackError
from deploy.stack.supervisor import Interrupted

# Away from the small offsets that people choose, and below Linux's ephemeral ports, which come and go.
_OFFSETS = range(16_000, 0, -1000)


def run(console: Console) -> bool:
    """Whether every step of the story held. The folder stays for a look if one did not."""
    folder = Path(tempfile.mkdtemp(prefix="guildhall-demo-"))
    settings = _settings(folder)
    console.print(f"a suite of its own in {folder}, gateway at {settings.gateway_url}", highlight=False, soft_wrap=True)
    held = False
    try:
        with up.supervised(settings, console) as (stack, supervisor):
            story = _Story(stack, console)
            story.start()
            supervisor.watch(lambda: not story.is_alive())
            held = story.held
    except Interrupted:
        console.print("stopped before it was ready")
    if held:
        shutil.rmtree(folder)
    else:
        console.print(f"[red]the demo failed[/]; logs are in {settings.layout.logs}", highlight=False, soft_wrap=True)
    return held


class _Story(threading.Thread):
    """Plays beside the main thread, which goes on watching the children. It must start no process itself."""

    def __init__(self, stack: suite.Suite, console: Console) -> None:
        super().__init__(name="story", daemon=True)
        self.held = False
        self._stack = stack
        self._console = console

    def run(self) -> None:
        """Play; `held` tells afterwards whether every step held."""
        from deploy.stack import story

        settings = self._stack.settings
        try:
            self.held = story.play(settings.gateway_address, settings.layout.mail, self._console)
        except Exception:
            self._console.print_exception()


def _settings(folder: Path) -> Settings:
    for offset in _OFFSETS:
        environment = {
            "GUILDHALL_DATA_DIR": str(folder),
            "GUILDHALL_PORT_OFFSET": str(offset),
            "GUILDHALL_LOG_LEVEL": os.environ.get("GUILDHALL_LOG_LEVEL", "info"),
        }
        settings = stack_settings.load(environment)
        if not suite.taken_ports(settings):
            return settings
    raise StackError("no free range of ports for a second stack")
