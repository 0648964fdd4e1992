"""The suite under test: two replicas of each service in a temporary folder, and everything that can be done to it.

Its supervisor lives in the main thread (a child dies with the thread that started it), the scenarios in another one;
what touches a process is handed over.
"""

import asyncio
import copy
import os
import queue
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil
import psycopg

from deploy.stack import gateway, suite
from deploy.stack.processes import Program, describe_exit
from deploy.stack.settings import SERVICES, Settings, StackError, instance_name, load
from deploy.stack.supervisor import Child, State, Supervisor
from tests.support.backends import reserve
from tests.support.limits import OUT_OF_THE_WAY

T = TypeVar("T")
REPLICAS = 2
READY_SECONDS = 60
BOOT_SECONDS = 120
_AWAY = float("inf")
_STOP_SECONDS = 40
"""Longer than a service takes at most: its drain, and 20 s for the last calls."""


@dataclass(frozen=True)
class Restart:
    """How one process was replaced."""

    ended: str
    stop_seconds: float
    away_seconds: float
    """From its end until the gateway sends calls to its successor."""


class Cluster:
    """One running suite. Its async methods are for the scenarios' thread."""

    def __init__(self, stack: suite.Suite, supervisor: Supervisor) -> None:
        self.stack = stack
        self.settings: Settings = stack.settings
        self._supervisor = supervisor
        self._asked: queue.Queue[tuple[Callable[[], Any], Future[Any]]] = queue.Queue()
        self._declared = {name: child.program for name, child in supervisor.children.items()}
        self._gateway, self._gateway_settings = "envoy", stack.settings

    @property
    def folder(self) -> Path:
        """Its data directory."""
        return self.settings.layout.data

    def serve_main_thread(self, until: Callable[[], bool]) -> None:
        """Watches the children and does what the scenarios ask, until told to stop."""

        def look() -> bool:
            self._do_asked()
            return until()

        self._supervisor.watch(look)

    def _do_asked(self) -> None:
        while not self._asked.empty():
            work, answer = self._asked.get()
            try:
                answer.set_result(work())
            except Exception as error:
                answer.set_exception(error)

    async def _do(self, work: Callable[[], T]) -> T:
        answer: Future[T] = Future()
        self._asked.put((work, answer))
        return await asyncio.wrap_future(answer)

    def pids(self) -> Mapping[str, int | None]:
        """The process that runs each program now."""
        return {name: child.pid for name, child in self._supervisor.children.items()}

    def replicas(self, service: str) -> list[str]:
        """The names of a service's processes."""
        return [instance_name(service, replica) for replica in range(self.settings.replicas)]

    def kill(self, name: str) -> float:
        """kill -9 of one process, at once; when that was, on time.monotonic()'s clock."""
        child = self._supervisor.children[name]
        pid = child.pid
        if pid is None:
            raise RuntimeError(f"{name} does not run")
        child.crashes = 0  # it is us who end it: it is not to be punished by a longer wait each time
        os.kill(pid, signal.SIGKILL)
        return time.monotonic()

    def kill_with_children(self, name: str) -> float:
        """kill -9 of a process and of all that it has started."""
        child = self._supervisor.children[name]
        if child.pid is None:
            raise RuntimeError(f"{name} does not run")
        child.crashes = 0
        parent = psutil.Process(child.pid)
        for process in [parent, *parent.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return time.monotonic()

    async def keep_down(self, name: str) -> float:
        """kill -9, and it is not started again until `bring_up`; when that was."""
        child = self._supervisor.children[name]

        def end() -> float:
            killed_at = self.kill(name)
            if child.process is not None:
                child.process.wait()
            self._supervisor.step()
            child.next_at = _AWAY
            return killed_at

        return await self._do(end)

    async def bring_up(self, name: str) -> None:
        """Starts again what was kept down, and waits until it is ready."""
        child = self._supervisor.children[name]

        def start() -> None:
            child.next_at = 0.0

        await self._do(start)
        await self.ready(name)

    async def restart(self, name: str) -> Restart:
        """SIGTERM to one process, as an operator or an orchestrator ends it; waits until its successor is ready."""
        child = self._supervisor.children[name]

        def end() -> Any:
            if child.process is None:
                raise RuntimeError(f"{name} does not run")
            child.crashes = 0
            child.process.send_signal(signal.SIGTERM)
            return child.process

        process, told_at = await self._do(end), time.monotonic()
        while child.process is process:
            if time.monotonic() > told_at + _STOP_SECONDS:
                raise TimeoutError(f"{name} did not end within {_STOP_SECONDS} s of SIGTERM")
            await asyncio.sleep(0.02)
        ended_at = time.monotonic()
        await self.ready(name)
        return Restart(child.ended, ended_at - told_at, time.monotonic() - ended_at)

    async def replace_gateway(self, *, drain_seconds: float) -> str:
        """Starts a second Envoy on the first one's ports; the first sends its clients away, and is then ended: how.

        Without drain seconds it is ended at once, with what it has under way.
        """
        ports = copy.copy(self.settings.ports)
        is_first = self._gateway == "envoy"
        ports.envoy_admin += 1 if is_first else 0
        settings = replace(self.settings, ports=ports)
        name = "envoy-2" if is_first else "envoy"
        program = replace(gateway.program(settings), name=name)
        self._declared[name] = program
        await self._do(lambda: self._supervisor.children.update({name: Child(program)}))
        retired_name, self._gateway, self._gateway_settings = self._gateway, name, settings
        await self.ready(name)
        retired = self._supervisor.children[retired_name]
        process = retired.process
        if process is None or retired.program.drain is None:
            raise RuntimeError(f"{retired_name} does not run")
        if drain_seconds:
            await asyncio.to_thread(retired.program.drain)
            await asyncio.sleep(drain_seconds)

        def retire() -> None:
            del self._supervisor.children[retired_name], self._declared[retired_name]
            process.send_signal(signal.SIGTERM)

        await self._do(retire)
        return describe_exit(await asyncio.to_thread(process.wait, _STOP_SECONDS))

    async def add(self, program: Program) -> None:
        """Runs one program more; waits until it is ready."""
        self._declared[program.name] = program
        await self._do(lambda: self._supervisor.children.update({program.name: Child(program)}))
        await self.ready(program.name)

    async def remove(self, name: str) -> None:
        """Ends what was added."""

        def end() -> None:
            child = self._supervisor.children.pop(name)
            del self._declared[name]
            if child.process is not None:
                child.process.kill()
                child.process.wait()

        await self._do(end)

    def program(self, name: str) -> Program:
        """What a process was declared as."""
        return self._declared[name]

    async def run_as(
        self,
        service: str,
        *,
        launcher: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        worker: bool = False,
    ) -> None:
        """Has every replica of a service run by another command or with other settings; without any, as it was.

        Or its worker.
        """
        names = [f"{service}-worker"] if worker else self.replicas(service)
        for name in names:
            program = self._declared[name]
            if launcher:
                python, _, _, command = program.command
                program = replace(program, command=[python, "-m", "tests.faults.launch", service, *launcher, command])
            if environment:
                program = replace(program, environment={**program.environment, **environment})
            await self._restart_as(name, program)
        await self.ready(*names)

    async def heal(self) -> None:
        """After a scenario that broke off: everything runs again as it was declared."""
        for name, child in self._supervisor.children.items():
            if child.program is not self._declared[name]:
                await self._restart_as(name, self._declared[name])
            child.next_at = min(child.next_at, time.monotonic())
        await self.ready()

    async def _restart_as(self, name: str, program: Program) -> None:
        child = self._supervisor.children[name]

        def swap() -> None:
            child.program = program
            self.kill(name)
            if child.process is not None:
                child.process.wait()
            self._supervisor.step()

        await self._do(swap)
        await self.ready(name)

    async def ready(self, *names: str) -> None:
        """Waits until programs are ready (all, if none is named), and Envoy knows every replica as healthy."""
        children = [child for name, child in self._supervisor.children.items() if not names or name in names]
        deadline = time.monotonic() + READY_SECONDS
        while not (
            all(child.pid is not None or child.program.one_shot for child in children)
            and all(child.state in (State.READY, State.DONE) for child in children)
            and await asyncio.to_thread(gateway.is_ready, self._gateway_settings.ports.envoy_admin)
        ):
            if time.monotonic() > deadline:
                states = ", ".join(f"{child.program.name}: {child.state}" for child in children)
                raise TimeoutError(f"not ready after {READY_SECONDS} s: {states}")
            await asyncio.sleep(0.05)

    async def admin(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        """A superuser's connection to the suite's database, in autocommit."""
        postgres = self.stack.postgres
        return await psycopg.AsyncConnection.connect(
            postgres.url("postgres", "guildhall"),
            password=postgres.password_file.read_text(),
            connect_timeout=2,
            autocommit=True,
        )


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Boots the suite; it is stopped at the end. For the main thread."""
    settings = _free_settings(folder)
    stack = suite.prepare(settings)
    try:
        with Supervisor(stack.programs()) as supervisor:
            supervisor.handle_signals()
            supervisor.boot(BOOT_SECONDS)
            yield Cluster(stack, supervisor)
    finally:
        shutil.rmtree(settings.layout.sockets, ignore_errors=True)


def _free_settings(folder: Path) -> Settings:
    """On ports that nobody has, taken at random: two runs that start at once should not want the same.

    GUILDHALL_PORT_OFFSET names them instead.
    """
    named = os.environ.get("GUILDHALL_PORT_OFFSET")
    offsets = [int(named)] if named else random.sample(range(1000, 17000, 1000), 16)
    for offset in offsets:
        environment = {
            "GUILDHALL_DATA_DIR": str(folder),
            "GUILDHALL_PORT_OFFSET": str(offset),
            # A few senders make all of the load: what is looked for here is not where they are stopped.
            "GUILDHALL_MESSAGES_PER_SECOND_OF_SENDER": "1000000",
            "GUILDHALL_MESSAGES_PER_SECOND_OF_WORKSPACE": "1000000",
            **OUT_OF_THE_WAY,
            "GUILDHALL_LOG_LEVEL": os.environ.get("GUILDHALL_LOG_LEVEL", "warning"),
        }
        found = load(environment, replicas=REPLICAS)
        # Two runs that begin at once both find a range free.
        if reserve(offset) and not suite.taken_ports(found):
            return found
    raise StackError("no free range of ports")


def own_processes(pids: Mapping[str, int | None]) -> dict[str, int | None]:
    """Those that are ours: services, workers and beat."""
    return {name: pid for name, pid in pids.items() if name.startswith((*SERVICES, "beat"))}
