"""Mail by SMTP (RFC 5321) to the operator's relay, encrypted by STARTTLS (RFC 3207)."""

import asyncio
import contextlib
import smtplib
import socket
import ssl
from email.message import EmailMessage

import structlog

from services.chassis.errors import PeerUnavailable
from services.chassis.settings import MailSettings

STEP_SECONDS = 10
"""For each answer of the relay; a work has 15 s in all."""

log = structlog.get_logger()


async def deliver(settings: MailSettings, message: EmailMessage, *, kind: str, row_id: str) -> bool:
    """Gives one mail to the relay. A recipient or mail that it refuses for good is logged and given up: False.

    Errors: PeerUnavailable if no relay can be talked to; smtplib's if this mail is not taken now.
    """
    try:
        relay = await asyncio.to_thread(_connect, settings)
    except OSError as error:  # SMTPException is one
        code = getattr(error, "smtp_code", None)
        log.warning("mail_relay_unavailable", error=type(error).__name__, code=code)
        raise PeerUnavailable from error
    connection = relay.sock
    try:
        await asyncio.to_thread(_transmit, relay, message)
    except asyncio.CancelledError:
        # Out of time, and to be repeated: the thread must not deliver after all. Not SSLSocket's own shutdown, which
        # would let the thread go on in plain text until it is done.
        if connection is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        raise
    except smtplib.SMTPException as error:
        codes = _refusals(error)
        if not codes or min(codes) < 500:
            raise
        log.error("mail_refused", kind=kind, row_id=row_id, code=max(codes))
        return False
    return True


def _connect(settings: MailSettings) -> smtplib.SMTP:
    relay = smtplib.SMTP(settings.smtp_host or "", settings.smtp_port, timeout=STEP_SECONDS)
    try:
        if settings.smtp_starttls:
            relay.starttls(context=ssl.create_default_context(cafile=settings.smtp_ca_file))
        if settings.smtp_username and settings.smtp_password_file:
            relay.login(settings.smtp_username, settings.smtp_password_file.read_text().strip())
    except BaseException:
        relay.close()
        raise
    return relay


def _transmit(relay: smtplib.SMTP, message: EmailMessage) -> None:
    try:
        relay.send_message(message)
        # It is taken: nothing from here on may have it sent again.
        with contextlib.suppress(OSError):
            relay.quit()
    finally:
        relay.close()


def _refusals(error: smtplib.SMTPException) -> list[int]:
    """The relay's codes about the recipient or the mail; none if it was something else that failed."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return [code for code, _ in error.recipients.values()]
    if isinstance(error, smtplib.SMTPDataError):
        return [error.smtp_code]
    # The relay cannot write to an address that is not ASCII (RFC 6531 §3.2).
    return [553] if isinstance(error, smtplib.SMTPNotSupportedError) else []
