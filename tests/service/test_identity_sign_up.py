"""Signing up and proving an address."""

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from guildhall.identity.v1 import auth_service_pb2 as pb
from guildhall.identity.v1 import auth_service_pb2_grpc

from tests.support.identities import identity, new_address
from tests.support.suite import PASSWORD, Suite, refusal_of, refused

OTHER_PASSWORD = "another long password"


@pytest.fixture
def auth(suite: Suite) -> Any:
    return suite.stub(auth_service_pb2_grpc.AuthServiceStub)


def sign_up(address: str, **fields: str) -> pb.SignUpRequest:
    return pb.SignUpRequest(**{"email": address, "password": PASSWORD, "name": "Ada", **fields})


async def sign_in(auth: Any, address: str, password: str = PASSWORD) -> Any:
    return await auth.SignIn(pb.SignInRequest(email=address, password=password), timeout=10)


def count_sign_ups(suite: Suite, address: str) -> int:
    query = """SELECT count(*) FROM verification_tokens
        JOIN users ON users.id = user_id WHERE normalized_email = %s"""
    with suite.database("identity") as connection:
        row = connection.execute(query, (address,)).fetchone()
    return int(row[0]) if row else 0


async def test_a_new_address_is_verified_by_its_mail_and_signs_in(suite: Suite, auth: Any) -> None:
    address = new_address()
    await auth.SignUp(sign_up(address), timeout=10)
    [mail] = await suite.mails(address)
    token = await suite.mailed_token(address)
    assert f"/verify-email?token={token}" in mail
    verified = await auth.VerifyEmail(pb.VerifyEmailRequest(token=token), timeout=10)
    assert verified.user.HasField("email_verify_time")
    assert not verified.user.normalized_email
    signed_in = await sign_in(auth, address)
    assert signed_in.user == verified.user
    assert (signed_in.user.email, signed_in.user.name) == (address, "Ada")


async def test_sign_up_answers_alike_for_known_and_unknown_and_mails_each(suite: Suite, auth: Any) -> None:
    known = await suite.person()
    unknown = new_address()
    answers = []
    for address in (known.email, unknown):
        call = auth.SignUp(sign_up(address, password=OTHER_PASSWORD), timeout=10)
        answers.append(((await call).SerializeToString(), await call.trailing_metadata()))
    assert answers[0] == answers[1]
    known_mail = (await suite.mails(known.email, count=2))[1]
    assert "You have an account already" in known_mail
    assert "Token:" not in known_mail
    assert "Token:" in (await suite.mails(unknown))[0]


async def test_sign_up_changes_nothing_about_a_known_user(suite: Suite, auth: Any) -> None:
    known = await suite.person()
    await auth.SignUp(sign_up(known.email, password=OTHER_PASSWORD, name="Eve"), timeout=10)
    await refused(sign_in(auth, known.email, OTHER_PASSWORD))
    assert (await sign_in(auth, known.email)).user.name == known.name


async def test_sign_in_after_sign_up_does_not_tell_a_known_address_from_an_unknown_one(suite: Suite, auth: Any) -> None:
    known = await suite.person()
    unknown = new_address()
    refusals = []
    for address in (known.email, unknown):
        await auth.SignUp(sign_up(address, password=OTHER_PASSWORD), timeout=10)
        right = await refused(sign_in(auth, address, OTHER_PASSWORD))
        wrong = await refused(sign_in(auth, address, "a third long password"))
        assert (right.reason, wrong.reason) == ("EMAIL_UNVERIFIED", "INVALID_CREDENTIALS")
        refusals.append((right.raw, wrong.raw))
    assert refusals[0] == refusals[1]


@pytest.mark.parametrize("password", ["password1", "Qwerty123"])
async def test_a_common_password_is_rejected_for_known_and_unknown(suite: Suite, auth: Any, password: str) -> None:
    known = await suite.person()
    refusals = [
        await refused(auth.SignUp(sign_up(address, password=password), timeout=10))
        for address in (known.email, new_address())
    ]
    assert refusals[0] == refusals[1]
    assert (refusals[0].code, refusals[0].reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PASSWORD_REJECTED")
    assert list(refusals[0].fields) == ["password"]
    assert password not in str(refusals[0])


@pytest.mark.parametrize("written", ["a＠b@example.com", "a,b@example.com", "=?utf-8?q?a?=@example.com", "\ufdfa@x"])
async def test_an_address_that_is_not_one_is_refused_by_field(auth: Any, written: str) -> None:
    if written == "\ufdfa@x":
        written = "\ufdfa" * 60 + "@example.com"
    for call in (auth.SignUp(sign_up(written), timeout=10), sign_in(auth, written)):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert list(refusal.fields) == ["email"]


async def test_all_spellings_of_an_address_are_one_user(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    signed_in = await sign_in(auth, person.email.upper())
    assert signed_in.user.user_id == person.user_id
    assert signed_in.user.email == person.email


async def test_the_mail_goes_to_the_mailbox_that_is_proven(suite: Suite, auth: Any) -> None:
    address = new_address()
    lookalike = "ⓢ" + address[1:]
    await auth.SignUp(sign_up(lookalike, name="Eve"), timeout=10)
    assert await suite.mails(address)


async def test_a_repeated_sign_up_mails_once_and_a_new_one_again(suite: Suite, auth: Any) -> None:
    address, request_id = new_address(), str(uuid.uuid4())
    for spelled in (request_id, request_id):
        await auth.SignUp(sign_up(address, request_id=spelled), timeout=10)
    assert count_sign_ups(suite, address) == 1
    await auth.SignUp(sign_up(address, request_id=str(uuid.uuid4())), timeout=10)
    assert count_sign_ups(suite, address) == 2
    assert len(await suite.mails(address, count=2)) == 2


async def test_a_key_with_another_body_is_refused(auth: Any) -> None:
    address, request_id = new_address(), str(uuid.uuid4())
    await auth.SignUp(sign_up(address, request_id=request_id), timeout=10)
    refusal = await refused(auth.SignUp(sign_up(address, request_id=request_id, name="Eve"), timeout=10))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_MISMATCH")


async def test_who_signs_up_first_cannot_choose_the_password_of_who_verifies(suite: Suite, auth: Any) -> None:
    address = new_address()
    await auth.SignUp(sign_up(address, password=OTHER_PASSWORD, name="Eve"), timeout=10)
    strangers_token = await suite.mailed_token(address)
    await auth.SignUp(sign_up(address), timeout=10)
    verified = await auth.VerifyEmail(
        pb.VerifyEmailRequest(token=await suite.mailed_token(address, count=2)), timeout=10
    )
    assert verified.user.name == "Ada"
    assert (await sign_in(auth, address)).user.user_id == verified.user.user_id
    await refused(sign_in(auth, address, OTHER_PASSWORD))
    refusal = await refused(auth.VerifyEmail(pb.VerifyEmailRequest(token=strangers_token), timeout=10))
    assert refusal.reason == "TOKEN_INVALID"


async def test_a_later_sign_up_does_not_spoil_the_mail_of_an_earlier_one(suite: Suite, auth: Any) -> None:
    address = new_address()
    await auth.SignUp(sign_up(address), timeout=10)
    token = await suite.mailed_token(address)
    await auth.SignUp(sign_up(address, password=OTHER_PASSWORD, name="Eve"), timeout=10)
    await auth.VerifyEmail(pb.VerifyEmailRequest(token=token), timeout=10)
    assert (await sign_in(auth, address)).user.name == "Ada"


async def test_of_sixteen_uses_of_a_token_exactly_one_wins(suite: Suite, auth: Any) -> None:
    address = new_address()
    await auth.SignUp(sign_up(address), timeout=10)
    token = await suite.mailed_token(address)

    async def verify() -> str:
        try:
            await auth.VerifyEmail(pb.VerifyEmailRequest(token=token, request_id=str(uuid.uuid4())), timeout=10)
        except grpc.aio.AioRpcError as error:
            return refusal_of(error).reason
        return "verified"

    outcomes = await asyncio.gather(*(verify() for _ in range(16)))
    assert sorted(outcomes) == ["TOKEN_INVALID"] * 15 + ["verified"]


async def test_sixteen_tokens_of_one_address_verify_it_once(suite: Suite, auth: Any) -> None:
    address = new_address()
    async with identity(suite, mails_per_address=16) as (_, generous):
        for _ in range(16):
            await generous.SignUp(sign_up(address), timeout=10)
        # Before it stops: what a relay has claimed when it does is claimed again half a minute later.
        mails = await suite.mails(address, count=16)
    tokens = [mail.split("Token: ")[1].split()[0] for mail in mails]
    outcomes = await asyncio.gather(
        *(auth.VerifyEmail(pb.VerifyEmailRequest(token=token), timeout=10) for token in tokens), return_exceptions=True
    )
    assert sum(isinstance(outcome, pb.VerifyEmailResponse) for outcome in outcomes) == 1


async def test_sixteen_uses_with_one_key_are_one_use(suite: Suite, auth: Any) -> None:
    address = new_address()
    await auth.SignUp(sign_up(address), timeout=10)
    request = pb.VerifyEmailRequest(token=await suite.mailed_token(address), request_id=str(uuid.uuid4()))
    answers = await asyncio.gather(*(auth.VerifyEmail(request, timeout=10) for _ in range(16)))
    assert len({answer.SerializeToString() for answer in answers}) == 1
    assert answers[0].user.HasField("email_verify_time")


@pytest.mark.parametrize(("remaining", "reason"), [("-1 second", "TOKEN_INVALID"), ("1 minute", None)])
async def test_a_token_is_good_until_its_time(suite: Suite, auth: Any, remaining: str, reason: str | None) -> None:
    address = new_address()
    await auth.SignUp(sign_up(address), timeout=10)
    token = await suite.mailed_token(address)
    with suite.database("identity_owner") as connection:
        connection.execute(
            """UPDATE verification_tokens SET expire_at = statement_timestamp() + CAST(%s AS interval)
            FROM users WHERE users.id = user_id AND normalized_email = %s""",
            (remaining, address),
        )
    call = auth.VerifyEmail(pb.VerifyEmailRequest(token=token), timeout=10)
    if reason is None:
        assert (await call).user.email == address
        return
    refusal = await refused(call)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    # The password that waited with the token is past its time as well.
    assert (await refused(sign_in(auth, address))).reason == "INVALID_CREDENTIALS"


async def test_an_unknown_token_and_a_used_one_are_refused_alike(suite: Suite, auth: Any) -> None:
    address = new_address()
    await auth.SignUp(sign_up(address), timeout=10)
    used = await suite.mailed_token(address)
    await auth.VerifyEmail(pb.VerifyEmailRequest(token=used), timeout=10)
    refusals = [
        await refused(auth.VerifyEmail(pb.VerifyEmailRequest(token=token), timeout=10)) for token in (used, "ghv_none")
    ]
    assert refusals[0] == refusals[1]
    assert list(refusals[0].fields) == ["token"]


async def test_neither_password_nor_token_is_in_the_database(suite: Suite, auth: Any) -> None:
    address, password = new_address(), f"canary {uuid.uuid4().hex}"
    await auth.SignUp(sign_up(address, password=password, request_id=str(uuid.uuid4())), timeout=10)
    token = await suite.mailed_token(address)
    await auth.VerifyEmail(pb.VerifyEmailRequest(token=token, request_id=str(uuid.uuid4())), timeout=10)
    signed_in = await auth.SignIn(
        pb.SignInRequest(email=address, password=password, request_id=str(uuid.uuid4())), timeout=10
    )
    secrets = [password, token, signed_in.tokens.session_token, signed_in.tokens.access_token]
    with suite.database("identity_owner") as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'identity'").fetchall()
        rows = [connection.execute(f"SELECT CAST(t AS text) FROM {name} t").fetchall() for (name,) in tables]
    stored = "\n".join(text for table in rows for (text,) in table)
    assert address in stored
    for secret in secrets:
        assert secret not in stored
        assert secret.encode().hex() not in stored
