"""Passwords: Argon2id with bounds, and the list."""

import asyncio

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.low_level import Type

from services.chassis.errors import Overloaded
from services.identity.errors import PasswordRejected
from services.identity.passwords import THREADS, WAITING, Passwords, require_uncommon


@pytest.mark.parametrize("password", ["password1", "PASSWORD1", "12345678", "qwertyuiop", "Iloveyou"])
def test_a_common_password_is_refused_in_any_case(password: str) -> None:
    with pytest.raises(PasswordRejected) as refusal:
        require_uncommon(password)
    assert [field for field, _ in refusal.value.fields] == ["password"]


def test_an_uncommon_password_is_let_through() -> None:
    require_uncommon("correct horse battery staple")


async def test_hashes_are_argon2id_of_19_mib_in_two_passes() -> None:
    passwords = Passwords()
    parameters = extract_parameters(await passwords.hash("correct horse"))
    assert (parameters.type, parameters.memory_cost, parameters.time_cost, parameters.parallelism) == (
        Type.ID,
        19 * 1024,
        2,
        1,
    )


async def test_only_the_password_itself_matches() -> None:
    passwords = Passwords()
    password_hash = await passwords.hash("correct horse")
    assert await passwords.verify(password_hash, "correct horse")
    assert not await passwords.verify(password_hash, "Correct horse")
    assert not await passwords.verify(None, "correct horse")
    assert not await passwords.verify("not a hash", "correct horse")


async def test_a_hash_of_other_parameters_is_outdated() -> None:
    passwords = Passwords()
    assert passwords.is_outdated(PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash("correct horse"))
    assert not passwords.is_outdated(await passwords.hash("correct horse"))


async def test_more_than_the_queue_takes_are_refused_and_later_ones_are_served() -> None:
    passwords = Passwords()
    results = await asyncio.gather(*(passwords.hash("x" * 8) for _ in range(60)), return_exceptions=True)
    hashed = [result for result in results if isinstance(result, str)]
    assert len(hashed) >= THREADS + WAITING
    assert any(isinstance(result, Overloaded) for result in results)
    assert all(isinstance(result, str | Overloaded) for result in results)
    assert await passwords.hash("x" * 8)
