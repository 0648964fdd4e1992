"""identity's own setting."""

from pathlib import Path

import pytest

from services.chassis.settings import load
from services.identity.settings import IdentitySettings

NAME = "GUILDHALL_SIGNING_KEYS_DIR"


def test_a_folder_without_keys_is_named_with_all_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(NAME, str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        load(IdentitySettings)
    complaint = capsys.readouterr().err
    assert stop.value.code == 2
    assert f"{NAME}: holds no signing key" in complaint
    assert "GUILDHALL_LISTEN: is not set" in complaint


def test_a_missing_folder_setting_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(NAME, raising=False)
    with pytest.raises(SystemExit):
        load(IdentitySettings)
    assert f"{NAME}: is not set" in capsys.readouterr().err
