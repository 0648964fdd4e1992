"""The table in docs/reliability.md: a row for each fault, of the run that tried it last."""

import datetime
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.faults.bench import Result

PAGE = Path("docs/reliability.md")
BEGIN, END = "<!-- faults: made by make faults -->", "<!-- faults: end -->"
HEAD = ("| id | fault | what was seen | control | run |", "|---|---|---|---|---|")
_ID = re.compile(r"\| F(\d+) \|")

Detail = Mapping[str, Any]
Told = Callable[[Detail, Detail], tuple[str, str]]
"""What was seen, and what the control did: of a scenario's detail, and its control's."""


def update(
    page: Path, titles: Mapping[str, str], results: Mapping[str, Result], *, on: datetime.date, command: str
) -> None:
    """Writes the rows of this run's faults; those of others stay. ValueError for a page without the two marks."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    inside, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for the table: {BEGIN} … {END}")
    rows = {int(found[1]): line for line in inside.splitlines() if (found := _ID.match(line))}
    for name, result in results.items():
        rows[int(name[1:])] = row(name, titles[name], result, on=on, command=command)
    table = "\n".join([*HEAD, *(rows[number] for number in sorted(rows))])
    page.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")


def row(name: str, title: str, result: Result, *, on: datetime.date, command: str) -> str:
    """One fault's."""
    seen, control = _told(name, result.detail)
    if not result.holds:
        seen = f"**does not hold**: {seen}"
    if not result.control_failed:
        control = f"**did not fail**: {control}"
    rounds = f"{result.rounds} round{'s' if result.rounds > 1 else ''}"
    ran = f"{on.isoformat()}, {rounds}: `{command}`"
    cells = (name, title, seen, control, ran)
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"


def _told(name: str, detail: Detail) -> tuple[str, str]:
    if "error" in detail:
        return " ".join(str(detail["error"]).split())[:160], "was not reached"
    control = detail.get("control", {})
    return _TOLD[name](detail, control)


def _writes(detail: Detail) -> str:
    writes = detail.get("writes", {})
    found = detail.get("findings") or {}
    wrong = ", ".join(f"{count} {kind}" for kind, count in found.items()) or "0 lost, 0 doubled, 0 holes"
    return f"{writes.get('ACK', 0)} acknowledged, {wrong}"


def _named(found: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in found.items()) or "none"


def _f1(detail: Detail, control: Detail) -> tuple[str, str]:
    worst = max(detail["silence_seconds_worst"].values())
    silence = f"silence of {worst} s at most (goal {detail['silence_seconds_goal']} s)"
    return f"{silence}; {_writes(detail)}", f"subscribers that do not resume lose {control['events_lost']} events"


def _f2(detail: Detail, control: Detail) -> tuple[str, str]:
    serving = f"serving {detail['serving_seconds_worst']} s after it accepts again (goal 10 s)"
    restarted = f"processes of ours restarted: {len(detail['restarted'])}"
    lost = f"silence taken for success loses {control['acknowledged_and_lost']} writes"
    return f"{serving}; {restarted}; {_writes(detail)}", lost


def _f3(detail: Detail, control: Detail) -> tuple[str, str]:
    late = f"every event delivered {detail['delivered_after_kill_seconds_worst']} s after at most (goal 60 s)"
    return f"{late}; {_writes(detail)}", f"replicas that do not poll miss {control['events_not_delivered']} events"


def _f4(detail: Detail, control: Detail) -> tuple[str, str]:
    seen = f"{detail['workers_killed']} workers killed, {detail['effects']} mails, each once; guests locked once"
    wrong = f"; wrong: {', '.join(detail['wrong'])}" if detail["wrong"] else ""
    done = f"; all done {detail['done_seconds_worst']} s after at most (goal {detail['done_seconds_goal']:.0f} s)"
    forgotten = f"a row forgotten when its task begins: {control['mails_that_never_came']} mails never come"
    return seen + done + wrong, forgotten


def _f5(detail: Detail, control: Detail) -> tuple[str, str]:
    late = f"{detail['processes']} processes stopped for {detail['stop_seconds']:.0f} s each: "
    late += f"{detail['calls']} calls, the latest {detail['past_deadline_ms_worst']} ms past its deadline"
    noise = f" (goal 200 ms, and {detail['noise_ms']} ms that the client itself came late)"
    removals = f"{detail['removals_acknowledged']} removals acknowledged meanwhile"
    return f"{late}{noise}; {removals}, let in after them: {detail['opened']}", (
        f"with membership's answers remembered, {control['opened']} calls are let in after the removal"
    )


def _f6(detail: Detail, control: Detail) -> tuple[str, str]:
    seen = f"{detail['edges']} edges: let through {_named(detail['let_through'])}, "
    seen += f"strangers let in {_named(detail['strangers_let_in'])}; "
    seen += f"recovery {detail['recovery_seconds_worst']} s at most (goal 10 s); {_writes(detail)}"
    return seen, f"with membership's answers remembered, {control['let_through']} calls pass"


def _f7(detail: Detail, control: Detail) -> tuple[str, str]:
    seen = f"{detail['answers_cut']} answers cut, {detail['requests_lost']} requests lost: each message stored once"
    return f"{seen}; {_writes(detail)}", f"a new key for each try doubles {control['doubled']}"


def _f8(detail: Detail, control: Any) -> tuple[str, str]:
    seen = f"{detail['calls_answered']} calls, {sum(detail['calls_failed'].values())} failed; each process ended by "
    seen += f"itself within {detail['stop_seconds_worst']} s, its successor served {detail['away_seconds_worst']} s "
    failed = "; ".join(f"without “{each['protection_off']}”: {each['calls_failed']} calls fail" for each in control)
    return f"{seen}later at most; {_writes(detail)}", failed


def _f9(detail: Detail, control: Detail) -> tuple[str, str]:
    seen = f"{detail['steps']} steps over {detail['rows']} rows: {detail['calls_answered']} calls, "
    seen += f"{detail['calls_failed']} failed, the slowest {detail['slowest_seconds']} s"
    return seen, f"all of it in one transaction fails {control['calls_failed']} calls"


def _f10(detail: Detail, control: Detail) -> tuple[str, str]:
    seen = f"{detail['statements_failed']} statements of {detail['use_cases']} use cases: "
    seen += f"{detail['torn_transactions']} torn transactions, {detail['different_after_repeating']} that differ once "
    seen += "the call was repeated"
    if detail["broken_off"]:
        seen += f"; broken off: {', '.join(detail['broken_off'])}"
    found = f"transactions that commit between their statements: {control['different_after_repeating']} differ"
    return seen, f"{found} of {control['statements_failed']}"


def _f11(detail: Detail, control: Detail) -> tuple[str, str]:
    kinds, parcels = len(detail["kinds"]), detail["parcels_delivered"]
    seen = f"{parcels} deliveries of {kinds} kinds, all of them first held back: "
    seen += f"{len(detail['differing'])} of {detail['compared']} sums over all tables differ from one delivery's"
    return seen, f"an inbox that takes each for a new one: {len(control['differing'])} differ"


def _f12(detail: Detail, control: Detail) -> tuple[str, str]:
    return _figures(detail), _figures(control)


def _f13(detail: Detail, control: Detail) -> tuple[str, str]:
    seen = f"the others' p99 {detail['p99_ratio']} times the calm one (goal {detail['ratio_goal']:.0f})"
    return seen, f"without the side lane {control['p99_ratio']} times"


def _figures(detail: Any) -> str:
    if not isinstance(detail, Mapping):
        return "; ".join(map(_figures, detail))
    plain = {key.replace("_", " "): value for key, value in detail.items() if isinstance(value, int | float | str)}
    return _named(plain)


_TOLD: Mapping[str, Told] = {
    "F1": _f1,
    "F2": _f2,
    "F3": _f3,
    "F4": _f4,
    "F5": _f5,
    "F6": _f6,
    "F7": _f7,
    "F8": _f8,
    "F9": _f9,
    "F10": _f10,
    "F11": _f11,
    "F12": _f12,
    "F13": _f13,
}
