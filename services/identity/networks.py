"""Where a call comes from, as far as limits are concerned: a network, because its owner has all of its addresses."""

import ipaddress


def network_of(client_address: str) -> str:
    """The /24 of an IPv4 address, the /56 of an IPv6 one; empty for what is none."""
    address = _parse(client_address)
    if address is None:
        return ""
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 56), strict=False))


def is_foreign(client_address: str) -> bool:
    """Whether strangers may share the network's limits. This machine's own addresses are proxies and developers."""
    address = _parse(client_address)
    return address is not None and not address.is_loopback


def _parse(client_address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(client_address)
    except ValueError:
        return None
    # On a socket for both versions, IPv4 comes as ::ffff:192.0.2.1, and all of it would be one network.
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address
