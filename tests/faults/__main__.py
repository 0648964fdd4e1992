"""`python -m tests.faults [F1 F7 …]`: boots a suite of its own, runs the scenarios, reports.

FAULT_ROUNDS says how many rounds each has (5). The report is `.guildhall/faults.json`, and the table of
docs/reliability.md gets this run's rows; the exit status is 0 only if every scenario that ran holds and every negative
control failed.
"""

import asyncio
import datetime
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deploy.stack.settings import StackError
from deploy.stack.supervisor import Interrupted
from tests.faults import (
    access_lost,
    commit_answers_cut,
    database_killed,
    deliveries_tripled,
    edge_broken,
    page,
    process_stopped,
    replica_killed,
    rolling_restart,
    row_locked,
    schema_changed,
    statements_fail,
    wakes_lost,
    worker_killed,
)
from tests.faults.bench import Bench, Result
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.people import People

REPORT = Path(".guildhall/faults.json")
SCENARIOS: dict[str, tuple[str, Callable[[Bench], Awaitable[Result]]]] = {
    "F1": ("kill -9 a replica of each service", replica_killed.run),
    "F2": ("kill -9 all of PostgreSQL", database_killed.run),
    "F3": ("kill -9 Valkey, data gone", wakes_lost.run),
    "F4": ("kill -9 of workers in mid-task; two beats at once", worker_killed.run),
    "F5": ("SIGSTOP of each process", process_stopped.run),
    "F6": ("black hole and reset on each edge", edge_broken.run),
    "F7": ("the answer to COMMIT is cut", commit_answers_cut.run),
    "F8": ("rolling restart of services, workers and Envoy", rolling_restart.run),
    "F9": ("expand, fill and contract a table", schema_changed.run),
    "F10": ("each statement of each use case fails, in turn", statements_fail.run),
    "F11": ("every event and task delivered three times, shuffled", deliveries_tripled.run),
    "F12": ("access lost while secrets are posted", access_lost.run),
    "F13": ("one conversation's row locked for 2 s", row_locked.run),
}
_ONLY_IN_REPORT = ("control", "examples", "seconds", "model_by_case")
_SCENARIO_SECONDS = 300
"""For each round of a scenario: what takes longer has failed."""
_ONCE_SECONDS = {"F10": 2_400}
"""More, for what takes its time once, whatever the rounds."""


class Scenarios(threading.Thread):
    """Runs the scenarios beside the main thread, which looks after the processes."""

    def __init__(self, cluster: Cluster, names: Sequence[str], rounds: int, console: Console) -> None:
        super().__init__(name="scenarios", daemon=True)
        self.results: dict[str, Result] = {}
        self._cluster = cluster
        self._names = names
        self._rounds = rounds
        self._console = console

    def run(self) -> None:
        """All of them, one after the other."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        people = People(self._cluster)
        for name in self._names:
            title, scenario = SCENARIOS[name]
            begun = time.monotonic()
            self._console.print(f"[bold]{name}[/] {title}", highlight=False)
            bench = Bench(self._cluster, people, self._tell, self._rounds)
            try:
                most_seconds = _SCENARIO_SECONDS * (self._rounds + 1) + _ONCE_SECONDS.get(name, 0)
                async with asyncio.timeout(most_seconds):
                    result = await scenario(bench)
            except Exception as error:
                self._console.print(traceback.format_exc(), markup=False, highlight=False)
                result = Result(self._rounds, False, False, {"error": f"{type(error).__name__}: {error}"})
                await self._cluster.heal()
            result.detail["seconds"] = round(time.monotonic() - begun, 1)
            self.results[name] = result
            self._console.print(f"  {_verdict(result)} [dim]{result.detail['seconds']} s[/]", highlight=False)
        await people.close()

    def _tell(self, what: str) -> None:
        self._console.print(f"  … {what}", style="dim", highlight=False)


def _verdict(result: Result) -> str:
    holds = "[green]holds[/]" if result.holds else "[red]does not hold[/]"
    control = "[green]control failed, as it must[/]" if result.control_failed else "[red]control did not fail[/]"
    return f"{holds}, {control}"


def write_report(results: dict[str, Result], file: Path) -> None:
    """One object for each scenario that ran."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.write_text(json.dumps({name: asdict(result) for name, result in results.items()}, indent=2) + "\n")


def _write_page(results: dict[str, Result], names: Sequence[str], rounds: str) -> None:
    titles = {name: title for name, (title, _) in SCENARIOS.items()}
    which = "" if list(names) == list(SCENARIOS) else f' F="{" ".join(names)}"'
    today = datetime.datetime.now(datetime.UTC).date()
    page.update(page.PAGE, titles, results, on=today, command=f"make faults{which} FAULT_ROUNDS={rounds}")


def _print_table(results: dict[str, Result], console: Console) -> None:
    table = Table("id", "fault", "rounds", "holds", "control", "figures", title="make faults")
    for name, result in results.items():
        shown = {key: value for key, value in result.detail.items() if key not in _ONLY_IN_REPORT}
        figures = ", ".join(f"{key} {value}" for key, value in shown.items() if value not in ({}, [], None))
        holds = "[green]yes[/]" if result.holds else "[red]NO[/]"
        control = "[green]failed[/]" if result.control_failed else "[red]DID NOT FAIL[/]"
        table.add_row(name, SCENARIOS[name][0], str(result.rounds), holds, control, figures)
    console.print(table)


def main(arguments: Sequence[str]) -> int:
    """Runs what is named, or everything."""
    names = [name for argument in arguments for name in argument.upper().split()] or list(SCENARIOS)
    rounds_text = os.environ.get("FAULT_ROUNDS", "5")
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown or not rounds_text.isdigit() or int(rounds_text) < 1:
        print(f"usage: [FAULT_ROUNDS=5] python -m tests.faults [{' '.join(SCENARIOS)}]", file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 160)
    folder = Path(tempfile.mkdtemp(prefix="guildhall-faults-"))
    console.print(f"booting two replicas of each service in {folder} …", highlight=False, soft_wrap=True)
    scenarios: Scenarios | None = None
    try:
        with running_cluster(folder) as cluster:
            scenarios = Scenarios(cluster, names, int(rounds_text), console)
            scenarios.start()
            running = scenarios
            cluster.serve_main_thread(until=lambda: not running.is_alive())
    except (StackError, Interrupted) as error:
        console.print(f"[red]{error or 'interrupted'}[/]", highlight=False, soft_wrap=True)
    results = scenarios.results if scenarios is not None else {}
    write_report(results, REPORT)
    _write_page(results, names, rounds_text)
    _print_table(results, console)
    held = len(results) == len(names) and all(result.holds and result.control_failed for result in results.values())
    if held:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        console.print(f"logs and ledgers are in {folder}; the report is {REPORT}", highlight=False, soft_wrap=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
