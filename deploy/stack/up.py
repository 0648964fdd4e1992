"""`guildhall up`: run the suite in the foreground, or start it in the background and wait until it is ready."""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.text import Text

from deploy.stack import backups, runs, suite
from deploy.stack.processes import PROJECT, Program, last_lines
from deploy.stack.settings import Settings
from deploy.stack.supervisor import Child, Interrupted, State, Supervisor

_INTERRUPTED = 130  # what a shell gives for a command ended by Ctrl-C
_EXAMPLE = ("guildhall.membership.v1.WorkspaceService/CreateWorkspace", '{"name": "Example"}')


class Reporter:
    """Tells the console what happens to the children, and keeps `run.json` up to date."""

    def __init__(self, settings: Settings, console: Console, status: Status | None = None) -> None:
        self.ready = False
        self.children: dict[str, Child] = {}
        self._settings = settings
        self._console = console
        self._status = status
        self._begun = time.monotonic()

    def notify(self, child: Child, event: str) -> None:
        """What the supervisor calls at each change."""
        runs.record(self._settings, self.children, ready=self.ready)
        # The terminal may have been closed: that must not keep the rest from being stopped.
        with contextlib.suppress(OSError):
            self._tell(child, event)

    def _tell(self, child: Child, event: str) -> None:
        if event == "ready" and (not self.ready or child.restarts):
            elapsed = time.monotonic() - self._begun
            self._console.print(f"  [green]✓[/] {child.program.name} [dim]{elapsed:.1f} s[/]", highlight=False)
        if event == "crashed":
            self._print_crash(child)
        if self._status is not None:
            doing, state = ("stopping", State.READY) if event == "stopped" else ("waiting for", State.STARTING)
            names = [name for name, found in self.children.items() if found.state is state]
            self._status.update(f"{doing} {', '.join(names)}")

    def _print_crash(self, child: Child) -> None:
        again = "restarting" if child.state is State.BACKOFF else child.state
        self._console.print(f"[red]✗ {child.program.name}: {child.ended}[/], {again}; the last lines of its log:")
        for line in child.report or ["(nothing)"]:
            self._console.print(Text(f"    {line}", style="dim"), soft_wrap=True)

    def mark_ready(self) -> None:
        """From now on only restarts are told."""
        self.ready = True
        runs.record(self._settings, self.children, ready=True)


@contextmanager
def supervised(
    settings: Settings, console: Console, *, only_migrations: bool = False
) -> Iterator[tuple[suite.Suite, Supervisor]]:
    """Lock the data directory, boot the suite in it, and stop it at the end, however that comes.

    `Interrupted` is raised out of the boot. Only for a main thread: it takes over Ctrl-C and SIGTERM.
    """
    os.umask(0o077)
    settings.layout.create()
    lock = runs.RunLock(settings.layout.data)
    try:
        if not only_migrations:
            suite.require_free_ports(settings)
        stack = suite.prepare(settings)
        if not only_migrations:
            backups.record_store(settings)
        with console.status("starting") as status:
            reporter = Reporter(settings, console, status if console.is_terminal else None)
            programs: list[Program] = stack.migration_programs() if only_migrations else stack.programs()
            supervisor = Supervisor(programs, reporter.notify)
            reporter.children = supervisor.children
            supervisor.handle_signals()
            with supervisor:
                supervisor.boot()
                reporter.mark_ready()
                status.stop()
                yield stack, supervisor
                with contextlib.suppress(OSError):
                    status.update("stopping")
                    status.start()
    finally:
        shutil.rmtree(settings.layout.sockets, ignore_errors=True)
        lock.release()


def run(settings: Settings, console: Console) -> int:
    """Run until Ctrl-C, SIGTERM or `guildhall down`. Returns the exit code."""
    begun = time.monotonic()
    try:
        with supervised(settings, console) as (_, supervisor):
            print_summary(settings, console, time.monotonic() - begun)
            console.print("Ctrl-C stops everything.")
            supervisor.watch(lambda: False)
    except Interrupted:
        console.print("stopped before it was ready")
        return _INTERRUPTED
    console.print("stopped")
    return 0


def run_detached(settings: Settings, console: Console) -> int:
    """Start the suite in the background and return when it is ready, or with its exit code if it ends before."""
    begun = time.monotonic()
    settings.layout.create()
    if (pid := runs.find_pid(settings.layout.data)) is not None:
        raise runs.already_running(settings.layout.data, pid)
    log_file = settings.layout.logs / "up.log"
    log_start = log_file.stat().st_size if log_file.exists() else 0
    command = [sys.executable, "-m", "deploy.stack.cli", "up", "--replicas", str(settings.replicas)]
    environment = {**os.environ, "GUILDHALL_DATA_DIR": str(settings.layout.data)}
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        with console.status("starting in the background"):
            shown: set[str] = set()
            while (run := runs.find(settings.layout.data)) is None or run.pid != process.pid or not run.ready:
                for child in run.children if run is not None else []:
                    if child.state in (State.READY, State.DONE) and child.name not in shown:
                        shown.add(child.name)
                        console.print(f"  [green]✓[/] {child.name}", highlight=False)
                if process.poll() is not None:
                    for line in last_lines(log_file, start=log_start, count=40):
                        if "✓" not in line:
                            console.print(Text(line), soft_wrap=True)
                    return process.returncode
                time.sleep(0.1)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        return _INTERRUPTED
    print_summary(settings, console, time.monotonic() - begun)
    stop = f"{_environment_prefix()}{' '.join(own_command())} down"
    console.print(Text(f"It runs in the background (pid {process.pid}). To stop it: {stop}"), soft_wrap=True)
    return 0


def print_summary(settings: Settings, console: Console, seconds: float) -> None:
    """Where the suite is, and two lines to copy that call it."""
    method, body = _EXAMPLE
    token = f'"authorization: Bearer $({_environment_prefix()}{" ".join(own_command())} token you@example.com)"'
    grpcurl = f"{_executable('grpcurl')} -plaintext -H {token} -d '{body}' {settings.gateway_address} {method}"
    buf = f"{_executable('buf')} curl --protocol grpc --http2-prior-knowledge -H {token} -d '{body}'"
    console.print(f"\n[bold green]Guildhall is ready[/] after {seconds:.1f} s\n", highlight=False)
    lines = {
        "gateway": f"{settings.gateway_url} (gRPC, gRPC-Web, JSON), TLS on port {settings.ports.gateway_tls}",
        "list": f"{_executable('grpcurl')} -plaintext {settings.gateway_address} list",
        "grpcurl": grpcurl,
        "buf": f"{buf} {settings.gateway_url}/{method}",
        "mail": str(settings.layout.mail),
        "logs": str(settings.layout.logs),
        "CA": str(settings.layout.certificates / "ca.pem"),
    }
    if settings.told_public_url:
        lines["site"] = f"{settings.public_url}, where links in mails lead"
    for name, line in lines.items():
        # Not wrapped: a broken line cannot be copied into a shell.
        console.print(Text(f"  {name:8} {line}"), soft_wrap=True)
    console.print()


def own_command() -> list[str]:
    """How this program is called again from the same folder."""
    called = Path(sys.argv[0])
    if called.name != "guildhall":
        return [_relative(Path(sys.executable)), "-m", "deploy.stack.cli"]
    return [_executable("guildhall")]


def _executable(name: str) -> str:
    """A command's name where the shell finds it, else its path beside our own interpreter."""
    beside = Path(sys.executable).parent / name
    return name if shutil.which(name) or not beside.exists() else _relative(beside)


def _relative(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _environment_prefix() -> str:
    folder = os.environ.get("GUILDHALL_DATA_DIR")
    return f"GUILDHALL_DATA_DIR={shlex.quote(folder)} " if folder else ""
