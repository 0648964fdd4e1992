"""Signing in by a mailed link; the mails that prove an address, sent again; what each token is good for."""

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from argon2 import PasswordHasher
from guildhall.identity.v1 import auth_service_pb2 as pb
from guildhall.identity.v1 import auth_service_pb2_grpc, user_service_pb2, user_service_pb2_grpc

from services.identity import verification
from tests.support.identities import execute, kinds_of, new_address
from tests.support.suite import PASSWORD, Person, Suite, refusal_of, refused

OTHER_PASSWORD = "another long password"
PURPOSES = ["verify_email", "email_sign_in", "reset_password", "change_email"]
GOOD_AT = {
    "VerifyEmail": {"verify_email", "change_email"},
    "CompleteEmailSignIn": {"email_sign_in"},
    "ResetPassword": {"reset_password"},
}


@pytest.fixture
def auth(suite: Suite) -> Any:
    return suite.stub(auth_service_pb2_grpc.AuthServiceStub)


async def start(auth: Any, address: str) -> None:
    await auth.StartEmailSignIn(pb.StartEmailSignInRequest(email=address), timeout=10)


async def complete(auth: Any, token: str, **fields: str) -> Any:
    return await auth.CompleteEmailSignIn(pb.CompleteEmailSignInRequest(token=token, **fields), timeout=10)


async def sign_up(auth: Any, address: str, password: str = PASSWORD, name: str = "Ada") -> None:
    await auth.SignUp(pb.SignUpRequest(email=address, password=password, name=name), timeout=10)


async def sign_in(auth: Any, address: str, password: str = PASSWORD) -> Any:
    return await auth.SignIn(pb.SignInRequest(email=address, password=password), timeout=10)


async def verify(auth: Any, token: str) -> Any:
    return await auth.VerifyEmail(pb.VerifyEmailRequest(token=token), timeout=10)


async def resend(auth: Any, address: str) -> None:
    await auth.ResendVerification(pb.ResendVerificationRequest(email=address), timeout=10)


async def change_email(suite: Suite, person: Person, address: str) -> str:
    """The token with which somebody makes an address theirs, as UpdateUser has it mailed."""
    frame = suite.frames["identity"]
    await frame.database.transaction(
        lambda tx: verification.issue(tx, frame.secret, "change_email", user_id=person.user_id, email=address)
    )
    return await suite.mailed_token(address)


async def issued(suite: Suite, auth: Any, purpose: str) -> tuple[str, str]:
    """An address and a token of a purpose that was mailed there."""
    if purpose == "verify_email":
        address = new_address()
        await sign_up(auth, address)
        return address, await suite.mailed_token(address)
    person = await suite.person()
    if purpose == "change_email":
        address = new_address()
        return address, await change_email(suite, person, address)
    if purpose == "email_sign_in":
        await start(auth, person.email)
    else:
        await auth.RequestPasswordReset(pb.RequestPasswordResetRequest(email=person.email), timeout=10)
    return person.email, await suite.mailed_token(person.email, count=2)


def use(auth: Any, rpc: str, token: str, request_id: str = "") -> Any:
    fields = {"new_password": OTHER_PASSWORD} if rpc == "ResetPassword" else {}
    request = getattr(pb, f"{rpc}Request")(token=token, request_id=request_id, **fields)
    return getattr(auth, rpc)(request, timeout=10)


def rpc_of(purpose: str) -> str:
    return next(rpc for rpc, purposes in GOOD_AT.items() if purpose in purposes)


async def test_the_link_signs_in_without_a_password_once(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    await start(auth, person.email)
    token = await suite.mailed_token(person.email, count=2)
    assert f"/sign-in?token={token}" in (await suite.mails(person.email, count=2))[1]
    answer = await complete(auth, token, device_label="laptop")
    assert (answer.user.user_id, answer.session.device_label) == (person.user_id, "laptop")
    users = suite.stub(user_service_pb2_grpc.UserServiceStub)
    metadata = (("authorization", f"Bearer {answer.tokens.access_token}"),)
    me = await users.GetUser(user_service_pb2.GetUserRequest(), timeout=10, metadata=metadata)
    assert me.user == answer.user
    assert (await refused(complete(auth, token))).reason == "TOKEN_INVALID"
    assert kinds_of(suite, person.user_id)[-1] == "signed_in"


async def test_a_repeated_completion_gets_the_same_tokens_unless_the_user_was_disabled(suite: Suite, auth: Any) -> None:
    person = await suite.person()
    await start(auth, person.email)
    token, request_id = await suite.mailed_token(person.email, count=2), str(uuid.uuid4())
    answers = [await complete(auth, token, request_id=request_id) for _ in range(2)]
    assert answers[0] == answers[1]
    execute(
        suite,
        """UPDATE idempotency_keys SET created_at = created_at - interval '10 minutes'
        WHERE method LIKE '%%/CompleteEmailSignIn'""",
    )
    later = await complete(auth, token, request_id=request_id)
    assert later.secret_omitted
    assert not later.HasField("tokens")
    execute(suite, "UPDATE users SET disabled_at = statement_timestamp() WHERE id = %s", person.user_id)
    assert (await refused(complete(auth, token, request_id=request_id))).reason == "TOKEN_INVALID"


async def test_a_new_address_joins_by_its_link_without_anything_that_others_signed_up_with(
    suite: Suite, auth: Any
) -> None:
    address = new_address()
    await sign_up(auth, address, OTHER_PASSWORD, "Eve")
    strangers_token = await suite.mailed_token(address)
    await start(auth, address)
    answer = await complete(auth, await suite.mailed_token(address, count=2))
    assert (answer.user.email, answer.user.name, answer.user.has_password) == (address, "", False)
    assert answer.user.HasField("email_verify_time")
    assert kinds_of(suite, answer.user.user_id) == ["email_verified", "signed_in"]
    assert (await refused(verify(auth, strangers_token))).reason == "TOKEN_INVALID"
    query = "SELECT purpose FROM verification_tokens WHERE user_id = %s AND used_at IS NULL"
    assert execute(suite, query, answer.user.user_id) == [("known_address",)]
    # As for any known address: that it was proven is not told.
    assert (await refused(sign_in(auth, address, OTHER_PASSWORD))).reason == "EMAIL_UNVERIFIED"


async def test_what_signed_in_before_the_proof_does_not_after_it(suite: Suite, auth: Any) -> None:
    address = new_address()
    await sign_up(auth, address)
    token = await suite.mailed_token(address)
    [(user_id,)] = execute(suite, "SELECT id FROM users WHERE normalized_email = %s", address)
    imported = PasswordHasher().hash(OTHER_PASSWORD)
    execute(suite, "UPDATE users SET password_hash = %s WHERE id = %s", imported, user_id)
    add_session = """INSERT INTO sessions (id, user_id, device_label, client_address, user_agent, idle_expire_at,
        absolute_expire_at) VALUES (gen_random_uuid(), %s, '', '', '', statement_timestamp() + interval '1 hour',
        statement_timestamp() + interval '1 hour')"""
    execute(suite, add_session, user_id)
    add_account = (
        "INSERT INTO accounts (id, user_id, type, provider, provider_account_id) VALUES (%s, %s, 'o', 'p', %s)"
    )
    execute(suite, add_account, str(uuid.uuid4()), user_id, address)
    await verify(auth, token)
    assert (await refused(sign_in(auth, address, OTHER_PASSWORD))).reason == "INVALID_CREDENTIALS"
    assert execute(suite, "SELECT ended_reason FROM sessions WHERE user_id = %s", user_id) == [("revoked",)]
    assert execute(suite, "SELECT count(*) FROM accounts WHERE user_id = %s", user_id) == [(0,)]
    assert (await sign_in(auth, address)).user.name == "Ada"


async def test_a_password_that_was_imported_for_an_unproven_address_is_gone_once_its_owner_comes(
    suite: Suite, auth: Any
) -> None:
    address = new_address()
    await start(auth, address)
    imported = PasswordHasher().hash(OTHER_PASSWORD)
    execute(suite, "UPDATE users SET password_hash = %s WHERE normalized_email = %s", imported, address)
    assert (await refused(sign_in(auth, address, OTHER_PASSWORD))).reason == "EMAIL_UNVERIFIED"
    assert not (await complete(auth, await suite.mailed_token(address))).user.has_password
    assert (await refused(sign_in(auth, address, OTHER_PASSWORD))).reason == "INVALID_CREDENTIALS"


async def test_a_disabled_user_gets_no_link_and_an_earlier_one_is_refused_until_enabled(
    suite: Suite, auth: Any
) -> None:
    person = await suite.person()
    await start(auth, person.email)
    token = await suite.mailed_token(person.email, count=2)
    execute(suite, "UPDATE users SET disabled_at = statement_timestamp() WHERE id = %s", person.user_id)
    assert (await refused(complete(auth, token))).reason == "TOKEN_INVALID"
    await start(auth, person.email)
    query = "SELECT count(*) FROM verification_tokens WHERE user_id = %s AND purpose = 'email_sign_in'"
    assert execute(suite, query, person.user_id) == [(1,)]
    execute(suite, "UPDATE users SET disabled_at = NULL WHERE id = %s", person.user_id)
    assert (await complete(auth, token)).user.user_id == person.user_id


@pytest.mark.parametrize("purpose", PURPOSES)
async def test_of_sixteen_uses_of_a_token_of_each_purpose_exactly_one_wins(
    suite: Suite, auth: Any, purpose: str
) -> None:
    _, token = await issued(suite, auth, purpose)

    async def attempt() -> str:
        try:
            await use(auth, rpc_of(purpose), token, str(uuid.uuid4()))
        except grpc.aio.AioRpcError as error:
            return refusal_of(error).reason
        return "won"

    outcomes = await asyncio.gather(*(attempt() for _ in range(16)))
    assert sorted(outcomes) == ["TOKEN_INVALID"] * 15 + ["won"]


@pytest.mark.parametrize("purpose", PURPOSES)
async def test_a_token_presented_for_another_purpose_is_refused_and_not_used_up(
    suite: Suite, auth: Any, purpose: str
) -> None:
    _, token = await issued(suite, auth, purpose)
    for rpc, purposes in GOOD_AT.items():
        if purpose not in purposes:
            assert (await refused(use(auth, rpc, token))).reason == "TOKEN_INVALID"
    await use(auth, rpc_of(purpose), token)


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize("remaining", ["-1 second", "1 minute"])
async def test_a_token_of_each_purpose_is_good_until_its_time(
    suite: Suite, auth: Any, purpose: str, remaining: str
) -> None:
    _, token = await issued(suite, auth, purpose)
    statement = """UPDATE verification_tokens SET expire_at = statement_timestamp() + CAST(%s AS interval)
        WHERE token_hash = sha256(%s)"""
    execute(suite, statement, remaining, token.encode())
    if remaining == "1 minute":
        await use(auth, rpc_of(purpose), token)
    else:
        assert (await refused(use(auth, rpc_of(purpose), token))).reason == "TOKEN_INVALID"


@pytest.mark.parametrize("purpose", PURPOSES)
async def test_tokens_last_as_long_as_it_says(suite: Suite, auth: Any, purpose: str) -> None:
    _, token = await issued(suite, auth, purpose)
    query = "SELECT extract(epoch FROM expire_at - created_at) FROM verification_tokens WHERE token_hash = sha256(%s)"
    [(seconds,)] = execute(suite, query, token.encode())
    hours = {"verify_email": 24, "email_sign_in": 0.25, "reset_password": 1, "change_email": 24}
    assert round(seconds) == hours[purpose] * 3600


async def test_a_use_leaves_no_password_hash_in_the_tokens_row(suite: Suite, auth: Any) -> None:
    _, token = await issued(suite, auth, "verify_email")
    await verify(auth, token)
    query = """SELECT used_at IS NOT NULL, pending_password_hash, pending_name FROM verification_tokens
        WHERE token_hash = sha256(%s)"""
    assert execute(suite, query, token.encode()) == [(True, None, None)]


async def test_a_resent_link_verifies_with_what_was_signed_up_with_and_the_one_before_no_more(
    suite: Suite, auth: Any
) -> None:
    address = new_address()
    await sign_up(auth, address)
    before = await suite.mailed_token(address)
    await resend(auth, address)
    token = await suite.mailed_token(address, count=2)
    assert (await refused(verify(auth, before))).reason == "TOKEN_INVALID"
    await resend(auth, address)
    assert (await refused(verify(auth, token))).reason == "TOKEN_INVALID"
    token = await suite.mailed_token(address, count=3)
    assert (await verify(auth, token)).user.name == "Ada"
    assert (await sign_in(auth, address)).user.email == address


async def test_of_two_sign_ups_a_resent_link_confirms_neither(suite: Suite, auth: Any) -> None:
    address = new_address()
    await sign_up(auth, address)
    await sign_up(auth, address, OTHER_PASSWORD, "Eve")
    # No mail is written any more about a token that was replaced before.
    await suite.mails(address, count=2)
    await resend(auth, address)
    user = (await verify(auth, await suite.mailed_token(address, count=3))).user
    assert (user.name, user.has_password) == ("", False)
    assert (await refused(sign_in(auth, address))).reason == "INVALID_CREDENTIALS"
    assert (await refused(sign_in(auth, address, OTHER_PASSWORD))).reason == "EMAIL_UNVERIFIED"


async def test_nothing_is_resent_to_the_verified_the_disabled_and_the_unknown(suite: Suite, auth: Any) -> None:
    person, disabled = await suite.person(), new_address()
    await sign_up(auth, disabled)
    token = await suite.mailed_token(disabled)
    execute(suite, "UPDATE users SET disabled_at = statement_timestamp() WHERE normalized_email = %s", disabled)
    query = "SELECT count(*) FROM verification_tokens WHERE user_id IS NOT NULL"
    before = execute(suite, query)
    for address in (person.email, disabled, new_address()):
        await resend(auth, address)
    assert execute(suite, query) == before
    assert (await refused(verify(auth, token))).reason == "TOKEN_INVALID"


async def test_a_new_address_becomes_the_users_and_the_old_one_is_told(suite: Suite, auth: Any) -> None:
    person, address = await suite.person(), new_address("countess")
    await start(auth, person.email)
    old_link = await suite.mailed_token(person.email, count=2)
    token = await change_email(suite, person, address)
    assert (await sign_in(auth, person.email)).user.email == person.email
    etag = (await sign_in(auth, person.email)).user.etag
    changed = (await verify(auth, token)).user
    assert (changed.user_id, changed.email) == (person.user_id, address)
    assert changed.etag != etag
    assert (await sign_in(auth, address.upper())).user.user_id == person.user_id
    assert (await refused(sign_in(auth, person.email))).reason == "INVALID_CREDENTIALS"
    assert "another e-mail address" in (await suite.mails(person.email, count=3))[2]
    assert (await refused(complete(auth, old_link))).reason == "TOKEN_INVALID"
    assert "email_changed" in kinds_of(suite, person.user_id)


async def test_an_address_that_somebody_has_proven_in_the_meantime_is_not_taken(suite: Suite, auth: Any) -> None:
    person, address = await suite.person(), new_address()
    token = await change_email(suite, person, address)
    await sign_up(auth, address, OTHER_PASSWORD)
    owner = (await verify(auth, await suite.mailed_token(address, count=2))).user
    assert (await refused(verify(auth, token))).reason == "TOKEN_INVALID"
    assert (await sign_in(auth, person.email)).user.email == person.email
    assert (await sign_in(auth, address, OTHER_PASSWORD)).user.user_id == owner.user_id


async def test_an_unproven_claim_to_an_address_is_dropped_by_who_proves_it(suite: Suite, auth: Any) -> None:
    person, address = await suite.person(), new_address()
    await sign_up(auth, address, OTHER_PASSWORD, "Eve")
    claim = await suite.mailed_token(address)
    frame = suite.frames["identity"]
    await frame.database.transaction(
        lambda tx: verification.issue(tx, frame.secret, "change_email", user_id=person.user_id, email=address)
    )
    changed = (await verify(auth, await suite.mailed_token(address, count=2))).user
    assert (changed.user_id, changed.email) == (person.user_id, address)
    assert (await refused(verify(auth, claim))).reason == "TOKEN_INVALID"
    assert (await sign_in(auth, address)).user.user_id == person.user_id


async def test_of_two_users_who_prove_one_new_address_at_once_one_gets_it(suite: Suite, auth: Any) -> None:
    people, address = [await suite.person() for _ in range(2)], new_address()
    frame = suite.frames["identity"]
    for person in people:
        await frame.database.transaction(
            lambda tx, person=person: verification.issue(
                tx, frame.secret, "change_email", user_id=person.user_id, email=address
            )
        )
    tokens = [mail.split("Token: ")[1].split()[0] for mail in await suite.mails(address, count=2)]
    outcomes = await asyncio.gather(*(verify(auth, token) for token in tokens), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AioRpcError", "VerifyEmailResponse"]
    [refusal] = [refusal_of(outcome) for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert refusal.reason == "TOKEN_INVALID"
