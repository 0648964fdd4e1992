"""What `guildhall up` is told: every setting reaches who reads it, and what nobody would read is refused."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from deploy import configuration
from deploy.stack import services, suite
from deploy.stack.settings import SERVICES, SettingsError, load
from services.chassis.settings import PREFIX

SITE = "https://app.example.com"


def everything_read() -> set[str]:
    """The variables of every process of the services."""
    return {PREFIX + field.upper() for read in configuration.LOADED.values() for field in read.model_fields}


def environments(given: Mapping[str, str], folder: Path) -> dict[str, dict[str, str]]:
    """What each process of the services gets, by its name."""
    settings = load({**given, "GUILDHALL_DATA_DIR": str(folder)}, only_known=True)
    stack = suite.prepare(settings)
    shutil.rmtree(settings.layout.sockets)
    programs = services.programs(settings, postgres=stack.postgres, valkey=stack.valkey)
    return {program.name: dict(program.environment) for program in programs}


def test_every_setting_of_a_service_is_made_by_up_or_handed_on(tmp_path: Path) -> None:
    made = set().union(*environments({}, tmp_path).values())
    others = everything_read() - made
    given = dict.fromkeys(others | {"GUILDHALL_BLOB_URL"}, "1") | {"GUILDHALL_OTLP_ENDPOINT": "http://x:4317"}

    found = environments(given, tmp_path)
    for service in SERVICES:
        for name in (service, f"{service}-worker"):
            assert given.items() <= found[name].items(), name
    assert {"GUILDHALL_DRAIN_SECONDS", "GUILDHALL_SIGN_UP", "GUILDHALL_SMTP_HOST"} <= others


def test_the_site_that_is_named_is_told_to_every_process_and_the_gateway_stays_where_it_is(tmp_path: Path) -> None:
    found = environments({"GUILDHALL_PUBLIC_URL": SITE}, tmp_path)
    settings = load({"GUILDHALL_PUBLIC_URL": SITE})

    assert {each["GUILDHALL_PUBLIC_URL"] for name, each in found.items() if name != "beat"} == {SITE}
    assert (settings.public_url, settings.gateway_url) == (SITE, "http://127.0.0.1:8080")
    assert load({}).public_url == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    "wrong", ["app.example.com", "ftp://x", "https://", "https://a b", "https://x/?a=b", "http://u@x"]
)
def test_a_site_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(SettingsError, match="GUILDHALL_PUBLIC_URL must be like"):
        load({"GUILDHALL_PUBLIC_URL": wrong})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("GUILDHALL_SIGNUP", " (is GUILDHALL_SIGN_UP meant?)"),
        ("GUILDHALL_SMPT_HOST", " (is GUILDHALL_SMTP_HOST meant?)"),
        ("GUILDHALL_PUBLIC_URI", " (is GUILDHALL_PUBLIC_URL meant?)"),
        ("GUILDHALL_SMTP_", ""),
        ("GUILDHALL_XYZZY", ""),
        # `up` makes it, so that what is set would not be used.
        ("GUILDHALL_DATABASE_URL", ""),
        ("GUILDHALL_MAIL_DIR", ""),
    ],
)
def test_a_variable_that_nobody_would_read_is_refused_by_up_alone(name: str, hint: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load({name: "1"}, only_known=True)

    (problem,) = raised.value.problems
    assert problem.startswith(f"{name} is no setting of guildhall up{hint}")
    # `guildhall down` must stop what runs, whatever the shell has.
    assert load({name: "1"}).of_services == {}


def test_what_is_not_guildhalls_and_what_the_command_reads_is_left_alone() -> None:
    load({"PATH": "/bin", "GUILDHALL_GATEWAY": "x", "GUILDHALL_GATEWAY_CA_FILE": "y"}, only_known=True)


def test_who_drains_longer_is_killed_later(tmp_path: Path) -> None:
    def stop_seconds(**given: str) -> set[float]:
        settings = load({"GUILDHALL_DATA_DIR": str(tmp_path), **given})
        stack = suite.assemble(settings)
        programs = services.programs(settings, postgres=stack.postgres, valkey=stack.valkey)
        return {program.stop_seconds for program in programs if program.name in SERVICES}

    assert stop_seconds() == {30}
    assert stop_seconds(GUILDHALL_DRAIN_SECONDS="60") == {85}
    for wrong in ("", "-1", "61", "soon"):
        with pytest.raises(SettingsError, match="GUILDHALL_DRAIN_SECONDS must be from 0 to 60"):
            stop_seconds(GUILDHALL_DRAIN_SECONDS=wrong)
