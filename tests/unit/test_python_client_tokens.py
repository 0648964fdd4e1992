"""clients/python while a token is renewed: no session is lost and no call ends early. The server is the test's own."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.client import Client, NotSignedIn, Unavailable
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc as users_rpc

GRACE_SECONDS = 10
"""For so long identity answers a session token as it did first; a later use ends the session."""
DISTANT = Timestamp(seconds=4_000_000_000)


class Doorkeeper(auth_rpc.AuthServiceServicer):
    """Exchanges session tokens once it is let; `losing` answers are never given."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.given: list[float] = []
        self.losing = 0
        self.was_asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def RefreshSession(self, request: auth.RefreshSessionRequest, context: Any) -> auth.RefreshSessionResponse:
        self.asked.append(request.session_token)
        self.given.append(context.time_remaining())
        self.was_asked.set()
        if request.session_token == "ended":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "The session has ended.")
        if len(self.asked) <= self.losing:
            await asyncio.Event().wait()
        await self.may_answer.wait()
        tokens = auth.SessionTokens(session_token=f"{request.session_token}'", access_token="access")
        tokens.access_token_expire_time.CopyFrom(DISTANT)
        return auth.RefreshSessionResponse(tokens=tokens)


class Users(users_rpc.UserServiceServicer):
    """Knows whoever has the token."""

    async def GetUser(self, request: users.GetUserRequest, context: Any) -> users.GetUserResponse:
        assert ("authorization", "Bearer access") in context.invocation_metadata()
        return users.GetUserResponse(user=users.User(user_id="ada"))


@pytest.fixture
def door() -> Doorkeeper:
    return Doorkeeper()


@pytest.fixture
async def target(door: Doorkeeper) -> AsyncIterator[str]:
    server = grpc.aio.server()
    auth_rpc.add_AuthServiceServicer_to_server(door, server)
    users_rpc.add_UserServiceServicer_to_server(Users(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def get_user(client: Client, *, seconds: float = 20) -> str:
    answer: Any = await client.call(
        client.stub(users_rpc.UserServiceStub).GetUser, users.GetUserRequest(), seconds=seconds
    )
    return str(answer.user.user_id)


async def test_an_answer_that_was_lost_is_asked_for_again_while_it_is_still_to_be_had(
    target: str, door: Doorkeeper
) -> None:
    door.losing = 1
    async with Client(target) as client, asyncio.timeout(GRACE_SECONDS):
        client.resume("first")
        assert await get_user(client) == "ada"
    assert door.asked == ["first", "first"]
    assert max(door.given) < GRACE_SECONDS / 3


async def test_a_session_that_has_ended_is_not_asked_for_again(target: str, door: Doorkeeper) -> None:
    async with Client(target) as client:
        client.resume("ended")
        with pytest.raises(NotSignedIn):
            await get_user(client)
    assert door.asked == ["ended"]


async def test_a_renewal_goes_on_when_all_who_wait_for_it_give_up(target: str, door: Doorkeeper) -> None:
    kept: list[str] = []

    async def keep(token: str) -> None:
        kept.append(token)

    door.may_answer.clear()
    async with Client(target) as client:
        client.resume("first", kept=keep)
        calls = [asyncio.create_task(get_user(client)) for _ in range(3)]
        await door.was_asked.wait()
        for call in calls:
            call.cancel()
        assert all(
            isinstance(done, asyncio.CancelledError) for done in await asyncio.gather(*calls, return_exceptions=True)
        )
        door.may_answer.set()
        assert await get_user(client) == "ada"
    assert door.asked == ["first"]
    assert kept == ["first'"]


async def test_a_client_that_is_closed_keeps_the_token_that_is_on_its_way(target: str, door: Doorkeeper) -> None:
    kept: list[str] = []

    async def keep(token: str) -> None:
        kept.append(token)

    door.may_answer.clear()
    async with Client(target) as client:
        client.resume("first", kept=keep)
        calling = asyncio.create_task(get_user(client))
        await door.was_asked.wait()
        calling.cancel()
        asyncio.get_running_loop().call_soon(door.may_answer.set)
    assert kept == ["first'"]


class Outage(grpc.aio.AioRpcError):
    """What a renewal ends with when nobody answers."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__(code, grpc.aio.Metadata(), grpc.aio.Metadata())


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
async def test_a_call_outlives_an_outage_while_its_token_is_renewed(target: str, code: grpc.StatusCode) -> None:
    outages = iter([Outage(code), Outage(code)])

    async def renew() -> tuple[str, Timestamp]:
        for outage in outages:
            raise outage
        return "access", DISTANT

    async with Client(target) as client:
        client.use_tokens(renew)
        assert await get_user(client) == "ada"


async def test_an_outage_that_outlives_the_call_is_told_as_one(target: str) -> None:
    async def renew() -> tuple[str, Timestamp]:
        raise Outage(grpc.StatusCode.UNAVAILABLE)

    async with Client(target) as client:
        client.use_tokens(renew)
        with pytest.raises(Unavailable):
            await get_user(client, seconds=0.5)


async def test_a_call_waits_for_a_token_no_longer_than_for_its_answer(target: str, door: Doorkeeper) -> None:
    door.may_answer.clear()
    async with Client(target) as client:
        client.resume("first")
        with pytest.raises(Unavailable) as refused:
            await get_user(client, seconds=0.5)
        assert refused.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
        # Given up before any try of the renewal was: it is the same that then gives the next call its token.
        assert door.asked == ["first"]
        door.may_answer.set()
        assert await get_user(client) == "ada"
    assert door.asked == ["first"]
