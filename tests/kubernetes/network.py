"""NetworkPolicies as a cluster applies them, and the edges that the code really has.

`edges` plays every pair of pods and every port through the policies of both sides; `real_edges` is what the call graph,
the events, the settings and the manifests' ports say. The two are to be equal: nothing missing, nothing open.
"""

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from deploy.envoy.__main__ import parser
from services.chassis.settings import BrokerSettings, DatabaseSettings
from tests.kubernetes.given import settings_class
from tests.kubernetes.objects import (
    COMPONENT,
    NAME,
    POD_KINDS,
    Object,
    Objects,
    containers,
    environment,
    get,
    name,
    of_component,
    of_kind,
    pod_labels,
    service_of,
    walk,
)
from tests.kubernetes.wholeness import gateway_arguments
from tests.rules.sources import SERVICES, Source, sources
from tests.rules.test_call_graph import ASKS

Edge = tuple[str, str, str]
"""From, to, and a port as `53/UDP`."""
WORLD = "198.51.100.7"
OTHER_PORTS = tuple(f"{port}/TCP" for port in (22, 25, 80, 443, 587, 5432, 6379, 9901))
"""Tried as well, whether a policy names them or not."""


@dataclass(frozen=True)
class Party:
    """A pod, or an address outside; `ours` are those that the installation's policies hold for."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: Mapping[str, str] | None = None
    address: str = ""

    @property
    def ours(self) -> bool:
        """Whether it is in the installation's own namespace, which selectors without a namespace mean."""
        return self.namespace is None and not self.address


OUTSIDERS = (
    Party("dns", {"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"}),
    Party("prometheus", {}, {"kubernetes.io/metadata.name": "monitoring"}),
    Party("stranger", {NAME: "identity", COMPONENT: "serve"}, {"kubernetes.io/metadata.name": "default"}),
    Party("world", address=WORLD),
    Party("node", address="10.0.0.1"),
)


def parties(objects: Objects, more: Sequence[Party] = ()) -> list[Party]:
    """The installation's pods, an operator's admin Job, and those around them."""
    pods = [Party(one["metadata"]["name"], pod_labels(one)) for one in of_kind(objects, *POD_KINDS)]
    admin = Party("admin", {NAME: "identity", COMPONENT: "admin"})
    return [*pods, admin, *OUTSIDERS, *more]


def edges(objects: Objects, more: Sequence[Party] = ()) -> set[Edge]:
    """Who may open a connection to whom, at which port, as far as policies of the installation have a say."""
    policies = of_kind(objects, "NetworkPolicy")
    named = {_port(port) for one in walk(policies) if isinstance(one, dict) for port in one.get("ports", [])}
    everybody = parties(objects, more)
    return {
        (source.name, target.name, port)
        for source in everybody
        for target in everybody
        if source != target and (source.ours or target.ours)
        for port in {*named, *OTHER_PORTS}
        if _allows(policies, "Egress", source, target, port) and _allows(policies, "Ingress", target, source, port)
    }


def _allows(policies: Objects, direction: str, party: Party, other: Party, port: str) -> bool:
    """Whether the policies that select a party let it through; what none selects is free, as is what is not ours."""
    if not party.ours:
        return True
    specs = [one["spec"] for one in policies if direction in one["spec"]["policyTypes"]]
    chosen = [spec for spec in specs if _matches(spec["podSelector"], party.labels)]
    rules = [rule for spec in chosen for rule in spec.get(direction.lower(), [])]
    return not chosen or any(_fits(rule, other, port) for rule in rules)


def _fits(rule: Object, other: Party, port: str) -> bool:
    ports, peers = rule.get("ports"), rule.get("to", rule.get("from"))
    port_fits = not ports or port in map(_port, ports)
    return port_fits and (not peers or any(_is_peer(peer, other) for peer in peers))


def _port(one: Object) -> str:
    return f"{one['port']}/{one.get('protocol', 'TCP')}"


def _is_peer(peer: Object, other: Party) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        if not other.address or ip_address(other.address) not in ip_network(block["cidr"]):
            return False
        return not any(ip_address(other.address) in ip_network(each) for each in block.get("except", []))
    if other.address:
        return False
    if "namespaceSelector" in peer:
        there = other.namespace is not None and _matches(peer["namespaceSelector"], other.namespace)
    else:
        there = other.namespace is None
    return there and _matches(peer.get("podSelector", {}), other.labels)


def _matches(selector: Object, labels: Mapping[str, str]) -> bool:
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for expression in selector.get("matchExpressions", []):
        if expression["operator"] != "In":
            raise NotImplementedError(expression["operator"])
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True


def event_sources(service: str) -> set[str]:
    """The services whose events one takes in, by the Consumers that its wiring makes."""
    (wiring,) = sources(f"services/{service}/__main__.py")
    return _consumed(wiring)


def _consumed(wiring: Source) -> set[str]:
    return {
        source.value
        for node in ast.walk(wiring.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Consumer"
        for source in ast.walk(node.args[0])
        if isinstance(source, ast.Constant)
    }


def asked_by_worker(service: str) -> set[str]:
    """The peers that a service's worker opens channels to."""
    (wiring,) = sources(f"services/{service}/__main__.py")
    (worker,) = (node for node in ast.walk(wiring.tree) if isinstance(node, ast.FunctionDef) and node.name == "worker")
    return {
        argument.value
        for node in ast.walk(worker)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open_channel"
        for argument in node.args
        if isinstance(argument, ast.Constant)
    }


def senders_of_mail() -> set[str]:
    """The services whose code makes a Mailer."""
    return {
        service
        for service in SERVICES
        for source in sources(f"services/{service}")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Mailer"
    }


def calls() -> set[tuple[str, str]]:
    """Which deployment calls which service: questions, events from the outbox of the asking side, workers."""
    asking = {(caller, service) for caller, asked in ASKS.items() for service in asked}
    events = {(source, service) for service in SERVICES for source in event_sources(service)}
    workers = {(f"{service}-worker", peer) for service in SERVICES for peer in asked_by_worker(service)}
    return asking | events | workers


def port_of(objects: Objects, service: str, called: str) -> str:
    """A port of a service, by its name in the Service."""
    (found,) = (one for one in of_kind(objects, "Service") if one["metadata"]["name"] == service)
    return next(_port(port) for port in found["spec"]["ports"] if port["name"] == called)


def _worker_metrics(objects: Objects, service: str) -> str:
    """The port that a worker is told to show its metrics at."""
    worker = get(objects, "Deployment", f"{service}-worker")
    return f"{environment(objects, containers(worker)[0])['GUILDHALL_WORKER_METRICS_LISTEN'].rpartition(':')[2]}/TCP"


def _gateway_metrics(objects: Objects) -> str:
    """The port at which the gateway is told to show its metrics."""
    options = parser().parse_args(gateway_arguments(objects, get(objects, "Deployment", "gateway")))
    return f"{options.metrics_port}/TCP"


def real_edges(objects: Objects, more: Sequence[Party] = (), *, database: str, broker: str) -> set[Edge]:
    """The edges inside a cluster that the code and the wiring have."""
    found = {(caller, service, port_of(objects, service, "grpc")) for caller, service in calls()}
    for service in SERVICES:
        found |= {("gateway", service, port_of(objects, service, port)) for port in ("grpc", "health")}
        found.add(("prometheus", service, port_of(objects, service, "metrics")))
        found.add(("prometheus", f"{service}-worker", _worker_metrics(objects, service)))
    found.add(("prometheus", "gateway", _gateway_metrics(objects)))
    gateway = ("plain", "tls")
    others = (*OUTSIDERS, *more)
    found |= {(one.name, "gateway", port_of(objects, "gateway", port)) for one in others for port in gateway}
    for workload in of_kind(objects, *POD_KINDS):
        found |= {(workload["metadata"]["name"], target, port) for target, port in _stores(workload, database, broker)}
    found |= {(one.name, "dns", port) for one in parties(objects) if one.ours for port in ("53/UDP", "53/TCP")}
    found.add(("admin", database, "5432/TCP"))
    return found


def _stores(workload: Object, database: str, broker: str) -> Iterable[tuple[str, str]]:
    """PostgreSQL and Valkey, for those whose settings have an address of them."""
    one = containers(workload)[-1]
    settings = settings_class(one)
    sets_up = one.get("command", [""])[-1] == "deploy.stack.ensure_roles"
    if sets_up or (settings is not None and issubclass(settings, DatabaseSettings)):
        yield database, "5432/TCP"
    if settings is not None and issubclass(settings, BrokerSettings):
        yield broker, "6379/TCP"


def ways_out(objects: Objects) -> set[Edge]:
    """The edges out of the cluster of an installation that mails by SMTP and keeps files in a bucket."""
    mailing = {f"{service}-worker" for service in senders_of_mail()}
    keeping = {
        one["metadata"]["name"]
        for one in of_component(objects, "serve", "worker")
        if service_of(containers(one)[0]) and "blob_url" in _fields(containers(one)[0])
    }
    return {(one, "world", "587/TCP") for one in mailing} | {(one, "world", "443/TCP") for one in keeping}


def _fields(one: Object) -> Mapping[str, Any]:
    settings = settings_class(one)
    return settings.model_fields if settings is not None else {}


def missing_defaults(objects: Objects) -> list[str]:
    """An installation where what no policy names is open."""
    denies = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    found = [one for one in of_kind(objects, "NetworkPolicy") if one["spec"] == denies]
    return [] if found else ["no policy denies everything that the others do not allow"]


def unlike(found: set[Edge], wanted: set[Edge]) -> list[str]:
    """What is open and nobody uses, and what is used and closed."""
    return [
        *(
            f"{source} may reach {target}:{port}, which it never does"
            for source, target, port in sorted(found - wanted)
        ),
        *(f"{source} cannot reach {target}:{port}, which it has to" for source, target, port in sorted(wanted - found)),
    ]


def unlabelled(objects: Objects) -> list[str]:
    """Pods without the two labels that policies choose by."""
    return [name(one) for one in of_kind(objects, *POD_KINDS) if not {NAME, COMPONENT} <= set(pod_labels(one))]
