"""Policies of what processes are given: settings that exist, all that are required, and secrets by reference alone."""

import ast
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import PurePosixPath

from pydantic_settings import BaseSettings

from deploy.envoy.options import OPTIONS
from services.chassis.settings import PREFIX, BrokerSettings, DatabaseSettings, ServeSettings, WorkerSettings
from services.identity.settings import AdminSettings, IdentitySettings, IdentityWorkerSettings
from services.membership.settings import MembershipSettings
from services.messaging.settings import MessagingSettings, MessagingWorkerSettings
from tests.kubernetes.objects import (
    POD_KINDS,
    Object,
    Objects,
    container,
    containers,
    environment,
    name,
    of_component,
    of_kind,
    pod_spec,
    service_of,
    walk,
)
from tests.rules.sources import SERVICES, sources

SETTINGS: dict[tuple[str, str], type[BaseSettings]] = {
    ("identity", "serve"): IdentitySettings,
    ("identity", "worker"): IdentityWorkerSettings,
    ("identity", "admin"): AdminSettings,
    ("membership", "serve"): MembershipSettings,
    ("membership", "worker"): WorkerSettings,
    ("guest", "serve"): ServeSettings,
    ("guest", "worker"): ServeSettings,
    ("messaging", "serve"): MessagingSettings,
    ("messaging", "worker"): MessagingWorkerSettings,
}
"""What each command loads; `test_the_table_of_settings_is_what_the_commands_load` holds it against the wiring."""

SECRETS: dict[str, set[str]] = {
    **{f"{service}-database": {"username", "password"} for service in SERVICES},
    **{f"{service}-owner-database": {"username", "password"} for service in SERVICES},
    **{f"{service}-key": {"secret-key"} for service in SERVICES},
    **{f"{service}-tls": {"tls.crt", "tls.key", "ca.crt"} for service in (*SERVICES, "gateway")},
    "edge-tls": {"tls.crt", "tls.key"},
    "identity-signing-keys": {"20260101T000000Z.pem"},
    "identity-provider-keys": {"provider-keys"},
    "database-admin": {"username", "password"},
    "database-ca": {"ca.crt"},
    "mail": {"password"},
    "blobs": {"secret-key"},
}
"""Every Secret that an installation has, with its keys; the one of signing keys holds one or more, by their times."""

WORDS = ("password", "secret", "token", "key")


def settings_class(one: Object) -> type[BaseSettings] | None:
    """What a container's process loads; None if it reads no settings from its environment."""
    if one.get("command", [""])[-1] == "services.beat":
        return BrokerSettings
    if not (service := service_of(one)):
        return None
    command = one["args"][0]
    return DatabaseSettings if command == "migrate" else SETTINGS[service, command]


def processes(objects: Objects) -> Iterator[tuple[Object, Object, type[BaseSettings]]]:
    """Every workload's container whose process loads settings, with their class."""
    for workload in of_kind(objects, *POD_KINDS):
        for one in containers(workload):
            if (settings := settings_class(one)) is not None:
                yield workload, one, settings


def variables(settings: type[BaseSettings]) -> dict[str, bool]:
    """The variables that a settings class reads, and whether each is required."""
    return {PREFIX + field.upper(): info.is_required() for field, info in settings.model_fields.items()}


def misgiven(objects: Objects) -> list[str]:
    """Variables that no process reads, and required ones that are not given."""
    found = []
    everything = {each for settings in {*SETTINGS.values(), BrokerSettings} for each in variables(settings)}
    for workload, one, settings in processes(objects):
        where, known = f"{name(workload)}/{one['name']}", variables(settings)
        own = {each["name"] for each in one.get("env", [])}
        given = environment(objects, one)
        found += [f"{where}: {each} is no setting of {settings.__name__}" for each in sorted(own - set(known))]
        shared = {each for each in given if each.startswith(PREFIX)} - own
        found += [f"{where}: nobody reads {each}" for each in sorted(shared - everything)]
        required = {each for each, needed in known.items() if needed}
        found += [f"{where}: {each} is not given" for each in sorted(required - set(given))]
        found += [
            f"{where}: {each} holds {value}, which is not there" for each, value in given.items() if "$(" in value
        ]
    return found + _misgiven_to_gateway(objects, everything)


def _misgiven_to_gateway(objects: Objects, everything: set[str]) -> list[str]:
    """Variables of the gateway's that are neither options of its own nor settings that it shares with the services."""
    known = everything | {option.variable for option in OPTIONS}
    return [
        f"{name(workload)}: nobody reads {each}"
        for workload in of_component(objects, "gateway")
        for each in environment(objects, container(workload, "configure"))
        if each.startswith(PREFIX) and each not in known
    ]


def files(workload: Object, one: Object) -> dict[str, tuple[str, str]]:
    """The files that a container gets from Secrets: path → Secret and key."""
    volumes = {volume["name"]: volume for volume in pod_spec(workload).get("volumes", [])}
    found = {}
    for mount in one.get("volumeMounts", []):
        volume = volumes.get(mount["name"], {})  # a StatefulSet's claims are not among them
        sources = [volume["secret"]] if "secret" in volume else []
        sources += [source["secret"] for source in volume.get("projected", {}).get("sources", [])]
        for source in sources:
            secret = source.get("secretName", source.get("name"))
            items = source.get("items") or [{"key": key, "path": key} for key in SECRETS.get(secret, ())]
            for item in items:
                found[str(PurePosixPath(mount["mountPath"]) / item["path"])] = (secret, item["key"])
    return found


def unreferenced(objects: Objects) -> list[str]:
    """Secrets that are not files, from objects that somebody else makes, mounted for reading and named in SECRETS."""
    found = [f"{name(one)}: the manifests hold a secret" for one in of_kind(objects, "Secret")]
    for one in walk(list(objects)):
        if isinstance(one, dict) and ("secretKeyRef" in one or "secretRef" in one):
            found.append(f"{one}: a secret in an environment is shown by whatever shows that")
    for workload in of_kind(objects, *POD_KINDS):
        found += [f"{name(workload)}: {what}" for what in _badly_mounted(workload)]
        for one in containers(workload):
            given = environment(objects, one)
            held = set(files(workload, one))
            where = f"{name(workload)}/{one['name']}"
            found += [f"{where}: {what}" for what in _badly_named(given, held, settings_class(one))]
    return found


def _badly_mounted(workload: Object) -> Iterator[str]:
    spec = pod_spec(workload)
    secret = {v["name"]: v.get("secret") or v.get("projected") for v in spec.get("volumes", [])}
    for called, source in secret.items():
        if source is not None and source.get("defaultMode") != 0o440:
            yield f"the files of {called} are readable by more than the process's group"
    for one in containers(workload):
        for mount in one.get("volumeMounts", []):
            if secret.get(mount["name"]) is not None and not mount.get("readOnly"):
                yield f"{one['name']} mounts {mount['name']} for writing"
        for path, (called, key) in files(workload, one).items():
            if key not in SECRETS.get(called, ()):
                yield f"{path}: the Secret {called} has no key {key}"


def _badly_named(given: Mapping[str, str], held: set[str], settings: type[BaseSettings] | None) -> Iterator[str]:
    read = variables(settings) if settings is not None else {}
    for variable, value in given.items():
        if variable in read and variable.endswith("_FILE") and value not in held:
            yield f"{variable} names {value}, which no Secret puts there"
        if variable in read and variable.endswith("_KEYS_DIR") and not any(path.startswith(value) for path in held):
            yield f"{variable} names {value}, where no Secret puts a file"
        is_file = variable.endswith(("_FILE", "_DIR", "_KEY_ID"))
        if not is_file and any(word.upper() in variable for word in WORDS):
            yield f"{variable} gives a secret by its value"
        if "://" in value and ":" in value.split("://")[1].partition("@")[0] and "@" in value:
            yield f"{variable} holds a password in its URL"


def wired_settings(service: str) -> dict[str, str]:
    """The names of the settings classes in a service's `command.run(...)`, by command."""
    (wiring,) = sources(f"services/{service}/__main__.py")
    (run,) = (
        node for node in ast.walk(wiring.tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "command.run"
    )
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in run.keywords}
    return {"serve": given["serve_settings"], "worker": given["worker_settings"]}


def loaded(service: str, class_name: str) -> type[BaseSettings]:
    """The class of that name in a service's wiring."""
    found: type[BaseSettings] = getattr(import_module(f"services.{service}.__main__"), class_name)
    return found
