"""Ways in that a stranger once had: what they asked for or left before somebody came is good for nothing after."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.identity.v1 import service_account_service_pb2 as accounts
from guildhall.identity.v1 import service_account_service_pb2_grpc as accounts_rpc
from guildhall.identity.v1 import session_service_pb2 as sessions
from guildhall.identity.v1 import session_service_pb2_grpc as sessions_rpc
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc as users_rpc

from services.chassis.emails import mailbox, normalize
from tests.support.administrators import Backend, administrator, backend
from tests.support.apps import App, after
from tests.support.identities import execute, from_address, new_address
from tests.support.suite import PASSWORD, Person, Refusal, Suite, refused

STRANGE = "a stranger's own password"
HERE, THERE = from_address("203.0.113.71"), from_address("198.51.100.71")
SCRYPT_REST = "p=1$c2FsdHNhbHQ$" + "A" * 43


@pytest.fixture(scope="module")
async def app(suite: Suite) -> App:
    return App(suite, await backend(suite, "identity.adapter"))


@pytest.fixture(scope="module")
async def product(suite: Suite) -> Backend:
    """The back end that takes over another system's users."""
    return await backend(suite, "identity.users")


async def ask(suite: Suite, method: str, metadata: Any = None, **fields: Any) -> Any:
    """Calls an RPC of AuthService as somebody who is not signed in."""
    request = getattr(auth, f"{method}Request")(**fields)
    return await getattr(suite.stub(auth_rpc.AuthServiceStub), method)(request, timeout=10, metadata=metadata)


async def sign_in_refused(suite: Suite, address: str, password: str) -> Refusal:
    return await refused(ask(suite, "SignIn", email=address, password=password))


async def change_address(suite: Suite, person: Person, address: str, metadata: Any = ()) -> None:
    """Asks for a change of address, which a mail to the new one is to confirm."""
    request = users.UpdateUserRequest(email=address, update_mask=FieldMask(paths=["email"]))
    stub = suite.stub(users_rpc.UserServiceStub)
    answer = await stub.UpdateUser(request, timeout=10, metadata=person.metadata + metadata)
    assert answer.pending_email_change


async def app_session(app: App, user_id: str) -> Person:
    """Somebody as whom an app's adapter lets a browser call."""
    token = uuid.uuid4().hex
    await app("CreateSession", session={"session_token": token, "user_id": user_id, "expires": after(days=1)})
    answer = await app("CreateAccessToken", session_token=token)
    return Person(user_id, "", "", "", token, answer.access_token)


async def prove_by_app(app: App, user_id: str) -> None:
    """The app's own mail has proven the address."""
    mask = FieldMask(paths=["email_verified"])
    await app("UpdateUser", user_id=user_id, update_mask=mask, email_verified=after(seconds=0))


async def reset_password(suite: Suite, person: Person) -> None:
    await ask(suite, "RequestPasswordReset", email=person.email)
    token = await suite.mailed_token(person.email, count=2)
    await ask(suite, "ResetPassword", token=token, new_password="brand new password")


async def change_password(suite: Suite, person: Person) -> None:
    request = auth.ChangePasswordRequest(current_password=PASSWORD, new_password="brand new password")
    await person.call(suite.stub(auth_rpc.AuthServiceStub).ChangePassword, request)


async def revoke_one_session(suite: Suite, person: Person) -> None:
    other = await suite.signed_in(person.email)
    request = sessions.RevokeSessionRequest(session_id=person.session_id)
    await other.call(suite.stub(sessions_rpc.SessionServiceStub).RevokeSession, request)


async def revoke_all_sessions(suite: Suite, person: Person) -> None:
    await person.call(suite.stub(sessions_rpc.SessionServiceStub).RevokeSessions, sessions.RevokeSessionsRequest())


async def disable_and_enable(suite: Suite, person: Person) -> None:
    root, stub = await administrator(suite), suite.stub(users_rpc.UserServiceStub)
    await root.call(stub.DisableUser, users.DisableUserRequest(user_id=person.user_id))
    await root.call(stub.EnableUser, users.EnableUserRequest(user_id=person.user_id))


@pytest.mark.parametrize(
    "defend", [reset_password, change_password, revoke_one_session, revoke_all_sessions, disable_and_enable]
)
async def test_a_change_of_address_that_a_thief_asked_for_is_not_to_be_had_after_the_owners_defence(
    suite: Suite, defend: Callable[[Suite, Person], Awaitable[None]]
) -> None:
    person, strange = await suite.person("Vic"), new_address("strange")
    await change_address(suite, person, strange)
    token = await suite.mailed_token(strange)
    await defend(suite, person)
    assert (await refused(ask(suite, "VerifyEmail", token=token))).reason == "TOKEN_INVALID"
    assert execute(suite, "SELECT email FROM users WHERE id = %s", person.user_id) == [(person.email,)]


async def test_a_change_of_address_that_nobody_objected_to_is_made(suite: Suite) -> None:
    person, another = await suite.person("Vic"), new_address("another")
    await change_address(suite, person, another)
    proven = await ask(suite, "VerifyEmail", token=await suite.mailed_token(another))
    assert (proven.user.user_id, proven.user.email) == (person.user_id, another)


@pytest.mark.parametrize("is_by_app", [False, True])
async def test_a_change_of_address_from_before_the_proof_of_the_first_is_not_to_be_had_after_it(
    suite: Suite, app: App, is_by_app: bool
) -> None:
    owner, strange = new_address("owner"), new_address("strange")
    user_id = (await app.user(email=owner)).id
    await change_address(suite, await app_session(app, user_id), strange)
    token = await suite.mailed_token(strange)
    if is_by_app:
        await prove_by_app(app, user_id)
    else:
        await ask(suite, "StartEmailSignIn", email=owner)
        signed_in = await ask(suite, "CompleteEmailSignIn", token=await suite.mailed_token(owner))
        assert signed_in.user.user_id == user_id
    assert (await refused(ask(suite, "VerifyEmail", token=token))).reason == "TOKEN_INVALID"


async def test_an_app_that_proves_an_address_drops_password_and_sessions_from_before(suite: Suite, app: App) -> None:
    owner = new_address("owner")
    user_id = (await app.user(email=owner)).id
    stranger = await app_session(app, user_id)
    request = auth.ChangePasswordRequest(new_password=STRANGE)
    await stranger.call(suite.stub(auth_rpc.AuthServiceStub).ChangePassword, request)
    await prove_by_app(app, user_id)
    assert (await sign_in_refused(suite, owner, STRANGE)).reason == "INVALID_CREDENTIALS"
    assert not (await app("GetSessionAndUser", session_token=stranger.session_token)).HasField("session")
    # A session from after the proof is the owner's, and saying so once more ends nothing.
    own = await app_session(app, user_id)
    await prove_by_app(app, user_id)
    assert (await app("GetSessionAndUser", session_token=own.session_token)).user.id == user_id


async def test_a_user_whom_an_app_has_proven_is_no_claim_that_gives_way(suite: Suite, app: App) -> None:
    address = new_address("claim")
    await ask(suite, "SignUp", email=address, password=STRANGE, name="Mallory")
    [(user_id,)] = execute(suite, "SELECT id FROM users WHERE email = %s AND is_claim", address)
    await prove_by_app(app, str(user_id))
    assert execute(suite, "SELECT is_claim FROM users WHERE id = %s", user_id) == [(False,)]
    mask = FieldMask(paths=["email"])
    changed = await app("UpdateUser", user_id=str(user_id), update_mask=mask, email=address.upper())
    assert (changed.user.id, changed.user.email) == (str(user_id), address.upper())
    assert (await refused(app("CreateUser", email=address))).reason == "EMAIL_TAKEN"


async def test_a_claimant_cannot_tell_by_sign_in_that_somebody_joined_by_the_app_and_does_not_get_in(
    suite: Suite, app: App
) -> None:
    address = new_address("claim")
    await ask(suite, "SignUp", email=address, password=STRANGE, name="Mallory")
    token = await suite.mailed_token(address)
    before = await sign_in_refused(suite, address, STRANGE)
    joined = await app.user(email=address, name="Vic")
    assert joined.name == "Vic"
    after_it = await sign_in_refused(suite, address, STRANGE)
    assert before.reason == "EMAIL_UNVERIFIED"
    assert after_it.raw == before.raw
    assert (await refused(ask(suite, "VerifyEmail", token=token))).reason == "TOKEN_INVALID"
    assert (await sign_in_refused(suite, address, PASSWORD)).reason == "INVALID_CREDENTIALS"


@pytest.mark.parametrize("is_resent", [False, True])
@pytest.mark.parametrize("is_imported", [False, True])
async def test_who_is_known_without_proof_never_gets_the_password_of_a_stranger_who_signs_up(
    suite: Suite, app: App, product: Backend, is_imported: bool, is_resent: bool
) -> None:
    address = new_address("known")
    if is_imported:
        request = users.ImportUserRequest(email=address, name="Olga")
        made = await product.call(suite.stub(users_rpc.UserServiceStub).ImportUser, request)
        user_id = made.user.user_id
    else:
        user_id = (await app.user(email=address, name="Olga")).id
    await ask(suite, "SignUp", email=address, password=STRANGE, name="Mallory")
    token = await suite.mailed_token(address)
    if is_resent:
        await ask(suite, "ResendVerification", email=address)
        token = await suite.mailed_token(address, count=2)
    proven = (await ask(suite, "VerifyEmail", token=token)).user
    assert (proven.user_id, proven.name) == (user_id, "Olga")
    # A sign-up that is replaced answers as before for its time: that nothing came of it is not theirs to know.
    expected = "EMAIL_UNVERIFIED" if is_resent else "INVALID_CREDENTIALS"
    assert (await sign_in_refused(suite, address, STRANGE)).reason == expected


@pytest.mark.parametrize("is_expired", [True, False])
async def test_another_mail_confirms_nobodys_password_once_an_earlier_sign_up_may_have_run_out(
    suite: Suite, is_expired: bool
) -> None:
    address = new_address("late")
    await ask(suite, "SignUp", email=address, password=PASSWORD, name="Vic")
    await suite.mailed_token(address)
    count = 2
    if is_expired:
        age_sign_up(suite, address)
        await ask(suite, "SignUp", email=address, password=STRANGE, name="Mallory")
        await suite.mailed_token(address, count=count)
        count += 1
    await ask(suite, "ResendVerification", email=address)
    await ask(suite, "VerifyEmail", token=await suite.mailed_token(address, count=count))
    if is_expired:
        # Not in; and as before, so that a stranger cannot tell that somebody has proven the address.
        assert (await sign_in_refused(suite, address, STRANGE)).reason == "EMAIL_UNVERIFIED"
    else:
        assert (await suite.signed_in(address)).name == "Vic"


def age_sign_up(suite: Suite, address: str) -> None:
    """Lets a sign-up run out, as after a day."""
    aged = "UPDATE users SET created_at = created_at - interval '25 hours' WHERE email = %s RETURNING id"
    [(user_id,)] = execute(suite, aged, address)
    execute(suite, "UPDATE verification_tokens SET expire_at = statement_timestamp() WHERE user_id = %s", user_id)


@pytest.mark.parametrize("letter", ["\u212a", "\u212b", "\u2126", "\uff2b", "\u24dc"])
def test_mail_for_letters_that_only_look_alike_goes_to_the_unique_form(letter: str) -> None:
    address = f"mi{letter}e@example.com"
    assert mailbox(address) == normalize(address) != address
    assert mailbox("Mike@Example.com") == "Mike@Example.com"


async def test_a_stranger_whose_address_only_looks_alike_gets_no_mail_for_it(suite: Suite) -> None:
    local = f"mi%se-{uuid.uuid4().hex[:8]}@example.com"
    await ask(suite, "SignUp", email=local % "\u212a", password=STRANGE, name="Mallory")
    await suite.mailed_token(local % "k")
    await ask(suite, "SignUp", email=local % "k", password=PASSWORD, name="Mike")
    await suite.mailed_token(local % "k", count=2)


async def test_mails_asked_for_from_one_network_do_not_use_up_an_addresses_mails_from_another(suite: Suite) -> None:
    person = await suite.person("Quota")
    for _ in range(7):
        await ask(suite, "RequestPasswordReset", HERE, email=person.email)
    counted = "SELECT count(*) FROM verification_tokens WHERE user_id = %s AND purpose = 'reset_password'"
    assert execute(suite, counted, person.user_id) == [(5,)]
    await ask(suite, "StartEmailSignIn", THERE, email=person.email)
    token = await suite.mailed_token(person.email, count=7)
    assert (await ask(suite, "CompleteEmailSignIn", token=token)).user.user_id == person.user_id


async def test_changes_of_address_spend_the_mails_of_the_address_that_they_name(suite: Suite) -> None:
    target = new_address("target")
    pending = "SELECT count(*) FROM verification_tokens WHERE user_id = %s AND pending_email = %s"
    for _ in range(5):
        # Of five people: one who asks for the same address again is sent no second mail.
        person = await suite.person("Bomb")
        await change_address(suite, person, target, HERE)
        assert execute(suite, pending, person.user_id, target) == [(1,)]
    person = await suite.person("Bomb")
    await change_address(suite, person, target, HERE)
    assert execute(suite, pending, person.user_id, target) == [(0,)]
    await change_address(suite, person, target, THERE)
    assert execute(suite, pending, person.user_id, target) == [(1,)]


async def test_an_administrators_session_by_an_app_is_no_administrators(suite: Suite, app: App) -> None:
    root = await administrator(suite)
    by_app = await app_session(app, root.user_id)
    create = suite.stub(accounts_rpc.ServiceAccountServiceStub).CreateServiceAccount
    request = accounts.CreateServiceAccountRequest(name="Product", scopes=["membership.members"])
    refusal = await refused(by_app.call(create, request))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert (await root.call(create, request)).service_account.service_account_id


ODD: list[dict[str, Any]] = [
    {"email_verify_time": Timestamp(seconds=5, nanos=-5)},
    {"password_hash": f"$scrypt$ln=16,r=1,{SCRYPT_REST}"},
    {"password_hash": "$2b$04$abcdefghijklmnopqrstuv" + "A" * 31},
]
SOUND: list[dict[str, Any]] = [
    {"email_verify_time": Timestamp(seconds=5, nanos=5)},
    {"password_hash": f"$scrypt$ln=16,r=8,{SCRYPT_REST}"},
    {"password_hash": "$2b$04$abcdefghijklmnopqrstuu" + "A" * 31},
]


@pytest.mark.parametrize("fields", ODD)
async def test_what_could_never_be_verified_is_refused_at_import(
    suite: Suite, product: Backend, fields: dict[str, Any]
) -> None:
    request = users.ImportUserRequest(email=new_address(), name="Olga", **fields)
    refusal = await refused(product.call(suite.stub(users_rpc.UserServiceStub).ImportUser, request))
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("fields", SOUND)
async def test_what_is_imported_answers_a_wrong_password_as_any_other(
    suite: Suite, product: Backend, fields: dict[str, Any]
) -> None:
    address = new_address()
    request = users.ImportUserRequest(email=address, name="Olga", email_verify_time=Timestamp(seconds=5))
    request.MergeFrom(users.ImportUserRequest(**fields))
    await product.call(suite.stub(users_rpc.UserServiceStub).ImportUser, request)
    assert (await sign_in_refused(suite, address, PASSWORD)).reason == "INVALID_CREDENTIALS"


async def test_who_was_disabled_reads_where_they_were_and_not_where_the_administrator_was(suite: Suite) -> None:
    root, person = await administrator(suite), await suite.person("Dis")
    stub, metadata = suite.stub(users_rpc.UserServiceStub), root.metadata + from_address("192.0.2.77")
    await stub.DisableUser(users.DisableUserRequest(user_id=person.user_id), timeout=10, metadata=metadata)
    await stub.EnableUser(users.EnableUserRequest(user_id=person.user_id), timeout=10, metadata=metadata)
    await ask(suite, "SignIn", from_address("192.0.2.78"), email=person.email, password=PASSWORD)
    person = await suite.signed_in(person.email)
    listed = suite.stub(sessions_rpc.SessionServiceStub).ListSecurityEvents
    events = (await person.call(listed, sessions.ListSecurityEventsRequest())).events
    assert {event.client_address for event in events} == {"", "192.0.2.78"}
    kept = "SELECT count(*) FROM security_events WHERE user_id = %s AND client_address = '192.0.2.77'"
    assert execute(suite, kept, person.user_id) == [(2,)]
