"""`python -m deploy.stack.ensure_secrets`: keys, passwords and certificates of an installation in containers.

They are made in a folder of their own by the code that makes the embedded stack's; then each container is handed what
is its own, into OUTPUT/CONTAINER. Run again, it renews certificates that are due, and changes nothing else.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy.stack import certificates, secrets
from deploy.stack.settings import SERVICES

_ROTATED = ("identity/provider-keys", "identity/signing-keys")
"""What an operator changes where it is used: handed out once, as it was made first."""
_OF_ANOTHER_USER = "postgresql"
"""The folder of a container that is not ours, whose user we do not know: whoever is in there may read."""


def main(arguments: Sequence[str]) -> int:
    """Does what the command line says. Returns the exit code."""
    options = parser().parse_args(arguments)
    state = _State(options.state)
    options.output.mkdir(parents=True, exist_ok=True)
    secrets.ensure(state.secrets, state.keys)
    certificates.ensure(state.certificates)
    had = {name for name in _ROTATED if (options.output / name).exists()}
    for name, content in handed_out(state):
        if not name.startswith(tuple(had)):
            _hand_over(options.output, Path(name), content, options.owner)
    for folder in options.owned:
        _give(folder, options.owner)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m deploy.stack.ensure_secrets")
    made.add_argument("--state", type=Path, required=True, help="where all of them are kept, for no other container")
    made.add_argument("--output", type=Path, required=True, help="gets a folder for each container")
    made.add_argument("--owner", type=int, help="the number of the user and group that is given all of it")
    made.add_argument("--owned", type=Path, action="append", default=[], help="a folder that is given to the owner too")
    return made


class _State:
    """The folders of one installation's secrets, for their owner only; made if they are missing."""

    def __init__(self, folder: Path) -> None:
        self.secrets, self.keys, self.certificates = (folder / name for name in ("secrets", "keys", "certs"))
        for each in (self.secrets, self.keys, self.certificates):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)


def handed_out(state: _State) -> Iterator[tuple[str, bytes]]:
    """Every file that a container gets, by its place: its own folder first."""
    for service in SERVICES:
        yield from _tls(state, service, folder=service)
        yield f"{service}/secret-key", secrets.secret_key_file(state.secrets, service).read_bytes()
    yield "identity/provider-keys", secrets.provider_keys_file(state.secrets).read_bytes()
    for key in state.keys.glob("*.pem"):
        yield f"identity/signing-keys/{key.name}", key.read_bytes()
    yield from _tls(state, "gateway", folder="gateway/tls")
    yield from _tls(state, certificates.EDGE, folder="gateway/edge")
    for role, password in secrets.database_passwords(state.secrets).items():
        # The role that migrates is for a container of its own: the service cannot change its schema.
        yield f"{role.replace('_', '-')}/database-password", password.encode()
        yield f"roles/passwords/{role}/password", password.encode()
    superuser = secrets.database_password_file(state.secrets, "postgres").read_bytes()
    yield "roles/admin/username", b"postgres"
    yield "roles/admin/password", superuser
    yield f"{_OF_ANOTHER_USER}/password", superuser


def _tls(state: _State, name: str, *, folder: str) -> Iterator[tuple[str, bytes]]:
    """A certificate under the names that Kubernetes gives the files of one."""
    found = certificates.files(state.certificates, name)
    yield f"{folder}/tls.crt", found.certificate.read_bytes()
    yield f"{folder}/tls.key", found.key.read_bytes()
    yield f"{folder}/ca.crt", found.ca.read_bytes()


def _hand_over(output: Path, place: Path, content: bytes, owner: int | None) -> None:
    is_open = place.parts[0] == _OF_ANOTHER_USER
    for parent in reversed(place.parents[:-1]):
        (output / parent).mkdir(exist_ok=True)
        (output / parent).chmod(0o755 if is_open else 0o700)
        _give(output / parent, owner)
    target = output / place
    if not target.exists() or target.read_bytes() != content:
        secrets.write_private(target, content)
    if is_open:
        target.chmod(0o444)
    _give(target, owner)


def _give(path: Path, owner: int | None) -> None:
    if owner is not None:
        os.chown(path, owner, owner)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
