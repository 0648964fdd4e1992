"""Mutual TLS: which service is at the other end, by the DNS name in its certificate."""

from collections.abc import Iterable

import grpc

from services.chassis.settings import ServeSettings

NAMES = frozenset({"gateway", "identity", "membership", "guest", "messaging"})
_ENCODED = {name.encode(): name for name in NAMES}


def server_credentials(settings: ServeSettings) -> grpc.ServerCredentials:
    """Credentials that demand a client certificate of our authority; the files are read again at each handshake."""
    used = _read(settings)

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        found = _read(settings)
        if found == used:
            # Given anew each time, gRPC replaces what other handshakes are using, and the process dies of it.
            return None
        used = found
        return _configuration(found)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(used),
        changed,  # type: ignore[arg-type]  # by gRPC's documentation None is for "unchanged"; its type does not know
        require_client_authentication=True,
    )


def _read(settings: ServeSettings) -> tuple[bytes, bytes, bytes]:
    key, certificate = settings.tls_key_file.read_bytes(), settings.tls_cert_file.read_bytes()
    return key, certificate, settings.tls_ca_file.read_bytes()


def _configuration(found: tuple[bytes, bytes, bytes]) -> grpc.ServerCertificateConfiguration:
    key, certificate, authority = found
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=authority)


def channel_credentials(settings: ServeSettings) -> grpc.ChannelCredentials:
    """Credentials that present this service's certificate and trust only our authority."""
    return grpc.ssl_channel_credentials(
        root_certificates=settings.tls_ca_file.read_bytes(),
        private_key=settings.tls_key_file.read_bytes(),
        certificate_chain=settings.tls_cert_file.read_bytes(),
    )


def peer_name(property_name: str | None, identities: Iterable[bytes] | None) -> str:
    """The service named in the caller's certificate, or an empty string if it names none or several.

    Takes what gRPC calls the peer's identity; of a certificate without alternative names it would take the common name.
    """
    if property_name != "x509_subject_alternative_name":
        return ""
    names = _ENCODED.keys() & set(identities or ())
    return _ENCODED[names.pop()] if len(names) == 1 else ""
