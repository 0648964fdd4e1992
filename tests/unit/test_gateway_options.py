"""What an operator may set of the gateway reaches it, by `guildhall up` and by `deploy.envoy write` alike."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.envoy.__main__ import main, parser
from deploy.envoy.config import GatewaySettings
from deploy.envoy.options import OPTIONS, Option
from deploy.stack import gateway, settings
from deploy.stack.settings import SERVICES, SettingsError, load
from deploy.stack.suite import prepare
from tests.rules.sources import ROOT

GIVEN = {
    "calls_per_second_of_user": "7",
    "calls_per_second_of_service_account": "8",
    "calls_per_second_of_address": "9",
    "sign_ins_per_second_of_address": "11",
    "most_counted_callers": "12",
    "trusted_hops": "1",
    "allowed_origins": "https://app.example, https://admin.example",
    "otlp_endpoint": "http://collector:4317",
    "traces_ratio": "0.5",
}
SHOWN = {
    "calls_per_second_of_user": '"tokens_per_fill": 7,',
    "calls_per_second_of_service_account": '"tokens_per_fill": 8,',
    "calls_per_second_of_address": '"tokens_per_fill": 9,',
    "sign_ins_per_second_of_address": '"tokens_per_fill": 11,',
    "most_counted_callers": '"max_dynamic_descriptors": 12,',
    "trusted_hops": '"xff_num_trusted_hops": 1,',
    "allowed_origins": '{"exact": "https://app.example"}, {"exact": "https://admin.example"}',
    "otlp_endpoint": '"address": "collector", "port_value": 4317',
    "traces_ratio": '{"numerator": 500000, "denominator": "MILLION"}',
}
"""What Envoy is told then."""
WRONG = {
    **dict.fromkeys(GIVEN, "many"),
    "allowed_origins": "https://app.example/page",
    "otlp_endpoint": "https://collector:4317",
    "traces_ratio": "1.5",
}
EACH = pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.field)


def written(folder: Path, *flags: str, environment: Mapping[str, str] | None = None) -> Any:
    """What `deploy.envoy write` makes for a container."""
    needed = [f"--output={folder}", "--public-url=https://x.example", f"--tls={folder}", f"--edge-tls={folder}"]
    upstreams = [f"--upstream={service}={service}:15051:15061" for service in SERVICES]
    assert main(["write", *needed, *upstreams, *flags], environment) == 0
    return json.loads((folder / "envoy.json").read_text())


def embedded(folder: Path, environment: Mapping[str, str]) -> Any:
    """What `guildhall up` makes for its Envoy."""
    found = load({**environment, "GUILDHALL_DATA_DIR": str(folder)}, only_known=True)
    prepare(found)
    found.layout.sockets.joinpath("pg").rmdir()
    found.layout.sockets.rmdir()
    program = gateway.program(found)
    assert program.prepare
    program.prepare()
    return json.loads((found.layout.envoy / "envoy.json").read_text())


def test_the_defaults_are_those_of_the_gateways_settings() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(GatewaySettings)}

    for option in OPTIONS:
        assert (option.read(option.default) if option.default else type(fields[option.field])()) == fields[option.field]
    assert set(GIVEN) == {option.field for option in OPTIONS}


def test_every_setting_that_the_limits_name_is_one_that_can_be_set() -> None:
    section = (ROOT / "docs" / "limits.md").read_text().partition("\n## The gateway\n")[2].partition("\n## ")[0]
    fields = {field.name for field in dataclasses.fields(GatewaySettings)}
    named = {name for name in re.findall(r"`([a-z_]+)`", section) if name in fields}
    rows = re.findall(r"^\| `([a-z_]+)` \| ([\d ]+) \|", section, re.MULTILINE)

    assert {"calls_per_second_of_user", "sign_ins_per_second_of_address", "trusted_hops"} <= named
    assert named <= {option.field for option in OPTIONS}
    defaults = {option.field: option.default for option in OPTIONS}
    assert {name: number.replace(" ", "") for name, number in rows} == {name: defaults[name] for name, _ in rows}
    assert len(rows) == 4


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The configurations with everything set, by each way of setting it."""
    flags = [f"{option.flag}={GIVEN[option.field]}" for option in OPTIONS]
    variables = {option.variable: GIVEN[option.field] for option in OPTIONS}
    made = {
        "by no way": written(tmp_path_factory.mktemp("none")),
        "by flags": written(tmp_path_factory.mktemp("flags"), *flags),
        "by variables": written(tmp_path_factory.mktemp("variables"), environment=variables),
        "by guildhall up": embedded(tmp_path_factory.mktemp("up"), variables),
    }
    return {way: json.dumps(configuration) for way, configuration in made.items()}


@EACH
def test_a_setting_reaches_the_gateway_through_both_front_doors(option: Option, doors: Mapping[str, str]) -> None:
    assert [way for way, text in doors.items() if SHOWN[option.field] in text] == [
        "by flags",
        "by variables",
        "by guildhall up",
    ]


@EACH
def test_what_it_cannot_be_is_refused_by_both(
    option: Option, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {option.variable: WRONG[option.field]}
    with pytest.raises(SettingsError, match=f"{option.variable} must be "):
        load(wrong)

    needed = [f"--output={tmp_path}", "--public-url=https://x.example", "--tls=x", "--edge-tls=x", "--upstream=a=b:1:2"]
    assert main(["write", *needed], wrong) == 2
    assert capsys.readouterr().err.startswith(f"{option.variable} must be ")
    assert list(tmp_path.iterdir()) == []


def test_a_flag_counts_more_than_a_variable(tmp_path: Path) -> None:
    both = written(tmp_path, "--trusted-hops=2", environment={"GUILDHALL_TRUSTED_HOPS": "3"})

    assert '"xff_num_trusted_hops": 2' in json.dumps(both)


def test_the_help_names_each_with_its_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["write", "--help"])
    text = capsys.readouterr().out

    assert [option.flag for option in OPTIONS if option.flag not in text or option.variable not in text] == []


def test_compose_hands_on_each_to_the_gateway() -> None:
    containers = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]

    assert containers["gateway-configuration"]["environment"] == {option.variable: None for option in OPTIONS}


def test_the_reference_names_each_once() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()

    assert [option.field for option in OPTIONS if text.count(f"| `{option.variable}` |") != 1] == []
    assert set(settings.VARIABLES) >= {"GUILDHALL_TRUSTED_HOPS", "GUILDHALL_ALLOWED_ORIGINS"}
