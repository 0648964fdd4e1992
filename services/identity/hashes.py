"""Password hashes of other systems: what is taken over, and how a password is verified against one.

They are verified as often as their owners sign in until one succeeds, which renews them. So what a verification may
cost is capped; and until then its time differs from that of an Argon2id hash of ours.
"""

import base64
import binascii
import hashlib
import hmac
import re

import bcrypt
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError

from services.identity.errors import PasswordHashUnsupported

BCRYPT = re.compile(r"\$2[aby]\$(?P<cost>\d\d)\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
BCRYPT_BYTES = 72
BCRYPT_COSTS = range(4, 15)

SCRYPT = re.compile(
    r"\$scrypt\$ln=(?P<ln>\d{1,2}),r=(?P<r>\d{1,2}),p=(?P<p>\d)\$(?P<salt>[A-Za-z0-9+/]{1,100})\$(?P<key>[A-Za-z0-9+/]{22,100})"
)
SCRYPT_LN, SCRYPT_R, SCRYPT_P = range(1, 18), range(1, 9), range(1, 5)

ARGON2 = re.compile(
    r"\$argon2(id|i|d)\$(v=\d\d\$)?m=\d{1,6},t=\d{1,2},p=\d\$(?P<salt>[A-Za-z0-9+/]{11,100})\$(?P<key>[A-Za-z0-9+/]{16,200})"
)
ARGON2_KIB, ARGON2_PASSES, ARGON2_LANES = 64 * 1024, 10, 4

_ARGON2 = PasswordHasher()


def require_supported(password_hash: str) -> None:
    """PASSWORD_HASH_UNSUPPORTED for what `matches` could not, or may not for its cost, verify."""
    if not (_is_bcrypt(password_hash) or _is_scrypt(password_hash) or _is_argon2(password_hash)):
        raise PasswordHashUnsupported


def matches(password_hash: str, password: str) -> bool:
    """Whether it is the password. Of another kind, or beyond the caps: no. It takes as long as the hash demands.

    bcrypt looks at 72 bytes only. A longer password matches no bcrypt hash here: by its first bytes alone it would let
    in whoever knows those.
    """
    if _is_bcrypt(password_hash):
        written = password.encode()
        return len(written) <= BCRYPT_BYTES and bcrypt.checkpw(written, password_hash.encode())
    if _is_scrypt(password_hash):
        return _matches_scrypt(password_hash, password)
    if not _is_argon2(password_hash):
        return False
    try:
        return _ARGON2.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False


def _is_bcrypt(password_hash: str) -> bool:
    found = BCRYPT.fullmatch(password_hash)
    return found is not None and int(found["cost"]) in BCRYPT_COSTS


def _is_scrypt(password_hash: str) -> bool:
    found = SCRYPT.fullmatch(password_hash)
    return (
        found is not None
        and int(found["ln"]) in SCRYPT_LN
        and int(found["r"]) in SCRYPT_R
        and int(found["ln"]) < 16 * int(found["r"])  # RFC 7914 §6: N < 2^(128 r / 8)
        and int(found["p"]) in SCRYPT_P
        and _decoded(found["salt"]) is not None
        and _decoded(found["key"]) is not None
    )


def _is_argon2(password_hash: str) -> bool:
    found = ARGON2.fullmatch(password_hash)
    if found is None or _decoded(found["salt"]) is None or _decoded(found["key"]) is None:
        return False
    try:
        parameters = extract_parameters(password_hash)
    except InvalidHashError:
        return False
    return (
        8 * parameters.parallelism <= parameters.memory_cost <= ARGON2_KIB
        and 1 <= parameters.time_cost <= ARGON2_PASSES
        and 1 <= parameters.parallelism <= ARGON2_LANES
        and parameters.version in (0x10, 0x13)
    )


def _matches_scrypt(password_hash: str, password: str) -> bool:
    found = SCRYPT.fullmatch(password_hash)
    salt, key = (_decoded(found["salt"]), _decoded(found["key"])) if found else (None, None)
    if found is None or salt is None or key is None:
        return False
    n, r, p = 2 ** int(found["ln"]), int(found["r"]), int(found["p"])
    # OpenSSL refuses unless it is told that it may use what the parameters need (RFC 7914 §2: 128 N r, and some).
    made = hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, dklen=len(key), maxmem=128 * r * (n + p + 2) * 2)
    return hmac.compare_digest(made, key)


def _decoded(text: str) -> bytes | None:
    """Base64 without padding, as PHC strings have it; None for what is none."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return None
