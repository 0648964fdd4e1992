"""Hashes of other systems: which are taken, and what matches them."""

import base64
import hashlib
import re

import bcrypt
import pytest
from argon2 import PasswordHasher
from argon2.low_level import Type

from services.identity import hashes
from services.identity.errors import PasswordHashUnsupported
from services.identity.passwords import Passwords

PASSWORD = "correct horse ünd Batterie"
SALT = b"sixteen byte salt"


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


def scrypt(password: str = PASSWORD, *, ln: int = 10, r: int = 8, p: int = 1) -> str:
    key = hashlib.scrypt(password.encode(), salt=SALT, n=2**ln, r=r, p=p, dklen=32, maxmem=1 << 28)
    return f"$scrypt$ln={ln},r={r},p={p}${b64(SALT)}${b64(key)}"


def bcrypted(password: str = PASSWORD, *, prefix: bytes = b"2b", cost: int = 4) -> str:
    made = bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost))
    return made.replace(b"$2b$", b"$" + prefix + b"$").decode()


def without_salt(password_hash: str) -> str:
    """The same name in every process that runs these tests."""
    return re.sub(r"^(\$2.\$\d\d|\$scrypt\$[^$]*|\$argon2.*p=\d+)\$.*", r"\1", password_hash)


def argon2(kind: Type = Type.ID, *, m: int = 1024, t: int = 1, p: int = 1) -> str:
    return PasswordHasher(time_cost=t, memory_cost=m, parallelism=p, type=kind).hash(PASSWORD)


MADE = [
    bcrypted(),
    bcrypted(prefix=b"2a"),
    bcrypted(prefix=b"2y"),
    scrypt(),
    scrypt(ln=5, r=1, p=4),
    argon2(),
    argon2(Type.I),
    argon2(Type.D),
    argon2(m=64 * 1024),
    argon2(t=10),
    argon2(p=4),
]


@pytest.mark.parametrize("made", MADE, ids=without_salt)
async def test_the_password_and_no_other_matches(made: str) -> None:
    hashes.require_supported(made)
    assert hashes.matches(made, PASSWORD)
    assert not hashes.matches(made, PASSWORD + "x")
    assert not hashes.matches(made, "")
    assert Passwords().is_outdated(made)


async def test_a_hash_of_our_own_is_supported_and_not_outdated() -> None:
    passwords = Passwords()
    made = await passwords.hash(PASSWORD)
    hashes.require_supported(made)
    assert not passwords.is_outdated(made)


@pytest.mark.parametrize(
    ("password_hash", "verdict"),
    [
        # Made by others: passlib's documentation (scrypt), the OpenBSD test vectors (bcrypt), the Argon2 reference.
        ("$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E", "password"),
        ("$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe", "a"),
        (
            "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA",
            "password",
        ),
    ],
)
def test_what_other_systems_made_matches(password_hash: str, verdict: str) -> None:
    hashes.require_supported(password_hash)
    assert hashes.matches(password_hash, verdict)
    assert not hashes.matches(password_hash, verdict + "x")


def test_a_password_of_more_than_72_bytes_matches_no_bcrypt_hash() -> None:
    longest = "ü" * 36
    assert hashes.matches(bcrypted(longest), longest)
    assert not hashes.matches(bcrypted(longest), longest + "x")


@pytest.mark.parametrize(
    "password_hash",
    [
        "",
        "plain text",
        hashlib.md5(b"x").hexdigest(),
        "$1$salt$qJH7.N4xYta3aEG/dfqo/0",
        bcrypted()[:-1],
        bcrypted() + "x",
        bcrypted().replace("$04$", "$15$"),
        bcrypted().replace("$04$", "$31$"),
        bcrypted().replace("$2b$", "$2x$"),
        scrypt().replace("ln=10", "ln=18"),
        scrypt().replace("r=8", "r=9"),
        scrypt().replace("p=1", "p=5"),
        scrypt().replace("ln=10", "ln=0"),
        scrypt() + "$",
        "$scrypt$ln=10,r=8,p=1$A$" + b64(b"k" * 32),
        argon2().replace("m=1024", "m=65537"),
        argon2().replace("t=1", "t=11"),
        argon2().replace("p=1", "p=5"),
        argon2().replace("p=1", "p=0"),
        argon2().replace("m=1024", "m=7"),
        argon2().replace("argon2id", "argon2x"),
        argon2().replace("v=19", "v=18"),
    ],
    ids=without_salt,
)
def test_anything_else_is_refused_and_matches_nothing(password_hash: str) -> None:
    with pytest.raises(PasswordHashUnsupported) as refusal:
        hashes.require_supported(password_hash)
    assert [field for field, _ in refusal.value.fields] == ["password_hash"]
    assert not hashes.matches(password_hash, PASSWORD)


def test_the_dearest_scrypt_that_is_taken_can_be_verified() -> None:
    dearest = f"$scrypt$ln=17,r=8,p=4${b64(SALT)}${b64(b'k' * 32)}"
    hashes.require_supported(dearest)
    assert not hashes.matches(dearest, PASSWORD)
