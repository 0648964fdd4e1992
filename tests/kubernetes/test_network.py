"""The NetworkPolicies open what the code uses, and nothing else: both directions, every pair, every port."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.kubernetes.gateways import configuration
from tests.kubernetes.network import (
    Party,
    asked_by_worker,
    calls,
    edges,
    event_sources,
    missing_defaults,
    real_edges,
    senders_of_mail,
    unlike,
    ways_out,
)
from tests.kubernetes.objects import (
    EXAMPLES,
    NAME,
    Object,
    Objects,
    changed,
    example,
    get,
    of_component,
    of_kind,
    pod_labels,
    render,
    without,
)
from tests.rules.sources import SERVICES, sources

DATABASE = Party("database", {"cnpg.io/cluster": "database"}, {"kubernetes.io/metadata.name": "guildhall-database"})
BROKER = Party("broker", {NAME: "valkey"}, {"kubernetes.io/metadata.name": "valkey"})


def problems(objects: Objects, database: str, broker: str, more: Sequence[Party] = (), *, outside: bool) -> list[str]:
    """What is open and not used, or used and not open."""
    wanted = real_edges(objects, more, database=database, broker=broker)
    return unlike(edges(objects, more), wanted | ways_out(objects) if outside else wanted)


def problems_of_prod(objects: Objects) -> list[str]:
    """The same of the installation: stores in other namespaces, mails and files outside."""
    return problems(objects, "database", "broker", (DATABASE, BROKER), outside=True)


def test_the_installations_policies_are_the_edges_of_the_code(prod: Objects) -> None:
    assert not problems_of_prod(prod)


def test_the_development_overlays_policies_are_the_edges_of_the_code(kubectl: str) -> None:
    dev = render(kubectl, "overlays/dev")

    assert not problems(dev, "postgresql", "valkey", outside=False)


def test_the_code_has_the_edges_that_are_written_in_the_architecture() -> None:
    services = {(caller, callee) for caller in SERVICES for callee in SERVICES if caller != callee}

    # identity asks nobody; its events go to membership and messaging.
    assert calls() == services - {("identity", "guest")} | {
        ("guest-worker", "identity"),
        ("guest-worker", "membership"),
    }
    assert senders_of_mail() == {"identity", "membership", "guest"}


@pytest.mark.parametrize("service", SERVICES)
def test_events_are_taken_from_those_that_emit_them(service: str) -> None:
    """An edge is opened because somebody takes events from there: so somebody there has to emit them."""
    assert event_sources(service) == {other for other in SERVICES if other != service and _emits_to(other, service)}


def _emits_to(source: str, target: str) -> bool:
    """Whether a service's code names another one where it emits events, or in the list that it emits to."""
    texts = (one.text for one in sources(f"services/{source}") if "emit(" in one.text)
    return any(f'"{target}"' in text for text in texts)


def test_wiring_is_read_as_it_is_written() -> None:
    assert event_sources("guest") == {"membership"}
    assert asked_by_worker("guest") == {"identity", "membership"}
    assert asked_by_worker("messaging") == set()


@pytest.mark.parametrize(
    ("policy", "direction", "place"),
    [
        ("gateway", "egress", 0),
        ("gateway", "ingress", 0),
        ("gateway", "ingress", 1),
        ("identity", "ingress", 1),
        ("identity", "egress", 0),
        ("membership", "ingress", 2),
        ("guest-worker", "egress", 1),
        ("messaging", "egress", 2),
        ("database-clients", "egress", 0),
        ("broker-clients", "egress", 0),
        ("dns", "egress", 0),
        ("worker-metrics", "ingress", 0),
        ("mail", "egress", 0),
        ("files", "egress", 0),
    ],
)
def test_an_edge_that_is_closed_is_found(policy: str, direction: str, place: int, prod: Objects) -> None:
    closed = changed(prod)
    del get(closed, "NetworkPolicy", policy)["spec"][direction][place]

    found = problems_of_prod(closed)
    assert found
    assert all("has to" in one for one in found)


OPEN_BLOCK: Object = {"ipBlock": {"cidr": "0.0.0.0/0"}}


@pytest.mark.parametrize(
    ("policy", "direction", "rule"),
    [
        ("guest-worker", "egress", {"to": [OPEN_BLOCK], "ports": [{"port": 443}]}),
        ("identity", "ingress", {"ports": [{"port": 15051}]}),
        ("identity", "ingress", {"from": [{"namespaceSelector": {}}], "ports": [{"port": 15051}]}),
        ("messaging", "ingress", {"from": [{"namespaceSelector": {}}], "ports": [{"port": 15064}]}),
        ("gateway", "ingress", {"ports": [{"port": 9901}]}),
        ("gateway", "ingress", {"ports": [{"port": 15075}]}),
        ("worker-metrics", "ingress", {"ports": [{"port": 15080}]}),
        ("database-clients", "egress", {}),
        ("mail", "egress", {"to": [OPEN_BLOCK], "ports": [{"port": 25}]}),
    ],
)
def test_an_edge_that_nobody_uses_is_found(policy: str, direction: str, rule: Object, prod: Objects) -> None:
    opened = changed(prod)
    get(opened, "NetworkPolicy", policy)["spec"][direction].append(rule)

    found = problems_of_prod(opened)
    assert found
    assert all("never does" in one for one in found)


def test_dns_by_udp_alone_is_found(prod: Objects) -> None:
    closed = changed(prod)
    ports = get(closed, "NetworkPolicy", "dns")["spec"]["egress"][0]["ports"]
    ports[:] = [port for port in ports if port["protocol"] == "UDP"]

    assert any("cannot reach dns:53/TCP" in one for one in problems_of_prod(closed))


def test_a_selector_that_finds_too_many_is_found(prod: Objects) -> None:
    opened = changed(prod)
    spec = get(opened, "NetworkPolicy", "broker-clients")["spec"]
    spec["podSelector"]["matchExpressions"][0]["values"].append("gateway")

    assert problems_of_prod(opened) == ["gateway may reach broker:6379/TCP, which it never does"]


def test_without_the_policy_that_denies_the_rest_what_else_is_open_is_found(prod: Objects) -> None:
    opened = without(prod, "NetworkPolicy", "default-deny")

    assert missing_defaults(opened)
    assert any("stranger may reach beat" in one for one in problems_of_prod(opened))


def test_an_edge_of_new_code_is_found(prod: Objects) -> None:
    """As if guest's worker asked messaging as well."""
    wanted = real_edges(prod, (DATABASE, BROKER), database="database", broker="broker") | ways_out(prod)

    found = unlike(edges(prod, (DATABASE, BROKER)), wanted | {("guest-worker", "messaging", "15054/TCP")})
    assert found == ["guest-worker cannot reach messaging:15054/TCP, which it has to"]


COLLECTOR = Party(
    "collector",
    {NAME: "opentelemetry-collector"},
    {"kubernetes.io/metadata.name": "tracing"},
)


def test_the_example_for_traces_opens_the_way_to_the_collector_and_no_other(prod: Objects) -> None:
    around = (DATABASE, BROKER, COLLECTOR)
    before = edges(prod, around)
    opened = edges([*prod, *example("tracing.yaml")], around)

    sending = {one["metadata"]["name"] for one in of_component(prod, "serve", "worker", "gateway")}
    assert opened - before == {(one, "collector", "4317/TCP") for one in sending}
    assert before <= opened


def test_the_collector_that_the_example_names_is_the_one_that_its_policy_leads_to(prod: Objects, folder: Path) -> None:
    text = (EXAMPLES / "tracing.yaml").read_text()
    literals = dict(re.findall(r"^# +- (GUILDHALL_\w+)=(\S+)$", text, re.MULTILINE))
    told = changed(prod)
    (settings,) = [one for one in of_kind(told, "ConfigMap") if one["metadata"]["name"].startswith("settings-")]
    settings["data"] |= literals
    written = configuration(told, folder)["static_resources"]
    (cluster,) = [one for one in written["clusters"] if one["name"] == "traces"]
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    (policy,) = example("tracing.yaml")
    (rule,) = policy["spec"]["egress"]

    place = endpoint["endpoint"]["address"]["socket_address"]
    assert set(literals) == {"GUILDHALL_OTLP_ENDPOINT", "GUILDHALL_TRACES_RATIO"}
    assert [{"port": place["port_value"]}] == rule["ports"]
    namespace = rule["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    assert place["address"].rpartition(".")[2] == namespace
    assert cluster["type"] == "STRICT_DNS"


def test_the_admin_job_is_labelled_as_the_policies_expect() -> None:
    (job,) = (one for one in example("admin.yaml") if one["kind"] == "Job")

    labels = {"app.kubernetes.io/name": "identity", "app.kubernetes.io/component": "admin"}
    assert labels.items() <= pod_labels(job).items()
