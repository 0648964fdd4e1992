"""Who may sign up: everybody, the invited, nobody. What decides is the setting and the invite, never the address."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from guildhall.identity.v1 import auth_service_pb2 as pb

from tests.support.identities import execute, identity, new_address, open_invite
from tests.support.suite import PASSWORD, Suite, refused


@pytest.fixture
async def auth(suite: Suite, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """A process of identity whose sign-up is as the test says."""
    async with identity(suite, sign_up=request.param) as (_, stub):
        yield stub


def sign_up(address: str, invite_token: str = "") -> pb.SignUpRequest:
    return pb.SignUpRequest(email=address, password=PASSWORD, name="Ada", invite_token=invite_token)


@pytest.mark.parametrize("auth", ["closed"], indirect=True)
async def test_closed_sign_up_refuses_known_and_unknown_alike_and_lets_people_sign_in(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    token = open_invite(suite)
    refusals = [
        await refused(auth.SignUp(sign_up(address, token), timeout=10)) for address in (person.email, new_address())
    ]
    assert refusals[0] == refusals[1]
    assert (refusals[0].code, refusals[0].reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SIGN_UP_CLOSED")
    answer = await auth.SignIn(pb.SignInRequest(email=person.email, password=PASSWORD), timeout=10)
    assert answer.user.user_id == person.user_id


@pytest.mark.parametrize("auth", ["invited"], indirect=True)
async def test_with_an_invite_that_is_open_anybody_signs_up_and_it_is_not_used_up(suite: Suite, auth: Any) -> None:
    token = open_invite(suite)
    for _ in range(2):
        address = new_address()
        await auth.SignUp(sign_up(address, token), timeout=10)
        verified = await auth.VerifyEmail(pb.VerifyEmailRequest(token=await suite.mailed_token(address)), timeout=10)
        assert verified.user.email == address


@pytest.mark.parametrize("auth", ["invited"], indirect=True)
async def test_without_one_sign_up_is_closed_whatever_the_address(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    refusals = [
        await refused(auth.SignUp(sign_up(address, token), timeout=10))
        for address in (person.email, new_address())
        for token in ("", "ghi_none", open_invite(suite, "0 seconds"))
    ]
    assert {refusal.raw for refusal in refusals} == {refusals[0].raw}
    assert refusals[0].reason == "SIGN_UP_CLOSED"


@pytest.mark.parametrize("auth", ["open", "invited", "closed"], indirect=True)
async def test_only_open_sign_up_makes_users_of_those_who_ask_for_a_link(
    suite: Suite, auth: Any, request: pytest.FixtureRequest
) -> None:
    person, unknown = await suite.person(), new_address()
    answers = []
    for address in (person.email, unknown):
        answer = await auth.StartEmailSignIn(pb.StartEmailSignInRequest(email=address), timeout=10)
        answers.append(answer.SerializeToString())
    assert answers == [b"", b""]
    token = await suite.mailed_token(person.email, count=2)
    signed_in = await auth.CompleteEmailSignIn(pb.CompleteEmailSignInRequest(token=token), timeout=10)
    assert signed_in.user.user_id == person.user_id
    is_open = request.node.callspec.params["auth"] == "open"
    if is_open:
        token = await suite.mailed_token(unknown)
        joined = await auth.CompleteEmailSignIn(pb.CompleteEmailSignInRequest(token=token), timeout=10)
        assert joined.user.HasField("email_verify_time")
    query = "SELECT count(*) FROM users WHERE normalized_email = %s"
    assert execute(suite, query, unknown) == [(int(is_open),)]
