"""Every policy holds for the base and both overlays; and each finds what breaks it."""

from collections.abc import Callable
from typing import Any

import pytest

from services.chassis.frame import STOP_SECONDS
from services.chassis.worker import TASK_SECONDS
from tests.kubernetes import given, network, pods, rollouts, wholeness
from tests.kubernetes.objects import Object, Objects, changed, container, get, without

Policy = Callable[[Objects], list[str]]

POLICIES: tuple[Policy, ...] = (
    wholeness.invalid,
    wholeness.incomplete,
    wholeness.homeless,
    wholeness.unserved,
    wholeness.misaddressed,
    wholeness.unlike_migrations,
    wholeness.wrong_roles,
    wholeness.exposed,
    pods.unrestricted,
    pods.accounts,
    pods.unbounded,
    pods.unwritable,
    pods.images,
    rollouts.unprobed,
    rollouts.hasty,
    rollouts.huddled,
    rollouts.scaling,
    rollouts.disruption,
    given.misgiven,
    given.unreferenced,
    network.missing_defaults,
    network.unlabelled,
)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_policy_holds(policy: Policy, objects: Objects) -> None:
    assert not policy(objects)


def test_the_schemas_of_the_oldest_kubernetes_that_it_runs_on_take_it_as_well(objects: Objects) -> None:
    assert not wholeness.invalid(objects, wholeness.OLDEST)


@pytest.mark.parametrize("policy", [rollouts.alone])
def test_an_installation_never_has_one_pod_only(policy: Policy, base: Objects, prod: Objects) -> None:
    assert not policy(base)
    assert not policy(prod)


def spoiled(objects: Objects, what: tuple[str, str], path: str, value: Any) -> list[Object]:
    """A copy in which a field of an object has another value, or none. Of lists the path names places."""
    copied = changed(objects)
    at: Any = get(copied, *what)
    *above, last = (int(part) if part.isdigit() else part for part in path.split("|"))
    for part in above:
        at = at[part]
    if value is GONE:
        del at[last]
    else:
        at[last] = value
    return copied


GONE = object()
IDENTITY, WORKER, GATEWAY = ("Deployment", "identity"), ("Deployment", "guest-worker"), ("Deployment", "gateway")
MIGRATE = ("Job", "messaging-migrate")
SPEC = "spec|template|spec|"
ONE = SPEC + "containers|0|"
URL = "postgresql://messaging@$(DATABASE)"
STRANGER = {"name": "x", "value": "y"}

SPOILED: list[tuple[Policy, tuple[str, str], str, Any]] = [
    (wholeness.invalid, IDENTITY, "spec|replica", 2),
    (wholeness.invalid, IDENTITY, ONE + "readinessProbe|grpc|port", "health"),
    (wholeness.invalid, ("Service", "guest"), "kind", "Servis"),
    (wholeness.homeless, ("Service", "guest"), "metadata|namespace", "default"),
    (wholeness.unserved, ("Service", "guest"), "spec|clusterIP", GONE),
    (wholeness.unserved, ("Service", "guest"), "spec|selector|app.kubernetes.io/component", "worker"),
    (wholeness.unserved, ("Service", "guest"), "spec|ports|0|port", 15054),
    (wholeness.unserved, IDENTITY, ONE + "ports|0|containerPort", 15054),
    (wholeness.unserved, WORKER, ONE + "ports|0|containerPort", 15083),
    (wholeness.unserved, WORKER, ONE + "ports|0|name", "grpc"),
    (wholeness.misaddressed, ("Service", "guest"), "spec|ports|0|port", 15054),
    (wholeness.misaddressed, GATEWAY, SPEC + "initContainers|0|args|5", "--upstream=identity=identity:15051:15051"),
    (wholeness.misaddressed, GATEWAY, ONE + "ports|0|containerPort", 80),
    (wholeness.unlike_migrations, MIGRATE, ONE + "image", "guildhall:older"),
    (wholeness.unlike_migrations, MIGRATE, ONE + "env|1|value", URL),
    (wholeness.unlike_migrations, MIGRATE, ONE + "env|0|value", "/other"),
    (wholeness.unlike_migrations, MIGRATE, SPEC + "volumes|1|secret|secretName", "messaging-database"),
    (wholeness.unlike_migrations, MIGRATE, SPEC + "restartPolicy", "OnFailure"),
    (wholeness.unlike_migrations, MIGRATE, "spec|activeDeadlineSeconds", GONE),
    (pods.unrestricted, ("Namespace", "guildhall"), "metadata|labels|pod-security.kubernetes.io/enforce", "baseline"),
    (pods.unrestricted, IDENTITY, SPEC + "securityContext|runAsNonRoot", False),
    (pods.unrestricted, IDENTITY, SPEC + "securityContext|seccompProfile", GONE),
    (pods.unrestricted, IDENTITY, SPEC + "hostNetwork", True),
    (pods.unrestricted, IDENTITY, SPEC + "volumes|0", {"name": "tmp", "hostPath": {"path": "/tmp"}}),
    (pods.unrestricted, IDENTITY, SPEC + "automountServiceAccountToken", GONE),
    (pods.unrestricted, IDENTITY, SPEC + "enableServiceLinks", GONE),
    (pods.unrestricted, GATEWAY, SPEC + "containers|1|securityContext|allowPrivilegeEscalation", GONE),
    (pods.unrestricted, GATEWAY, SPEC + "initContainers|0|securityContext|capabilities", GONE),
    (pods.unrestricted, WORKER, ONE + "securityContext|readOnlyRootFilesystem", False),
    (pods.unrestricted, IDENTITY, ONE + "ports|0|hostPort", 15051),
    (pods.accounts, ("ServiceAccount", "guest"), "automountServiceAccountToken", GONE),
    (pods.accounts, IDENTITY, SPEC + "serviceAccountName", GONE),
    (pods.unbounded, IDENTITY, ONE + "resources|limits|memory", GONE),
    (pods.unbounded, IDENTITY, ONE + "resources|limits|cpu", "1"),
    (pods.unbounded, IDENTITY, ONE + "resources|requests", GONE),
    (pods.unbounded, GATEWAY, ONE + "resources|limits|memory", "1Gi"),
    (pods.unwritable, IDENTITY, ONE + "volumeMounts", []),
    (pods.unwritable, GATEWAY, SPEC + "volumes|1|emptyDir", {}),
    (pods.images, GATEWAY, ONE + "image", "envoyproxy/envoy:distroless-v1.39.0"),
    (pods.images, WORKER, ONE + "image", "guildhall:other"),
    (pods.images, GATEWAY, ONE + "image", "envoyproxy/envoy:latest"),
    (rollouts.unprobed, IDENTITY, ONE + "livenessProbe", GONE),
    (rollouts.unprobed, IDENTITY, ONE + "readinessProbe|grpc|port", 15051),
    (rollouts.unprobed, IDENTITY, ONE + "startupProbe", {"tcpSocket": {"port": "health"}}),
    (rollouts.unprobed, WORKER, ONE + "livenessProbe", GONE),
    (rollouts.unprobed, WORKER, ONE + "livenessProbe|httpGet|path", "/"),
    (rollouts.unprobed, GATEWAY, ONE + "readinessProbe", {"httpGet": {"path": "/", "port": 9901}}),
    (rollouts.hasty, IDENTITY, "spec|strategy|rollingUpdate|maxUnavailable", 1),
    (rollouts.hasty, WORKER, "spec|strategy", GONE),
    (rollouts.hasty, IDENTITY, "spec|minReadySeconds", GONE),
    (rollouts.hasty, IDENTITY, ONE + "lifecycle", GONE),
    (rollouts.hasty, IDENTITY, SPEC + "terminationGracePeriodSeconds", 10 + int(STOP_SECONDS)),
    (rollouts.hasty, WORKER, SPEC + "terminationGracePeriodSeconds", int(TASK_SECONDS)),
    (rollouts.hasty, GATEWAY, SPEC + "containers|1|args", ["write"]),
    (rollouts.hasty, GATEWAY, SPEC + "containers|1|lifecycle", GONE),
    (rollouts.hasty, GATEWAY, ONE + "lifecycle|preStop|sleep|seconds", 20),
    (rollouts.hasty, GATEWAY, SPEC + "terminationGracePeriodSeconds", 30),
    (rollouts.huddled, IDENTITY, SPEC + "topologySpreadConstraints|0", GONE),
    (rollouts.huddled, GATEWAY, SPEC + "topologySpreadConstraints|1|maxSkew", 3),
    (rollouts.huddled, GATEWAY, SPEC + "topologySpreadConstraints|1|labelSelector|matchLabels", {"x": "y"}),
    (rollouts.huddled, GATEWAY, SPEC + "topologySpreadConstraints|1|matchLabelKeys", GONE),
    (rollouts.scaling, IDENTITY, "spec|replicas", 3),
    (rollouts.scaling, ("HorizontalPodAutoscaler", "guest"), "spec|scaleTargetRef|name", "guests"),
    (rollouts.scaling, ("HorizontalPodAutoscaler", "guest"), "spec|metrics", []),
    (rollouts.scaling, ("HorizontalPodAutoscaler", "gateway"), "spec|behavior|scaleDown", GONE),
    (rollouts.scaling, ("HorizontalPodAutoscaler", "guest"), "spec|minReplicas", 9),
    (rollouts.alone, ("HorizontalPodAutoscaler", "guest"), "spec|minReplicas", 1),
    (rollouts.disruption, ("PodDisruptionBudget", "guest"), "spec|selector|matchLabels", {"x": "y"}),
    (rollouts.disruption, ("PodDisruptionBudget", "guest"), "spec|maxUnavailable", 0),
    (given.misgiven, IDENTITY, ONE + "env|0", {"name": "GUILDHALL_DATABASE_PASSWORD", "value": "y"}),
    (given.misgiven, IDENTITY, ONE + "env|0", STRANGER),
    (given.misgiven, WORKER, ONE + "env", []),
    (given.misgiven, ("Deployment", "beat"), ONE + "env", []),
    (given.misgiven, GATEWAY, SPEC + "initContainers|0|env", [{"name": "GUILDHALL_TRUSTED_HOP", "value": "1"}]),
    (given.misgiven, ("Deployment", "messaging"), ONE + "envFrom|0", GONE),
    (given.unreferenced, WORKER, ONE + "volumeMounts|0|readOnly", GONE),
    (given.unreferenced, IDENTITY, SPEC + "volumes|1|secret|defaultMode", 0o444),
    (given.unreferenced, IDENTITY, SPEC + "volumes|1|secret|secretName", "identity-passwords"),
    (given.unreferenced, IDENTITY, SPEC + "volumes|1|secret|items", [{"key": "pass", "path": "password"}]),
    (given.unreferenced, IDENTITY, ONE + "env|0|value", "/run/guildhall/database/passwort"),
    (network.unlabelled, WORKER, "spec|template|metadata|labels|app.kubernetes.io/component", GONE),
]


@pytest.mark.parametrize(("policy", "what", "path", "value"), SPOILED)
def test_what_breaks_the_policy_is_found(
    policy: Policy, what: tuple[str, str], path: str, value: Any, base: Objects
) -> None:
    # That it holds for what is not spoiled, test_the_policy_holds has shown.
    assert policy(spoiled(base, what, path, value))


@pytest.mark.parametrize(
    ("policy", "what"),
    [
        (wholeness.incomplete, ("Deployment", "beat")),
        (wholeness.incomplete, ("PodDisruptionBudget", "guest")),
        (wholeness.incomplete, MIGRATE),
        (pods.unrestricted, ("Namespace", "guildhall")),
        (pods.accounts, ("ServiceAccount", "guest")),
        (rollouts.scaling, ("HorizontalPodAutoscaler", "guest")),
        (rollouts.disruption, ("PodDisruptionBudget", "gateway")),
        (network.missing_defaults, ("NetworkPolicy", "default-deny")),
    ],
)
def test_what_is_missing_is_found(policy: Policy, what: tuple[str, str], base: Objects) -> None:
    assert policy(without(base, *what))


def test_a_second_beat_is_found(base: Objects) -> None:
    (other,) = changed([get(base, "Deployment", "beat")])
    other["metadata"]["name"] = "beat-2"

    assert wholeness.incomplete([*base, other]) == ["there are 2 beats"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GUILDHALL_REDIS_URL", "redis://:hunter2@valkey:6379/0"),
        ("GUILDHALL_SMTP_PASSWORD", "hunter2"),
        ("DATABASE_PASSWORD", "hunter2"),
    ],
)
def test_a_secret_by_its_value_is_found(variable: str, value: str, base: Objects) -> None:
    spoiled_objects = changed(base)
    container(get(spoiled_objects, *WORKER), "guildhall")["env"].append({"name": variable, "value": value})

    assert given.unreferenced(spoiled_objects)


@pytest.mark.parametrize(
    ("field", "source"),
    [
        ("env", {"name": "X", "valueFrom": {"secretKeyRef": {"name": "identity-key", "key": "secret-key"}}}),
        ("envFrom", {"secretRef": {"name": "identity-key"}}),
    ],
)
def test_a_secret_in_the_environment_is_found_though_it_is_by_reference(
    field: str, source: Object, base: Objects
) -> None:
    spoiled_objects = changed(base)
    container(get(spoiled_objects, *IDENTITY), "guildhall")[field].append(source)

    assert given.unreferenced(spoiled_objects)


def base_settings(objects: Objects) -> str:
    """The name, with its hash, of the ConfigMap of settings."""
    return str(container(get(objects, *IDENTITY), "guildhall")["envFrom"][0]["configMapRef"]["name"])


def test_a_secret_in_the_manifests_is_found(base: Objects) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "identity-key"}, "stringData": {"x": "y"}}

    assert given.unreferenced([*base, secret])


def test_a_setting_that_nobody_reads_is_found_in_a_configmap(base: Objects) -> None:
    spoiled_objects = changed(base)
    get(spoiled_objects, "ConfigMap", base_settings(base))["data"]["GUILDHALL_DRAIN_SECOND"] = "5"

    assert given.misgiven(spoiled_objects)


def test_another_roles_password_is_found(base: Objects) -> None:
    for place, secret in enumerate(("membership-database", "membership-key", "membership-tls"), 1):
        broken = spoiled(base, IDENTITY, f"{SPEC}volumes|{place}|secret|secretName", secret)

        assert len(wholeness.wrong_roles(broken)) == 1


def test_another_role_is_found(base: Objects) -> None:
    spoiled_objects = changed(base)
    for variable in container(get(spoiled_objects, *IDENTITY), "guildhall")["env"]:
        if variable["name"] == "GUILDHALL_DATABASE_URL":
            variable["value"] = "postgresql://identity_owner@$(DATABASE)"

    assert len(wholeness.wrong_roles(spoiled_objects)) == 1


@pytest.mark.parametrize(
    ("called", "path", "value"),
    [
        ("gateway-public", "spec|ports|0|targetPort", "plain"),
        ("gateway-public", "spec|externalTrafficPolicy", GONE),
        ("gateway-public", "spec|selector|app.kubernetes.io/name", "identity"),
        ("gateway", "spec|type", "NodePort"),
    ],
)
def test_what_the_world_should_not_reach_is_found(called: str, path: str, value: Any, prod: Objects) -> None:
    assert wholeness.exposed(spoiled(prod, ("Service", called), path, value))
