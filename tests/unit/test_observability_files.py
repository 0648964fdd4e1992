"""The dashboard, the rules and the scrape configuration: whole, current and explained. Their metrics: tests/suite."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.envoy.__main__ import parser
from deploy.envoy.metrics import PATH as GATEWAY_METRICS
from deploy.observability import dashboard
from deploy.stack.settings import SERVICES, Ports
from tests.support.promql import ALERTS, FOLDER, SCRAPE, alerts, asked, panels, queries

ROOT = Path(__file__).parents[2]
SCRAPE_IN_COMPOSE = FOLDER / "prometheus-compose.yml"


def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed here")
    return found


def anchors(markdown: str) -> set[str]:
    """The addresses of a page's headings, as they are made of them."""
    return {re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in markdown.splitlines()}


def test_the_dashboard_is_what_its_panels_say() -> None:
    assert dashboard.FILE.read_text() == dashboard.render(), "run: python -m deploy.observability.dashboard"


def test_every_row_has_panels_and_no_two_share_a_place_or_a_number() -> None:
    shown = dashboard.dashboard()["panels"]
    assert [panel["title"] for panel in shown if panel["type"] == "row"] == [
        "RPCs",
        "Coalescing",
        "Streams and search",
        "Database",
        "Outbox and inbox",
        "Workers",
        "Guests",
        "Gateway",
        "Processes",
    ]
    places: set[tuple[int, int]] = set()
    for panel in shown:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not places & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        places |= cells
    assert len({panel["id"] for panel in shown}) == len(shown)
    for panel in panels():
        assert panel["targets"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("query", queries())
def test_every_query_of_the_dashboard_is_promql(query: str) -> None:
    assert asked(query).metrics


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_every_alert_is_promql_and_says_what_it_means_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert asked(rule["expr"]).metrics
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert anchor == rule["alert"].lower()
    assert anchor in anchors((ROOT / page).read_text())


def test_every_section_about_an_alert_is_about_one_that_there_is() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "alerts.md").read_text(), re.MULTILINE)
    assert headings == [rule["alert"] for rule in alerts()]


@pytest.mark.parametrize("broken", ["sum by (service (up)", "rate(up[5 parsecs])", "up >"])
def test_what_is_no_promql_is_found(broken: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        asked(broken)


def test_a_query_tells_its_metrics_and_labels_wherever_they_stand() -> None:
    found = asked('topk(3, sum by (a) (rate(m_total{b="x"}[5m])) / on (c) group_left (d) n) unless max(o) > 1')
    assert found.metrics == {"m_total", "n", "o"}
    assert {"a", "b", "c"} <= found.labels


def test_the_scrape_configuration_asks_every_process_of_one_suite() -> None:
    jobs = {job["job_name"]: job for job in yaml.safe_load(SCRAPE.read_text())["scrape_configs"]}
    ports = Ports(0)

    def targets(job: str) -> dict[str, str]:
        return {config["labels"]["service"]: config["targets"][0] for config in jobs[job]["static_configs"]}

    assert targets("guildhall-services") == {name: f"127.0.0.1:{ports.metrics(name)}" for name in SERVICES}
    assert targets("guildhall-workers") == {name: f"127.0.0.1:{ports.worker_metrics(name)}" for name in SERVICES}
    assert jobs["guildhall-gateway"]["static_configs"][0]["targets"] == [f"127.0.0.1:{ports.envoy_admin}"]


def test_the_scrape_configuration_for_compose_asks_every_process_where_it_is_told_to_listen() -> None:
    containers = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]
    gateway = parser().parse_args(containers["gateway-configuration"]["command"][3:])

    def listening(kind: str, names: Iterable[str]) -> set[tuple[str, int]]:
        return {(name, int(containers[name]["environment"][kind].rpartition(":")[2])) for name in names}

    jobs = {job["job_name"]: job for job in yaml.safe_load(SCRAPE_IN_COMPOSE.read_text())["scrape_configs"]}
    asked_for = {
        job: {(name, each["port"]) for each in found["dns_sd_configs"] for name in each["names"]}
        for job, found in jobs.items()
    }
    workers = [f"{name}-worker" for name in SERVICES]

    assert set(jobs) == {job["job_name"] for job in yaml.safe_load(SCRAPE.read_text())["scrape_configs"]}
    assert asked_for == {
        "guildhall-services": listening("GUILDHALL_METRICS_LISTEN", SERVICES),
        "guildhall-workers": listening("GUILDHALL_WORKER_METRICS_LISTEN", workers),
        "guildhall-gateway": {("gateway", gateway.metrics_port)},
    }
    assert jobs["guildhall-gateway"]["metrics_path"] == GATEWAY_METRICS
    for job in ("guildhall-services", "guildhall-workers"):
        (relabeling,) = jobs[job]["relabel_configs"]
        for name, _ in asked_for[job]:
            called = re.fullmatch(relabeling.get("regex", "(.*)"), name)
            assert (relabeling["source_labels"], relabeling["target_label"]) == (["__meta_dns_name"], "service")
            assert called is not None
            assert called[1] in SERVICES


def test_prometheus_takes_the_rules_and_the_scrape_configuration() -> None:
    configurations = (("check", "config", each.name) for each in (SCRAPE, SCRAPE_IN_COMPOSE))
    for arguments in (("check", "rules", ALERTS.name), *configurations):
        done = subprocess.run([promtool(), *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_when_they_should_and_only_then() -> None:
    file = ROOT / "tests" / "unit" / "alerts_test.yml"
    done = subprocess.run([promtool(), "test", "rules", file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_made_to_fire() -> None:
    cases = yaml.safe_load((ROOT / "tests" / "unit" / "alerts_test.yml").read_text())["tests"]
    expected = [
        sample["labels"] for case in cases for test in case["promql_expr_test"] for sample in test["exp_samples"]
    ]
    fired = {name for labels in expected for name in re.findall(r'alertname="(\w+)"', labels)}
    rules = {rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}
    assert rules == fired
