"""The service's own key, and what is made from it: tokens, seals, authenticators."""

import base64
import hashlib
import hmac
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def token_hash(token: str) -> bytes:
    """What is stored of a token: its SHA-256. The tokens have 256 random bits, so a slow hash would add nothing."""
    return hashlib.sha256(token.encode()).digest()


def new_token(prefix: str) -> str:
    """A random token of 256 bits with a prefix that scanners for leaked secrets can recognise."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


class SecretKey:
    """One service's key; a purpose separates its uses, so that no output of one serves as another."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def mac(self, purpose: str, *parts: bytes) -> bytes:
        """HMAC-SHA256 over a purpose and parts; each part's length is included, so that no two lists are alike."""
        digest = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in (purpose.encode(), *parts):
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.digest()

    def token(self, prefix: str, *parts: str) -> str:
        """A token derived from what it stands for: the same parts give the same token, so it is stored nowhere."""
        raw = self.mac(f"token:{prefix}", *(part.encode() for part in parts))
        return f"{prefix}_{base64.urlsafe_b64encode(raw).decode().rstrip('=')}"

    def seal(self, material: str, data: bytes) -> bytes:
        """Encrypts `data` so that opening it takes this key and `material`."""
        nonce = secrets.token_bytes(12)
        return nonce + AESGCM(self.mac("seal", material.encode())).encrypt(nonce, data, None)

    def open(self, material: str, sealed: bytes) -> bytes | None:
        """The sealed data, or None if the key or the material is another."""
        try:
            return AESGCM(self.mac("seal", material.encode())).decrypt(sealed[:12], sealed[12:], None)
        except InvalidTag:
            return None
