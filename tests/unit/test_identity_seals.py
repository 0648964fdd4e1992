"""The keys that providers' tokens are sealed with."""

from pathlib import Path

import pytest
from cryptography.fernet import Fernet, InvalidToken

from services.chassis.settings import load
from services.identity.seals import Seals, read_keys
from services.identity.settings import IdentitySettings, IdentityWorkerSettings

NAME = "GUILDHALL_PROVIDER_KEYS_FILE"
OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "provider-keys"
    path.write_text(f"{OLD}\n")
    return path


def opened(key: str, sealed: bytes | None) -> str:
    """What a key opens."""
    assert sealed is not None
    return Fernet(key).decrypt(sealed).decode()


def test_the_first_key_seals_and_every_key_opens(file: Path) -> None:
    sealed = read_keys(file).seal("a token")
    file.write_text(f"{NEW}\n{OLD}\n")
    ring = read_keys(file)

    assert opened(NEW, ring.seal("a token")) == "a token"
    assert opened(NEW, ring.renew(sealed)) == "a token"
    with pytest.raises(InvalidToken):
        opened(OLD, ring.renew(sealed))


def test_a_key_that_is_gone_opens_nothing(file: Path) -> None:
    sealed = read_keys(file).seal("a token")
    file.write_text(f"{NEW}\n")

    with pytest.raises(InvalidToken):
        read_keys(file).renew(sealed)


def test_no_token_has_no_seal(file: Path) -> None:
    ring = read_keys(file)

    assert (ring.seal(None), ring.renew(None)) == (None, None)
    assert opened(OLD, ring.seal("")) == ""


def test_the_seals_id_tells_keys_apart_and_nothing_about_them(file: Path) -> None:
    before = read_keys(file).seal_id
    assert read_keys(file).seal_id == before
    file.write_text(f"{NEW}\n{OLD}\n")

    assert read_keys(file).seal_id != before
    assert len(before) == 8


def test_a_file_that_changed_is_read_again(file: Path) -> None:
    seals = Seals(file)
    assert seals.ring() is seals.ring()
    file.write_text(f"{NEW}\n{OLD}\n")

    assert opened(NEW, seals.ring().seal("a token")) == "a token"


def test_a_file_that_was_replaced_by_another_is_read_again(file: Path) -> None:
    seals = Seals(file)
    other = file.with_name("other")
    other.write_text(f"{NEW}\n")
    other.replace(file)

    assert opened(NEW, seals.ring().seal("a token")) == "a token"


@pytest.mark.parametrize("spoilt", ["", "not a key\n"])
def test_a_file_that_was_spoilt_leaves_the_keys_as_they_were_until_it_is_mended(file: Path, spoilt: str) -> None:
    seals = Seals(file)
    file.write_text(spoilt)
    assert opened(OLD, seals.ring().seal("a token")) == "a token"
    file.unlink()
    assert opened(OLD, seals.ring().seal("a token")) == "a token"
    file.write_text(f"{NEW}\n")

    assert opened(NEW, seals.ring().seal("a token")) == "a token"


@pytest.mark.parametrize("settings", [IdentitySettings, IdentityWorkerSettings])
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\n \n", "holds no key"),
        (f"{OLD}\n{'ab' * 32}\n".encode(), "its key 2 is not 32 bytes in URL-safe base64"),
        (b"\xff\xfe", "holds what is not a key"),
    ],
)
def test_what_is_wrong_with_the_file_is_said_at_the_start_without_quoting_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: type[IdentityWorkerSettings],
    content: bytes,
    complaint: str,
) -> None:
    path = tmp_path / "provider-keys"
    path.write_bytes(content)
    monkeypatch.setenv(NAME, str(path))
    with pytest.raises(SystemExit) as stop:
        load(settings)
    said = capsys.readouterr().err

    assert stop.value.code == 2
    assert f"{NAME}: {complaint}" in said
    assert "openssl rand -base64 32" in said
    assert OLD not in said
    assert "ab" * 32 not in said


def test_a_file_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(NAME, str(tmp_path / "none"))
    with pytest.raises(SystemExit):
        load(IdentityWorkerSettings)

    assert f"{NAME}: cannot be read" in capsys.readouterr().err


def test_the_file_must_be_set(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(NAME, raising=False)
    with pytest.raises(SystemExit):
        load(IdentityWorkerSettings)

    assert f"{NAME}: is not set" in capsys.readouterr().err
