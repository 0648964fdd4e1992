"""`guildhall admin`: what an operator does at the machine, before or beside any system administrator.

What a command is asked for goes to stdout, and only that, as lines or as JSON; everything else to stderr.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from guildhall.identity.v1 import service_account_service_pb2 as pb
from sqlalchemy import Row, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import emails
from services.chassis.database import Database
from services.chassis.errors import Fault, NotFound, fault_of
from services.chassis.interceptors import validate
from services.chassis.pages import LARGEST_SIZE
from services.chassis.secret import SecretKey
from services.chassis.settings import load
from services.identity import departures, exports, keys, profiles, service_accounts, users
from services.identity.settings import AdminSettings

T = TypeVar("T")

MAKE_ADMINISTRATOR = text("""
    UPDATE users
    SET administrator_since = statement_timestamp(), updated_at = statement_timestamp(), revision = revision + 1
    WHERE id = :user_id AND administrator_since IS NULL
""")


class Refused(Exception):
    """Why a command does nothing, in words."""


@dataclass(frozen=True)
class Admin:
    """One command, with what it needs."""

    database: Database
    secret: SecretKey
    settings: AdminSettings
    options: argparse.Namespace

    async def transaction(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Does something in one transaction."""
        return await self.database.transaction(work)

    def answer(self, value: object, *lines: str) -> None:
        """Prints the answer: a value as JSON, or the lines that say it to people."""
        for line in (_json(value),) if self.options.output == "json" else lines:
            sys.stdout.write(f"{line}\n")


async def make_administrator(admin: Admin) -> None:
    """Makes somebody a system administrator who has proven their address; who is one stays one.

    If an app has acted for them or imported them, password and sessions go: its key must not be a way to become one.
    """

    async def work(tx: AsyncConnection) -> tuple[str, bool]:
        user = await _find(tx, admin.options.email)
        if user.email_verified_at is None:
            raise Refused("That address was never proven: whoever signed up with it may be somebody else.")
        if user.disabled_at is not None:
            raise Refused("That user is disabled.")
        made = await tx.execute(MAKE_ADMINISTRATOR, {"user_id": user.id})
        ended = made.rowcount > 0 and await users.end_what_an_app_left(tx, user_id=str(user.id))
        return str(user.id), ended

    user_id, ended = await admin.transaction(work)
    admin.answer({"user_id": user_id})
    _tell(f"{admin.options.email} is a system administrator.")
    if ended:
        _tell(
            "An app has acted for or imported them, so password and sessions are gone: a link to that address signs in."
        )


async def create_service_account(admin: Admin) -> None:
    """Makes a service account and prints its id."""
    options = admin.options
    request = pb.CreateServiceAccountRequest(name=options.name, scopes=options.scope, workspace_ids=options.workspace)
    validate(request)
    row = await admin.transaction(
        lambda tx: service_accounts.create(
            tx, created_by=None, name=request.name, scopes=request.scopes, workspace_ids=request.workspace_ids
        )
    )
    admin.answer({"service_account_id": row.id}, str(row.id))
    _tell("It has no key yet: create-service-key makes one.")


async def create_service_key(admin: Admin) -> None:
    """Makes a key and prints its secret, once and for all."""
    validate(pb.CreateServiceKeyRequest(service_account_id=admin.options.account_id))
    key, secret = await admin.transaction(
        lambda tx: service_accounts.create_key(tx, created_by=None, account_id=admin.options.account_id)
    )
    admin.answer({"key_id": key.id, "service_key": secret}, secret)
    _tell(f"That is key {key.id}. Keep it now: it is stored nowhere, and shown once.")


async def list_service_accounts(admin: Admin) -> None:
    """Prints every service account with its live keys."""
    accounts = await admin.transaction(_service_accounts)
    lines = []
    for account in accounts:
        bound = ", ".join(account["workspace_ids"]) or "not bound"
        keys = ", ".join(key["key_id"] for key in account["keys"]) or "none"
        lines.append(f"{account['service_account_id']}  {account['name']}")
        lines.append(f"    scopes: {', '.join(account['scopes'])}; workspaces: {bound}; live keys: {keys}")
    admin.answer(accounts, *lines)


async def export_user(admin: Admin) -> None:
    """Prints what identity holds of a person, as JSON."""

    async def work(tx: AsyncConnection) -> Any:
        user = await _find(tx, admin.options.email)
        return await exports.export(tx, user_id=str(user.id))

    exported = await admin.transaction(work)
    admin.answer(exported, _json(exported))


async def delete_user(admin: Admin) -> None:
    """Deletes a person, as DeleteUser does."""
    if not admin.options.yes:
        raise Refused("Nothing is deleted. It cannot be undone: say --yes.")

    async def work(tx: AsyncConnection) -> str:
        user = await _find(tx, admin.options.email)
        await departures.delete(
            tx, admin.secret, user_id=str(user.id), etag="", erase_messages=admin.options.erase_messages
        )
        return str(user.id)

    admin.answer({"user_id": await admin.transaction(work)})
    _tell("Deleted. The other services are told as soon as identity runs.")


async def rotate_signing_key(admin: Admin) -> None:
    """Adds a key for access tokens and prints its id. It signs 10 minutes after the running services have seen it."""
    try:
        key_id = keys.add_key(admin.settings.signing_keys_dir)
    except ValueError as error:
        raise Refused(f"The folder {error}") from None
    except OSError as error:
        raise Refused(f"The folder cannot be written to: {error.strerror}") from None
    admin.answer({"key_id": key_id}, key_id)
    _tell("Nothing needs a restart. retire-signing-keys removes the older ones, once no token of theirs is left.")


async def retire_signing_keys(admin: Admin) -> None:
    """Removes the keys that no token needs any more, an hour after the next one began to sign; prints their ids."""
    settings = admin.settings
    try:
        retired = keys.retire_keys(settings.signing_keys_dir, delay_seconds=settings.signing_key_delay_seconds)
    except OSError as error:
        raise Refused(f"The folder cannot be written to: {error.strerror}") from None
    admin.answer({"key_ids": retired}, *retired)
    _tell(f"{len(retired)} removed.")


async def _find(tx: AsyncConnection, email: str) -> Row[Any]:
    user = await profiles.find(tx, normalized_email=emails.normalize(email))
    if user is None:
        raise Refused("Nobody has that address.")
    return user


async def _service_accounts(tx: AsyncConnection) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = None
    while page := await service_accounts.list_page(tx, after=after, size=LARGEST_SIZE):
        after = str(page[-1].id)
        keys = await service_accounts.live_keys(tx, account_ids=[str(row.id) for row in page])
        found += [_service_account(row, keys[str(row.id)]) for row in page]
    return found


def _service_account(row: Row[Any], keys: Sequence[Row[Any]]) -> dict[str, Any]:
    return {
        "service_account_id": str(row.id),
        "name": row.name,
        "scopes": list(row.scopes),
        "workspace_ids": [str(workspace_id) for workspace_id in row.workspace_ids],
        "created_at": row.created_at,
        "keys": [
            {"key_id": str(key.id), "created_at": key.created_at, "last_used_at": key.last_used_at} for key in keys
        ],
    }


def _json(value: object) -> str:
    def text_of(other: object) -> str:
        return other.isoformat() if isinstance(other, datetime) else str(other)

    return json.dumps(value, default=text_of, ensure_ascii=False, indent=2)


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="guildhall admin", description="What an operator does at the machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, does: Callable[[Admin], Awaitable[None]]) -> argparse.ArgumentParser:
        what = (does.__doc__ or "").strip()
        added = commands.add_parser(name, help=what, description=what)
        added.set_defaults(does=does)
        added.add_argument("--output", "-o", choices=["text", "json"], default="text", help="for people or programs")
        return added

    command("make-administrator", make_administrator).add_argument("email", metavar="EMAIL")
    account = command("create-service-account", create_service_account)
    account.add_argument("name", metavar="NAME")
    account.add_argument("--scope", action="append", required=True, help="what it may call; may be given again")
    account.add_argument("--workspace", action="append", default=[], help="an id that it is bound to; likewise")
    command("create-service-key", create_service_key).add_argument("account_id", metavar="ACCOUNT_ID")
    command("list-service-accounts", list_service_accounts)
    command("rotate-signing-key", rotate_signing_key)
    command("retire-signing-keys", retire_signing_keys)
    command("export-user", export_user).add_argument("email", metavar="EMAIL")
    deletion = command("delete-user", delete_user)
    deletion.add_argument("email", metavar="EMAIL")
    deletion.add_argument("--yes", action="store_true", help="yes, for good")
    deletion.add_argument("--erase-messages", action="store_true", help="the content of their messages as well")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Does what the command line says; the exit code is 0, 1 if it was refused, 2 if it was not understood."""
    options = _parser().parse_args(arguments)
    return asyncio.run(_run(options, load(AdminSettings)))


async def _run(options: argparse.Namespace, settings: AdminSettings) -> int:
    database = Database(settings, pool_size=1)
    try:
        await options.does(Admin(database, SecretKey(settings.secret_key), settings, options))
    except Refused as error:
        _tell(str(error))
    except (Fault, exc.SQLAlchemyError) as error:
        _tell(_words(error))
    else:
        return 0
    finally:
        await database.close()
    return 1


def _words(error: Exception) -> str:
    """A refusal in words; of the fields that are wrong, each."""
    if isinstance(error, NotFound):
        return "There is no such thing."
    fault = fault_of(error)
    if fault is None:
        raise error
    return "\n".join([str(fault), *(f"{field}: {what}" for field, what in fault.fields)])
