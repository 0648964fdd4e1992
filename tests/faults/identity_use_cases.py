"""Identity's RPCs that change something, each with what it needs; most of them use a person up."""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from tests.faults.use_cases import Call, UseCase, keyed
from tests.service.test_membership_workspaces import somebody
from tests.support.accounts import service_account
from tests.support.administrators import administrator
from tests.support.identities import new_address
from tests.support.reflected import do
from tests.support.suite import PASSWORD, Person, Suite

NOBODY = Person("", "", "", "", "", "")
"""Whoever has not signed in."""
PASSWORD_AFTER = "another password that is long"
_ROOTS: dict[int, Person] = {}

Fields = Callable[[Suite], Awaitable[tuple[Person, dict[str, Any]]]]


def _case(rpc: str, fields: Fields) -> UseCase:
    async def prepare(suite: Suite) -> Call:
        person, given = await fields(suite)
        return keyed(suite, person, rpc, given)

    return UseCase(rpc, prepare)


def _later(hours: int = 1) -> Timestamp:
    wired = Timestamp()
    wired.FromDatetime(datetime.now(UTC).replace(microsecond=0) + timedelta(hours=hours))
    return wired


async def _root(suite: Suite) -> Person:
    """A system administrator, the same each time while the token lasts."""
    known = _ROOTS.get(id(suite))
    if known is None:
        known = _ROOTS[id(suite)] = await administrator(suite)
    again = await suite.signed_in(known.email)
    _ROOTS[id(suite)] = again
    return again


async def _asked_for(suite: Suite, rpc: str, address: str, **fields: Any) -> str:
    """The token of the mail that a call brings."""
    count = len(suite.mail_folder.to(address))
    await do(suite, NOBODY, rpc, email=address, **fields)
    return await suite.mailed_token(address, count=count + 1)


def _backend(suite: Suite) -> Person:
    return service_account(suite, "identity.adapter", "identity.accounts", "identity.users")


async def _adapted(suite: Suite) -> tuple[Person, str]:
    """A product's back end, and a user whom it has made."""
    product = _backend(suite)
    made = await do(suite, product, "identity.AdapterService/CreateUser", email=new_address())
    return product, str(made.user.id)


def _account(user_id: str) -> dict[str, Any]:
    return {"user_id": user_id, "type": "oauth", "provider": "github", "provider_account_id": uuid.uuid4().hex}


async def _session(suite: Suite) -> tuple[Person, dict[str, Any]]:
    product, user_id = await _adapted(suite)
    return product, {"session": {"session_token": uuid.uuid4().hex, "user_id": user_id, "expires": _later()}}


async def _open_session(suite: Suite) -> tuple[Person, str]:
    product, fields = await _session(suite)
    await do(suite, product, "identity.AdapterService/CreateSession", **fields)
    return product, str(fields["session"]["session_token"])


async def _verification(suite: Suite) -> tuple[Person, dict[str, Any]]:
    named = {"identifier": new_address(), "token": uuid.uuid4().hex, "expires": _later()}
    return _backend(suite), {"verification_token": named}


async def _use_verification(suite: Suite) -> tuple[Person, dict[str, Any]]:
    product, fields = await _verification(suite)
    await do(suite, product, "identity.AdapterService/CreateVerificationToken", **fields)
    return product, {key: fields["verification_token"][key] for key in ("identifier", "token")}


async def _create_user(suite: Suite) -> tuple[Person, dict[str, Any]]:
    return _backend(suite), {"email": new_address()}


async def _update_user(suite: Suite) -> tuple[Person, dict[str, Any]]:
    product, user_id = await _adapted(suite)
    return product, {"user_id": user_id, "name": "Other", "update_mask": FieldMask(paths=["name"])}


async def _delete_adapted(suite: Suite) -> tuple[Person, dict[str, Any]]:
    product, user_id = await _adapted(suite)
    return product, {"user_id": user_id}


async def _link(suite: Suite) -> tuple[Person, dict[str, Any]]:
    product, user_id = await _adapted(suite)
    return product, {"account": _account(user_id)}


async def _unlink(suite: Suite) -> tuple[Person, dict[str, Any]]:
    product, fields = await _link(suite)
    # Two: the last way in is not taken away.
    for account in (_account(fields["account"]["user_id"]), fields["account"]):
        await do(suite, product, "identity.AdapterService/LinkAccount", account=account)
    return product, {key: fields["account"][key] for key in ("provider", "provider_account_id")}


async def _update_session(suite: Suite) -> tuple[Person, dict[str, Any]]:
    product, token = await _open_session(suite)
    return product, {"session_token": token, "expires": _later(2), "update_mask": FieldMask(paths=["expires"])}


async def _delete_session(suite: Suite) -> tuple[Person, dict[str, Any]]:
    product, token = await _open_session(suite)
    return product, {"session_token": token}


async def _link_own(suite: Suite) -> tuple[Person, dict[str, Any]]:
    person = await suite.person("Lin")
    return _backend(suite), {"account": _account(person.user_id)}


async def _unlink_own(suite: Suite) -> tuple[Person, dict[str, Any]]:
    person = await suite.person("Lin")
    await do(suite, _backend(suite), "identity.AccountService/LinkAccount", account=_account(person.user_id))
    listed = await do(suite, person, "identity.AccountService/ListAccounts")
    return person, {"account_id": listed.accounts[0].account_id}


async def _import(suite: Suite) -> tuple[Person, dict[str, Any]]:
    return _backend(suite), {"email": new_address(), "name": "Imported"}


async def _sign_up(suite: Suite) -> tuple[Person, dict[str, Any]]:
    return NOBODY, {"email": new_address(), "password": PASSWORD, "name": "New"}


async def _sign_in(suite: Suite) -> tuple[Person, dict[str, Any]]:
    return NOBODY, {"email": (await somebody(suite, "Ada")).email, "password": PASSWORD}


async def _of_address(suite: Suite) -> tuple[Person, dict[str, Any]]:
    return NOBODY, {"email": (await suite.person("Mail")).email}


async def _unproven(suite: Suite) -> tuple[Person, dict[str, Any]]:
    address = new_address()
    await _asked_for(suite, "identity.AuthService/SignUp", address, password=PASSWORD, name="New")
    return NOBODY, {"email": address}


async def _prove(suite: Suite) -> tuple[Person, dict[str, Any]]:
    token = await _asked_for(suite, "identity.AuthService/SignUp", new_address(), password=PASSWORD, name="New")
    return NOBODY, {"token": token}


async def _by_link(suite: Suite) -> tuple[Person, dict[str, Any]]:
    person = await suite.person("Mail")
    return NOBODY, {"token": await _asked_for(suite, "identity.AuthService/StartEmailSignIn", person.email)}


async def _reset(suite: Suite) -> tuple[Person, dict[str, Any]]:
    person = await suite.person("Mail")
    token = await _asked_for(suite, "identity.AuthService/RequestPasswordReset", person.email)
    return NOBODY, {"token": token, "new_password": PASSWORD_AFTER}


async def _change(suite: Suite) -> tuple[Person, dict[str, Any]]:
    return await suite.person("Pat"), {"current_password": PASSWORD, "new_password": PASSWORD_AFTER}


async def _refresh(suite: Suite) -> tuple[Person, dict[str, Any]]:
    person = await suite.signed_in((await somebody(suite, "Ada")).email)
    return NOBODY, {"session_token": person.session_token}


async def _revoke_session(suite: Suite) -> tuple[Person, dict[str, Any]]:
    ada = await somebody(suite, "Ada")
    return ada, {"session_id": (await suite.signed_in(ada.email)).session_id}


async def _revoke_sessions(suite: Suite) -> tuple[Person, dict[str, Any]]:
    person = await suite.person("Many")
    await suite.signed_in(person.email)
    return person, {"keep_current": True}


async def _rename(suite: Suite) -> tuple[Person, dict[str, Any]]:
    return await somebody(suite, "Ada"), {"name": uuid.uuid4().hex, "update_mask": FieldMask(paths=["name"])}


async def _delete(suite: Suite) -> tuple[Person, dict[str, Any]]:
    return await _root(suite), {"user_id": (await suite.person("Gone")).user_id}


async def _enable(suite: Suite) -> tuple[Person, dict[str, Any]]:
    root, fields = await _delete(suite)
    await do(suite, root, "identity.UserService/DisableUser", **fields)
    return root, fields


async def _new_account(suite: Suite) -> tuple[Person, dict[str, Any]]:
    return await _root(suite), {"name": "Product", "scopes": ["identity.adapter"]}


async def _made_account(suite: Suite) -> tuple[Person, dict[str, Any]]:
    root, fields = await _new_account(suite)
    made = await do(suite, root, "identity.ServiceAccountService/CreateServiceAccount", **fields)
    return root, {"service_account_id": made.service_account.service_account_id}


async def _revoke_key(suite: Suite) -> tuple[Person, dict[str, Any]]:
    root, named = await _made_account(suite)
    made = await do(suite, root, "identity.ServiceAccountService/CreateServiceKey", **named)
    return root, {**named, "key_id": made.key.key_id}


async def _sign_out(suite: Suite) -> Call:
    """The session is over with the first that is answered, so a repetition is refused: that counts as an answer."""
    person = await suite.signed_in((await somebody(suite, "Ada")).email)
    return lambda: do(suite, person, "identity.AuthService/SignOut")


_FIELDS: Mapping[str, Fields] = {
    "AuthService/SignUp": _sign_up,
    "AuthService/SignIn": _sign_in,
    "AuthService/StartEmailSignIn": _of_address,
    "AuthService/CompleteEmailSignIn": _by_link,
    "AuthService/RefreshSession": _refresh,
    "AuthService/VerifyEmail": _prove,
    "AuthService/ResendVerification": _unproven,
    "AuthService/RequestPasswordReset": _of_address,
    "AuthService/ResetPassword": _reset,
    "AuthService/ChangePassword": _change,
    "SessionService/RevokeSession": _revoke_session,
    "SessionService/RevokeSessions": _revoke_sessions,
    "UserService/UpdateUser": _rename,
    "UserService/DeleteUser": _delete,
    "UserService/DisableUser": _delete,
    "UserService/EnableUser": _enable,
    "UserService/ImportUser": _import,
    "ServiceAccountService/CreateServiceAccount": _new_account,
    "ServiceAccountService/DeleteServiceAccount": _made_account,
    "ServiceAccountService/CreateServiceKey": _made_account,
    "ServiceAccountService/RevokeServiceKey": _revoke_key,
    "AccountService/LinkAccount": _link_own,
    "AccountService/UnlinkAccount": _unlink_own,
    "AdapterService/CreateUser": _create_user,
    "AdapterService/UpdateUser": _update_user,
    "AdapterService/DeleteUser": _delete_adapted,
    "AdapterService/LinkAccount": _link,
    "AdapterService/UnlinkAccount": _unlink,
    "AdapterService/CreateSession": _session,
    "AdapterService/UpdateSession": _update_session,
    "AdapterService/DeleteSession": _delete_session,
    "AdapterService/CreateVerificationToken": _verification,
    "AdapterService/UseVerificationToken": _use_verification,
}
IDENTITY: Mapping[str, UseCase] = {
    **{f"identity.{rpc}": _case(f"identity.{rpc}", fields) for rpc, fields in _FIELDS.items()},
    "identity.AuthService/SignOut": UseCase("identity.AuthService/SignOut", _sign_out),
}
LEFT_OUT: Mapping[str, str] = {
    "identity.AuthService/ExchangeServiceKey": "it writes when a key was used, in the one statement that finds it",
    "messaging.EventService/SendTyping": "it writes no row",
}
