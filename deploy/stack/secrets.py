"""The secrets of one data directory: made once, kept in files that only the owner reads."""

import hashlib
import hmac
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deploy.stack.settings import SERVICES


def write_private(path: Path, content: bytes) -> None:
    """Write a file for its owner only, whole or not at all: a crash must not leave half a key behind."""
    partial = path.with_name(f".{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def ensure(secrets_folder: Path, keys_folder: Path) -> None:
    """Make what is missing: passwords, a key per service, identity's first signing and provider keys. Idempotent."""
    _ensure_secret(secrets_folder / "development.key")
    _ensure_secret(database_password_file(secrets_folder, "postgres"))
    for service in SERVICES:
        _ensure_secret(secret_key_file(secrets_folder, service))
        for role in (service, f"{service}_owner"):
            _ensure_secret(database_password_file(secrets_folder, role))
    if not provider_keys_file(secrets_folder).exists():
        write_private(provider_keys_file(secrets_folder), Fernet.generate_key() + b"\n")
    if not any(keys_folder.glob("*.pem")):
        key = Ed25519PrivateKey.generate()
        name = f"{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(4)}.pem"
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        write_private(keys_folder / name, key.private_bytes(encoding, form, serialization.NoEncryption()))


def database_password_file(secrets_folder: Path, role: str) -> Path:
    """The file with the SCRAM password of one database role."""
    return secrets_folder / f"{role}.database-password"


def secret_key_file(secrets_folder: Path, service: str) -> Path:
    """The file of 64 hexadecimal characters that one service derives its keys from."""
    return secrets_folder / f"{service}.key"


def provider_keys_file(secrets_folder: Path) -> Path:
    """The file of the keys that identity seals providers' tokens with, one a line."""
    return secrets_folder / "identity.provider-keys"


def database_passwords(secrets_folder: Path) -> dict[str, str]:
    """The password of each service's two roles, by role name."""
    roles = [role for service in SERVICES for role in (service, f"{service}_owner")]
    return {role: database_password_file(secrets_folder, role).read_text() for role in roles}


def development_password(secrets_folder: Path, email: str) -> str:
    """The password that `guildhall token` signs an e-mail address up with: only this data directory can derive it."""
    key = bytes.fromhex((secrets_folder / "development.key").read_text())
    return hmac.new(key, email.encode(), hashlib.sha256).hexdigest()[:40]


def _ensure_secret(path: Path) -> None:
    if not path.exists():
        write_private(path, secrets.token_hex(32).encode())
