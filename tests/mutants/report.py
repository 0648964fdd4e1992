"""The report: one object for each module that was ever tried, what this run tried being new; and the table."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.mutants.equivalents import EQUIVALENT
from tests.mutants.trial import Trial, Verdict


def write(file: Path, trial: Trial, *, again: bool) -> None:
    """Adds a module's result. `again`: only survivors were tried, and what was killed before stays killed."""
    told = _read(file)
    before = told.get(trial.path, {}) if again else {}
    survivors = [_told(verdict) for verdict in trial.survivors]
    if again:
        tried_again = {verdict.mutant.key for verdict in trial.verdicts}
        survivors += [each for each in before["survivors"] if each["key"] not in tried_again | set(EQUIVALENT)]
    killed = before.get("killed", 0) + trial.killed
    told[trial.path] = {
        "of": trial.of,
        "tried": killed + len(survivors),
        "killed": killed,
        "equivalent": sum(key.startswith(f"{trial.path} ") for key in EQUIVALENT),
        "survivors": survivors,
        "seconds": round(trial.seconds, 1),
    }
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n")


def survivors(file: Path) -> set[str]:
    """The keys of those that survived the last run."""
    return {each["key"] for entry in _read(file).values() for each in entry["survivors"]}


def table(file: Path, paths: Sequence[str]) -> tuple[Table, float]:
    """A line per module, and which share of all was killed."""
    shown = Table("module", "killed", "tried", "of", "equivalent", "score", "s each", title="make mutants")
    killed = tried = 0
    for path, entry in _read(file).items():
        if path not in paths:
            continue
        killed, tried = killed + entry["killed"], tried + entry["tried"]
        figures = [entry["killed"], entry["tried"], entry["of"], entry["equivalent"]]
        score = f"{100 * entry['killed'] / max(1, entry['tried']):.0f} %"
        each = f"{entry['seconds'] / max(1, entry['tried']):.1f}"
        shown.add_row(path, *map(str, figures), score, each)
    share = killed / max(1, tried)
    shown.add_row("all", str(killed), str(tried), "", "", f"{100 * share:.1f} %", "", style="bold")
    return shown, share


def survivor_lines(file: Path, paths: Sequence[str]) -> Iterator[str]:
    """Where each survivor is, and what was changed."""
    for path, entry in _read(file).items():
        for each in entry["survivors"] if path in paths else ():
            yield f"survived: {each['where']} ({each['tests']} of {each['of']} tests that enter it)"


def _told(verdict: Verdict) -> dict[str, Any]:
    return {
        "key": verdict.mutant.key,
        "where": str(verdict.mutant),
        "tests": len(verdict.tests),
        "of": verdict.of,
    }


def _read(file: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for path, entry in told.items():
        # What has been found to be none since then.
        entry["survivors"] = [each for each in entry["survivors"] if each["key"] not in EQUIVALENT]
        entry["tried"] = entry["killed"] + len(entry["survivors"])
        entry["equivalent"] = sum(key.startswith(f"{path} ") for key in EQUIVALENT)
    return told
