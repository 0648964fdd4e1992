"""`python -m tests.mutants [MODULE …]`: boots servers of its own, tries mutants, reports.

MUTANTS_MOST says how many of each module are tried (20, chosen by chance and the same in each run; 0: all),
MUTANTS_MINUTES after how long no other is begun (60), MUTANTS_AGAIN=1 tries only those that survived the last run. The
report is `.guildhall/mutants.json`; the exit status is 0 only if at least 90 % were killed.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tests.mutants import children

if TYPE_CHECKING:
    from tests.mutants.trial import Verdict

REPORT = Path(".guildhall/mutants.json")
GOAL = 0.9


def main(arguments: Sequence[str]) -> int:
    """Tries the mutants of the modules that are named, or of all."""
    # Before anything else, since what is imported after it is the project's own.
    children.import_libraries()
    from tests.mutants import modules, report, trial
    from tests.mutants.bench import running_bench
    from tests.mutants.callers import Callers

    try:
        paths = modules.chosen([word for argument in arguments for word in argument.split()])
        most, minutes = int(os.environ.get("MUTANTS_MOST", "20")), float(os.environ.get("MUTANTS_MINUTES", "60"))
    except (LookupError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    again = report.survivors(REPORT) if os.environ.get("MUTANTS_AGAIN") == "1" else None
    over = time.monotonic() + 60 * minutes
    folder = Path(tempfile.mkdtemp(prefix="guildhall-mutants-"))
    callers = Callers()
    with running_bench(folder, lambda what: console.print(f"  … {what}", style="dim", soft_wrap=True)) as bench:
        for path in paths:
            every = trial.of_module(bench, path)
            chosen = trial.sampled(every, most, path)
            if again is not None:
                chosen = [mutant for mutant in every if mutant.key in again]
            if not chosen or time.monotonic() > over:
                continue
            console.print(f"[bold]{path}[/] {len(chosen)} of {len(every)} mutants")
            began, court, done = time.monotonic(), trial.Court(bench, callers, path), trial.Trial(path, len(every))
            for mutant in chosen:
                if time.monotonic() > over:
                    break
                done.verdicts.append(verdict := court.judge(mutant))
                console.print(_line(verdict), markup=False, soft_wrap=True)
            for verdict in done.survivors:
                court.appeal(verdict)
                console.print("again:", _line(verdict), markup=False, soft_wrap=True)
            done.seconds = time.monotonic() - began
            report.write(REPORT, done, again=again is not None)
    table, share = report.table(REPORT, paths)
    console.print(table)
    for line in report.survivor_lines(REPORT, paths):
        console.print(line, markup=False, soft_wrap=True)
    shutil.rmtree(folder, ignore_errors=True)
    return 0 if share >= GOAL else 1


def _line(verdict: "Verdict") -> str:
    became = f"killed by {verdict.by.rpartition('::')[2]}" if verdict.by else "SURVIVED"
    return f"{time.strftime('%X')} {became}: {verdict.mutant}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
