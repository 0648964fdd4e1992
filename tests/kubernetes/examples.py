"""Policies of the examples: kinds that are not Kubernetes' own are held against our names, ports and secrets only."""

import re

from deploy.envoy.metrics import PATH as GATEWAY_METRICS
from services.chassis.tls import NAMES
from tests.kubernetes.given import SECRETS
from tests.kubernetes.objects import (
    Object,
    Objects,
    component,
    container,
    containers,
    environment,
    find,
    get,
    name,
    of_component,
    of_kind,
)
from tests.kubernetes.rollouts import selected
from tests.rules.sources import SERVICES
from tests.support.pools import connections_of_server, connections_of_worker
from tests.support.promql import alerts

VERSIONS = {
    "Certificate": "cert-manager.io/v1",
    "Issuer": "cert-manager.io/v1",
    "GRPCRoute": "gateway.networking.k8s.io/v1",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "Cluster": "postgresql.cnpg.io/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "ExternalSecret": "external-secrets.io/v1",
}
NATIVE = ("Namespace", "Job", "NetworkPolicy")
"""Kinds of the examples that are Kubernetes' own, and so are validated."""
RESERVED = 10
"""Connections that are left for the superuser, and for whoever looks after the database."""


def of_other_versions(examples: Objects) -> list[str]:
    """Objects of kinds that nobody here knows, or in a version that is not the one they are written for."""
    others = [one for one in examples if one["kind"] not in NATIVE]
    return [
        f"{name(one)} is of {one['apiVersion']}" for one in others if VERSIONS.get(one["kind"]) != one["apiVersion"]
    ]


def wrong_certificates(certificates: Objects) -> list[str]:
    """Certificates that are missing, that name nobody or two, or by which somebody outside could pass for a service."""
    found = []
    for called in (*SERVICES, "gateway"):
        one = find(certificates, "Certificate", called)
        spec = one["spec"] if one is not None else {}
        if spec.get("dnsNames") != [called] or called not in NAMES:
            found.append(f"no certificate is {called}'s alone: its name in it is who it is")
        if spec.get("secretName") != f"{called}-tls":
            found.append(f"{called}'s certificate is not where its pods look")
        wanted = {"client auth"} if called == "gateway" else {"server auth", "client auth"}
        if set(spec.get("usages", [])) != wanted:
            found.append(f"{called}'s certificate is for something else than {sorted(wanted)}")
        if spec.get("issuerRef") != {"name": "guildhall", "kind": "Issuer"}:
            found.append(f"{called}'s certificate is not from the suite's own authority")
    edge = get(certificates, "Certificate", "edge")["spec"]
    if NAMES & set(edge["dnsNames"]) or set(edge["usages"]) != {"server auth"}:
        found.append("the public's certificate opens a service's port")
    if edge["issuerRef"]["name"] == "guildhall" or edge["secretName"] != "edge-tls":
        found.append("the public's certificate is not the public's")
    return [*found, *_wrong_authority(certificates)]


def _wrong_authority(certificates: Objects) -> list[str]:
    authority = get(certificates, "Certificate", "guildhall-ca")["spec"]
    issuer = get(certificates, "Issuer", "guildhall")["spec"]
    fits = authority.get("isCA") is True and issuer == {"ca": {"secretName": authority["secretName"]}}
    kept = authority["privateKey"].get("rotationPolicy") == "Never"
    return [] if fits and kept else ["the suite's authority is not one that stays"]


def wrong_routes(routes: Objects, objects: Objects) -> list[str]:
    """Routes to what is not there, and host names that belong to routes of two kinds."""
    found = []
    hosts: dict[str, set[str]] = {}
    for route in routes:
        for host in route["spec"]["hostnames"]:
            hosts.setdefault(host, set()).add(route["kind"])
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                service = find(objects, "Service", backend["name"])
                ports = service["spec"]["ports"] if service is not None else []
                if not any(port["port"] == backend["port"] and "h2c" in port.get("appProtocol", "") for port in ports):
                    found.append(f"{name(route)} leads to {backend['name']}:{backend['port']}, which takes no HTTP/2")
    return [*found, *(f"{host} belongs to two kinds of routes" for host, kinds in hosts.items() if len(kinds) > 1)]


def connections(objects: Objects) -> int:
    """What all pods of an installation can hold open at a PostgreSQL, in the middle of a rollout of all."""
    most = {one["metadata"]["name"]: one["spec"]["maxReplicas"] for one in of_kind(objects, "HorizontalPodAutoscaler")}
    total = 0
    for workload in of_component(objects, "serve"):
        total += connections_of_server() * (most[workload["metadata"]["name"]] + 1)
    for workload in of_component(objects, "worker"):
        total += connections_of_worker() * (workload["spec"]["replicas"] + 1)
    return total + len(of_component(objects, "migrate", "database-roles"))


def wrong_database(examples: Objects, objects: Objects) -> list[str]:
    """A PostgreSQL that is not the one the installation looks for, too small for it, or that could forget a commit."""
    (cluster,) = of_kind(examples, "Cluster")
    called, namespace = cluster["metadata"]["name"], cluster["metadata"]["namespace"]
    job = container(get(objects, "Job", "database-roles"), "guildhall")
    found = []
    if not environment(objects, job)["DATABASE"].startswith(f"{called}-rw.{namespace}/"):
        found.append("the installation looks for another database")
    (rule,) = get(objects, "NetworkPolicy", "database-clients")["spec"]["egress"]
    wanted = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchLabels": {"cnpg.io/cluster": called}},
    }
    if rule["to"] != [wanted]:
        found.append("the installation's policies lead to another database")
    settings = cluster["spec"]["postgresql"]
    if int(settings["parameters"]["max_connections"]) < connections(objects) + RESERVED:
        found.append(f"all pods together may want {connections(objects)} connections")
    if not any(each.startswith("pg_stat_statements.") for each in settings["parameters"]):
        found.append("nobody can see which statements are slow")
    synchronous = settings.get("synchronous", {})
    if not synchronous.get("number") or synchronous.get("dataDurability") != "required":
        found.append("a failover could lose what was acknowledged")
    if cluster["spec"].get("enableSuperuserAccess") is not True:
        found.append("nobody can make the roles")
    return found


def wrong_secrets(examples: Objects) -> list[str]:
    """External Secrets that make no Secret of ours, or one without its keys."""
    found = []
    for one in of_kind(examples, "ExternalSecret"):
        target = one["spec"]["target"]
        made = set(target.get("template", {}).get("data", {})) or {
            each["secretKey"] for each in one["spec"].get("data", [])
        }
        if target["name"] not in SECRETS:
            found.append(f"{name(one)} makes a Secret that nobody reads")
        elif "dataFrom" not in one["spec"] and made != SECRETS[target["name"]]:
            found.append(f"{name(one)} makes {sorted(made)}, not {sorted(SECRETS[target['name']])}")
    return found


def wrong_admin(job: Object, objects: Objects) -> list[str]:
    """A Job of an operator that runs another image, or on another database, than the installation's identity."""
    server = container(get(objects, "Deployment", "identity"), "guildhall")
    one = container(job, "guildhall")
    found = [] if one["image"] == server["image"] else ["it runs another image than identity"]
    url = "GUILDHALL_DATABASE_URL"
    if environment([], one).get(url) != environment(objects, server)[url]:
        found.append("it looks for another database than identity")
    if job["spec"].get("backoffLimit") != 0 or "ttlSecondsAfterFinished" not in job["spec"]:
        found.append("it may do its work twice, or leave a secret in its log")
    return found


MONITORED = {"serve": "guildhall-services", "worker": "guildhall-workers", "gateway": "guildhall-gateway"}
"""The jobs that Prometheus is to know the processes by."""
_SERVICE = {"sourceLabels": ["__meta_kubernetes_pod_label_app_kubernetes_io_name"], "targetLabel": "service"}


def wrong_monitors(monitors: Objects, objects: Objects) -> list[str]:
    """Monitors that leave a process out, look at another port or path, or call it otherwise than the alerts do."""
    found = [f"no alert is about the job {job}" for job in _unknown_jobs()]
    seen: list[str] = []
    for monitor in monitors:
        spec = monitor["spec"]
        workloads = selected(objects, spec["selector"]["matchLabels"])
        seen += workloads
        for workload in (one for one in objects if name(one) in workloads):
            found += [f"{name(monitor)}: {what}" for what in _wrong_endpoint(spec["podMetricsEndpoints"], workload)]
    wanted = {name(one) for one in of_component(objects, *MONITORED)}
    found += [f"{one} is not looked at once" for one in sorted(wanted) if seen.count(one) != 1]
    return found + [f"{one} has no metrics" for one in sorted(set(seen) - wanted)]


def _wrong_endpoint(endpoints: Objects, workload: Object) -> list[str]:
    (endpoint,) = endpoints
    kind, relabelings = component(workload), endpoint["relabelings"]
    ports = {port["name"] for one in containers(workload) for port in one.get("ports", [])}
    found = [] if endpoint["port"] in ports else [f"{name(workload)} has no port {endpoint['port']}"]
    if endpoint["path"] != (GATEWAY_METRICS if kind == "gateway" else "/metrics"):
        found.append(f"{name(workload)} has no metrics at {endpoint['path']}")
    if {"targetLabel": "job", "replacement": MONITORED[kind]} not in relabelings:
        found.append(f"the job of {name(workload)} is not {MONITORED[kind]}")
    if kind != "gateway" and _SERVICE not in relabelings:
        found.append(f"the label service is not the name of {name(workload)}")
    return found


def _unknown_jobs() -> list[str]:
    """Those of the table that no alert would look at."""
    patterns = re.findall(r'job=~?"([^"]+)"', " ".join(rule["expr"] for rule in alerts()))
    return [job for job in MONITORED.values() if not any(re.fullmatch(pattern, job) for pattern in patterns)]
