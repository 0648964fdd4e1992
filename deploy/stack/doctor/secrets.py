"""Signing keys, secrets and certificates: readable, private, in use, and good for some time yet."""

import socket
import ssl
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from deploy.stack import certificates
from deploy.stack.doctor.findings import Finding, fail, ok, warn
from deploy.stack.settings import HOST, SERVICES, Settings, instance_name

_OLD_KEY = timedelta(days=180)
_RENEW_BEFORE = timedelta(days=21)
_ROTATE_KEY = "guildhall rotate signing-key"
_ROTATE = "guildhall rotate certificates"
_CONNECT_SECONDS = 3


def check_signing_keys(settings: Settings, published: set[str] | None) -> Iterator[Finding]:
    """The keys of access tokens. `published` are those that the gateway hands out; None if it gave no answer."""
    folder = settings.layout.keys
    files = sorted(folder.glob("*.pem"))
    if not files:
        yield fail("signing keys", f"none in {folder}", "bring the folder back, or guildhall down and up makes one")
        return
    for file in files:
        try:
            key = load_pem_private_key(file.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            yield fail("signing keys", f"{file.name} cannot be read: {type(error).__name__}", f"remove or mend {file}")
            return
        if not isinstance(key, Ed25519PrivateKey):
            yield fail("signing keys", f"{file.name} is not an Ed25519 key", f"remove {file}")
            return
    missing = {file.stem for file in files} - (published if published is not None else {f.stem for f in files})
    if missing:
        advice = "wait a minute for identity to look; then read its log for signing_keys_unreadable"
        yield fail("signing keys", f"not published yet: {', '.join(sorted(missing))}", advice)
        return
    age = timedelta(seconds=time.time() - max(file.stat().st_mtime for file in files))
    seen = f"{len(files)}, the newest {age.days} days old"
    if age > _OLD_KEY:
        yield warn("signing keys", seen, _ROTATE_KEY)
    else:
        yield ok("signing keys", seen)


def check_private_files(settings: Settings) -> Iterator[Finding]:
    """Nobody but the owner reads a secret."""
    layout = settings.layout
    files = [*layout.secrets.iterdir(), *layout.keys.iterdir(), *layout.certificates.glob("*-key.pem")]
    exposed = [str(file) for file in files if stat.S_IMODE(file.stat().st_mode) & 0o077]
    if exposed:
        yield fail(
            "secret files", f"others may read {', '.join(exposed)}", f"chmod 600 {' '.join(exposed)}; rotate them"
        )
    else:
        yield ok("secret files", f"{len(files)}, for their owner only")


def check_certificates(settings: Settings) -> Iterator[Finding]:
    """Each certificate's end, by its file; and that each server shows the one that is in its file."""
    folder = settings.layout.certificates
    yield _check_file("certificate ca", folder / "ca.pem", f"{_ROTATE} --ca")
    for name in certificates.NAMES:
        yield _check_file(f"certificate {name}", certificates.files(folder, name).certificate, _ROTATE)


def _check_file(check: str, file: Path, rotate: str) -> Finding:
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError) as error:
        return fail(check, f"{file} cannot be read: {type(error).__name__}", rotate)
    end = certificate.not_valid_after_utc
    left = end - datetime.now(UTC)
    if left <= timedelta(0):
        return fail(check, f"expired at {end:%Y-%m-%d %H:%M} UTC", rotate)
    if left < _RENEW_BEFORE:
        return warn(check, f"expires in {left.days} days", rotate)
    return ok(check, f"good until {end:%Y-%m-%d}")


def check_presented(settings: Settings) -> Iterator[Finding]:
    """Whether servers show the certificates that their files hold now."""
    folder, ports = settings.layout.certificates, settings.ports
    shown = [
        (instance_name(service, replica), service, ports.service(service, replica))
        for service in SERVICES
        for replica in range(settings.replicas)
    ]
    stale, silent = [], []
    for instance, name, port in [*shown, ("the gateway", certificates.EDGE, ports.gateway_tls)]:
        presented = _presented(port, name, folder)
        if presented is None:
            silent.append(instance)
        elif presented != _der(certificates.files(folder, name).certificate):
            stale.append(instance)
    if stale:
        yield fail("certificates shown", f"older than its file: {', '.join(stale)}", "guildhall down and up")
    elif silent:
        yield fail("certificates shown", f"no TLS from {', '.join(silent)}", "see the checks of these processes")
    else:
        yield ok("certificates shown", "each server's is the one in its file")


def _presented(port: int, name: str, folder: Path) -> bytes | None:
    """The certificate that a server shows; it is not verified, or nothing would be seen of a wrong one."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    own = certificates.files(folder, "gateway")
    try:
        context.load_cert_chain(own.certificate, own.key)
        with socket.create_connection((HOST, port), timeout=_CONNECT_SECONDS) as plain:
            with context.wrap_socket(plain, server_hostname=name) as connection:
                return connection.getpeercert(binary_form=True)
    except OSError:
        return None


def _der(file: Path) -> bytes | None:
    try:
        return ssl.PEM_cert_to_DER_cert(file.read_text())
    except (OSError, ValueError):
        return None
