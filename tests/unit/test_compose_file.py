"""deploy/compose.yaml against the code it runs: its processes, settings, commands, secrets and rights."""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.envoy import __main__ as envoy_command
from deploy.stack import certificates, ensure_roles, ensure_secrets, secrets, suite
from deploy.stack import services as stack_services
from deploy.stack.settings import SERVICES, Layout, Ports, Settings
from services.chassis.frame import STOP_SECONDS
from services.chassis.settings import ServeSettings

FILE = Path(__file__).parents[2] / "deploy/compose.yaml"
OTHERS = {"postgresql", "valkey", "gateway"}
"""From images that are not ours."""
HANDED_ON = {"GUILDHALL_OTLP_ENDPOINT", "GUILDHALL_TRACES_RATIO"}
"""From the shell, if they are set there: to the services and the gateway alike, or a trace would have holes."""


@pytest.fixture(scope="module")
def containers() -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = yaml.safe_load(FILE.read_text())["services"]
    return loaded


def ours(containers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found for name, found in containers.items() if name not in OTHERS}


def mounted(container: Mapping[str, Any]) -> dict[str, str]:
    """Its volumes by where they are."""
    places = (volume.split(":") for volume in container.get("volumes", ()))
    return {place[1]: place[0] for place in places}


def test_every_process_of_the_suite_is_there_once(containers: Mapping[str, Any]) -> None:
    wanted = {
        " ".join(["python", "-m", f"services.{service}", command])
        for service in SERVICES
        for command in ("serve", "worker", "migrate")
    }
    wanted.add("python -m services.beat")
    found = [" ".join(each["command"]) for each in ours(containers).values()]
    assert sorted(command for command in found if command.startswith("python -m services.")) == sorted(wanted)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_told_all_that_the_embedded_stack_tells_it(
    service: str, containers: Mapping[str, Any], tmp_path: Path
) -> None:
    settings = Settings(Layout(tmp_path), Ports(0), 1, "info")
    stack = suite.prepare(settings)
    shutil.rmtree(settings.layout.sockets)
    embedded = stack_services.environment(settings, service, postgres=stack.postgres, valkey=stack.valkey)
    of_workers = {"GUILDHALL_WORKER_METRICS_LISTEN"}
    for name, own in ((service, set()), (f"{service}-worker", of_workers)):
        assert set(containers[name]["environment"]) == set(embedded) | own | HANDED_ON, name
    for kind in ("LISTEN", "HEALTH_LISTEN", "METRICS_LISTEN"):
        port = embedded[f"GUILDHALL_{kind}"].rpartition(":")[2]
        assert containers[service]["environment"][f"GUILDHALL_{kind}"].rpartition(":")[2] == port
    health = containers[service]["healthcheck"]["test"]
    assert health[1:] == ["python", "-m", "deploy.stack.health", embedded["GUILDHALL_HEALTH_LISTEN"].split(":")[1]]


def test_who_names_a_collector_names_it_to_all_that_send_traces(containers: Mapping[str, Any]) -> None:
    sending = [*SERVICES, *(f"{service}-worker" for service in SERVICES), "gateway-configuration"]

    for name in sending:
        told = {key: value for key, value in containers[name]["environment"].items() if key in HANDED_ON}
        assert told == dict.fromkeys(HANDED_ON), name


def test_only_the_container_that_makes_secrets_is_roots(containers: Mapping[str, Any]) -> None:
    for name, found in containers.items():
        assert found["read_only"] is True, name
        assert found["cap_drop"] == ["ALL"], name
        assert found["security_opt"] == ["no-new-privileges:true"], name
    assert [name for name, found in ours(containers).items() if "user" in found] == ["secrets"]
    assert [name for name, found in ours(containers).items() if "cap_add" in found] == ["secrets"]
    assert containers["secrets"]["network_mode"] == "none"


def test_every_container_has_its_own_secrets_and_nobody_elses(containers: Mapping[str, Any]) -> None:
    held = {name: mounted(found) for name, found in containers.items()}
    folders = {target.removeprefix("/secrets/"): volume for target, volume in held["secrets"].items()}
    for service in SERVICES:
        for name in (service, f"{service}-worker"):
            assert held[name]["/run/guildhall"] == folders[service], name
        assert held[f"migrate-{service}"] == {"/run/guildhall": folders[f"{service}-owner"]}
    assert held["roles"] == {"/run/guildhall": folders["roles"]}
    assert held["postgresql"]["/run/guildhall"] == folders["postgresql"]
    assert [name for name, volumes in held.items() if "state" in volumes.values()] == ["secrets"]
    for name, found in containers.items():
        if name not in ("secrets", "admin"):
            assert [v for v in found.get("volumes", ()) if "/run/guildhall" in v and not v.endswith(":ro")] == [], name


def test_a_folder_is_mounted_for_each_container_that_is_handed_secrets(
    containers: Mapping[str, Any], tmp_path: Path
) -> None:
    options = ensure_secrets.parser().parse_args(containers["secrets"]["command"][3:])
    targets = mounted(containers["secrets"])
    ensure_secrets.main(["--state", str(tmp_path / "state"), "--output", str(tmp_path / "output")])
    made = {f"{options.output}/{folder.name}" for folder in (tmp_path / "output").iterdir()}
    assert {target for target in targets if target.startswith(f"{options.output}/")} == made
    assert str(options.state) in targets
    assert {str(folder) for folder in options.owned} <= set(targets)


def test_the_files_that_settings_name_are_handed_out(containers: Mapping[str, Any], tmp_path: Path) -> None:
    ensure_secrets.main(["--state", str(tmp_path / "state"), "--output", str(tmp_path)])
    for service in SERVICES:
        for name, value in containers[service]["environment"].items():
            if value is not None and value.startswith("/run/guildhall/"):
                assert (tmp_path / service / value.removeprefix("/run/guildhall/")).exists(), f"{service}: {name}"
        assert (tmp_path / f"{service}-owner/database-password").exists()
    roles = ensure_roles.parser().parse_args(containers["roles"]["command"][3:])
    assert set(ensure_roles.read_passwords(tmp_path / "roles" / roles.passwords.name)) == set(ensure_roles.ROLES)
    assert (tmp_path / "roles" / roles.admin.name / "username").read_text() == "postgres"


def test_the_gateways_configuration_is_made_from_its_command(containers: Mapping[str, Any], tmp_path: Path) -> None:
    ensure_secrets.main(["--state", str(tmp_path / "state"), "--output", str(tmp_path)])
    configuration = containers["gateway-configuration"]
    places = {target: tmp_path / source for target, source in mounted(configuration).items()}
    (tmp_path / "envoy").mkdir()
    arguments = [_moved(argument, places) for argument in configuration["command"][3:]]
    arguments = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", argument) for argument in arguments]
    assert envoy_command.main(arguments) == 0
    options = envoy_command.parser().parse_args(arguments)
    assert {upstream[0]: upstream[1:] for upstream in options.upstream} == {
        service: (service, Ports(0).service(service), Ports(0).health(service)) for service in SERVICES
    }
    for folder, names in ((options.tls, ("tls.crt", "tls.key", "ca.crt")), (options.edge_tls, ("tls.crt", "tls.key"))):
        assert all((folder / name).exists() for name in names)


def test_the_gateway_restarts_when_its_configuration_was_made_anew(containers: Mapping[str, Any]) -> None:
    waits = containers["gateway"]["depends_on"]["gateway-configuration"]
    shared = set(mounted(containers["gateway"]).values()) & set(mounted(containers["gateway-configuration"]).values())

    assert waits == {"condition": "service_completed_successfully", "restart": True}
    assert "envoy" in shared


def _moved(argument: str, places: Mapping[str, Path]) -> str:
    for target, source in places.items():
        argument = argument.replace(f"={target}", f"={source}")
    return argument


def test_nothing_is_published_to_other_machines(containers: Mapping[str, Any]) -> None:
    published = [port for found in containers.values() for port in found.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_database_counts_what_its_statements_cost(containers: Mapping[str, Any]) -> None:
    assert "shared_preload_libraries=pg_stat_statements" in containers["postgresql"]["command"]


def test_a_service_has_time_to_drain_before_it_is_killed(containers: Mapping[str, Any]) -> None:
    drain_seconds = ServeSettings.model_fields["drain_seconds"].default
    for service in SERVICES:
        assert float(containers[service]["stop_grace_period"].removesuffix("s")) > drain_seconds + STOP_SECONDS


@pytest.fixture
def handed(tmp_path: Path) -> Callable[[], dict[str, bytes]]:
    """Hands secrets out, again at each call; every file that is there then."""
    output = tmp_path / "output"

    def run() -> dict[str, bytes]:
        assert ensure_secrets.main(["--state", str(tmp_path / "state"), "--output", str(output)]) == 0
        return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}

    return run


def test_secrets_that_are_there_stay_as_they_are(handed: Callable[[], dict[str, bytes]]) -> None:
    assert handed() == handed()


def test_a_rotated_signing_key_and_providers_key_are_not_undone(
    handed: Callable[[], dict[str, bytes]], tmp_path: Path
) -> None:
    before = handed()
    folder = tmp_path / "output/identity"
    (old,) = (folder / "signing-keys").iterdir()
    old.rename(old.with_name("rotated.pem"))
    (folder / "provider-keys").write_bytes(b"new\n" + before["identity/provider-keys"])
    after = handed()
    assert [name for name in after if "signing-keys" in name] == ["identity/signing-keys/rotated.pem"]
    assert after["identity/provider-keys"].startswith(b"new\n")


def test_a_certificate_made_anew_is_handed_out_again(handed: Callable[[], dict[str, bytes]], tmp_path: Path) -> None:
    before = handed()
    certificates.files(tmp_path / "state/certs", "guest").certificate.unlink()
    after = handed()
    assert {name for name in before if before[name] != after[name]} == {"guest/tls.crt", "guest/tls.key"}


def test_what_is_handed_out_is_its_owners_alone(handed: Callable[[], dict[str, bytes]], tmp_path: Path) -> None:
    handed()
    for path in (tmp_path / "output").rglob("*"):
        # PostgreSQL's own user is not ours to know.
        is_shared = "postgresql" in path.parts
        assert bool(path.stat().st_mode & 0o077) == is_shared, path
    assert secrets.database_password_file(tmp_path / "state/secrets", "postgres").stat().st_mode & 0o077 == 0
