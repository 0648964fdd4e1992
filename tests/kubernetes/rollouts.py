"""Policies of what replaces pods: how they are asked, rolled out, stopped, spread, scaled and taken away."""

from collections.abc import Iterator, Mapping

from deploy.envoy.routes import UNARY_SECONDS
from services.chassis.frame import STOP_SECONDS
from services.chassis.metrics import ALIVE
from services.chassis.worker import TASK_SECONDS
from tests.kubernetes.objects import (
    POD_KINDS,
    Object,
    Objects,
    component,
    container,
    environment,
    flag,
    name,
    of_component,
    of_kind,
    pod_labels,
    pod_spec,
)

SPREAD = ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
RESOLVE_SECONDS = 30
"""How often gRPC asks DNS anew for a peer's addresses, at most."""
ENDPOINT_SECONDS = 3
"""What a cluster takes, as a rule, to stop sending new connections to a pod that is being stopped."""


def unprobed(objects: Objects) -> list[str]:
    """Servers that are not asked by grpc.health.v1 on their plaintext port, workers and gateways not asked at all."""
    found = []
    for workload in of_component(objects, "serve"):
        one = container(workload, "guildhall")
        port = int(environment(objects, one)["GUILDHALL_HEALTH_LISTEN"].rpartition(":")[2])
        for probe in PROBES:
            if one.get(probe, {}).get("grpc", {}).get("port") != port:
                found.append(f"{name(workload)}: its {probe} is not gRPC on the health port {port}")
    for workload in of_component(objects, "worker"):
        asked = container(workload, "guildhall").get("livenessProbe", {}).get("httpGet")
        if asked != {"path": ALIVE, "port": "metrics"}:
            found.append(f"{name(workload)}: nobody notices when it hangs")
    for workload in of_component(objects, "gateway"):
        for probe in PROBES:
            if container(workload, "envoy").get(probe, {}).get("tcpSocket") != {"port": "plain"}:
                found.append(f"{name(workload)}: its {probe} is not on its own port")
    return found


def hasty(objects: Objects) -> list[str]:
    """Rollouts by which something could be lost."""
    found = []
    for workload in of_component(objects, "serve", "worker", "beat", "gateway"):
        rolling = workload["spec"].get("strategy", {}).get("rollingUpdate", {})
        if rolling.get("maxUnavailable") != 0 or rolling.get("maxSurge") != 1:
            found.append(f"{name(workload)}: a rollout takes a pod away before there is another, or several at once")
    for workload in of_component(objects, "serve"):
        one = container(workload, "guildhall")
        slept = _sleep(one)
        needed = slept + float(environment(objects, one)["GUILDHALL_DRAIN_SECONDS"]) + STOP_SECONDS
        if slept < ENDPOINT_SECONDS:
            found.append(f"{name(workload)}: it sends callers away while DNS still names it")
        if _grace(workload) <= needed:
            found.append(f"{name(workload)}: it needs {needed:.0f} s to stop, and is killed after {_grace(workload)}")
        if workload["spec"].get("minReadySeconds", 0) < RESOLVE_SECONDS:
            found.append(f"{name(workload)}: two pods may be replaced before callers ask DNS again")
    for workload in of_component(objects, "worker"):
        if _grace(workload) <= TASK_SECONDS:
            found.append(f"{name(workload)}: a task may take {TASK_SECONDS:.0f} s, and is killed sooner")
    for workload in of_component(objects, "gateway"):
        found += [f"{name(workload)}: {what}" for what in _hasty_gateway(workload)]
    return found


def _hasty_gateway(workload: Object) -> Iterator[str]:
    envoy = container(workload, "envoy")
    draining = [one for one in pod_spec(workload)["containers"] if one.get("args") == ["drain"]]
    if not draining:
        yield "nothing tells Envoy to drain; on SIGTERM alone it drops its calls"
        return
    begins = _sleep(draining[0])
    needed = begins + int(flag(envoy, "--drain-time-s")) + UNARY_SECONDS
    if begins < ENDPOINT_SECONDS:
        yield "clients are sent away while new connections still come here"
    if _sleep(envoy) < needed:
        yield f"Envoy needs {needed} s to drain, and is stopped after {_sleep(envoy)}"
    if _grace(workload) <= _sleep(envoy):
        yield "it is killed while it drains"


def _sleep(one: Object) -> int:
    seconds: int = one.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    return seconds


def _grace(workload: Object) -> int:
    seconds: int = pod_spec(workload).get("terminationGracePeriodSeconds", 30)
    return seconds


def huddled(objects: Objects) -> list[str]:
    """Servers and gateways that might all stand in one zone or on one node."""
    found = []
    for workload in of_component(objects, "serve", "gateway"):
        constraints = pod_spec(workload).get("topologySpreadConstraints", [])
        for key in SPREAD:
            fits = [one for one in constraints if one["topologyKey"] == key and one["maxSkew"] == 1]
            if not any(one.get("labelSelector") == workload["spec"]["selector"] for one in fits):
                found.append(f"{name(workload)} is not spread over {key}")
            if not all("pod-template-hash" in one.get("matchLabelKeys", []) for one in fits):
                found.append(f"{name(workload)}: pods of the revision before count for {key}, and lean on the new ones")
    return found


def selected(objects: Objects, selector: Mapping[str, str]) -> set[str]:
    """The workloads whose pods a selector of labels finds."""
    return {name(one) for one in of_kind(objects, *POD_KINDS) if selector.items() <= pod_labels(one).items()}


def scaling(objects: Objects) -> list[str]:
    """Servers and gateways that do not grow with their load, or shrink at once."""
    found = []
    for workload in of_component(objects, "serve", "gateway"):
        called = workload["metadata"]["name"]
        scalers = [
            one
            for one in of_kind(objects, "HorizontalPodAutoscaler")
            if one["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": called}
        ]
        if len(scalers) != 1:
            found.append(f"{name(workload)} has {len(scalers)} autoscalers")
        if "replicas" in workload["spec"]:
            found.append(f"{name(workload)}: each apply would undo what its autoscaler has done")
        for one in scalers:
            found += [f"{name(one)}: {what}" for what in _wrong_scaler(one["spec"], container_of=component(workload))]
    return found


def _wrong_scaler(spec: Object, *, container_of: str) -> Iterator[str]:
    kind = "containerResource" if container_of == "gateway" else "resource"
    measured = [metric.get(kind, {}) for metric in spec.get("metrics", [])]
    if not any(one.get("name") == "cpu" and one["target"]["type"] == "AverageValue" for one in measured):
        yield "it does not go by the processor time of a pod"
    if spec.get("behavior", {}).get("scaleDown", {}).get("stabilizationWindowSeconds", 0) < 300:
        yield "it takes pods away at the first calm, and each sends its streams to the others"
    if spec.get("minReplicas", 1) > spec["maxReplicas"]:
        yield "its bounds are the wrong way round"


def alone(objects: Objects) -> list[str]:
    """Autoscalers that leave a server or gateway with one pod. Not asked of the overlay for one node."""
    return [
        f"{name(one)}: one pod is none while it is replaced by force"
        for one in of_kind(objects, "HorizontalPodAutoscaler")
        if one["spec"].get("minReplicas", 1) < 2
    ]


def disruption(objects: Objects) -> list[str]:
    """Servers and gateways that a node's drain may take away all at once, or may never take away."""
    found = []
    for workload in of_component(objects, "serve", "gateway"):
        budgets = [
            one
            for one in of_kind(objects, "PodDisruptionBudget")
            if selected(objects, one["spec"]["selector"]["matchLabels"]) == {name(workload)}
        ]
        if len(budgets) != 1:
            found.append(f"{name(workload)} has {len(budgets)} disruption budgets of its own")
        for one in budgets:
            # Not minAvailable: with one replica that would keep its node from ever being emptied.
            if one["spec"].get("maxUnavailable") != 1:
                found.append(f"{name(one)} lets more than one pod go at a time, or none")
    return found
