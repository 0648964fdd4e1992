"""Mails: written from templates, and delivered as files, by SMTP, or by the product itself."""

import asyncio
import os
import secrets
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path

import uuid_utils

from services.chassis import metrics, smtp, templates, webhook
from services.chassis.emails import mailbox
from services.chassis.errors import PeerUnavailable
from services.chassis.settings import MailSettings

OWN = Path(__file__).parents[1]

Parameters = Mapping[str, str | datetime]
"""What a mail says. Strings become one line, times are given in UTC."""


class Mailer:
    """Sends the mails of one service. Which way, and by whose templates, the settings say."""

    def __init__(self, service: str, settings: MailSettings) -> None:
        product = [settings.mail_templates_dir] if settings.mail_templates_dir else []
        self._settings = settings
        self._templates = templates.environment(*product, OWN / service / "mails", OWN / "chassis" / "mails")

    async def send(self, kind: str, *, to: str, row_id: str, parameters: Parameters) -> None:
        """Delivers one mail; `row_id`, of the outbox row (UUIDv7), makes a repeated delivery recognisable.

        It is done when it returns, also if the recipient was refused for good: repeating would change nothing.
        Errors: PeerUnavailable while nobody takes mails; others if this mail has failed. Both are to be repeated.
        """
        try:
            taken = await self._deliver(kind, to, row_id, parameters)
        except Exception as error:
            metrics.MAILS.labels(kind, "unavailable" if isinstance(error, PeerUnavailable) else "failed").inc()
            raise
        metrics.MAILS.labels(kind, "sent" if taken else "refused").inc()

    async def _deliver(self, kind: str, to: str, row_id: str, parameters: Parameters) -> bool:
        to, plain = mailbox(to), {name: _plain(value) for name, value in parameters.items()}
        match self._settings.mail_delivery:
            case "files":
                message = self.compose(kind, to=to, row_id=row_id, parameters=plain)
                await asyncio.to_thread(write_mail, self._settings.mail_dir, row_id, message)
            case "smtp":
                message = self.compose(kind, to=to, row_id=row_id, parameters=plain, encoding="quoted-printable")
                return await smtp.deliver(self._settings, message, kind=kind, row_id=row_id)
            case "webhook":
                event = {"id": row_id, "kind": kind, "to": to, "parameters": plain, "create_time": made_at(row_id)}
                await webhook.deliver(self._settings, event)
        return True

    def compose(
        self, kind: str, *, to: str, row_id: str, parameters: Parameters, encoding: str = "8bit"
    ) -> EmailMessage:
        """The mail as text and HTML; the same bytes each time. As 8bit, a link is whole in the raw file."""

        def render(ending: str) -> str:
            return self._templates.get_template(f"{kind}.{ending}").render(parameters)

        message = EmailMessage()
        message["From"] = self._settings.mail_from
        message["To"] = to
        message["Subject"] = _one_line(render("subject.txt"))
        message["Date"] = made_at(row_id)
        message["Message-ID"] = f"<{row_id}@guildhall>"
        # So that nobody's absence note answers it (RFC 3834).
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(render("txt"), cte=encoding)
        message.add_alternative(render("html"), subtype="html", cte=encoding)
        message.set_boundary(f"guildhall-{row_id}")
        return message


def write_mail(folder: Path, mail_id: str, message: EmailMessage) -> None:
    """Writes one mail, whole or not at all. The same id overwrites: a task done twice leaves one mail."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # A name of its own: a task can run twice at the same moment.
    partial = folder / f".{mail_id}.{secrets.token_hex(4)}.partial"
    partial.write_bytes(message.as_bytes())
    os.replace(partial, folder / f"{mail_id}.eml")


def made_at(row_id: str) -> datetime:
    """When an outbox row was written: the time in its id (RFC 9562 §5.7)."""
    return datetime.fromtimestamp(uuid_utils.UUID(row_id).timestamp / 1000, UTC)


def _plain(value: str | datetime) -> str | datetime:
    return value.astimezone(UTC) if isinstance(value, datetime) else _one_line(value)


def _one_line(text: str) -> str:
    """A line break in a name would be refused in a header, and could imitate the lines below it in the text."""
    printable = (" " if unicodedata.category(letter) == "Cc" else letter for letter in text)
    return " ".join("".join(printable).split())
