"""Signing keys: which signs, which are published, what the operator is told."""

from datetime import UTC, datetime
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.identity.keys import SigningKeys, read_keys


def write_key(folder: Path, name: str, key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey | None = None) -> None:
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key = key or Ed25519PrivateKey.generate()
    (folder / f"{name}.pem").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))


def signer_of(keys: SigningKeys) -> str:
    token = keys.sign(user_id="u", session_id="s", issued_at=datetime.now(UTC)).text
    return str(jwt.get_unverified_header(token)["kid"])


def test_the_last_key_by_name_signs_and_all_are_published(tmp_path: Path) -> None:
    write_key(tmp_path, "2026-01")
    write_key(tmp_path, "2026-02")
    keys = SigningKeys(tmp_path)
    assert signer_of(keys) == "2026-02"
    assert sorted(keys.published()) == ["2026-01", "2026-02"]


def test_a_new_key_is_published_at_once_and_signs_after_a_restart(tmp_path: Path) -> None:
    write_key(tmp_path, "2026-01")
    keys = SigningKeys(tmp_path)
    write_key(tmp_path, "2026-02")
    assert sorted(keys.published()) == ["2026-01", "2026-02"]
    assert signer_of(keys) == "2026-01"
    assert signer_of(SigningKeys(tmp_path)) == "2026-02"


def test_the_key_that_signs_stays_published_when_its_file_is_gone(tmp_path: Path) -> None:
    write_key(tmp_path, "2026-01")
    write_key(tmp_path, "2026-02")
    keys = SigningKeys(tmp_path)
    (tmp_path / "2026-02.pem").unlink()
    assert sorted(keys.published()) == ["2026-01", "2026-02"]
    (tmp_path / "2026-01.pem").write_text("half a file")
    assert sorted(keys.published()) == ["2026-01", "2026-02"]


def test_a_token_is_verified_by_the_published_key(tmp_path: Path) -> None:
    write_key(tmp_path, "2026-01")
    keys = SigningKeys(tmp_path)
    token = keys.sign(user_id="u", session_id="s", issued_at=datetime.now(UTC))
    public = jwt.PyJWK(keys.published()["2026-01"])
    claims = jwt.decode(token.text, public, algorithms=["EdDSA"], audience="guildhall", issuer="guildhall")
    assert (claims["sub"], claims["sid"], claims["exp"] - claims["iat"]) == ("u", "s", 300)
    assert token.expires_at.timestamp() == claims["exp"]
    assert "d" not in keys.published()["2026-01"]


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
