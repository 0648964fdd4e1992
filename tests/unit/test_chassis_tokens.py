"""The public keys that tokens are verified with: fetched once for all who wait, and not again and again in vain."""

import asyncio
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.chassis import tokens
from services.chassis.errors import PeerUnavailable, Unauthenticated
from services.chassis.tokens import Verifier
from services.identity.keys import SigningKeys


class Source:
    """Where the keys come from: counted, and away as long as `is_away`."""

    def __init__(self, folder: Path, *, key_id: str = "one") -> None:
        pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        private = Ed25519PrivateKey.generate().private_bytes(pem, form, serialization.NoEncryption())
        (folder / f"{key_id}.pem").write_bytes(private)
        self.keys = SigningKeys(folder)
        self.is_away = False
        self.fetches = 0

    def token(self) -> str:
        return self.keys.sign(user_id="u", session_id=str(uuid.uuid4()), issued_at=datetime.now(UTC)).text

    async def fetch(self) -> Mapping[str, jwt.PyJWK]:
        self.fetches += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise PeerUnavailable
        return {key_id: jwt.PyJWK(key) for key_id, key in self.keys.published().items()}


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


async def test_many_who_wait_for_a_key_fetch_it_once(source: Source) -> None:
    verifier = Verifier(source.fetch)
    claims = await asyncio.gather(*(verifier.verify(source.token()) for _ in range(50)))
    assert {claim.subject_id for claim in claims} == {"u"}
    assert source.fetches == 1


async def test_while_the_keys_are_away_everybody_shares_one_failure(source: Source) -> None:
    source.is_away = True
    verifier = Verifier(source.fetch)
    for _ in range(20):
        outcomes = await asyncio.gather(*(verifier.verify(source.token()) for _ in range(5)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {PeerUnavailable}
    assert source.fetches == 1


async def test_a_failure_stands_for_a_second_at_most(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tokens.FAILED_SECONDS <= 1
    source.is_away = True
    verifier = Verifier(source.fetch)
    with pytest.raises(PeerUnavailable):
        await verifier.verify(source.token())
    source.is_away = False
    monkeypatch.setattr(tokens, "FAILED_SECONDS", 0)
    assert (await verifier.verify(source.token())).subject_id == "u"
    assert source.fetches == 2


async def test_tokens_of_unknown_keys_do_not_make_the_keys_be_fetched_again_at_once(
    source: Source, tmp_path: Path
) -> None:
    verifier = Verifier(source.fetch)
    await verifier.verify(source.token())
    stranger = jwt.encode({"sub": "u"}, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers={"kid": "two"})
    for _ in range(20):
        with pytest.raises(Unauthenticated):
            await verifier.verify(stranger)
    assert source.fetches == 1


async def test_what_is_no_token_does_not_make_the_keys_be_fetched(source: Source) -> None:
    verifier = Verifier(source.fetch)
    with pytest.raises(Unauthenticated):
        await verifier.verify("no token")
    await settled()
    assert source.fetches == 0


async def test_keys_are_fetched_anew_once_they_are_old_and_not_before(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier, token = Verifier(source.fetch), source.token()
    for _ in range(3):
        await verifier.verify(token)
        await settled()
    assert source.fetches == 1
    monkeypatch.setattr(tokens, "REFRESH_SECONDS", -1)
    await verifier.verify(token)
    await settled()
    assert source.fetches == 2


async def test_a_token_is_no_longer_believed_once_its_key_is_withdrawn(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier, token = Verifier(source.fetch), source.token()
    assert (await verifier.verify(token)).subject_id == "u"
    (tmp_path / "later").mkdir()
    source.keys = Source(tmp_path / "later", key_id="two").keys
    monkeypatch.setattr(tokens, "REFRESH_SECONDS", -1)
    await verifier.verify(token)
    await settled()
    with pytest.raises(Unauthenticated):
        await verifier.verify(token)


async def settled() -> None:
    """Lets what was begun in the background go on to its end."""
    for _ in range(10):
        await asyncio.sleep(0)
