"""Policies of what belongs together: every object of a service is there, and names the others as they are."""

from collections.abc import Iterator, Mapping

import kubernetes_validate

from deploy.envoy.__main__ import parser
from tests.kubernetes.objects import (
    POD_KINDS,
    Object,
    Objects,
    container,
    containers,
    environment,
    expanded,
    find,
    get,
    name,
    of_component,
    of_kind,
    pod_spec,
)
from tests.kubernetes.rollouts import selected
from tests.rules.sources import SERVICES

KUBERNETES = "1.37"
OLDEST = "1.30"
"""The first in which `preStop.sleep` is on by default."""
PORTS = {
    "grpc": "GUILDHALL_LISTEN",
    "health": "GUILDHALL_HEALTH_LISTEN",
    "metrics": "GUILDHALL_METRICS_LISTEN",
}


def invalid(objects: Objects, version: str = KUBERNETES) -> list[str]:
    """What that version of Kubernetes would not take, unknown fields included."""
    found = []
    for one in objects:
        try:
            kubernetes_validate.validate(one, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            found.append(f"{name(one)}: {error}")
    return found


def incomplete(objects: Objects) -> list[str]:
    """Services that lack an object, and a suite without its one beat or its gateway."""
    wanted = {"Deployment/beat", "Deployment/gateway", "Service/gateway", "Job/database-roles"}
    for service in SERVICES:
        kinds = ("ServiceAccount", "Service", "Deployment", "PodDisruptionBudget", "HorizontalPodAutoscaler")
        wanted |= {f"{kind}/{service}" for kind in (*kinds, "NetworkPolicy")}
        wanted |= {f"Deployment/{service}-worker", f"Job/{service}-migrate"}
    found = [f"there is no {one}" for one in sorted(wanted - {name(each) for each in objects})]
    beats = [
        one for one in of_kind(objects, *POD_KINDS) if containers(one)[0].get("command", [""])[-1] == "services.beat"
    ]
    return found if len(beats) == 1 else [*found, f"there are {len(beats)} beats"]


def homeless(objects: Objects) -> list[str]:
    """Objects outside the installation's one namespace."""
    homes = {one["metadata"]["name"] for one in of_kind(objects, "Namespace")}
    return [
        f"{name(one)} is not in the namespace of the installation"
        for one in objects
        if one["kind"] != "Namespace" and {one["metadata"].get("namespace")} != homes
    ]


def unserved(objects: Objects) -> list[str]:
    """Services that are not headless, find other pods than their own, or name other ports than those listened on."""
    found = []
    for service in SERVICES:
        spec = get(objects, "Service", service)["spec"]
        if spec.get("clusterIP") != "None":
            found.append(f"Service/{service} is not headless: gRPC would keep to the one pod it found first")
        if selected(objects, spec["selector"]) != {f"Deployment/{service}"}:
            found.append(f"Service/{service} finds other pods than the servers of {service}")
        one = container(get(objects, "Deployment", service), "guildhall")
        given = environment(objects, one)
        listening = {port: int(given[variable].rpartition(":")[2]) for port, variable in PORTS.items()}
        if {port["name"]: port["port"] for port in spec["ports"]} != listening:
            found.append(f"Service/{service} has other ports than its pods listen on")
        if {port["name"]: port["containerPort"] for port in one["ports"]} != listening:
            found.append(f"Deployment/{service} declares other ports than it listens on")
        if any(given[variable].rpartition(":")[0] != "0.0.0.0" for variable in PORTS.values()):
            found.append(f"Deployment/{service} listens where nobody else reaches it")
        worker = container(get(objects, "Deployment", f"{service}-worker"), "guildhall")
        host, _, port = environment(objects, worker)["GUILDHALL_WORKER_METRICS_LISTEN"].rpartition(":")
        if host != "0.0.0.0" or worker["ports"] != [{"name": "metrics", "containerPort": int(port)}]:
            found.append(f"Deployment/{service}-worker shows its metrics elsewhere than it declares")
    return found


def misaddressed(objects: Objects) -> list[str]:
    """Peers, and the gateway's upstreams, that are not the headless Services."""
    found = []
    grpc, health = ({service: _port(objects, service, called) for service in SERVICES} for called in ("grpc", "health"))
    for workload in of_component(objects, "serve"):
        given = environment(objects, container(workload, "guildhall"))
        for peer in SERVICES:
            if given.get(f"GUILDHALL_{peer.upper()}_ADDRESS") != f"dns:///{peer}:{grpc[peer]}":
                found.append(f"{name(workload)} does not look for {peer} at its Service, by DNS")
    for workload in of_component(objects, "gateway"):
        options = parser().parse_args(gateway_arguments(objects, workload))
        wanted = {(service, service, grpc[service], health[service]) for service in SERVICES}
        if set(options.upstream) != wanted:
            found.append(f"{name(workload)} has other upstreams than the Services and their ports")
        listening = {"plain": options.port, "tls": options.tls_port, "metrics": options.metrics_port}
        if {port["name"]: port["containerPort"] for port in container(workload, "envoy")["ports"]} != listening:
            found.append(f"{name(workload)} declares other ports than its configuration has")
    return found


def gateway_arguments(objects: Objects, workload: Object) -> list[str]:
    """What the gateway's configuration is made with."""
    one = container(workload, "configure")
    return [expanded(argument, environment(objects, one)) for argument in one["args"]]


def _port(objects: Objects, service: str, called: str) -> int | None:
    ports = get(objects, "Service", service)["spec"]["ports"]
    return next((port["port"] for port in ports if port["name"] == called), None)


def unlike_migrations(objects: Objects) -> list[str]:
    """Migrations that are not the servers' own image and settings under the owner's role, or that may not run again."""
    found = []
    for service in SERVICES:
        if (job := find(objects, "Job", f"{service}-migrate")) is None:
            continue
        server = container(get(objects, "Deployment", service), "guildhall")
        found += [f"{name(job)}: {what}" for what in _wrong_migration(objects, job, server, service)]
    return found


def _wrong_migration(objects: Objects, job: Object, server: Object, service: str) -> Iterator[str]:
    one = container(job, "guildhall")
    if (one["image"], one["command"], one["args"]) != (server["image"], server["command"], ["migrate"]):
        yield "it is not `migrate` of the image that serves"
    given, served = environment(objects, one), environment(objects, server)
    url = "GUILDHALL_DATABASE_URL"
    if served[url].replace(f"//{service}@", f"//{service}_owner@", 1) != given.get(url):
        yield "it does not migrate, as the owner, the database that the server uses"
    if any(given[each] != served[each] for each in given.keys() & served.keys() - {url}):
        yield "it has other settings than the server"
    if _secret(job, "database") != f"{service}-owner-database":
        yield "it does not have the owner's password"
    spec = job["spec"]
    if pod_spec(job)["restartPolicy"] != "Never" or not spec.get("backoffLimit"):
        yield "it gives up, or hides, what failed"
    if "activeDeadlineSeconds" not in spec:
        yield "it may hang for ever"


def _secret(workload: Object, volume: str) -> str:
    volumes: Mapping[str, Object] = {each["name"]: each for each in pod_spec(workload).get("volumes", [])}
    called: str = volumes.get(volume, {}).get("secret", {}).get("secretName", "")
    return called


def wrong_roles(objects: Objects) -> list[str]:
    """Processes under another database role than their service's, or with another role's password."""
    found = []
    for workload in of_component(objects, "serve", "worker"):
        service = workload["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"]
        url = environment(objects, container(workload, "guildhall")).get("GUILDHALL_DATABASE_URL", "")
        if not url.startswith(f"postgresql://{service}@"):
            found.append(f"{name(workload)} is not under the role {service}")
        if _secret(workload, "database") != f"{service}-database":
            found.append(f"{name(workload)} has another password than {service}'s")
        if _secret(workload, "key") != f"{service}-key":
            found.append(f"{name(workload)} has another key than {service}'s")
        if _secret(workload, "tls") not in ("", f"{service}-tls"):
            found.append(f"{name(workload)} shows another certificate than {service}'s")
    return found


def exposed(objects: Objects) -> list[str]:
    """What the world reaches besides the gateway's TLS port, and a way in that hides who comes."""
    found = []
    for one in of_kind(objects, "Service"):
        spec = one["spec"]
        if spec.get("type", "ClusterIP") == "ClusterIP":
            continue
        if selected(objects, spec["selector"]) != {"Deployment/gateway"}:
            found.append(f"{name(one)} shows the world something else than the gateway")
        if any(port.get("targetPort") != "tls" for port in spec["ports"]):
            found.append(f"{name(one)} shows the world a port in plain text")
        if spec.get("externalTrafficPolicy") != "Local":
            found.append(
                f"{name(one)}: every caller comes from a node's address, and shares its limits with all others"
            )
    return [*found, *(f"{name(one)}: there is another way in" for one in of_kind(objects, "Ingress"))]
