"""What every process would find in its pod is loaded by the real settings classes."""

from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from deploy.stack import ensure_roles
from tests.kubernetes.given import (
    SECRETS,
    SETTINGS,
    files,
    loaded,
    processes,
    variables,
    wired_settings,
)
from tests.kubernetes.objects import Objects, containers, environment, example, expanded, get, name
from tests.rules.sources import SERVICES

FOLDER = "/run/guildhall"


def _content(secret: str, key: str) -> bytes:
    """What an operator would put there."""
    if key == "provider-keys":
        return Fernet.generate_key() + b"\n"
    if key.endswith(".pem"):
        return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return b"ab" * 32


def pods_files(objects: Objects, folder: Path) -> None:
    """Every file that any pod gets, in one folder: their paths say what they are, not whose."""
    for workload, one, _ in processes(objects):
        for path, (secret, key) in files(workload, one).items():
            file = folder / Path(path).relative_to(FOLDER)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(_content(secret, key))


def test_every_process_starts_with_what_its_pod_gives_it(
    objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods_files(objects, tmp_path)
    started = set()
    for workload, one, settings in processes(objects):
        for each in variables(settings):
            monkeypatch.delenv(each, raising=False)
        for each, value in environment(objects, one).items():
            monkeypatch.setenv(each, value.replace(FOLDER, str(tmp_path)))

        settings()  # ValidationError if anything is missing, misspelled or of the wrong form
        started.add(name(workload))
        for each in environment(objects, one):
            monkeypatch.delenv(each)

    kinds = ("Deployment/{}", "Deployment/{}-worker", "Job/{}-migrate")
    assert started == {kind.format(service) for kind in kinds for service in SERVICES} | {"Deployment/beat"}


def test_the_admin_job_starts_with_what_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = example("admin.yaml")
    pods_files(job, tmp_path)
    ((_, one, settings),) = processes(job)
    for each, value in environment(job, one).items():
        monkeypatch.setenv(each, value.replace(FOLDER, str(tmp_path)))

    assert settings is SETTINGS["identity", "admin"]
    settings()


def test_the_job_of_the_roles_finds_a_password_for_each(objects: Objects) -> None:
    job = get(objects, "Job", "database-roles")
    (one,) = containers(job)
    arguments = [expanded(argument, environment(objects, one)) for argument in one["args"]]
    options = ensure_roles.parser().parse_args(arguments)

    held = files(job, one)
    assert {f"{options.passwords}/{role}/password" for role in ensure_roles.ROLES} <= set(held)
    for role in ensure_roles.ROLES:
        assert held[f"{options.passwords}/{role}/password"] == (f"{role.replace('_', '-')}-database", "password")
    assert {f"{options.admin}/username", f"{options.admin}/password"} <= set(held)
    assert options.server == environment(objects, one)["DATABASE"]


@pytest.mark.parametrize("service", SERVICES)
def test_the_table_of_settings_is_what_the_commands_load(service: str) -> None:
    for command, class_name in wired_settings(service).items():
        assert SETTINGS[service, command] is loaded(service, class_name)


def test_every_secret_that_is_written_down_is_used(prod: Objects) -> None:
    used = {secret for workload, one, _ in processes(prod) for secret, _ in files(workload, one).values()}
    for workload in ("gateway", "database-roles"):
        kind = "Deployment" if workload == "gateway" else "Job"
        found = get(prod, kind, workload)
        used |= {secret for one in containers(found) for secret, _ in files(found, one).values()}

    assert used == set(SECRETS)
