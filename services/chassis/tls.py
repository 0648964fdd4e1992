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
    """Credentials that demand a client certificate of our authority; the files are read again at each handshake."""

    def configuration() -> grpc.ServerCertificateConfiguration:
        key, certificate, authority = _read_files(settings)
        return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=authority)

    def newer() -> grpc.ServerCertificateConfiguration | None:
        try:
            return configuration()
        except (OSError, ValueError) as error:
            # With what it had: certificate and key are two files, and one is always replaced first.
            log.warning("certificate_unreadable", error=type(error).__name__)
            return None

    # gRPC takes None for "as before", which its types do not say.
    return grpc.dynamic_ssl_server_credentials(configuration(), newer, require_client_authentication=True)  # type: ignore[arg-type]


def channel_credentials(settings: ServeSettings) -> grpc.ChannelCredentials:
    """Credentials that present this service's certificate and trust only our authority. ValueError if they differ."""
    key, certificate, authority = _read_files(settings)
    return grpc.ssl_channel_credentials(root_certificates=authority, private_key=key, certificate_chain=certificate)


def _read_files(settings: ServeSettings) -> tuple[bytes, bytes, bytes]:
    """Key, certificate and authority. ValueError if the first two do not belong together."""
    key, certificate = settings.tls_key_file.read_bytes(), settings.tls_cert_file.read_bytes()
    if load_pem_private_key(key, None).public_key() != x509.load_pem_x509_certificate(certificate).public_key():
        raise ValueError("the key is not the certificate's")
    return key, certificate, settings.tls_ca_file.read_bytes()


def peer_name(property_name: str | None, identities: Iterable[bytes] | None) -> str:
    """The service named in the caller's certificate, or an empty string if it names none or several.

    Takes what gRPC calls the peer's identity; of a certificate without alternative names it would take the common name.
    """
    if property_name != "x509_subject_alternative_name":
        return ""
    names = _ENCODED.keys() & set(identities or ())
    return _ENCODED[names.pop()] if len(names) == 1 else ""
