"""Mail as .eml files (RFC 5322), for a development suite or a relay that picks them up."""

import os
import secrets
from email.message import EmailMessage
from pathlib import Path


def write_mail(folder: Path, mail_id: str, message: EmailMessage) -> None:
    """Writes one mail, whole or not at all. The same id overwrites: a task done twice leaves one mail."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    message["Message-ID"] = f"<{mail_id}@guildhall>"
    # A name of its own: a task can run twice at the same moment.
    partial = folder / f".{mail_id}.{secrets.token_hex(4)}.partial"
    partial.write_bytes(message.as_bytes())
    os.replace(partial, folder / f"{mail_id}.eml")


def compose(*, to: str, subject: str, text: str) -> EmailMessage:
    """A plain mail from the suite. Header fields refuse line breaks, so no field can add another."""
    message = EmailMessage()
    message["From"] = "Guildhall <no-reply@guildhall.invalid>"
    message["To"] = to
    message["Subject"] = subject
    # As it is: encoded as quoted-printable, a link would be broken over lines for whoever reads the raw file.
    message.set_content(text, cte="8bit")
    return message
