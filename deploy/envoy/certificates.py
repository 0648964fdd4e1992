"""The gateway's certificates: what it shows the public, what it shows the services, and whom it believes.

With `secrets_folder` they are taken anew, without a restart, whenever something is moved into the folder that holds
the files: the next handshake shows the new one, and connections that stand go on. Move a certificate and its key at
once, as by the link `..data` of a secret mounted by Kubernetes; of a pair that does not fit, Envoy keeps the old one.
"""

import json
from pathlib import Path

from deploy.envoy.settings import GatewaySettings, Json, any_of, extension

_EDGE, _CLIENT, _AUTHORITY = "edge", "client", "authority"
_TLS = {"tls_minimum_protocol_version": "TLSv1_2"}


def edge_tls(settings: GatewaySettings) -> Json:
    """TLS with the public."""
    return extension(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context={
            "tls_params": _TLS,
            "alpn_protocols": ["h2", "http/1.1"],
            **_certificate(settings, _EDGE),
        },
    )


def mutual_tls(settings: GatewaySettings, service: str) -> Json:
    """TLS with a service, which must have a certificate of its own name."""
    names: Json = {"match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": service}}]}
    if settings.secrets_folder:
        authority = {"validation_context_sds_secret_config": _reference(settings, _AUTHORITY)}
        believed: Json = {"combined_validation_context": {"default_validation_context": names, **authority}}
    else:
        believed = {"validation_context": {**names, "trusted_ca": {"filename": settings.ca_file}}}
    return extension(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        sni=service,
        common_tls_context={
            "tls_params": _TLS,
            "alpn_protocols": ["h2"],
            **_certificate(settings, _CLIENT),
            **believed,
        },
    )


def write_secrets(settings: GatewaySettings) -> None:
    """Write the files, one per secret, that say where the certificates are, if there is a folder for them.

    They hold no secret themselves.
    """
    if not settings.secrets_folder:
        return
    secrets: dict[str, Json] = {
        _EDGE: {"tls_certificate": _watched(_pair(settings, _EDGE), settings.edge_cert_file)},
        _CLIENT: {"tls_certificate": _watched(_pair(settings, _CLIENT), settings.cert_file)},
        _AUTHORITY: {"validation_context": _watched({"trusted_ca": {"filename": settings.ca_file}}, settings.ca_file)},
    }
    for name, secret in secrets.items():
        resource = any_of("envoy.extensions.transport_sockets.tls.v3.Secret", name=name, **secret)
        _secret_file(settings, name).write_text(json.dumps({"resources": [resource]}, indent=2))


def _watched(secret: Json, file: str) -> Json:
    return {**secret, "watched_directory": {"path": str(Path(file).parent)}}


def _certificate(settings: GatewaySettings, name: str) -> Json:
    if settings.secrets_folder:
        return {"tls_certificate_sds_secret_configs": [_reference(settings, name)]}
    return {"tls_certificates": [_pair(settings, name)]}


def _pair(settings: GatewaySettings, name: str) -> Json:
    edge = (settings.edge_cert_file, settings.edge_key_file)
    certificate_file, key_file = edge if name == _EDGE else (settings.cert_file, settings.key_file)
    return {"certificate_chain": {"filename": certificate_file}, "private_key": {"filename": key_file}}


def _reference(settings: GatewaySettings, name: str) -> Json:
    source = {"path_config_source": {"path": str(_secret_file(settings, name))}, "resource_api_version": "V3"}
    return {"name": name, "sds_config": source}


def _secret_file(settings: GatewaySettings, name: str) -> Path:
    return Path(settings.secrets_folder) / f"{name}.json"
