"""What queries ask for: the metrics and labels in PromQL, as its grammar has them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from deploy.observability import dashboard

FOLDER = Path(dashboard.__file__).parent
ALERTS = FOLDER / "alerts.yml"
SCRAPE = FOLDER / "prometheus.yml"
OF_GRAFANA = {"$service": ".*", "$__rate_interval": "5m"}
INNER = ("expr", "vector_selector", "lhs", "rhs", "param")


@dataclass
class Asked:
    """The metrics of a query, and the labels by which it selects and groups."""

    metrics: set[str] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)


def asked(query: str) -> Asked:
    """What a query asks for. ValueError if it is not PromQL."""
    for name, value in OF_GRAFANA.items():
        query = query.replace(name, value)
    found = Asked()
    for node in _nodes(promql_parser.parse(query)):
        if isinstance(node, promql_parser.VectorSelector):
            found.metrics.add(node.name)
            found.labels |= {matcher.name for matcher in node.matchers.matchers if matcher.name != "__name__"}
        modifier = getattr(node, "modifier", None)
        for labels in (modifier, getattr(modifier, "matching", None)):
            found.labels |= set(getattr(labels, "labels", None) or ())
    return found


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    children = [getattr(node, name, None) for name in INNER] + list(getattr(node, "args", None) or ())
    for child in children:
        if child is not None and type(child).__module__ == type(node).__module__:
            yield from _nodes(child)


def panels() -> list[dict[str, Any]]:
    """The dashboard's graphs, from the file that Grafana is given."""
    return [panel for panel in json.loads(dashboard.FILE.read_text())["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    """All that the dashboard asks."""
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def alerts() -> list[dict[str, Any]]:
    """The rules, from the file that Prometheus is given."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
