"""Examples of identity's RPCs."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from tests.support.examples import Example
from tests.support.examples.cast import Caller
from tests.support.examples.world import House, in_days, word
from tests.support.reflected import do
from tests.support.suite import PASSWORD


def new_address() -> str:
    """Nobody's yet."""
    return f"{word('new')}@example.com"


def nothing(_house: House, _caller: Caller) -> dict[str, Any]:
    """A request that names nothing."""
    return {}


async def email_sign_in(house: House, _caller: Caller) -> dict[str, Any]:
    """A mailed link of somebody new."""
    user_id, address = await house.town.user()
    await do(house.suite, None, "identity.AuthService/StartEmailSignIn", email=address)
    return {"token": await house.town.mailed_token(user_id, "email_sign_in")}


async def session_token(house: House, _caller: Caller) -> dict[str, Any]:
    """A session that Guildhall started: an adapter's is not refreshed."""
    return {"session_token": (await house.town.person()).session_token}


async def verification(house: House, _caller: Caller) -> dict[str, Any]:
    """The mail that proves a new address."""
    person = await house.town.person()
    mask = FieldMask(paths=["email"])
    await do(house.suite, person, "identity.UserService/UpdateUser", update_mask=mask, email=new_address())
    return {"token": await house.town.mailed_token(person.user_id, "change_email")}


async def reset(house: House, _caller: Caller) -> dict[str, Any]:
    """A mailed link to a new password."""
    user_id, address = await house.town.user()
    await do(house.suite, None, "identity.AuthService/RequestPasswordReset", email=address)
    token = await house.town.mailed_token(user_id, "reset_password")
    return {"token": token, "new_password": PASSWORD}


async def new_user(house: House, _caller: Caller) -> dict[str, Any]:
    """Somebody new, named by their id."""
    return {"user_id": (await house.town.user())[0]}


async def disabled_user(house: House, caller: Caller) -> dict[str, Any]:
    """Somebody who is disabled."""
    named = await new_user(house, caller)
    await do(house.suite, house.town.root, "identity.UserService/DisableUser", **named)
    return named


def own_session(house: House, caller: Caller) -> dict[str, Any]:
    """The caller's own; Bob's for who has none."""
    return {"session_id": (caller.person or house.bob).session_id}


async def own_account(house: House, caller: Caller) -> dict[str, Any]:
    """An account at a provider, and another one beside it, so that it is not the last."""
    user_id = (caller.person or house.bob).user_id
    if caller.column in ("revoked", "expired"):
        user_id = house.bob.user_id
    await house.town.linked(user_id)
    return {"account_id": (await house.town.linked(user_id))[1]}


async def bobs_account(house: House, _caller: Caller) -> dict[str, Any]:
    """An account of Bob's, by the provider's id."""
    return {"provider": "github", "provider_account_id": (await house.town.linked(house.bob.user_id))[0]}


def new_account(house: House, _caller: Caller) -> dict[str, Any]:
    """An account that Bob has not linked yet."""
    account = {"user_id": house.bob.user_id, "type": "oauth", "provider": "github", "provider_account_id": word("p")}
    return {"account": account}


async def new_session(house: House, _caller: Caller) -> dict[str, Any]:
    """A session of Bob's that the adapter may end."""
    return {"session_token": await house.town.adapter_session(house.bob.user_id)}


async def prolonged(house: House, caller: Caller) -> dict[str, Any]:
    """A session with a later end."""
    return {**await new_session(house, caller), "update_mask": FieldMask(paths=["expires"]), "expires": in_days(2)}


def verification_token() -> dict[str, Any]:
    """A token of the framework's."""
    return {"identifier": new_address(), "token": word("a-token-of-a-link-"), "expires": in_days(1)}


async def stored_token(house: House, _caller: Caller) -> dict[str, Any]:
    """Such a token, which is kept already."""
    made = verification_token()
    await house.town.adapter("CreateVerificationToken", verification_token=made)
    return {"identifier": made["identifier"], "token": made["token"]}


async def service_account(house: House, _caller: Caller) -> dict[str, Any]:
    """A service account."""
    name = "identity.ServiceAccountService/CreateServiceAccount"
    made = await do(house.suite, house.town.root, name, name="B", scopes=["a.b"])
    return {"service_account_id": made.service_account.service_account_id}


async def service_key(house: House, caller: Caller) -> dict[str, Any]:
    """A key of one."""
    named = await service_account(house, caller)
    made = await do(house.suite, house.town.root, "identity.ServiceAccountService/CreateServiceKey", **named)
    return {**named, "key_id": made.key.key_id}


NAMED = FieldMask(paths=["name"])

EXAMPLES: Mapping[str, Example] = MappingProxyType(
    {
        "identity.AuthService/SignUp": Example(
            lambda h, c: {"email": new_address(), "password": PASSWORD, "name": "New"},
        ),
        "identity.AuthService/SignIn": Example(lambda h, c: {"email": h.town.pat.email, "password": PASSWORD}),
        "identity.AuthService/StartEmailSignIn": Example(lambda h, c: {"email": new_address()}),
        "identity.AuthService/CompleteEmailSignIn": Example(email_sign_in),
        "identity.AuthService/RefreshSession": Example(session_token),
        "identity.AuthService/SignOut": Example(nothing, spends_caller=True),
        "identity.AuthService/VerifyEmail": Example(verification),
        "identity.AuthService/ResendVerification": Example(lambda h, c: {"email": new_address()}),
        "identity.AuthService/RequestPasswordReset": Example(lambda h, c: {"email": new_address()}),
        "identity.AuthService/ResetPassword": Example(reset),
        "identity.AuthService/ChangePassword": Example(lambda h, c: {"new_password": PASSWORD}, spends_caller=True),
        "identity.AuthService/ExchangeServiceKey": Example(lambda h, c: {"service_key": h.town.service_key}),
        "identity.AuthService/GetJwks": Example(nothing),
        "identity.UserService/GetUser": Example(nothing),
        "identity.UserService/BatchGetUsers": Example(lambda h, c: {"user_ids": [h.bob.user_id]}),
        "identity.UserService/UpdateUser": Example(lambda h, c: {"update_mask": NAMED, "name": "Other"}),
        "identity.UserService/DeleteUser": Example(new_user),
        "identity.UserService/DeleteUser (own)": Example(nothing, spends_caller=True),
        "identity.UserService/ListUsers": Example(nothing),
        "identity.UserService/DisableUser": Example(new_user),
        "identity.UserService/EnableUser": Example(disabled_user),
        "identity.UserService/ImportUser": Example(lambda h, c: {"email": new_address(), "name": "Imported"}),
        "identity.SessionService/GetCurrentSession": Example(nothing),
        "identity.SessionService/ListSessions": Example(nothing),
        "identity.SessionService/RevokeSession": Example(lambda h, c: {"session_id": h.bob.session_id}),
        "identity.SessionService/RevokeSession (own)": Example(own_session, personal=True, spends_caller=True),
        "identity.SessionService/RevokeSessions": Example(lambda h, c: {"keep_current": True}),
        "identity.SessionService/ListSecurityEvents": Example(lambda h, c: {"user_id": h.bob.user_id}),
        "identity.SessionService/ListSecurityEvents (own)": Example(nothing),
        "identity.SessionService/CheckSessions": Example(lambda h, c: {"session_ids": [h.bob.session_id]}),
        "identity.AccountService/ListAccounts": Example(nothing),
        "identity.AccountService/UnlinkAccount": Example(
            lambda h, c: own_account(h, Caller("")),
        ),
        "identity.AccountService/UnlinkAccount (own)": Example(own_account, personal=True),
        "identity.AccountService/LinkAccount": Example(new_account),
        "identity.AdapterService/CreateUser": Example(lambda h, c: {"email": new_address(), "name": "New"}),
        "identity.AdapterService/GetUser": Example(lambda h, c: {"user_id": h.bob.user_id}),
        "identity.AdapterService/GetUserByEmail": Example(lambda h, c: {"email": h.bob.email}),
        "identity.AdapterService/GetUserByAccount": Example(bobs_account),
        "identity.AdapterService/UpdateUser": Example(
            lambda h, c: {"user_id": h.bob.user_id, "update_mask": NAMED, "name": "Bob"}
        ),
        "identity.AdapterService/DeleteUser": Example(new_user),
        "identity.AdapterService/LinkAccount": Example(new_account),
        "identity.AdapterService/UnlinkAccount": Example(bobs_account),
        "identity.AdapterService/CreateSession": Example(
            lambda h, c: {
                "session": {
                    "session_token": word("a-session-token-"),
                    "user_id": h.bob.user_id,
                    "expires": in_days(1),
                }
            }
        ),
        "identity.AdapterService/GetSessionAndUser": Example(new_session),
        "identity.AdapterService/UpdateSession": Example(prolonged),
        "identity.AdapterService/DeleteSession": Example(new_session),
        "identity.AdapterService/CreateVerificationToken": Example(
            lambda h, c: {"verification_token": verification_token()}
        ),
        "identity.AdapterService/UseVerificationToken": Example(stored_token),
        "identity.AdapterService/CreateAccessToken": Example(new_session),
        "identity.ServiceAccountService/CreateServiceAccount": Example(lambda h, c: {"name": "B", "scopes": ["a.b"]}),
        "identity.ServiceAccountService/ListServiceAccounts": Example(nothing),
        "identity.ServiceAccountService/DeleteServiceAccount": Example(service_account),
        "identity.ServiceAccountService/CreateServiceKey": Example(service_account),
        "identity.ServiceAccountService/RevokeServiceKey": Example(service_key),
    }
)
