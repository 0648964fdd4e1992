"""The keys that access tokens are signed with: Ed25519 private keys in a folder, named by their files' stems.

They are rotated by their files alone, while the process runs. A new file's key is published at once, and signs only
once it has been published for longer than any cache of public keys lives; then the last by name signs. A key is
published as long as its file is there; `retire_keys` removes those that no token needs any more. Processes that see the
same folder agree on all of it, as they go by the files' times.
"""

import base64
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from services.chassis.tokens import AUDIENCE, ISSUER

log = structlog.get_logger()

TTL = timedelta(minutes=5)
LOOKS_PER_DELAY = 60
"""How often the folder is looked at while a new key waits: each 10 s with the usual delay of 10 minutes."""

RETIRED_AFTER_SECONDS = 3600.0
"""Between a key's first signature and the end of those before it: time enough for every process to have seen the new
key, and for the tokens of the old ones to end."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A signed token and when it ends."""

    text: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Held:
    """A key, and since when it can have been published, in seconds since 1970."""

    private: Ed25519PrivateKey
    since: float


class SigningKeys:
    """Signs with one key and publishes all of the folder's."""

    def __init__(self, folder: Path, *, delay_seconds: float = 600) -> None:
        self._folder = folder
        self._delay_seconds = delay_seconds
        self._held: dict[str, Held] = {}
        self._looked_at = float("-inf")
        self._seen = _listing(folder)
        self._hold(read_keys(folder), {name: modified for name, modified, _size in self._seen})
        self._signer_id = self._elect()

    def sign(self, *, user_id: str, session_id: str, issued_at: datetime) -> AccessToken:
        """A user's token of five minutes (RFC 7519). `issued_at` is the database's clock."""
        return self._sign({"sub": user_id, "sid": session_id}, issued_at)

    def sign_for_service(
        self,
        *,
        service_account_id: str,
        key_id: str,
        scopes: Sequence[str],
        workspace_ids: Sequence[str],
        issued_at: datetime,
    ) -> AccessToken:
        """A service account's: `key_id` is that of its service key, which stands in for a session."""
        claims: dict[str, object] = {"sub": service_account_id, "sid": key_id, "scope": " ".join(scopes)}
        if workspace_ids:
            claims["workspaces"] = list(workspace_ids)
        return self._sign(claims, issued_at)

    def published(self) -> Mapping[str, dict[str, str]]:
        """The public keys by id, as JSON Web Keys (RFC 8037 §2), those not yet in use included."""
        self._look()
        return {key_id: _public(key_id, held.private) for key_id, held in self._held.items()}

    def _sign(self, claims: Mapping[str, object], issued_at: datetime) -> AccessToken:
        self._look()
        expires_at = issued_at + TTL
        body = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            **claims,
            "iat": int(issued_at.timestamp()),
            "exp": int(expires_at.timestamp()),
            "jti": secrets.token_urlsafe(16),
        }
        signer = self._held[self._signer_id].private
        signed = jwt.encode(body, signer, algorithm="EdDSA", headers={"kid": self._signer_id})
        return AccessToken(signed, expires_at.replace(microsecond=0))

    def _look(self) -> None:
        """Looks at the folder, if that is due; its files are parsed again only if they have changed."""
        if time.monotonic() - self._looked_at < self._delay_seconds / LOOKS_PER_DELAY:
            return
        self._looked_at = time.monotonic()
        try:
            seen = _listing(self._folder)
            if seen != self._seen:
                self._hold(read_keys(self._folder), {name: max(modified, time.time()) for name, modified, _ in seen})
                self._seen = seen
        except (OSError, ValueError) as error:
            # With the keys as they were: half a file, or none for a moment, is no reason to refuse everybody.
            log.warning("signing_keys_unreadable", error=type(error).__name__)
        self._signer_id = self._elect()

    def _hold(self, keys: Mapping[str, Ed25519PrivateKey], times: Mapping[str, float]) -> None:
        """Holds these keys. One that is held already keeps its time, though its file were written anew."""
        before, self._held = self._held, {}
        for key_id, private in keys.items():
            known = before.get(key_id)
            same = known and known.private.public_key() == private.public_key()
            self._held[key_id] = known if known and same else Held(private, times.get(key_id, time.time()))

    def _elect(self) -> str:
        """The last by name of those that every cache knows by now; failing that, the one published first."""
        latest = time.time() - self._delay_seconds
        known = [key_id for key_id, held in self._held.items() if held.since <= latest]
        # In whole seconds, so that of files put there together the name decides, in every process alike.
        return max(known) if known else min(self._held, key=lambda key_id: (int(self._held[key_id].since), key_id))


def add_key(folder: Path) -> str:
    """Writes a new key for its owner only and returns its id, which is the time. ValueError if it would never sign."""
    key_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    if key_id <= (last := max((path.stem for path in folder.glob("*.pem")), default="")):
        raise ValueError(f"has a key whose name sorts after {key_id}, the new one's: {last}")
    content = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # Whole or not at all: a process that reads half a key says that it cannot read the folder.
    partial = folder / f".{key_id}.partial"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(folder / f"{key_id}.pem")
    return key_id


def retire_keys(folder: Path, *, delay_seconds: float) -> list[str]:
    """Removes the keys before the one that has signed for an hour or longer, and returns their ids. Repeatable."""
    signing_since = time.time() - delay_seconds - RETIRED_AFTER_SECONDS
    # When a file came into the folder, whatever time it was given: one that was copied there waits like a new one.
    settled = [path for path in folder.glob("*.pem") if path.stat().st_ctime <= signing_since]
    retired = sorted(settled, key=lambda path: path.stem)[:-1]
    for path in retired:
        path.unlink(missing_ok=True)
    return [path.stem for path in retired]


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


def _listing(folder: Path) -> list[tuple[str, float, int]]:
    """Ids, times and sizes of the folder's files: what tells, without parsing, whether one has changed."""
    return sorted(
        (path.stem, status.st_mtime, status.st_size)
        for path, status in ((path, path.stat()) for path in folder.glob("*.pem"))
    )


def _public(key_id: str, key: Ed25519PrivateKey) -> dict[str, str]:
    return {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).decode().rstrip("="),
        "kid": key_id,
        "alg": "EdDSA",
        "use": "sig",
    }
