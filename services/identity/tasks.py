"""What identity's worker does: writes mails, and forgets what is over."""

import asyncio
from urllib.parse import urlencode

from services.chassis import emails
from services.chassis.database import Database
from services.chassis.mail import compose, write_mail
from services.chassis.secret import SecretKey
from services.chassis.settings import WorkerSettings
from services.identity import sessions, users

VERIFY_EMAIL = """Somebody, most likely you, signed up with this address
at {asked_at:%Y-%m-%d %H:%M} UTC.

To prove that the address is yours, open this link within 24 hours:

{link}

or enter this where you are asked for it:

Token: {token}

If it was not you, ignore this mail, and nothing will happen.
"""

KNOWN_ADDRESS = """Somebody, most likely you, tried to sign up with this address
at {asked_at:%Y-%m-%d %H:%M} UTC.

You have an account already, and nothing about it was changed:
sign in with the password that it has.

If it was not you, ignore this mail.
"""


class Mails:
    """The works that write mails. Done twice, each leaves one mail: the work's row names the file."""

    def __init__(self, settings: WorkerSettings, database: Database, secret: SecretKey) -> None:
        self._settings = settings
        self._database = database
        self._secret = secret

    async def verify_email(self, token_id: str, row_id: str) -> None:
        """The link that proves an address."""
        token = users.verification_token(self._secret, token_id)
        link = f"{self._settings.public_url.rstrip('/')}/verify-email?{urlencode({'token': token})}"
        await self._write(
            token_id, row_id, "verify_email", "Verify your e-mail address", VERIFY_EMAIL, link=link, token=token
        )

    async def known_address(self, token_id: str, row_id: str) -> None:
        """The news that there is an account already."""
        await self._write(token_id, row_id, "known_address", "You have an account already", KNOWN_ADDRESS)

    async def _write(self, token_id: str, row_id: str, purpose: str, subject: str, text: str, **parts: str) -> None:
        row = await self._database.read(lambda tx: users.find_mail(tx, token_id=token_id, purpose=purpose))
        if row is None:
            return
        body = text.format(asked_at=row.created_at, **parts)
        message = compose(to=emails.mailbox(row.email), subject=subject, text=body)
        await asyncio.to_thread(write_mail, self._settings.mail_dir, row_id, message)


async def forget(database: Database) -> None:
    """Deletes, a batch at a time, tokens that are good for nothing and sessions that are long over."""
    while await database.transaction(users.forget_tokens):
        pass
    while await database.transaction(sessions.forget):
        pass
