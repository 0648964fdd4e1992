"""Certificates: which service is at the other end."""

import pytest

from services.chassis.tls import NAMES, peer_name

SAN = "x509_subject_alternative_name"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_service_named_in_the_certificate_is_the_peer(name: str) -> None:
    assert peer_name(SAN, [name.encode(), b"localhost", b"127.0.0.1"]) == name


@pytest.mark.parametrize(
    ("property_name", "identities"),
    [
        (None, None),
        (SAN, []),
        (SAN, [b"localhost", b"127.0.0.1"]),
        (SAN, [b"identity.example.com"]),
        (SAN, [b"Identity"]),
        (SAN, [b"identity", b"guest"]),
        (SAN, [b"gateway", b"messaging"]),
        (SAN, [b"\xffidentity"]),
        ("x509_common_name", [b"identity"]),
    ],
)
def test_a_certificate_that_names_no_service_or_several_names_none(
    property_name: str | None, identities: list[bytes] | None
) -> None:
    assert peer_name(property_name, identities) == ""
