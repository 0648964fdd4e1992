"""Signing keys change under running services: nobody who is signed in notices."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspaces_rpc

from services.chassis import tokens
from services.identity import keys
from services.identity.__main__ import build
from services.identity.keys import add_key, retire_keys
from services.identity.settings import IdentitySettings
from tests.support.suite import Person, Suite, answered, refused


@asynccontextmanager
async def restarted_identity(suite: Suite, **changes: object) -> AsyncIterator[None]:
    """identity with other settings for a while."""
    settings = suite.settings("identity", **changes)
    assert isinstance(settings, IdentitySettings)
    await suite.stop("identity")
    suite.frames["identity"] = build(settings)
    await suite.frames["identity"].start()
    try:
        await answered(lambda: suite.stub(auth_rpc.AuthServiceStub).GetJwks(auth.GetJwksRequest(), timeout=10))
        yield
    finally:
        await suite.stop("identity")
        await suite.start("identity")
        await answered(lambda: suite.stub(auth_rpc.AuthServiceStub).GetJwks(auth.GetJwksRequest(), timeout=10))


def key_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


async def refreshed(suite: Suite, person: Person) -> Person:
    """The person with the tokens of a refresh."""
    stub = suite.stub(auth_rpc.AuthServiceStub)
    made = (
        await stub.RefreshSession(auth.RefreshSessionRequest(session_token=person.session_token), timeout=10)
    ).tokens
    return Person(**{**vars(person), "session_token": made.session_token, "access_token": made.access_token})


async def published(suite: Suite) -> set[str]:
    answer = await suite.stub(auth_rpc.AuthServiceStub).GetJwks(auth.GetJwksRequest(), timeout=10)
    return {key.kid for key in answer.keys}


def works(suite: Suite, person: Person) -> Any:
    """A call to another service than identity."""
    stub = suite.stub(workspaces_rpc.WorkspaceServiceStub)
    return answered(lambda: person.call(stub.CreateWorkspace, workspaces.CreateWorkspaceRequest(name="x")))


async def test_a_new_key_is_published_then_signs_and_the_old_ones_tokens_stay_good(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the delay spans in earnest: every verifier has fetched the keys again before a token needs it.
    monkeypatch.setattr(tokens, "REFETCH_SECONDS", 0)
    folder = suite.stack.settings.layout.keys
    async with restarted_identity(suite, signing_key_delay_seconds=1):
        person = await suite.person()
        old_key = key_of(person.access_token)
        await works(suite, person)
        new_key = add_key(folder)
        try:
            newer = person
            while new_key not in await published(suite):
                newer = await refreshed(suite, newer)
                assert key_of(newer.access_token) == old_key
            newer = await refreshed(suite, newer)
            assert key_of(newer.access_token) == old_key, "it signed as soon as it was published"
            while key_of(newer.access_token) == old_key:
                await asyncio.sleep(0.02)
                newer = await refreshed(suite, newer)
            assert key_of(newer.access_token) == new_key
            assert await published(suite) >= {old_key, new_key}
            await works(suite, newer)
            await works(suite, person)
        finally:
            (folder / f"{new_key}.pem").unlink()
        while new_key in await published(suite):  # noqa: ASYNC110 - the folder is looked at when it is due
            await asyncio.sleep(0.02)
        assert key_of((await refreshed(suite, newer)).access_token) == old_key
        refusal = await refused(suite_call(suite, newer))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        await works(suite, person)


def suite_call(suite: Suite, person: Person) -> Any:
    """A call to identity itself, whose verifier has not yet met the token."""
    return person.call(suite.stub(auth_rpc.AuthServiceStub).SignOut, auth.SignOutRequest())


async def test_a_key_is_retired_under_a_running_identity_once_the_next_one_signs(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "REFETCH_SECONDS", 0)
    folder = tmp_path / "keys"
    shutil.copytree(suite.stack.settings.layout.keys, folder)
    async with restarted_identity(suite, signing_keys_dir=folder, signing_key_delay_seconds=0.5):
        person = await suite.person()
        new_key = add_key(folder)
        newer = await refreshed(suite, person)
        while key_of(newer.access_token) != new_key:
            newer = await refreshed(suite, newer)
        assert retire_keys(folder, delay_seconds=0.5) == []
        await works(suite, person)

        monkeypatch.setattr(keys, "RETIRED_AFTER_SECONDS", 0.0)
        assert key_of(person.access_token) in retire_keys(folder, delay_seconds=0)

        while await published(suite) != {new_key}:  # noqa: ASYNC110 - the folder is looked at when it is due
            await asyncio.sleep(0.02)
        await works(suite, newer)
        assert (await refused(suite_call(suite, person))).code is grpc.StatusCode.UNAUTHENTICATED
    # With the suite's own key again, before others need it who look for it less often.
    await works(suite, person)
