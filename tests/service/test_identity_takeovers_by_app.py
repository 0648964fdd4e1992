"""An app's adapter answers for its users; with a product's keys alone nobody becomes a system administrator."""

import argparse
from typing import Any

import bcrypt
import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.identity.v1 import session_service_pb2 as sessions
from guildhall.identity.v1 import session_service_pb2_grpc as sessions_rpc
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc as users_rpc

from services.chassis.database import Database
from services.chassis.secret import SecretKey
from services.identity import security
from services.identity.admin import Admin, make_administrator
from tests.service.test_identity_takeovers import STRANGE, app_session, ask, change_address, sign_in_refused
from tests.support.administrators import Backend, administrator, backend
from tests.support.apps import App, after
from tests.support.identities import execute, new_address
from tests.support.suite import PASSWORD, Person, Refusal, Suite, refused


@pytest.fixture(scope="module")
async def app(suite: Suite) -> App:
    return App(suite, await backend(suite, "identity.adapter"))


@pytest.fixture(scope="module")
async def product(suite: Suite) -> Backend:
    """The back end that takes over another system's users."""
    return await backend(suite, "identity.users")


def is_denied(refusal: Refusal) -> bool:
    return (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")


def row_of(suite: Suite, person: Person) -> list[Any]:
    """All that an app could have changed."""
    return execute(suite, "SELECT email, email_verified_at, revision FROM users WHERE id = %s", person.user_id)


def update_as_person(suite: Suite, person: Person, *paths: str, **fields: str) -> Any:
    request = users.UpdateUserRequest(update_mask=FieldMask(paths=list(paths)), **fields)  # type: ignore[arg-type]
    return person.call(suite.stub(users_rpc.UserServiceStub).UpdateUser, request)


def choose_password(suite: Suite, person: Person) -> Any:
    request = auth.ChangePasswordRequest(new_password=STRANGE)
    return person.call(suite.stub(auth_rpc.AuthServiceStub).ChangePassword, request)


def drop_password(suite: Suite, person: Person) -> None:
    execute(suite, "UPDATE users SET password_hash = NULL WHERE id = %s", person.user_id)


@pytest.mark.parametrize("what", ["another", "spelling", "no proof"])
async def test_an_app_changes_no_administrators_address_nor_its_proof(suite: Suite, app: App, what: str) -> None:
    root, person = await administrator(suite), await suite.person("Ada")
    mask = FieldMask(paths=["email_verified" if what == "no proof" else "email"])

    def change(whose: Person) -> Any:
        email = {"another": new_address("strange"), "spelling": whose.email.upper(), "no proof": ""}[what]
        return app("UpdateUser", user_id=whose.user_id, update_mask=mask, email=email)

    before = row_of(suite, root)
    assert is_denied(await refused(change(root)))
    assert row_of(suite, root) == before
    assert (await change(person)).user.id == person.user_id
    assert row_of(suite, person) != [(person.email, before[0][1], before[0][2])]


async def test_an_app_still_says_of_an_administrator_what_each_of_its_sign_ins_says(suite: Suite, app: App) -> None:
    root, mask = await administrator(suite), FieldMask(paths=["email", "email_verified", "name"])
    said = {"email": root.email, "email_verified": after(seconds=0), "name": "Root of the app"}
    changed = await app("UpdateUser", user_id=root.user_id, update_mask=mask, **said)
    assert (changed.user.email, changed.user.name) == (root.email, "Root of the app")


async def test_an_app_deletes_its_users_but_no_administrator(suite: Suite, app: App) -> None:
    root, person = await administrator(suite), await suite.person("Ada")
    assert is_denied(await refused(app("DeleteUser", user_id=root.user_id)))
    assert await app.get(root.user_id)
    assert (await app("DeleteUser", user_id=person.user_id)).user.id == person.user_id
    assert await app.get(person.user_id) is None


@pytest.mark.parametrize("spelling", [False, True])
async def test_an_administrators_address_changes_by_a_session_of_their_own_only(
    suite: Suite, app: App, spelling: bool
) -> None:
    root, person = await administrator(suite), await suite.person("Ada")
    by_app = await app_session(app, root.user_id)
    address = root.email.upper() if spelling else new_address("another")
    before = row_of(suite, root)
    assert is_denied(await refused(update_as_person(suite, by_app, "email", email=address)))
    assert row_of(suite, root) == before
    pending = "SELECT count(*) FROM verification_tokens WHERE user_id = %s AND purpose = 'change_email'"
    assert execute(suite, pending, root.user_id) == [(0,)]
    # What is left to that session: all but this. And who is no administrator may, in either kind of session.
    await update_as_person(suite, by_app, "name", "email", name="Root", email=root.email)
    await change_address(suite, await app_session(app, person.user_id), new_address("another"))
    assert (await update_as_person(suite, root, "email", email=address)).pending_email_change is not spelling


async def test_an_administrator_is_deleted_by_a_session_of_their_own_only(suite: Suite, app: App) -> None:
    root, stub = await administrator(suite), suite.stub(users_rpc.UserServiceStub)
    by_app = await app_session(app, root.user_id)
    assert is_denied(await refused(by_app.call(stub.DeleteUser, users.DeleteUserRequest())))
    await root.call(stub.DeleteUser, users.DeleteUserRequest())
    assert await app.get(root.user_id) is None


async def test_an_administrators_first_password_is_chosen_in_a_session_of_their_own_only(
    suite: Suite, app: App
) -> None:
    root, person = await administrator(suite), await suite.person("Ada")
    for somebody in (root, person):
        drop_password(suite, somebody)
    assert is_denied(await refused(choose_password(suite, await app_session(app, root.user_id))))
    assert (await sign_in_refused(suite, root.email, STRANGE)).reason == "INVALID_CREDENTIALS"
    await choose_password(suite, await app_session(app, person.user_id))
    await choose_password(suite, root)
    assert (await ask(suite, "SignIn", email=root.email, password=STRANGE)).user.user_id == root.user_id


async def make_one(suite: Suite, person: Person) -> None:
    """`guildhall admin make-administrator`."""
    settings: Any = suite.settings("identity")
    database = Database(settings, pool_size=1)
    try:
        options = argparse.Namespace(email=person.email, output="text")
        await make_administrator(Admin(database, SecretKey(settings.secret_key), settings, options))
    finally:
        await database.close()


async def test_what_an_app_prepared_before_somebody_became_an_administrator_is_good_for_nothing_after(
    suite: Suite, app: App
) -> None:
    person, strange = await suite.person("Ada"), new_address("strange")
    drop_password(suite, person)
    by_app = await app_session(app, person.user_id)
    await choose_password(suite, by_app)
    got_in = await ask(suite, "SignIn", email=person.email, password=STRANGE)
    await change_address(suite, by_app, strange)
    token = await suite.mailed_token(strange)

    await make_one(suite, person)

    assert (await sign_in_refused(suite, person.email, STRANGE)).reason == "INVALID_CREDENTIALS"
    refresh = ask(suite, "RefreshSession", session_token=got_in.tokens.session_token)
    assert (await refused(refresh)).reason == "SESSION_ENDED"
    assert (await refused(ask(suite, "VerifyEmail", token=token))).reason == "TOKEN_INVALID"
    # The mailbox is still theirs, and by it they are in, as an administrator.
    await ask(suite, "StartEmailSignIn", email=person.email)
    mails = 3  # to prove the address, of the password, and this one
    signed_in = await ask(suite, "CompleteEmailSignIn", token=await suite.mailed_token(person.email, count=mails))
    root = Person(person.user_id, person.email, "", "", "", signed_in.tokens.access_token)
    assert (await root.call(suite.stub(users_rpc.UserServiceStub).ListUsers, users.ListUsersRequest())).users


async def forget_the_log(suite: Suite, person: Person) -> None:
    """Three years later: what the security log had of them is gone."""
    aged = "UPDATE security_events SET created_at = statement_timestamp() - interval '3 years' WHERE user_id = %s"
    execute(suite, aged, person.user_id)
    await suite.frames["identity"].database.transaction(security.forget)


@pytest.mark.parametrize("kept", ["with them", "in the log alone"])
@pytest.mark.parametrize("by", ["a session", "an address"])
async def test_what_an_app_prepared_is_good_for_nothing_even_years_later(
    suite: Suite, app: App, by: str, kept: str
) -> None:
    person, mask = await suite.person("Ada"), FieldMask(paths=["email"])
    if by == "a session":
        drop_password(suite, person)
        await choose_password(suite, await app_session(app, person.user_id))
    else:
        person.email = new_address("strange")
        await app("UpdateUser", user_id=person.user_id, update_mask=mask, email=person.email)
    password = STRANGE if by == "a session" else PASSWORD
    if kept == "in the log alone":  # as a release wrote it that did not keep it with the user
        execute(suite, "UPDATE users SET app_acted_at = NULL WHERE id = %s", person.user_id)
    await forget_the_log(suite, person)
    assert execute(suite, "SELECT count(*) FROM security_events WHERE user_id = %s", person.user_id) == [(0,)]
    await ask(suite, "SignIn", email=person.email, password=password)

    await make_one(suite, person)

    assert (await sign_in_refused(suite, person.email, password)).reason == "INVALID_CREDENTIALS"


async def test_a_session_that_an_app_still_holds_tells_of_it_without_the_log(suite: Suite, app: App) -> None:
    person = await suite.person("Ada")
    drop_password(suite, person)
    await choose_password(suite, await app_session(app, person.user_id))
    execute(suite, "UPDATE users SET app_acted_at = NULL WHERE id = %s", person.user_id)
    execute(suite, "DELETE FROM security_events WHERE user_id = %s", person.user_id)

    await make_one(suite, person)

    assert (await sign_in_refused(suite, person.email, STRANGE)).reason == "INVALID_CREDENTIALS"


async def test_an_administrator_whom_no_app_has_acted_for_keeps_password_and_session(suite: Suite) -> None:
    person = await suite.person("Ada")
    await make_one(suite, person)
    assert (await person.call(suite.stub(users_rpc.UserServiceStub).ListUsers, users.ListUsersRequest())).users
    assert (await ask(suite, "SignIn", email=person.email, password=PASSWORD)).user.user_id == person.user_id


async def imported(suite: Suite, product: Backend, *, proven: bool = True) -> str:
    """The address of somebody who has not come yet, imported with a password that the importer knows."""
    address = new_address("grace")
    hashed = bcrypt.hashpw(STRANGE.encode(), bcrypt.gensalt(rounds=4)).decode()
    request = users.ImportUserRequest(email=address, name="Grace", password_hash=hashed)
    if proven:
        request.email_verify_time.CopyFrom(Timestamp(seconds=1_600_000_000))
    await product.call(suite.stub(users_rpc.UserServiceStub).ImportUser, request)
    return address


def as_person(answer: Any) -> Person:
    """Whoever was let in, as a caller."""
    return Person(answer.user.user_id, answer.user.email, "", "", "", answer.tokens.access_token)


async def by_link(suite: Suite, address: str, *, mails: int) -> Person:
    """The owner of the mailbox, signed in by a link: the so-manyeth mail there."""
    await ask(suite, "StartEmailSignIn", email=address)
    return as_person(await ask(suite, "CompleteEmailSignIn", token=await suite.mailed_token(address, count=mails)))


async def is_root(suite: Suite, person: Person) -> bool:
    return bool((await person.call(suite.stub(users_rpc.UserServiceStub).ListUsers, users.ListUsersRequest())).users)


@pytest.mark.parametrize("is_changed", [False, True])
async def test_whoever_imported_somebody_with_a_password_has_no_way_in_once_they_are_an_administrator(
    suite: Suite, product: Backend, is_changed: bool
) -> None:
    address, password, mails = await imported(suite, product), STRANGE, 1
    got_in = await ask(suite, "SignIn", email=address, password=STRANGE)
    if is_changed:
        password, mails = "another of the stranger's", 2
        request = auth.ChangePasswordRequest(current_password=STRANGE, new_password=password)
        await as_person(got_in).call(suite.stub(auth_rpc.AuthServiceStub).ChangePassword, request)
        await suite.mails(address)
    owner = await by_link(suite, address, mails=mails)
    assert (await ask(suite, "SignIn", email=address, password=password)).user.user_id == owner.user_id

    await make_one(suite, owner)

    assert (await sign_in_refused(suite, address, password)).reason == "INVALID_CREDENTIALS"
    refresh = ask(suite, "RefreshSession", session_token=got_in.tokens.session_token)
    assert (await refused(refresh)).reason == "SESSION_ENDED"
    assert await is_root(suite, await by_link(suite, address, mails=mails + 1))


async def reset_by_mail(suite: Suite, address: str, *, mails: int) -> None:
    await ask(suite, "RequestPasswordReset", email=address)
    token = await suite.mailed_token(address, count=mails)
    await ask(suite, "ResetPassword", token=token, new_password=PASSWORD)


@pytest.mark.parametrize("is_reset", [True, False])
async def test_an_import_counts_no_more_once_the_mailbox_has_replaced_what_it_brought(
    suite: Suite, product: Backend, is_reset: bool
) -> None:
    address = await imported(suite, product, proven=is_reset)
    if is_reset:
        await reset_by_mail(suite, address, mails=1)
        owner = await suite.signed_in(address)
    else:
        owner = await by_link(suite, address, mails=1)
    await make_one(suite, owner)
    assert await is_root(suite, owner)
    if is_reset:
        assert (await ask(suite, "SignIn", email=address, password=PASSWORD)).user.user_id == owner.user_id


@pytest.mark.parametrize("when", ["now", "years later", "years later, from the log alone"])
async def test_a_reset_by_a_mailbox_of_the_importers_makes_up_for_nothing(
    suite: Suite, product: Backend, when: str
) -> None:
    address, strange = await imported(suite, product), new_address("strange")
    thief = as_person(await ask(suite, "SignIn", email=address, password=STRANGE))
    await change_address(suite, thief, strange)
    await ask(suite, "VerifyEmail", token=await suite.mailed_token(strange))
    await reset_by_mail(suite, strange, mails=2)
    # And back, by a mail that the owner of the address takes for their own doing.
    thief = await suite.signed_in(strange)
    await change_address(suite, thief, address)
    await ask(suite, "VerifyEmail", token=await suite.mailed_token(address, count=2))
    thief.email = address
    if when != "now":  # a reset younger than that is left
        if when.endswith("alone"):
            execute(suite, "UPDATE users SET app_acted_at = NULL WHERE id = %s", thief.user_id)
        aged = (
            "UPDATE security_events SET created_at = statement_timestamp() - interval '3 years'"
            " WHERE user_id = %s AND kind = 'email_changed'"
        )
        execute(suite, aged, thief.user_id)
        await suite.frames["identity"].database.transaction(security.forget)
    await make_one(suite, thief)
    assert (await sign_in_refused(suite, address, PASSWORD)).reason == "INVALID_CREDENTIALS"


async def test_an_import_is_in_the_log_with_the_account_that_did_it_as_long_as_the_user_is_there(
    suite: Suite, product: Backend
) -> None:
    owner = await by_link(suite, await imported(suite, product), mails=1)
    await forget_the_log(suite, owner)
    listed = suite.stub(sessions_rpc.SessionServiceStub).ListSecurityEvents
    [entry] = (await owner.call(listed, sessions.ListSecurityEventsRequest())).events
    assert entry.kind == sessions.SECURITY_EVENT_KIND_USER_IMPORTED
    assert entry.service_account_id == product.account_id
