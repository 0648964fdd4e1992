"""Writes dashboard.json, in Grafana's classic model, which every release since 12 imports:

python -m deploy.observability.dashboard
"""

import json
from pathlib import Path
from typing import Any

from deploy.observability.panels import ROWS, Panel

FILE = Path(__file__).with_name("dashboard.json")
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA_VERSION = 42
COLUMNS = 3
WIDTH, HEIGHT = 24 // COLUMNS, 8

Json = dict[str, Any]


def dashboard() -> Json:
    """The whole of it."""
    panels: list[Json] = []
    y = 0
    for row, content in ROWS.items():
        place = {"x": 0, "y": y, "w": 24, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": row, "gridPos": place, "collapsed": False})
        y += 1
        for number, panel in enumerate(content):
            x, down = number % COLUMNS * WIDTH, number // COLUMNS * HEIGHT
            panels.append(_graph(panel, len(panels) + 1, {"x": x, "y": y + down, "w": WIDTH, "h": HEIGHT}))
        y += -(-len(content) // COLUMNS) * HEIGHT
    return {
        "uid": "guildhall",
        "title": "Guildhall",
        "tags": ["guildhall"],
        "schemaVersion": SCHEMA_VERSION,
        "timezone": "browser",
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": panels,
    }


def render() -> str:
    """The file's text."""
    return json.dumps(dashboard(), indent=1) + "\n"


def _graph(panel: Panel, number: int, place: Json) -> Json:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "gridPos": place,
        "datasource": SOURCE,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": {"lineWidth": 1, "fillOpacity": 10}},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": expression,
                "legendFormat": legend,
                "range": True,
            }
            for index, (expression, legend) in enumerate(panel.queries.items())
        ],
    }


def _variables() -> list[Json]:
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    service = {
        "name": "service",
        "label": "Service",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": 'label_values(up{job=~"guildhall-.+"}, service)', "refId": "services"},
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
        "sort": 1,
    }
    return [source, service]


if __name__ == "__main__":
    FILE.write_text(render())
