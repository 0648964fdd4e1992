"""Signing keys: which signs, which are published, what the operator is told."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.identity import keys as keys_module
from services.identity.keys import SigningKeys, add_key, read_keys, retire_keys


def write_key(folder: Path, name: str, key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey | None = None) -> None:
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key = key or Ed25519PrivateKey.generate()
    (folder / f"{name}.pem").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))


def signer_of(keys: SigningKeys) -> str:
    token = keys.sign(user_id="u", session_id="s", issued_at=datetime.now(UTC)).text
    return str(jwt.get_unverified_header(token)["kid"])


def age(folder: Path, name: str, seconds: float) -> None:
    """As if a key had been there for so long."""
    then = time.time() - seconds
    os.utime(folder / f"{name}.pem", (then, then))


def test_the_last_key_by_name_signs_and_all_are_published(tmp_path: Path) -> None:
    write_key(tmp_path, "2026-01")
    write_key(tmp_path, "2026-02")
    keys = SigningKeys(tmp_path, delay_seconds=0)
    assert signer_of(keys) == "2026-02"
    assert sorted(keys.published()) == ["2026-01", "2026-02"]


def test_a_new_key_is_published_while_the_one_before_signs_also_after_a_restart(tmp_path: Path) -> None:
    write_key(tmp_path, "2026-01")
    age(tmp_path, "2026-01", 601)
    write_key(tmp_path, "2026-02")
    age(tmp_path, "2026-02", 599)
    keys = SigningKeys(tmp_path, delay_seconds=600)
    assert sorted(keys.published()) == ["2026-01", "2026-02"]
    assert signer_of(keys) == "2026-01"


def test_a_key_signs_once_it_has_been_published_for_the_delay(tmp_path: Path) -> None:
    for name in ("2026-01", "2026-02"):
        write_key(tmp_path, name)
        age(tmp_path, name, 601)
    assert signer_of(SigningKeys(tmp_path, delay_seconds=600)) == "2026-02"


def test_a_key_that_comes_while_the_process_runs_is_published_then_signs(tmp_path: Path) -> None:
    write_key(tmp_path, "2026-01")
    keys = SigningKeys(tmp_path, delay_seconds=1)
    write_key(tmp_path, "2026-02")
    seen: list[tuple[int, str]] = []
    while not seen or seen[-1] != (2, "2026-02"):
        state = (len(keys.published()), signer_of(keys))
        if state not in seen:
            seen.append(state)
    assert [state for state in seen if state[0] == 2] == [(2, "2026-01"), (2, "2026-02")]


def test_an_old_file_that_is_put_into_the_folder_waits_like_a_new_one(tmp_path: Path) -> None:
    write_key(tmp_path, "2026-01")
    keys = SigningKeys(tmp_path, delay_seconds=0.5)
    write_key(tmp_path, "2026-02")
    age(tmp_path, "2026-02", 3600)
    while len(keys.published()) == 1:
        pass
    assert signer_of(keys) == "2026-01"


def test_a_file_that_is_written_anew_with_the_same_key_goes_on_signing(tmp_path: Path) -> None:
    for name in ("2026-01", "2026-02"):
        write_key(tmp_path, name)
        age(tmp_path, name, 3600)
    keys = SigningKeys(tmp_path, delay_seconds=0.6)
    for name in ("2026-01", "2026-02"):
        os.utime(tmp_path / f"{name}.pem")
    write_key(tmp_path, "2026-03")
    while "2026-03" not in keys.published():
        assert signer_of(keys) == "2026-02"
    assert signer_of(keys) == "2026-02"


def test_of_keys_that_are_all_new_the_first_signs(tmp_path: Path) -> None:
    write_key(tmp_path, "2026-02")
    write_key(tmp_path, "2026-01")
    for name in ("2026-01", "2026-02"):
        age(tmp_path, name, 5)
    assert signer_of(SigningKeys(tmp_path)) == "2026-01"
    age(tmp_path, "2026-02", 60)
    assert signer_of(SigningKeys(tmp_path)) == "2026-02"


def test_a_key_whose_file_is_gone_signs_no_more_and_is_published_no_more(tmp_path: Path) -> None:
    write_key(tmp_path, "2026-01")
    write_key(tmp_path, "2026-02")
    keys = SigningKeys(tmp_path, delay_seconds=0)
    assert signer_of(keys) == "2026-02"
    (tmp_path / "2026-02.pem").unlink()
    assert sorted(keys.published()) == ["2026-01"]
    assert signer_of(keys) == "2026-01"


def test_a_folder_that_cannot_be_read_leaves_the_keys_as_they_were(tmp_path: Path) -> None:
    write_key(tmp_path, "2026-01")
    keys = SigningKeys(tmp_path, delay_seconds=0)
    (tmp_path / "2026-02.pem").write_text("half a file")
    assert (sorted(keys.published()), signer_of(keys)) == (["2026-01"], "2026-01")
    write_key(tmp_path, "2026-02")
    assert (sorted(keys.published()), signer_of(keys)) == (["2026-01", "2026-02"], "2026-02")
    for path in tmp_path.glob("*.pem"):
        path.unlink()
    assert (sorted(keys.published()), signer_of(keys)) == (["2026-01", "2026-02"], "2026-02")


def test_a_key_that_is_added_is_the_next_to_sign_and_its_owners_alone(tmp_path: Path) -> None:
    write_key(tmp_path, "20260101-0a1b2c3d")
    age(tmp_path, "20260101-0a1b2c3d", 3600)
    key_id = add_key(tmp_path)
    assert (tmp_path / f"{key_id}.pem").stat().st_mode & 0o777 == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"20260101-0a1b2c3d.pem", f"{key_id}.pem"}
    assert signer_of(SigningKeys(tmp_path)) == "20260101-0a1b2c3d"
    assert signer_of(SigningKeys(tmp_path, delay_seconds=0)) == key_id


def test_a_key_that_would_never_sign_is_not_added(tmp_path: Path) -> None:
    write_key(tmp_path, "production")
    with pytest.raises(ValueError, match=r"sorts after .* production"):
        add_key(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["production.pem"]


def test_a_token_is_verified_by_the_published_key(tmp_path: Path) -> None:
    write_key(tmp_path, "2026-01")
    keys = SigningKeys(tmp_path)
    token = keys.sign(user_id="u", session_id="s", issued_at=datetime.now(UTC))
    public = jwt.PyJWK(keys.published()["2026-01"])
    claims = jwt.decode(token.text, public, algorithms=["EdDSA"], audience="guildhall", issuer="guildhall")
    assert (claims["sub"], claims["sid"], claims["exp"] - claims["iat"]) == ("u", "s", 300)
    assert token.expires_at.timestamp() == claims["exp"]
    assert "d" not in keys.published()["2026-01"]


def test_a_service_accounts_token_says_what_it_may_and_where(tmp_path: Path) -> None:
    write_key(tmp_path, "2026-01")
    keys = SigningKeys(tmp_path)
    public = jwt.PyJWK(keys.published()["2026-01"])

    def claims(workspace_ids: list[str]) -> dict[str, Any]:
        token = keys.sign_for_service(
            service_account_id="a",
            key_id="k",
            scopes=["identity.users", "identity.adapter"],
            workspace_ids=workspace_ids,
            issued_at=datetime.now(UTC),
        )
        return jwt.decode(token.text, public, algorithms=["EdDSA"], audience="guildhall", issuer="guildhall")

    bound = claims(["w"])
    assert (bound["sub"], bound["sid"], bound["workspaces"]) == ("a", "k", ["w"])
    assert bound["scope"] == "identity.users identity.adapter"
    assert bound["exp"] - bound["iat"] == 300
    assert "workspaces" not in claims([])


def test_a_folder_without_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no signing key"):
        read_keys(tmp_path)


def test_a_key_that_is_not_one_is_refused_by_its_file(tmp_path: Path) -> None:
    write_key(tmp_path, "good")
    (tmp_path / "torn.pem").write_text("-----BEGIN PRIVATE KEY-----\nsecret")
    with pytest.raises(ValueError, match=r"torn\.pem") as refusal:
        read_keys(tmp_path)
    assert "secret" not in str(refusal.value)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_key(tmp_path, "elliptic", ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(ValueError, match="not Ed25519"):
        read_keys(tmp_path)


def test_keys_before_the_one_that_has_signed_for_long_are_retired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("2026-01", "2026-02", "2026-03"):
        write_key(tmp_path, name)
    # The time at which a file came into a folder cannot be set back; what is an hour is moved instead.
    monkeypatch.setattr(keys_module, "RETIRED_AFTER_SECONDS", 0.0)
    assert retire_keys(tmp_path, delay_seconds=0) == ["2026-01", "2026-02"]
    assert list(read_keys(tmp_path)) == ["2026-03"]
    assert retire_keys(tmp_path, delay_seconds=0) == []


def test_no_key_is_retired_while_the_next_one_waits_or_has_signed_for_less_than_an_hour(tmp_path: Path) -> None:
    for name in ("2026-01", "2026-02"):
        write_key(tmp_path, name)
        # Nor for a time that a copied file brings along: nobody has seen that key before.
        age(tmp_path, name, 7 * 24 * 3600)
    assert retire_keys(tmp_path, delay_seconds=600) == []
    assert retire_keys(tmp_path, delay_seconds=-3000) == []
    assert sorted(read_keys(tmp_path)) == ["2026-01", "2026-02"]
    assert retire_keys(tmp_path, delay_seconds=-3601) == ["2026-01"]
