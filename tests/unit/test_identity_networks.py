"""Networks, as far as limits are concerned."""

import pytest

from services.identity.networks import is_foreign, network_of


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("203.0.113.7", "203.0.113.250", True),
        ("203.0.113.7", "203.0.114.7", False),
        ("2001:db8:0:1200::1", "2001:db8:0:12ff:ffff::1", True),
        ("2001:db8:0:1200::1", "2001:db8:0:1300::1", False),
        ("::ffff:203.0.113.7", "203.0.113.250", True),
        ("::ffff:203.0.113.7", "::ffff:203.0.114.7", False),
        ("", "not an address", True),
        ("", "203.0.113.7", False),
    ],
)
def test_addresses_of_one_owner_are_one_network(one: str, other: str, is_same: bool) -> None:
    assert (network_of(one) == network_of(other)) == is_same


@pytest.mark.parametrize(
    ("address", "foreign"),
    [("203.0.113.7", True), ("2001:db8::1", True), ("127.0.0.1", False), ("::1", False), ("", False)],
)
def test_only_other_machines_are_foreign(address: str, foreign: bool) -> None:
    assert is_foreign(address) == foreign
