"""Kubernetes objects as they are applied: rendered by kustomize, and looked up by kind, name and label.

A policy is a function from all objects of an installation to what is wrong with them, one line each.
"""

import copy
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.rules.sources import ROOT, SERVICES

Object = dict[str, Any]
Objects = Sequence[Object]

FOLDER = ROOT / "deploy" / "kubernetes"
RENDERED = ("base", "overlays/dev", "overlays/prod")
EXAMPLES = FOLDER / "examples"
POD_KINDS = ("Deployment", "StatefulSet", "Job")
NAME, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"


@cache
def render(kubectl: str, folder: str) -> Objects:
    """The objects of a kustomization: the same each time, so that a test changes a copy only."""
    command = [kubectl, "kustomize", str(FOLDER / folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    # The parser in C, where there is one: that in Python takes longer than all policies together.
    return tuple(yaml.load_all(done.stdout, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def example(name: str) -> list[Object]:
    """The objects of a file in deploy/kubernetes/examples."""
    return list(yaml.safe_load_all((EXAMPLES / name).read_text()))


def name(one: Object) -> str:
    """`Deployment/identity`."""
    return f"{one['kind']}/{one['metadata']['name']}"


def of_kind(objects: Objects, *kinds: str) -> list[Object]:
    """Those of some kinds."""
    return [one for one in objects if one["kind"] in kinds]


def find(objects: Objects, kind: str, called: str) -> Object | None:
    """The one of a kind and name."""
    return next((one for one in objects if name(one) == f"{kind}/{called}"), None)


def get(objects: Objects, kind: str, called: str) -> Object:
    """The one of a kind and name, which is there."""
    found = find(objects, kind, called)
    assert found is not None, f"there is no {kind}/{called}"
    return found


def pod_spec(workload: Object) -> Object:
    """What its pods are made of."""
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def pod_labels(workload: Object) -> Mapping[str, str]:
    """What its pods are labelled with."""
    labels: Mapping[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def component(workload: Object) -> str:
    """serve, worker, migrate, gateway …"""
    return pod_labels(workload).get(COMPONENT, "")


def of_component(objects: Objects, *components: str) -> list[Object]:
    """The workloads of some components."""
    return [one for one in of_kind(objects, *POD_KINDS) if component(one) in components]


def containers(workload: Object) -> list[Object]:
    """Its containers, those that run before the others included."""
    spec = pod_spec(workload)
    return [*spec.get("initContainers", []), *spec["containers"]]


def container(workload: Object, called: str) -> Object:
    """One of them."""
    return next(one for one in containers(workload) if one["name"] == called)


def flag(one: Object, option: str) -> str:
    """The value that follows an option in a container's arguments."""
    arguments: list[str] = one["args"]
    return arguments[arguments.index(option) + 1]


def environment(objects: Objects, one: Object) -> dict[str, str]:
    """The environment that a container gets, as the kubelet makes it: ConfigMaps, then its own, `$(NAME)` replaced.

    What comes from elsewhere is left empty.
    """
    found: dict[str, str] = {}
    for source in one.get("envFrom", []):
        if "configMapRef" in source:
            found |= get(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in one.get("env", []):
        reference = variable.get("valueFrom", {}).get("configMapKeyRef")
        if reference is not None:
            found[variable["name"]] = get(objects, "ConfigMap", reference["name"])["data"][reference["key"]]
        else:
            found[variable["name"]] = expanded(variable.get("value", ""), found)
    return found


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` replaced; a name that is not there stays as it is, as in Kubernetes."""
    return re.sub(r"\$\((\w+)\)", lambda match: variables.get(match[1], match[0]), text)


def service_of(one: Object) -> str:
    """The service whose code a container runs; empty if it is none."""
    module = (one.get("command") or [""])[-1]
    return module.removeprefix("services.") if module.removeprefix("services.") in SERVICES else ""


def changed(objects: Objects) -> list[Object]:
    """A copy, for a test to spoil."""
    return copy.deepcopy(list(objects))


def without(objects: Objects, kind: str, called: str) -> list[Object]:
    """A copy that lacks one of them, which was there."""
    get(objects, kind, called)
    return [one for one in changed(objects) if name(one) != f"{kind}/{called}"]


def megabytes(quantity: str) -> float:
    """A memory quantity in MiB."""
    units = {"Mi": 1, "Gi": 1024}
    return float(quantity[:-2]) * units[quantity[-2:]]


def walk(value: Any) -> Iterator[Any]:
    """Every value inside a value, itself included."""
    yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        yield from walk(each)


def locked(distribution: str) -> str:
    """The version in requirements.lock."""
    match = re.search(
        rf"^{re.escape(distribution)}==(\S+)$", Path(ROOT / "requirements.lock").read_text(), re.MULTILINE
    )
    assert match, f"{distribution} is not in requirements.lock"
    return match[1]
