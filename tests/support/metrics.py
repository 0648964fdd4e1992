"""Reading metrics: of this process, and of others as Prometheus reads them."""

import urllib.request

from prometheus_client import REGISTRY, Metric
from prometheus_client.parser import text_string_to_metric_families


def own(name: str, **labels: str) -> float:
    """A sample of this process; nought if nothing was counted yet."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def answered(port: int, path: str = "/metrics") -> str:
    """What a process answers Prometheus."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def scraped(port: int) -> list[Metric]:
    """The same, parsed."""
    return list(text_string_to_metric_families(answered(port)))


def sample(families: list[Metric], name: str, **labels: str) -> float:
    """The sum of the samples of one name that have these labels."""
    samples = (sample for family in families for sample in family.samples if sample.name == name)
    return sum(found.value for found in samples if labels.items() <= found.labels.items())
