"""What Prometheus gets of the gateway, and that nobody gets more of Envoy's admin interface than that."""

import http
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.envoy.metrics import PATH
from tests.kubernetes.examples import wrong_monitors
from tests.kubernetes.gateways import Gateway, answer_of, configuration, running, wait_for
from tests.kubernetes.objects import Objects, example, render
from tests.kubernetes.test_policies import GONE, spoiled
from tests.support.promql import alerts, asked


@pytest.fixture(scope="module")
def gateway(kubectl: str, folder: Path) -> Iterator[Gateway]:
    """Envoy as the installation's pod has it."""
    with running(render(kubectl, "overlays/prod"), folder) as found:
        yield found


def test_the_metrics_of_the_alerts_about_the_gateway_are_had(gateway: Gateway) -> None:
    status, text = answer_of(gateway.metrics_port, "GET", PATH)
    wanted = {metric for rule in alerts() for metric in asked(rule["expr"]).metrics if metric.startswith("envoy_")}

    assert status == http.HTTPStatus.OK
    assert len(wanted) >= 3
    # `TYPE` is told of what has no value yet as well.
    assert {metric for metric in wanted if f"# TYPE {metric} " not in text} == set()


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/stats",
        "/stats/prometheus/",
        "/stats/prometheusx",
        "/stats/prometheus/../../config_dump",
        "/stats/prometheus%2f..%2f..%2fconfig_dump",
        "/stats/./prometheus/..",
        "/config_dump",
        "/certs",
        "/clusters",
        "/server_info",
        "/ready",
        "/logging",
        "/runtime",
    ],
)
def test_nothing_else_of_the_admin_interface_is_read(path: str, gateway: Gateway) -> None:
    admins, _ = answer_of(gateway.admin_port, "GET", "/server_info")
    status, body = answer_of(gateway.metrics_port, "GET", path)

    assert admins == http.HTTPStatus.OK
    assert status in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.BAD_REQUEST)
    assert body == ""


@pytest.mark.parametrize(
    "path",
    [
        "/quitquitquit",
        "/healthcheck/fail",
        "/drain_listeners",
        "/logging?level=trace",
        "/reset_counters",
        "/runtime_modify?a=b",
        "/stats/prometheus/../../quitquitquit",
        "/stats/prometheus?/quitquitquit",
        PATH,
    ],
)
def test_nothing_is_done_by_it(path: str, gateway: Gateway) -> None:
    for method in ("POST", "PUT", "DELETE", "HEAD"):
        status, _ = answer_of(gateway.metrics_port, method, path)
        assert status == http.HTTPStatus.NOT_FOUND, method
    assert answer_of(gateway.admin_port, "GET", "/ready") == (http.HTTPStatus.OK, "LIVE\n")
    assert gateway.process.poll() is None


def test_the_metrics_are_had_while_calls_are_refused_for_want_of_memory(prod: Objects, folder: Path) -> None:
    with running(prod, folder, "--max-heap-bytes=1000000") as short:
        refuses = "envoy_overload_envoy_overload_actions_stop_accepting_requests_active{} 1"

        wait_for(lambda: refuses in answer_of(short.metrics_port, "GET", PATH)[1])


def test_without_a_port_for_it_there_is_no_way_to_the_admin_interface(prod: Objects, folder: Path) -> None:
    written = configuration(prod, folder, "--metrics-port=0")["static_resources"]

    assert [one["name"] for one in written["listeners"]] == ["plain", "tls"]
    assert "admin" not in {one["name"] for one in written["clusters"]}


def test_the_monitors_ask_every_process_under_the_names_of_the_alerts(objects: Objects) -> None:
    assert not wrong_monitors(example("monitoring.yaml"), objects)


ENDPOINT = "spec|podMetricsEndpoints|0|"


@pytest.mark.parametrize(
    ("called", "path", "value"),
    [
        ("guildhall-gateway", ENDPOINT + "port", "admin"),
        ("guildhall-gateway", ENDPOINT + "path", "/metrics"),
        ("guildhall-gateway", ENDPOINT + "relabelings|0|replacement", "gateway"),
        ("guildhall-services", ENDPOINT + "path", "/stats/prometheus"),
        ("guildhall-services", ENDPOINT + "relabelings|1", GONE),
        ("guildhall-services", ENDPOINT + "relabelings|0", GONE),
        ("guildhall-workers", "spec|selector|matchLabels|app.kubernetes.io/component", "serve"),
        ("guildhall-workers", "spec|selector|matchLabels|app.kubernetes.io/component", "workers"),
    ],
)
def test_a_monitor_that_finds_nothing_or_names_it_otherwise_is_found(
    called: str, path: str, value: Any, prod: Objects
) -> None:
    assert wrong_monitors(spoiled(example("monitoring.yaml"), ("PodMonitor", called), path, value), prod)
