"""The service's key: what is made for one purpose serves no other."""

import hashlib

import pytest

from services.chassis.secret import SecretKey, new_token, token_hash

KEY, OTHER = SecretKey(b"k" * 32), SecretKey(b"o" * 32)


def test_an_authenticator_is_the_same_for_the_same_key_purpose_and_parts() -> None:
    assert KEY.mac("page", b"a", b"b") == KEY.mac("page", b"a", b"b")
    assert len(KEY.mac("page")) == 32


@pytest.mark.parametrize(
    ("key", "purpose", "parts"),
    [
        (OTHER, "page", (b"a", b"b")),
        (KEY, "seal", (b"a", b"b")),
        (KEY, "page", (b"ab", b"")),
        (KEY, "page", (b"ab",)),
        (KEY, "page", (b"a", b"b", b"")),
        (KEY, "pagea", (b"b",)),
    ],
)
def test_another_key_purpose_or_cut_gives_another_authenticator(
    key: SecretKey, purpose: str, parts: tuple[bytes, ...]
) -> None:
    assert key.mac(purpose, *parts) != KEY.mac("page", b"a", b"b")


def test_a_derived_token_can_be_made_again_and_only_from_the_same_parts() -> None:
    token = KEY.token("gh_invite", "row", "1")

    assert token == KEY.token("gh_invite", "row", "1")
    assert token.startswith("gh_invite_")
    others = [
        KEY.token("gh_invite", "row1", ""),
        KEY.token("gh_verify", "row", "1"),
        OTHER.token("gh_invite", "row", "1"),
    ]
    assert token.rpartition("_")[2] not in {other.rpartition("_")[2] for other in others}
    assert len({token, *others}) == 4


def test_a_derived_token_is_no_authenticator_of_another_purpose() -> None:
    import base64

    raw = base64.urlsafe_b64encode(KEY.mac("page", b"row")).decode().rstrip("=")

    assert KEY.token("page", "row") != f"page_{raw}"


def test_random_tokens_differ_and_carry_256_bits() -> None:
    tokens = {new_token("gh_session") for _ in range(100)}

    assert len(tokens) == 100
    assert all(len(token.removeprefix("gh_session_")) == 43 for token in tokens)


def test_what_is_stored_of_a_token_is_its_sha256() -> None:
    assert token_hash("token") == hashlib.sha256(b"token").digest()


def test_sealed_data_opens_with_the_same_key_and_material() -> None:
    sealed = KEY.seal("request-1", b"secret answer")

    assert KEY.open("request-1", sealed) == b"secret answer"
    assert b"secret" not in sealed
    assert KEY.seal("request-1", b"secret answer") != sealed


def test_sealed_data_stays_shut_to_another_key_material_or_after_a_change() -> None:
    sealed = KEY.seal("request-1", b"secret answer")

    assert OTHER.open("request-1", sealed) is None
    assert KEY.open("request-2", sealed) is None
    for position in (0, 12, len(sealed) - 1):
        changed = bytearray(sealed)
        changed[position] ^= 1
        assert KEY.open("request-1", bytes(changed)) is None
