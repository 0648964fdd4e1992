"""The functions of an Auth.js adapter: users, accounts and verification tokens; null where there is nothing."""

import asyncio
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.identity.v1 import adapter_service_pb2 as pb
from guildhall.identity.v1 import adapter_service_pb2_grpc as rpc
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc as users_rpc

from tests.support.administrators import backend
from tests.support.apps import App, after, at, or_none
from tests.support.identities import execute, forget, kinds_of, new_address
from tests.support.suite import PASSWORD, Suite, refusal_of, refused

NOBODY = "01890000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
async def app(suite: Suite) -> App:
    return App(suite, await backend(suite, "identity.adapter"))


def account_of(user_id: str, **fields: Any) -> pb.AdapterAccount:
    """An account that nobody has."""
    values = {"type": "oidc", "provider": "google", "provider_account_id": uuid.uuid4().hex, **fields}
    return pb.AdapterAccount(user_id=user_id, **values)


def named(account: pb.AdapterAccount) -> Mapping[str, str]:
    """How an account is asked for."""
    return {"provider": account.provider, "provider_account_id": account.provider_account_id}


async def test_a_user_is_created_as_given_and_found_by_id_and_address(app: App) -> None:
    address, proven = new_address("Ada"), at(datetime(2026, 1, 2, 3, 4, 5, 678000, UTC))
    made = await app.user(email=address, name="Ada", email_verified=proven, image="data:image/png;base64,AAAA")
    assert uuid.UUID(made.id).version == 7
    assert (made.name, made.email, made.image) == ("Ada", address, "data:image/png;base64,AAAA")
    assert made.email_verified == proven
    assert await app.get(made.id) == made
    assert await app.get(made.id.upper()) == made
    assert (await app("GetUserByEmail", email=address.upper())).user == made


async def test_what_is_null_comes_back_as_null(app: App) -> None:
    made = await app.user()
    assert [name for name in ("name", "email_verified", "image") if made.HasField(name)] == []
    assert await app.get(made.id) == made


@pytest.mark.parametrize("user_id", ["", NOBODY, "no id of ours", "x" * 255])
async def test_an_unknown_id_is_nobodys(app: App, user_id: str) -> None:
    assert await app.get(user_id) is None


@pytest.mark.parametrize("email", ["nobody@example.com", "no address", "a,b@example.com", "x"])
async def test_an_unknown_address_is_nobodys(app: App, email: str) -> None:
    assert or_none(await app("GetUserByEmail", email=email), "user") is None


async def test_an_account_that_is_linked_to_nobody_has_no_user(app: App) -> None:
    answer = await app("GetUserByAccount", provider="google", provider_account_id=uuid.uuid4().hex)
    assert or_none(answer, "user") is None


async def test_an_address_has_one_user(suite: Suite, app: App) -> None:
    person = await suite.person()
    for taken in (person.email, person.email.upper(), f" {person.email}".strip().title()):
        refusal = await refused(app("CreateUser", email=taken))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN")
    assert (await app("GetUserByEmail", email=person.email)).user.id == person.user_id


async def test_who_signed_up_with_anothers_address_and_never_proved_it_is_nobody(suite: Suite, app: App) -> None:
    address = new_address()
    stub: auth_rpc.AuthServiceAsyncStub = suite.stub(auth_rpc.AuthServiceStub)
    await stub.SignUp(auth.SignUpRequest(email=address, password=PASSWORD, name="Squatter"), timeout=10)
    token = await suite.mailed_token(address)
    assert or_none(await app("GetUserByEmail", email=address), "user") is None

    made = await app.user(email=address)

    assert (await app("GetUserByEmail", email=address)).user == made
    refusal = await refused(stub.VerifyEmail(auth.VerifyEmailRequest(token=token), timeout=10))
    assert refusal.reason == "TOKEN_INVALID"


async def test_of_many_who_create_one_address_at_once_one_wins(app: App) -> None:
    address = new_address()
    outcomes = await asyncio.gather(*(app("CreateUser", email=address) for _ in range(8)), return_exceptions=True)
    reasons = [refusal_of(one).reason for one in outcomes if isinstance(one, grpc.aio.AioRpcError)]
    assert reasons == ["EMAIL_TAKEN"] * 7


async def test_a_repeated_creation_is_the_same_user(app: App) -> None:
    address, request_id = new_address(), str(uuid.uuid4())
    made = await app.user(email=address, request_id=request_id)
    assert await app.user(email=address, request_id=request_id) == made


@pytest.mark.parametrize("email", ["", "no address", "a,b@example.com"])
async def test_a_user_needs_an_address(app: App, email: str) -> None:
    refusal = await refused(app("CreateUser", email=email))
    assert (refusal.reason, list(refusal.fields)) == ("INVALID_REQUEST", ["email"])


async def test_a_time_that_no_calendar_has_is_refused_by_field(app: App) -> None:
    for spoilt in (Timestamp(seconds=10**13), Timestamp(seconds=0, nanos=-1)):
        refusal = await refused(app("CreateUser", email=new_address(), email_verified=spoilt))
        assert (refusal.reason, list(refusal.fields)) == ("INVALID_REQUEST", ["email_verified"])
    first, last = at(datetime(1, 1, 2, tzinfo=UTC)), at(datetime(9999, 12, 30, tzinfo=UTC))
    for good in (first, last):
        assert (await app.user(email_verified=good)).email_verified == good


async def test_an_update_sets_what_is_named_and_nothing_else(app: App) -> None:
    proven = at(datetime(2026, 1, 2, tzinfo=UTC))
    made = await app.user(name="Ada", image="https://example.com/ada", email_verified=proven)
    updated = (await app("UpdateUser", user_id=made.id, update_mask=FieldMask(paths=["name"]), name="Countess")).user
    made.name = "Countess"
    assert updated == made == await app.get(made.id)
    mask = FieldMask(paths=["name", "image", "email_verified"])
    assert (await app("UpdateUser", user_id=made.id, update_mask=mask)).user == pb.AdapterUser(
        id=made.id, email=made.email
    )


async def test_an_update_sets_all_that_is_named(app: App) -> None:
    made, address, proven = await app.user(), new_address("Countess"), at(datetime(2026, 1, 2, tzinfo=UTC))
    mask = FieldMask(paths=["name", "email", "email_verified", "image"])
    fields = {"name": "Countess", "email": address, "email_verified": proven, "image": "https://example.com/a"}
    updated = (await app("UpdateUser", user_id=made.id, update_mask=mask, **fields)).user
    assert updated == pb.AdapterUser(id=made.id, **fields)
    assert (await app("GetUserByEmail", email=address)).user == updated
    assert or_none(await app("GetUserByEmail", email=made.email), "user") is None


async def test_a_new_address_must_be_free_and_may_be_the_old_one_in_another_spelling(suite: Suite, app: App) -> None:
    person, made = await suite.person(), await app.user()
    mask = FieldMask(paths=["email"])
    refusal = await refused(app("UpdateUser", user_id=made.id, update_mask=mask, email=person.email))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN")
    updated = await app("UpdateUser", user_id=made.id, update_mask=mask, email=made.email.upper())
    assert updated.user.email == made.email.upper()
    assert "email_changed" not in kinds_of(suite, made.id)


async def test_a_new_address_spoils_what_was_mailed_to_the_old_one(suite: Suite, app: App) -> None:
    person = await suite.person()
    login = suite.stub(auth_rpc.AuthServiceStub)
    await login.RequestPasswordReset(auth.RequestPasswordResetRequest(email=person.email), timeout=10)
    token = await suite.mailed_token(person.email, count=2)
    mask = FieldMask(paths=["email"])
    await app("UpdateUser", user_id=person.user_id, update_mask=mask, email=new_address())
    refusal = await refused(
        login.ResetPassword(auth.ResetPasswordRequest(token=token, new_password="a stolen password"), timeout=10)
    )
    assert refusal.reason == "TOKEN_INVALID"
    assert kinds_of(suite, person.user_id)[-1] == "email_changed"


async def test_proving_the_address_is_in_the_security_log_once(suite: Suite, app: App) -> None:
    made, mask = await app.user(), FieldMask(paths=["email_verified"])
    for _ in range(2):
        await app("UpdateUser", user_id=made.id, update_mask=mask, email_verified=after(seconds=0))
    assert kinds_of(suite, made.id) == ["email_verified"]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, "update_mask"),
        ({"update_mask": FieldMask()}, "update_mask"),
        ({"update_mask": FieldMask(paths=["id"])}, "update_mask"),
        ({"update_mask": FieldMask(paths=["email"])}, "update_mask.email"),
    ],
)
async def test_an_update_names_what_may_be_set(app: App, fields: Any, wrong: str) -> None:
    made = await app.user()
    refusal = await refused(app("UpdateUser", user_id=made.id, **fields))
    assert (refusal.reason, list(refusal.fields)) == ("INVALID_REQUEST", [wrong])


async def test_nobody_is_updated_who_is_not_there(app: App) -> None:
    refusal = await refused(app("UpdateUser", user_id=NOBODY, update_mask=FieldMask(paths=["name"]), name="Eve"))
    assert refusal.code == grpc.StatusCode.NOT_FOUND


async def test_the_users_of_the_adapter_are_guildhalls(suite: Suite, app: App) -> None:
    person = await suite.person()
    found = (await app("GetUserByEmail", email=person.email)).user
    assert (found.id, found.name, found.HasField("email_verified")) == (person.user_id, "Ada", True)
    await app("UpdateUser", user_id=found.id, update_mask=FieldMask(paths=["name"]), name="Countess")
    user = (await person.call(suite.stub(users_rpc.UserServiceStub).GetUser, users.GetUserRequest())).user
    assert user.name == "Countess"
    signed_in = auth.SignInRequest(email=person.email, password=PASSWORD)
    assert (await suite.stub(auth_rpc.AuthServiceStub).SignIn(signed_in, timeout=10)).user.user_id == found.id


async def test_a_deleted_user_is_returned_once_and_leaves_nothing(suite: Suite, app: App) -> None:
    made, token = await app.user(name="Ada"), uuid.uuid4().hex
    account = account_of(made.id, refresh_token="r")
    await app("LinkAccount", account=account)
    session = pb.AdapterSession(session_token=token, user_id=made.id, expires=after(days=1))
    await app("CreateSession", session=session)
    mailed = pb.AdapterVerificationToken(identifier=made.email, token=token, expires=after(days=1))
    await app("CreateVerificationToken", verification_token=mailed)
    assert (await app("DeleteUser", user_id=made.id)).user == made
    assert or_none(await app("DeleteUser", user_id=made.id), "user") is None
    assert await app.get(made.id) is None
    assert or_none(await app("GetUserByAccount", **named(account)), "user") is None
    assert not (await app("GetSessionAndUser", session_token=token)).ByteSize()
    assert not (await app("UseVerificationToken", identifier=made.email, token=token)).ByteSize()
    for table in ("sessions", "accounts", "security_events"):
        assert execute(suite, f"SELECT user_id FROM {table} WHERE user_id = %s", made.id) == []


async def test_an_account_is_linked_and_finds_its_user(suite: Suite, app: App) -> None:
    made = await app.user()
    account = account_of(
        made.id,
        refresh_token="r",
        access_token="a",
        id_token="i",
        expires_at=1_800_000_000,
        token_type="bearer",
        scope="openid email",
        session_state="state",
    )
    linked = (await app("LinkAccount", account=account)).account
    for secret in ("refresh_token", "access_token", "id_token"):
        assert not linked.HasField(secret)
        account.ClearField(secret)
    assert linked == account
    assert (await app("GetUserByAccount", **named(account))).user == made
    assert kinds_of(suite, made.id) == ["account_linked"]


async def test_what_is_undefined_in_an_account_stays_so(app: App) -> None:
    account = account_of((await app.user()).id)
    assert (await app("LinkAccount", account=account)).account == account


async def test_an_account_is_one_users(app: App) -> None:
    ada, ben = await app.user(), await app.user()
    account = account_of(ada.id)
    await app("LinkAccount", account=account)
    await app("LinkAccount", account=account)
    account.user_id = ben.id
    refusal = await refused(app("LinkAccount", account=account))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ACCOUNT_LINKED_ELSEWHERE")
    assert (await app("GetUserByAccount", **named(account))).user == ada
    account.user_id = NOBODY
    assert (await refused(app("LinkAccount", account=account))).code == grpc.StatusCode.NOT_FOUND


async def test_of_many_users_who_link_one_account_at_once_one_wins(app: App) -> None:
    made = await asyncio.gather(*(app.user() for _ in range(8)))
    account = account_of(made[0].id)
    calls = (app("LinkAccount", account=account_of(user.id, **named(account))) for user in made)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    reasons = [refusal_of(one).reason for one in outcomes if isinstance(one, grpc.aio.AioRpcError)]
    assert reasons == ["ACCOUNT_LINKED_ELSEWHERE"] * 7


async def test_an_unlinked_account_is_returned_once_and_the_last_one_stays(suite: Suite, app: App) -> None:
    made = await app.user(email_verified=after(seconds=0))
    first, second = account_of(made.id, provider="github"), account_of(made.id, refresh_token="r", scope="s")
    for account in (first, second):
        await app("LinkAccount", account=account)
    assert (await app("UnlinkAccount", **named(first))).account == first
    assert or_none(await app("UnlinkAccount", **named(first)), "account") is None
    refusal = await refused(app("UnlinkAccount", **named(second)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LAST_CREDENTIAL")
    assert (await app("GetUserByAccount", **named(second))).user == made
    assert kinds_of(suite, made.id).count("account_unlinked") == 1


async def test_a_verification_token_is_used_once(app: App) -> None:
    token = pb.AdapterVerificationToken(identifier=new_address(), token=uuid.uuid4().hex, expires=after(days=1))
    assert (await app("CreateVerificationToken", verification_token=token)).verification_token == token
    used = {"identifier": token.identifier, "token": token.token}
    assert or_none(await app("UseVerificationToken", **{**used, "token": "other"}), "verification_token") is None
    assert or_none(await app("UseVerificationToken", **{**used, "identifier": "x@y"}), "verification_token") is None
    assert (await app("UseVerificationToken", **used)).verification_token == token
    assert or_none(await app("UseVerificationToken", **used), "verification_token") is None


async def test_of_sixteen_uses_of_a_verification_token_exactly_one_wins(app: App) -> None:
    token = pb.AdapterVerificationToken(identifier=new_address(), token=uuid.uuid4().hex, expires=after(days=1))
    await app("CreateVerificationToken", verification_token=token)
    calls = (
        app("UseVerificationToken", identifier=token.identifier, token=token.token, request_id=str(uuid.uuid4()))
        for _ in range(16)
    )
    answers = [or_none(answer, "verification_token") for answer in await asyncio.gather(*calls)]
    assert [answer for answer in answers if answer] == [token]


async def test_a_repeated_use_of_a_verification_token_is_the_stored_answer(app: App) -> None:
    token = pb.AdapterVerificationToken(identifier=new_address(), token=uuid.uuid4().hex, expires=after(days=1))
    await app("CreateVerificationToken", verification_token=token, request_id=str(uuid.uuid4()))
    fields = {"identifier": token.identifier, "token": token.token, "request_id": str(uuid.uuid4())}
    answers = await asyncio.gather(*(app("UseVerificationToken", **fields) for _ in range(4)))
    assert [answer.verification_token for answer in answers] == [token] * 4


@pytest.mark.parametrize(("remaining", "is_good"), [(-0.001, False), (60, True)])
async def test_a_verification_token_is_good_until_its_time(app: App, remaining: float, is_good: bool) -> None:
    token = pb.AdapterVerificationToken(
        identifier=new_address(), token=uuid.uuid4().hex, expires=after(seconds=remaining)
    )
    await app("CreateVerificationToken", verification_token=token)
    answer = await app("UseVerificationToken", identifier=token.identifier, token=token.token)
    assert answer.HasField("verification_token") is is_good


async def test_the_same_verification_token_replaces_the_one_before(app: App) -> None:
    token = pb.AdapterVerificationToken(identifier=new_address(), token=uuid.uuid4().hex, expires=after(seconds=-1))
    await app("CreateVerificationToken", verification_token=token)
    token.expires.CopyFrom(after(days=1))
    await app("CreateVerificationToken", verification_token=token)
    answer = await app("UseVerificationToken", identifier=token.identifier, token=token.token)
    assert answer.verification_token == token


async def test_verification_tokens_past_their_time_are_forgotten(suite: Suite, app: App) -> None:
    identifier = new_address()
    for seconds in (-1, 60):
        token = pb.AdapterVerificationToken(
            identifier=identifier, token=uuid.uuid4().hex, expires=after(seconds=seconds)
        )
        await app("CreateVerificationToken", verification_token=token)
    await forget(suite)
    rows = execute(suite, "SELECT expire_at FROM adapter_verification_tokens WHERE identifier = %s", identifier)
    assert len(rows) == 1


async def test_only_service_accounts_of_its_scope_are_let_in(suite: Suite, app: App) -> None:
    made, other = await app.user(), await backend(suite, "identity.users")
    stub, person = suite.stub(rpc.AdapterServiceStub), await suite.person()
    for caller in (person, other):
        refusal = await refused(caller.call(stub.GetUser, pb.AdapterServiceGetUserRequest(user_id=made.id)))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
    assert await app.get(made.id) == made
