"""Mutual TLS: which service is at the other end, by the DNS name in its certificate."""

from collections.abc import Iterable

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.chassis.settings import ServeSettings

log = structlog.get_logger()

NAMES = frozenset({"gateway", "identity", "membership", "guest", "messaging"})
_ENCODED = {name.encode(): name for name in NAMES}


def server_credentials(settings: ServeSettings) -> grpc.ServerCredentials:
    """Credentials that demand a client certificate of our authority; the files are looked at at each handshake."""
    used = _read_files(settings)
    _require_pair(*used)

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        try:
            found = _read_files(settings)
            if found == used:
                # Given anew each time, gRPC would replace what other handshakes are using, and the process die of it.
                return None
            _require_pair(*found)
        except (OSError, ValueError) as error:
            # With what it had: certificate and key are two files, and one is always replaced first.
            log.warning("certificate_unreadable", error=type(error).__name__)
            return None
        used = found
        return _configuration(*found)

    # gRPC takes None for "as before", which its types do not say.
    return grpc.dynamic_ssl_server_credentials(_configuration(*used), changed, require_client_authentication=True)  # type: ignore[arg-type]


def channel_credentials(settings: ServeSettings) -> grpc.ChannelCredentials:
    """Credentials that present this service's certificate and trust only our authority. ValueError if they differ."""
    key, certificate, authority = _read_files(settings)
    _require_pair(key, certificate, authority)
    return grpc.ssl_channel_credentials(root_certificates=authority, private_key=key, certificate_chain=certificate)


def _read_files(settings: ServeSettings) -> tuple[bytes, bytes, bytes]:
    """Key, certificate and authority."""
    key, certificate = settings.tls_key_file.read_bytes(), settings.tls_cert_file.read_bytes()
    return key, certificate, settings.tls_ca_file.read_bytes()


def _require_pair(key: bytes, certificate: bytes, _authority: bytes) -> None:
    if load_pem_private_key(key, None).public_key() != x509.load_pem_x509_certificate(certificate).public_key():
        raise ValueError("the key is not the certificate's")


def _configuration(key: bytes, certificate: bytes, authority: bytes) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=authority)


def peer_name(property_name: str | None, identities: Iterable[bytes] | None) -> str:
    """The service named in the caller's certificate, or an empty string if it names none or several.

    Takes what gRPC calls the peer's identity; of a certificate without alternative names it would take the common name.
    """
    if property_name != "x509_subject_alternative_name":
        return ""
    names = _ENCODED.keys() & set(identities or ())
    return _ENCODED[names.pop()] if len(names) == 1 else ""
