"""Run load scenarios: `python -m tests.load [S1 S2 … curve]`, all but the soak by default.

The suite under load is booted for the run, unless `--target` and `--mail-dir` name one that runs elsewhere: then what
needs its database or its processes is left out. LOAD_SECONDS (60) is the length of the long phases.
"""

import argparse
import asyncio
import contextlib
import functools
import os
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.stack.supervisor import Interrupted
from tests.load import (
    attacks,
    delivery,
    enumeration,
    footprint,
    overload,
    picture,
    reading,
    report,
    searching,
    session_ends,
    signing_in,
    soak,
    throughput,
)
from tests.load import uploads as uploading
from tests.load.callers import TakingTurns, Turn
from tests.load.generator import Generator, JobFailedError
from tests.load.lab import Figure, Lab, Watch
from tests.load.people import gather
from tests.load.system import System, booted
from tests.load.wire import ECHO

CURVE = "curve"
REPORT = Path(".guildhall/load.json")
PICTURE = Path("docs/throughput.svg")
FEW_PEOPLE = 8
BUSY = 0.1
"""Above this share of the processors, other work of the machine is part of what was measured."""


@dataclass(frozen=True)
class Scenario:
    """One of S1 to S8, or of what else is a matter of time."""

    title: str
    measure: Callable[..., Awaitable[Figure]]
    from_outside: bool = False
    needs_echo: bool = False
    people: int = FEW_PEOPLE
    by_default: bool = True


# In the order in which they run: S7 wants processes that have done little, and S5 leaves two million rows behind.
SCENARIOS = {
    "S7": Scenario("memory per idle subscriber", footprint.s7, people=delivery.PEOPLE),
    "S6": Scenario("BatchCheckAccess of 100 ÷ of 1", reading.s6, people=delivery.PEOPLE),
    "A3": Scenario("sign-in and mails: known ÷ unknown", enumeration.a3),
    "S3": Scenario("one caller: p50 ÷ echo", throughput.s3, from_outside=True, needs_echo=True),
    "S1": Scenario("SendMessage, 64 callers ÷ echo", throughput.s1, from_outside=True, needs_echo=True),
    "S2": Scenario("PublishMessages, 8 streams ÷ echo", throughput.s2, from_outside=True, needs_echo=True),
    "S4": Scenario("500 subscribers, 50/s: p99", delivery.s4, from_outside=True, people=delivery.PEOPLE),
    "sign-ins": Scenario("p99 beside 50 sign-ins at once ÷ at rest", signing_in.sign_ins, from_outside=True),
    "attacks": Scenario("p99 beside slow clients and floods ÷ at rest", attacks.attacks, from_outside=True),
    "sessions": Scenario("session ended: its streams end, s", session_ends.sessions_end),
    "uploads": Scenario("memory of 100 uploads of 20 MiB at once", uploading.uploads),
    "S8": Scenario("goodput at 5 × the knee", overload.s8, from_outside=True),
    "S5": Scenario("ListMessages, 2 000 000 ÷ 10 000 stored", reading.s5),
    "soak": Scenario("memory gained in a soak, MiB/h", soak.soak, by_default=False),
    "search": Scenario("SearchMessages in 2 000 000: the worst p95", searching.search),
}


@dataclass
class Run:
    """What is to be measured, and what came of it."""

    wanted: Sequence[str]
    seconds: float
    console: Console
    up_seconds: float = 0.0
    figures: dict[str, Figure] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    also: dict[str, Any] = field(default_factory=dict)
    failed: bool = False

    async def measure(self, system: System) -> None:
        """Measure everything that was asked for and can be measured here."""
        names = [name for name in SCENARIOS if name in self.wanted]
        with progress(self.console) as show, generators() as (callers, listeners):
            people = max((SCENARIOS[name].people for name in names), default=FEW_PEOPLE)
            show(f"signing up {people} people")
            crowd = await gather(system, people)
            lab = Lab(system, crowd, self.seconds, show, callers, listeners)
            has_echo = system.booted is not None or await _has_echo(lab)
            for name in names:
                scenario = SCENARIOS[name]
                if system.booted is None and not scenario.from_outside:
                    self.left_out[name] = "not measurable from outside"
                elif scenario.needs_echo and not has_echo:
                    self.left_out[name] = "not measurable from outside: there is no echo behind that gateway"
                else:
                    lab.show = functools.partial(_show_as, show, name)
                    await self._measure_one(name, lab)
            if CURVE in self.wanted and has_echo:
                lab.show = functools.partial(_show_as, show, CURVE)
                self.also[CURVE] = await throughput.curve(lab)

    async def _measure_one(self, name: str, lab: Lab) -> None:
        arguments = (self.up_seconds,) if name == "S7" else ()
        watch = Watch(lab)
        try:
            figure = await SCENARIOS[name].measure(lab, *arguments)
        except (JobFailedError, grpc.RpcError, OSError, TimeoutError) as error:
            # One scenario that breaks must not take the figures of the others with it.
            self.failed = True
            self.left_out[name] = f"broke: {str(error).strip().splitlines()[-1]}"
            self.console.print(f"[red]{name} broke[/]\n{error}", highlight=False, soft_wrap=True)
            # What it left running in the generators would disturb the next.
            for kind in ("callers", "listeners"):
                getattr(lab, kind).stop()
                setattr(lab, kind, Generator())
            return
        figure.detail["processors_elsewhere"] = round(watch.elsewhere(), 3)
        self.figures[name] = figure
        verdict = "[green]holds[/]" if figure.holds else "[red]fails[/]"
        remark = report.remark(name, figure)
        self.console.print(f"{name} {figure.value:.3g} {verdict} [dim]{remark}[/]", highlight=False, soft_wrap=True)

    def finish(self) -> int:
        """Print the table, write the files, and return the exit status."""
        titles = {name: SCENARIOS[name].title for name in sorted(SCENARIOS)}
        self.console.print(report.table(titles, self.figures, self.left_out))
        if busy := [name for name, figure in self.figures.items() if figure.detail["processors_elsewhere"] > BUSY]:
            self.console.print(f"[yellow]the machine had other work besides, measure again:[/] {', '.join(busy)}")
        report.write(REPORT, self.figures, self.also)
        self.console.print(f"the details are in {REPORT}", highlight=False)
        if CURVE in self.also:
            note = f"{os.cpu_count()} cores with everything on them, the load generator included; all checks on"
            PICTURE.write_text(picture.draw(self.also[CURVE]["points"], note))
            self.console.print(f"the picture is {PICTURE}", highlight=False)
        return 0 if not self.failed and all(figure.holds for figure in self.figures.values()) else 1


def _show_as(show: Callable[[str], None], name: str, what: str) -> None:
    show(f"{name} {what}")


async def _has_echo(lab: Lab) -> bool:
    token = (await lab.crowd.tokens(lab.system, 1))[0]
    try:
        await lab.run(TakingTurns([Turn("echo", lab.system.target, ECHO, token)], 0, 1), "looking for an echo")
    except JobFailedError:
        return False
    return True


@contextlib.contextmanager
def progress(console: Console) -> Iterator[Callable[[str], None]]:
    """A line that says what is going on, and for how long; on no terminal, a line per change of subject."""
    last = ""

    def print_subject(what: str) -> None:
        nonlocal last
        subject = what.partition(":")[0]
        if subject != last:
            last = subject
            console.print(f"[dim]{subject}[/]", highlight=False, soft_wrap=True)

    if not console.is_terminal:
        yield print_subject
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=2, transient=True) as shown:
        task = shown.add_task("", total=None)
        yield lambda what: shown.update(task, description=what)


@contextlib.contextmanager
def generators() -> Iterator[tuple[Generator, Generator]]:
    """One process for callers and one for listeners: neither's work delays the other's clock."""
    pair = Generator(), Generator()
    try:
        yield pair
    finally:
        for generator in pair:
            generator.stop()


def _measure(run: Run, system: System) -> None:
    """Measure; what keeps it from being measured at all (people who cannot sign up, say) is told and fails the run."""
    try:
        asyncio.run(run.measure(system))
    except (grpc.RpcError, OSError, JobFailedError) as error:
        run.failed = True
        run.console.print(f"[red]nothing could be measured[/]: {error}", highlight=False, soft_wrap=True)
    except Exception:
        run.failed = True
        run.console.print(traceback.format_exc(), highlight=False, soft_wrap=True)


def _measure_in_thread(run: Run, system: System) -> threading.Thread:
    """Beside the main thread, which goes on watching the suite's processes."""

    thread = threading.Thread(target=_measure, args=(run, system), name="scenarios", daemon=True)
    thread.start()
    return thread


def main() -> int:
    """The command line. 0 if all that ran hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"{', '.join(sorted(SCENARIOS))}, {CURVE}")
    parser.add_argument("--target", help="HOST:PORT of the gateway of a suite that runs elsewhere")
    parser.add_argument("--mail-dir", type=Path, help="where that suite writes its mails")
    arguments = parser.parse_args()
    wanted = arguments.scenarios or sorted(name for name, scenario in SCENARIOS.items() if scenario.by_default)
    if unknown := set(wanted) - {*SCENARIOS, CURVE}:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    if bool(arguments.target) != bool(arguments.mail_dir):
        parser.error("--target and --mail-dir go together")
    console = Console()
    run = Run(wanted, float(os.environ.get("LOAD_SECONDS", "60")), console)
    if arguments.target:
        _measure(run, System(arguments.target, arguments.mail_dir))
        return run.finish()
    if "S7" in wanted:
        run.up_seconds = footprint.warm_up_seconds(console)
    try:
        with booted(console) as system:
            assert system.booted is not None
            thread = _measure_in_thread(run, system)
            system.booted.supervisor.watch(lambda: not thread.is_alive())
            if thread.is_alive():
                raise Interrupted
    except Interrupted:
        console.print("stopped")
        return 130
    return run.finish()


if __name__ == "__main__":
    sys.exit(main())
