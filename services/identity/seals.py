"""The keys that providers' tokens are sealed with before they are stored: Fernet keys in a file, one a line.

The first seals and all open. A new key comes in as the first line; the worker then seals anew what others had sealed,
and once it finds nothing more of that kind, the old line can go.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import structlog
from cryptography.fernet import Fernet, MultiFernet

log = structlog.get_logger()

MAKE_ONE = "openssl rand -base64 32 | tr +/ -_"


@dataclass(frozen=True, slots=True)
class Ring:
    """The keys of the file as it was read."""

    fernet: MultiFernet
    seal_id: bytes
    """Of the key that seals: the beginning of its hash, by which rows are found that another one sealed."""

    def seal(self, token: str | None) -> bytes | None:
        """The token encrypted; None for none."""
        return None if token is None else self.fernet.encrypt(token.encode())

    def renew(self, sealed: bytes | None) -> bytes | None:
        """The same token sealed by the first key. InvalidToken if no key of the file opens it."""
        return None if sealed is None else self.fernet.rotate(sealed)


class Seals:
    """The ring that is in force. The file is read again when it has changed, by servers and workers alike."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen = _version(file)
        self._ring = read_keys(file)

    def ring(self) -> Ring:
        """The keys of the file, or the last good ones while it cannot be read."""
        try:
            seen = _version(self._file)
            if seen != self._seen:
                self._seen = seen
                self._ring = read_keys(self._file)
        except (OSError, ValueError) as error:
            log.error("provider_keys_unreadable", error=type(error).__name__)
        return self._ring


def read_keys(file: Path) -> Ring:
    """The file's keys. ValueError, for the operator, if there is none or one is not a Fernet key; it quotes none."""
    try:
        lines = file.read_text("ascii").split()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror} ({file})") from error
    except UnicodeDecodeError:
        raise ValueError(f"holds what is not a key: {file}; make one with: {MAKE_ONE}") from None
    if not lines:
        raise ValueError(f"holds no key: {file}; make one with: {MAKE_ONE}")
    return Ring(MultiFernet([_key(line, number) for number, line in enumerate(lines, 1)]), _seal_id(lines[0]))


def _key(line: str, number: int) -> Fernet:
    try:
        return Fernet(line)
    except ValueError:
        raise ValueError(f"its key {number} is not 32 bytes in URL-safe base64; make one with: {MAKE_ONE}") from None


def _seal_id(line: str) -> bytes:
    return hashlib.sha256(b"guildhall provider key:" + line.encode()).digest()[:8]


def _version(file: Path) -> tuple[int, int, int]:
    """What tells, without reading, whether the file has changed; the change time tells new permissions as well."""
    status = file.stat()
    return status.st_ino, status.st_ctime_ns, status.st_size
