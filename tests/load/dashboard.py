"""Draws the dashboard's panels from a real Prometheus: `python -m tests.load.dashboard URL SECONDS FILE.png`.

The queries are those of dashboard.json; Grafana would draw them as well. It needs matplotlib, which the project itself
does without: `pip install matplotlib`.
"""

import itertools
import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from deploy.observability import dashboard

WINDOW = "30s"
MOST_LINES = 12
"""In a legend; the rest is drawn all the same."""
UNITS = {
    "s": "s",
    "reqps": "calls/s",
    "cps": "1/s",
    "short": "",
    "percentunit": "processors",
    "bytes": "MiB",
}


def ranged(url: str, query: str, seconds: int) -> list[Any]:
    """The series that Prometheus has for a query, for the last seconds."""
    for name, value in {"$service": ".*", "$__rate_interval": WINDOW}.items():
        query = query.replace(name, value)
    end = time.time()
    asked = urllib.parse.urlencode({"query": query, "start": end - seconds, "end": end, "step": max(1, seconds // 120)})
    with urllib.request.urlopen(f"{url}/api/v1/query_range?{asked}", timeout=30) as answer:
        found: list[Any] = json.load(answer)["data"]["result"]
    return found


def rows() -> Iterator[tuple[str, list[Any]]]:
    """The dashboard's rows, each with its panels."""
    panels = json.loads(dashboard.FILE.read_text())["panels"]
    for start, row in enumerate(panels):
        if row["type"] == "row":
            yield row["title"], list(itertools.takewhile(lambda panel: panel["type"] != "row", panels[start + 1 :]))


def draw_panel(axes: Any, url: str, panel: Any, seconds: int) -> None:
    """One graph."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    scale = 1 << 20 if unit == "bytes" else 1
    lines = 0
    for target in panel["targets"]:
        for series in ranged(url, target["expr"], seconds):
            labels = series["metric"]
            name = re.sub(r"{{(\w+)}}", lambda found, labels=labels: labels.get(found[1], ""), target["legendFormat"])
            points = [(float(at), float(value) / scale) for at, value in series["values"]]
            points = [point for point in points if math.isfinite(point[1])]
            if points:
                last = points[-1][0]
                label = name if lines < MOST_LINES else None
                axes.plot([at - last for at, _ in points], [value for _, value in points], label=label, linewidth=1)
                lines += 1
    axes.set_title(panel["title"], fontsize=9, loc="left")
    axes.set_ylabel(UNITS[unit], fontsize=7)
    axes.tick_params(labelsize=7)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    if lines:
        axes.legend(fontsize=6, loc="upper left", ncols=2, framealpha=0.6)
    else:
        axes.text(0.5, 0.5, "nothing yet", ha="center", transform=axes.transAxes, fontsize=8, color="grey")


def draw(url: str, seconds: int, file: str) -> None:
    """The whole dashboard as one picture."""
    import matplotlib.pyplot as plt

    height = sum(-(-len(panels) // dashboard.COLUMNS) for _, panels in rows())
    figure = plt.figure(figsize=(15, 2.1 * height), layout="constrained")
    parts = figure.subfigures(
        nrows=sum(1 for _ in rows()),
        height_ratios=[-(-len(panels) // dashboard.COLUMNS) for _, panels in rows()],
    )
    for part, (title, panels) in zip(parts, rows(), strict=True):
        part.suptitle(title, fontsize=12, x=0.01, ha="left", weight="bold")
        grid = part.subplots(-(-len(panels) // dashboard.COLUMNS), dashboard.COLUMNS, squeeze=False).flat
        for axes, panel in itertools.zip_longest(grid, panels):
            if panel is None:
                axes.axis("off")
            else:
                draw_panel(axes, url, panel, seconds)
    figure.savefig(file, dpi=75)


if __name__ == "__main__":
    draw(sys.argv[1], int(sys.argv[2]), sys.argv[3])
