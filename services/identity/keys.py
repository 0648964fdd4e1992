"""The keys that access tokens are signed with: Ed25519 private keys in a folder, named by their files' stems.

The last by name at the start of the process signs. A key that comes into the folder later is published at once and
signs after the next restart, so that every cache of public keys knows it before the first token that needs it.
"""

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import jwt
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.chassis.tokens import AUDIENCE, ISSUER

log = structlog.get_logger()

TTL = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A signed token and when it ends."""

    text: str
    expires_at: datetime


class SigningKeys:
    """Signs with one key and publishes all of the folder's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen = _listing(folder)
        keys = read_keys(folder)
        self._signer_id = max(keys)
        self._signer = keys[self._signer_id]
        self._published = _public(keys)

    def sign(self, *, user_id: str, session_id: str, issued_at: datetime) -> AccessToken:
        """A token of five minutes (RFC 7519). `issued_at` is the database's clock."""
        expires_at = issued_at + TTL
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": user_id,
            "sid": session_id,
            "iat": int(issued_at.timestamp()),
            "exp": int(expires_at.timestamp()),
            "jti": secrets.token_urlsafe(16),
        }
        signed = jwt.encode(claims, self._signer, algorithm="EdDSA", headers={"kid": self._signer_id})
        return AccessToken(signed, expires_at.replace(microsecond=0))

    def published(self) -> Mapping[str, dict[str, str]]:
        """The public keys by id, as JSON Web Keys (RFC 8037 §2). The folder is parsed again only if it has changed."""
        try:
            seen = _listing(self._folder)
            if seen != self._seen:
                # The signer stays, whatever the folder holds now: its tokens are still about.
                self._published = _public({**read_keys(self._folder), self._signer_id: self._signer})
                self._seen = seen
        except (OSError, ValueError) as error:
            log.warning("signing_keys_unreadable", error=type(error).__name__)
        return self._published


def read_keys(folder: Path) -> dict[str, Ed25519PrivateKey]:
    """The folder's keys by id. ValueError, for the operator, if there is none or one is not an Ed25519 key."""
    keys = {}
    try:
        for path in sorted(folder.glob("*.pem")):
            keys[path.stem] = _read_key(path)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror} ({error.filename})") from error
    if not keys:
        raise ValueError(f"holds no signing key (*.pem): {folder}")
    return keys


def _read_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Without its cause, whose text might quote the key.
        raise ValueError(f"holds what is not a PKCS8 private key in PEM: {path.name}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"holds a key that is not Ed25519: {path.name}")
    return key


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    """What tells, without parsing, whether the folder has changed."""
    return sorted(
        (path.name, status.st_mtime_ns, status.st_size)
        for path, status in ((path, path.stat()) for path in folder.glob("*.pem"))
    )


def _public(keys: Mapping[str, Ed25519PrivateKey]) -> dict[str, dict[str, str]]:
    return {
        key_id: {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).decode().rstrip("="),
            "kid": key_id,
            "alg": "EdDSA",
            "use": "sig",
        }
        for key_id, key in keys.items()
    }
