"""Settings: everything that is wrong is named at once, and nothing secret is."""

import os
from pathlib import Path

import pytest

from services.chassis.settings import DatabaseSettings, ServeSettings, WorkerSettings, load

REQUIRED = {
    "DATABASE_URL", "DATABASE_PASSWORD_FILE", "REDIS_URL", "SECRET_KEY_FILE", "LISTEN", "HEALTH_LISTEN",
    "METRICS_LISTEN", "TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CA_FILE", "IDENTITY_ADDRESS", "MEMBERSHIP_ADDRESS",
    "GUEST_ADDRESS", "MESSAGING_ADDRESS",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("GUILDHALL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment in which a service starts; the file is its key."""
    key, other = tmp_path / "key", tmp_path / "file"
    key.write_text("ab" * 32 + "\n")
    other.write_text("password\n")
    values = dict.fromkeys(REQUIRED, "127.0.0.1:15051")
    values |= {name: str(other) for name in REQUIRED if name.endswith("_FILE")}
    values |= {"SECRET_KEY_FILE": str(key), "DATABASE_URL": "postgresql://guest@/guildhall", "REDIS_URL": "unix:///s"}
    for name, value in values.items():
        monkeypatch.setenv(f"GUILDHALL_{name}", value)
    return key


def refusal(settings_class: type[DatabaseSettings], capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What is said of each setting when they are refused."""
    with pytest.raises(SystemExit) as exited:
        load(settings_class)
    assert exited.value.code == 2
    captured = capsys.readouterr()
    assert not captured.out
    return dict(line.split(": ", 1) for line in captured.err.splitlines())


def test_every_missing_setting_is_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(ServeSettings, capsys)

    assert said == {f"GUILDHALL_{name}": "is not set" for name in REQUIRED}


def test_a_sound_environment_is_read(sound: Path) -> None:
    settings = load(ServeSettings)

    assert settings.secret_key == bytes.fromhex("ab" * 32)
    assert settings.database_password == "password"
    assert settings.listen == "127.0.0.1:15051"


def test_missing_and_malformed_settings_are_named_together(
    sound: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = {
        "LISTEN": "15051",
        "HEALTH_LISTEN": "127.0.0.1:70000",
        "DATABASE_URL": "mysql://x",
        "REDIS_URL": "/socket",
        "TLS_KEY_FILE": str(tmp_path / "absent"),
        "LOG_LEVEL": "loud",
        "DRAIN_SECONDS": "-1",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(f"GUILDHALL_{name}", value)
    monkeypatch.delenv("GUILDHALL_GUEST_ADDRESS")

    said = refusal(ServeSettings, capsys)

    assert set(said) == {f"GUILDHALL_{name}" for name in (*wrong, "GUEST_ADDRESS")}
    assert said["GUILDHALL_GUEST_ADDRESS"] == "is not set"
    assert "HOST:PORT" in said["GUILDHALL_LISTEN"]
    assert "cannot be read" in said["GUILDHALL_TLS_KEY_FILE"]


@pytest.mark.parametrize(("key", "fault"), [("xyz", "hexadecimal"), ("ab" * 31, "31 bytes"), ("", "0 bytes")])
def test_a_key_that_is_none_is_refused_without_being_shown(
    sound: Path, capsys: pytest.CaptureFixture[str], key: str, fault: str
) -> None:
    sound.write_text(key)

    said = refusal(WorkerSettings, capsys)

    assert list(said) == ["GUILDHALL_SECRET_KEY_FILE"]
    assert fault in said["GUILDHALL_SECRET_KEY_FILE"]
    assert not key or key not in said["GUILDHALL_SECRET_KEY_FILE"]


def test_a_key_that_is_none_is_named_together_with_what_is_missing(
    sound: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound.write_text("no key")
    monkeypatch.delenv("GUILDHALL_LISTEN")

    assert set(refusal(ServeSettings, capsys)) == {"GUILDHALL_SECRET_KEY_FILE", "GUILDHALL_LISTEN"}


def test_a_rotated_password_is_read_anew(sound: Path) -> None:
    settings = load(DatabaseSettings)
    settings.database_password_file.write_text("rotated\n")

    assert settings.database_password == "rotated"


def test_migrating_needs_the_database_only(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in REQUIRED - {"DATABASE_URL", "DATABASE_PASSWORD_FILE"}:
        monkeypatch.delenv(f"GUILDHALL_{name}")

    assert load(DatabaseSettings).database_url == "postgresql://guest@/guildhall"
