"""A development CA and the certificates it signs: one per service, the gateway's, and the gateway's public edge.

The bare service name is the DNS name in the certificate: it is what a PEER RPC lists as its callers.
"""

import ipaddress
import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy.stack.secrets import write_private
from deploy.stack.settings import SERVICES

EDGE = "edge"
NAMES = (*SERVICES, "gateway", EDGE)
_RENEW_BEFORE = timedelta(days=30)
_CA_LIFETIME = timedelta(days=3650)
_LIFETIME = timedelta(days=365)
_DATA = "..data"
_VERSION_PREFIX = "version-"


@dataclass(frozen=True)
class CertificateFiles:
    """What one end of a TLS connection needs: PEM files of its certificate, its key, and the CA it trusts."""

    certificate: Path
    key: Path
    ca: Path


def files(folder: Path, name: str) -> CertificateFiles:
    """Where the files of one name are, made or not."""
    return CertificateFiles(folder / f"{name}.pem", folder / f"{name}-key.pem", folder / "ca.pem")


def ensure(folder: Path, names: tuple[str, ...] = NAMES) -> dict[str, CertificateFiles]:
    """Make or renew the CA and a certificate per name. Idempotent: what has 30 days left and fits is kept."""
    ca, ca_key = _ensure_ca(folder)
    for name in names:
        if not _is_usable(files(folder, name), name, ca):
            _issue(files(folder, name), name, ca, ca_key)
    return {name: files(folder, name) for name in names}


def renew(folder: Path, names: tuple[str, ...] = NAMES, *, lifetime: timedelta | None = None) -> None:
    """Issue a new certificate and key per name, by the CA that is there."""
    ca, ca_key = _ensure_ca(folder)
    for name in names:
        _issue(files(folder, name), name, ca, ca_key, lifetime)


def add_ca(folder: Path) -> None:
    """Begin the change of the CA: a new one signs from now on, and is trusted beside the one before."""
    before = (folder / "ca.pem").read_bytes()
    certificate, key = _make_ca()
    # The new one first: it is what `ensure` takes for the CA, should the change be interrupted here.
    _write(folder / "ca.pem", folder / "ca-key.pem", certificate, key, trusted_too=before)


def drop_older_cas(folder: Path) -> None:
    """End the change of the CA: only the one that signs is trusted."""
    ca, _ = _ensure_ca(folder)
    write_private(folder / "ca.pem", ca.public_bytes(serialization.Encoding.PEM))


def publish(source: CertificateFiles, folder: Path) -> CertificateFiles:
    """Copy the files into a folder, all at once, in the way that Kubernetes mounts a secret; return where they are.

    They are links through `..data`, a link to a folder per version. Whoever watches sees that one link move, and
    never finds a certificate beside another's key. The version before is kept for who is reading it now.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    published = CertificateFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
    data = folder / _DATA
    before = data.resolve().name if data.is_symlink() else ""
    version = Path(tempfile.mkdtemp(prefix=_VERSION_PREFIX, dir=folder))
    targets, origins = (list(vars(one).values()) for one in (published, source))
    for target, origin in zip(targets, origins, strict=True):
        write_private(version / target.name, origin.read_bytes())
    partial = folder / f"{_DATA}.partial"
    partial.unlink(missing_ok=True)
    os.symlink(version.name, partial)
    partial.replace(data)
    for target in targets:
        if not target.is_symlink():
            target.symlink_to(f"{_DATA}/{target.name}")
    for old in folder.glob(f"{_VERSION_PREFIX}*"):
        if old.name not in (version.name, before):
            shutil.rmtree(old)
    return published


def _ensure_ca(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    found = _read(folder / "ca.pem", folder / "ca-key.pem")
    if found is not None and not _is_due(found[0]):
        return found
    certificate, key = _make_ca()
    _write(folder / "ca.pem", folder / "ca-key.pem", certificate, key)
    return certificate, key


def _make_ca() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Guildhall development CA")])
    certificate = (
        _builder(name, name, key.public_key(), _CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _issue(
    target: CertificateFiles,
    name: str,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    lifetime: timedelta | None = None,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usages = [ExtendedKeyUsageOID.SERVER_AUTH]
    if name != EDGE:  # the edge's certificate is shown to the public and must not open a service's port
        usages.append(ExtendedKeyUsageOID.CLIENT_AUTH)
    certificate = (
        _builder(subject, ca.subject, key.public_key(), lifetime or _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(name)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write(target.certificate, target.key, certificate, key)


def _alternative_names(name: str) -> list[x509.GeneralName]:
    own = [] if name == EDGE else [x509.DNSName(name)]
    loopback = [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    return [*own, x509.DNSName("localhost"), *loopback]


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks of containers on one machine differ a little
        .not_valid_after(now + lifetime)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _is_usable(found_files: CertificateFiles, name: str, ca: x509.Certificate) -> bool:
    found = _read(found_files.certificate, found_files.key)
    if found is None or _is_due(found[0]):
        return False
    names = found[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if list(names) != _alternative_names(name):
        return False
    try:
        found[0].verify_directly_issued_by(ca)
    except (ValueError, InvalidSignature):
        return False
    return True


def _is_due(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_after_utc - datetime.now(UTC) < _RENEW_BEFORE


def _read(certificate_file: Path, key_file: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None:
    """A certificate with its key; None if a file is missing, unreadable, or the two do not belong together."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        return None
    return certificate, key


def _write(
    certificate_file: Path,
    key_file: Path,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    *,
    trusted_too: bytes = b"",
) -> None:
    pem = serialization.Encoding.PEM
    form, encryption = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    write_private(key_file, key.private_bytes(pem, form, encryption))
    write_private(certificate_file, certificate.public_bytes(pem) + trusted_too)
