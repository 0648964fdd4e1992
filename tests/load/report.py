"""The table at the end and the JSON file."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.load.lab import Figure


def write(path: Path, figures: Mapping[str, Figure], also: Mapping[str, Any]) -> None:
    """Write what this run has measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {name: dataclasses.asdict(figure) for name, figure in figures.items()}
    for entry in content.values():
        entry["value"] = round(entry["value"], 3)
    path.write_text(json.dumps({**content, **also}, indent=2) + "\n")


def table(titles: Mapping[str, str], figures: Mapping[str, Figure], left_out: Mapping[str, str]) -> Table:
    """One line per scenario."""
    found = Table("", "scenario", "value", "goal", "", "what it was")
    for name, title in titles.items():
        if name in figures:
            figure = figures[name]
            sign = "≥" if _is_floor(name) else "≤"
            verdict = "[green]holds[/]" if figure.holds else "[red]fails[/]"
            found.add_row(name, title, f"{figure.value:.3g}", f"{sign} {figure.goal:g}", verdict, remark(name, figure))
        elif name in left_out:
            found.add_row(name, title, "", "", "[yellow]left out[/]", left_out[name])
    return found


def _is_floor(name: str) -> bool:
    return name in ("S1", "S2", "S8")


def remark(name: str, figure: Figure) -> str:
    """The absolute numbers behind a ratio, in a few words."""
    detail = figure.detail
    if name == "A3":
        return f"{detail['ratios']}; without the dummy verification {detail['without_dummy']}"
    if name in ("S1", "S2"):
        delays = detail["milliseconds"]
        rates = f"{detail['per_second']:,.0f}/s, echo {detail['echo_per_second']:,.0f}/s"
        return f"{rates}; p50 {delays['p50']} ms, p99 {delays['p99']} ms"
    if name == "S3":
        return f"p50 {detail['send_milliseconds']['p50']} ms, echo {detail['echo_milliseconds']['p50']} ms"
    if name == "S4":
        steady = detail["steady"]
        return (
            f"ms; lost {steady['lost']}, doubled {steady['doubled']}; holds to {detail['highest_rate_of_500']}/s; "
            f"{detail['deliveries_per_second_to_200']:,} deliveries/s to 200"
        )
    if name == "S5":
        return f"{detail['ratios']}, echo ×{detail['echo_ratio']}"
    if name == "search":
        worst = sorted(detail["p95_milliseconds"].items(), key=lambda item: -item[1])[:3]
        return "ms; " + ", ".join(f"{kind}: {delay} ms" for kind, delay in worst)
    if name == "S6":
        batches = {key: found for key, found in detail.items() if key.startswith("of_")}
        parts = [f"{key.replace('_', ' ')}: {delays['p50']} ms" for key, delays in batches.items()]
        few, many = detail["growth"]["rows"]
        ratios = ", ".join(f"{name} ×{ratio}" for name, ratio in detail["growth"]["ratios"].items())
        return f"{', '.join(parts)}; {many:,} rows ÷ {few:,}: {ratios}"
    if name == "uploads":
        return f"MiB; {detail['mib_per_second']} MiB/s; {detail['codes']}"
    if name == "S7":
        return f"KiB; up {detail['up_seconds']} s (≤ {detail['up_goal_seconds']} s)"
    if name == "sessions":
        delays = detail["milliseconds"]
        return (
            f"s; {detail['streams']} streams: p50 {delays['p50']} ms; {detail['calls_refused']} calls refused at once; "
            f"faults {detail['faults']}"
        )
    if name == "soak":
        return (
            f"MiB/h; {detail['seconds']:.0f} s at half of {detail['knee_per_second']:,}/s, "
            f"{detail['cancelled_share']:.0%} cancelled; drifting {detail['drifting']}, kept {detail['kept_at_rest']}"
        )
    if name != "S8":
        return str(detail["ratios"])
    knee = detail["knee"]["per_second"]
    return (
        f"knee {knee:,.0f}/s at {detail['knee_callers']} callers; offered {detail['offered_per_second']:,}/s; "
        f"{detail['overload']['codes']}; normal after {detail['recovered_after_seconds']} s"
    )
