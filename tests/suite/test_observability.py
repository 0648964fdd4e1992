"""What the dashboard and the alerts ask for is what a running suite exports, and the other way round."""

import re
from collections.abc import Iterable

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from deploy.observability.panels import UNUSED
from deploy.stack.settings import SERVICES
from tests.suite.conftest import Running
from tests.support.metrics import answered
from tests.support.promql import alerts, asked, queries

OF_PROMETHEUS = {"up", "ALERTS"}
"""Made by Prometheus itself."""
OF_SCRAPING = {"service", "job", "instance"}
"""Labels that the scrape configuration gives."""


@pytest.fixture(scope="module")
def answers(running: Running) -> dict[str, str]:
    """What each process answers Prometheus, after some calls."""
    running.token("observed@example.com")
    ports = running.settings.ports
    return {
        **{name: answered(ports.metrics(name)) for name in SERVICES},
        **{f"{name}-worker": answered(ports.worker_metrics(name)) for name in SERVICES},
        "gateway": answered(ports.envoy_admin, "/stats/prometheus"),
    }


@pytest.fixture(scope="module")
def exported(answers: dict[str, str]) -> dict[str, list[Metric]]:
    """The same, parsed."""
    return {process: list(text_string_to_metric_families(text)) for process, text in answers.items()}


def names(text: str) -> set[str]:
    """The series of an answer as Prometheus will name them, those without a sample yet as well."""
    found = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE):
        endings = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        found |= {f"{name}{ending}" for ending in endings}
    return found


def unknown(asking: Iterable[str], answers: dict[str, str]) -> set[str]:
    """The metrics in queries that no process exports."""
    known = OF_PROMETHEUS.union(*map(names, answers.values()))
    return {metric for query in asking for metric in asked(query).metrics} - known


def test_every_metric_of_the_dashboard_is_exported(answers: dict[str, str]) -> None:
    assert unknown(queries(), answers) == set()


def test_every_metric_of_the_alerts_is_exported(answers: dict[str, str]) -> None:
    assert unknown([rule["expr"] for rule in alerts()], answers) == set()


def test_a_metric_that_nobody_exports_is_found(answers: dict[str, str]) -> None:
    assert unknown(["rate(guildhall_made_up_total[5m]) / up"], answers) == {"guildhall_made_up_total"}
    assert unknown(["rate(guildhall_mails[5m])"], answers) == {"guildhall_mails"}, "counters end in _total"


def test_every_label_of_a_query_is_exported(exported: dict[str, list[Metric]]) -> None:
    families = [family for found in exported.values() for family in found]
    known = {label for family in families for sample in family.samples for label in sample.labels}
    # Of what has not happened yet, a refusal say, no sample shows the labels.
    known |= {"queue", "pool", "target", "outcome", "kind", "sweep", "state", "reason", "cause"}
    asking = [*queries(), *(rule["expr"] for rule in alerts())]
    assert {label for query in asking for label in asked(query).labels} - known - OF_SCRAPING == set()


def test_every_metric_of_ours_is_on_the_dashboard_or_left_out_for_a_reason(answers: dict[str, str]) -> None:
    shown = {metric for query in queries() for metric in asked(query).metrics}
    lines = {line for text in answers.values() for line in text.splitlines() if line.startswith("# TYPE ")}
    ours = {
        line.split()[2]: names(line) for line in lines if line.split()[2].startswith(("guildhall_", "grpc_server_"))
    }
    assert len(ours) > 30
    assert {name for name, series in ours.items() if not series & shown} == set(UNUSED)


def test_every_metric_of_ours_has_a_help_text(exported: dict[str, list[Metric]]) -> None:
    families = [family for found in exported.values() for family in found]
    assert [f.name for f in families if f.name.startswith(("guildhall_", "grpc_server_")) and not f.documentation] == []


@pytest.mark.parametrize("process", [*SERVICES, *(f"{name}-worker" for name in SERVICES)])
def test_every_process_tells_its_pools_and_its_memory(process: str, exported: dict[str, list[Metric]]) -> None:
    found = {sample.name: sample for family in exported[process] for sample in family.samples}
    assert "guildhall_database_pool_used_connections" in found
    assert found["process_resident_memory_bytes"].value > 0
    assert not [name for name in found if name.endswith("_created")], "twice the series for nothing"


def test_no_label_holds_an_id_or_an_address(exported: dict[str, list[Metric]]) -> None:
    for process in set(exported) - {"gateway"}:
        for family in exported[process]:
            for sample in family.samples:
                for value in sample.labels.values():
                    assert "@" not in value
                    assert len(value) < 60, (family.name, value)
