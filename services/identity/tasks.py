"""What identity's worker does: sends mails, and forgets what is over."""

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import urlencode

import structlog
from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import emails
from services.chassis.database import Database
from services.chassis.mail import Mailer, made_at
from services.chassis.secret import SecretKey
from services.chassis.settings import WorkerSettings
from services.chassis.worker import Step, Work
from services.identity import accounts, adapter, invites, security, sessions, users, verification
from services.identity.seals import Seals

log = structlog.get_logger()

LINKS = {
    "verify_email": "verify-email",
    "email_sign_in": "sign-in",
    "reset_password": "reset-password",
    "change_email": "verify-email",
}
"""The purposes of tokens that are mailed, and the pages that their links lead to."""

NAMELESS = ("verify_email", "change_email")

# unknown_address has no user, and so no mail.
FIND_TOKEN = text("""
    SELECT coalesce(pending_email, users.email) AS email, users.name, verification_tokens.created_at AS asked_at,
        expire_at
    FROM verification_tokens JOIN users ON users.id = verification_tokens.user_id
    WHERE verification_tokens.id = :id AND purpose = :purpose
        AND used_at IS NULL AND statement_timestamp() < expire_at
""")
FIND_HOLDER = text("""
    SELECT email, name FROM users WHERE normalized_email = :normalized_email AND email_verified_at IS NOT NULL
""")
FIND_CHANGE = text("""
    SELECT previous_email AS email, users.name, used_at AS asked_at
    FROM verification_tokens JOIN users ON users.id = verification_tokens.user_id
    WHERE verification_tokens.id = :id AND previous_email IS NOT NULL AND used_at IS NOT NULL
""")
FIND_USER = text("SELECT email, name FROM users WHERE id = :id")


class Mails:
    """The works that send mails, unless what they are about is gone or was used. Done twice, each sends the same."""

    def __init__(self, settings: WorkerSettings, database: Database, secret: SecretKey) -> None:
        self._public_url = settings.public_url.rstrip("/")
        self._mailer = Mailer("identity", settings)
        self._database = database
        self._secret = secret

    def works(self) -> Mapping[str, Work]:
        """What sends which mail, by the kinds of outbox rows."""
        about_tokens = [*LINKS, "known_address", "unknown_address"]
        return {
            **{f"mail.{purpose}": partial(self._about_token, purpose) for purpose in about_tokens},
            "mail.change_email": self._change_email,
            "mail.email_changed": self._email_changed,
            "mail.password_changed": self._password_changed,
        }

    async def _about_token(self, purpose: str, token_id: str, row_id: str) -> None:
        row = await self._find(FIND_TOKEN, id=token_id, purpose=purpose)
        if row is None:
            return
        parameters = {"asked_at": row.asked_at, "name": row.name}
        if purpose in NAMELESS:
            # Whoever signs up somebody else's address chose that name too: their words are not to reach the owner.
            del parameters["name"]
        if purpose in LINKS:
            token = verification.token_of(self._secret, token_id)
            link = f"{self._public_url}/{LINKS[purpose]}?{urlencode({'token': token})}"
            parameters |= {"token": token, "link": link, "expire_at": row.expire_at}
        await self._mailer.send(purpose, to=row.email, row_id=row_id, parameters=parameters)

    async def _change_email(self, token_id: str, row_id: str) -> None:
        """Mails the token to an address that somebody wants to change to; whoever has it already is told instead."""
        asked = await self._find(FIND_TOKEN, id=token_id, purpose="change_email")
        if asked is None:
            return
        holder = await self._find(FIND_HOLDER, normalized_email=emails.normalize(asked.email))
        if holder is None:
            await self._about_token("change_email", token_id, row_id)
        else:
            await self._tell("known_address", holder, row_id, asked.asked_at)

    async def _email_changed(self, token_id: str, row_id: str) -> None:
        """Tells the old address."""
        row = await self._find(FIND_CHANGE, id=token_id)
        if row is not None:
            await self._tell("email_changed", row, row_id, row.asked_at)

    async def _password_changed(self, user_id: str, row_id: str) -> None:
        row = await self._find(FIND_USER, id=user_id)
        if row is not None:
            await self._tell("password_changed", row, row_id, made_at(row_id))

    async def _tell(self, kind: str, row: Row[Any], row_id: str, asked_at: datetime) -> None:
        parameters = {"asked_at": asked_at, "name": row.name}
        await self._mailer.send(kind, to=row.email, row_id=row_id, parameters=parameters)

    async def _find(self, statement: TextClause, **named: str) -> Row[Any] | None:
        async def find(tx: AsyncConnection) -> Row[Any] | None:
            return (await tx.execute(statement, named)).one_or_none()

        return await self._database.read(find)


FORGOTTEN: Mapping[str, Step] = {
    "forget_verification_tokens": verification.forget,
    "forget_claims": users.forget_claims,
    "forget_session_tokens": sessions.forget_tokens,
    "forget_sessions": sessions.forget,
    "forget_security_events": security.forget,
    "forget_adapter_tokens": adapter.forget_tokens,
    "forget_invites": invites.forget,
}
"""Tokens that are good for nothing, and what is long over; each by a sweep of its own, for none to wait for others."""


async def reseal_accounts(database: Database, seals: Seals) -> None:
    """Seals anew, a batch at a time, what another than the first provider key has sealed, so that the old one can go.

    An old key may go once this has logged nothing for a few minutes.
    """
    ring, after = seals.ring(), accounts.FIRST_ID
    while batch := await database.transaction(partial(accounts.reseal, ring=ring, after=after)):
        after = batch.last_id
        if batch.sealed:
            log.info("provider_tokens_resealed", accounts=batch.sealed)
        if batch.lost:
            log.error("provider_tokens_without_key", accounts=batch.lost)
