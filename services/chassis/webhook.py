"""Mails handed to the product, which writes and sends them itself: one signed POST for each."""

import asyncio
import hashlib
import hmac
import http.client
import json
import time
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from services.chassis.errors import PeerUnavailable
from services.chassis.settings import MailSettings

ANSWER_SECONDS = 10
"""For each step of a request; a work has 15 s in all."""

AWAY = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
"""Answers that are not about this mail: none is to be given up for them."""


class WebhookRefused(Exception):
    """The product did not answer with 2xx."""


async def deliver(settings: MailSettings, event: Mapping[str, Any]) -> None:
    """Posts one event, at least once; its `id` is the same each time. No redirect is followed.

    Errors: PeerUnavailable if nobody answers, WebhookRefused for an answer that is not 2xx.
    """
    body = json.dumps(event, default=_as_text, ensure_ascii=False).encode()
    try:
        status = await asyncio.to_thread(_post, settings.mail_webhook_url or "", body, settings.mail_webhook_secret)
    except (OSError, http.client.HTTPException) as error:
        raise PeerUnavailable from error
    if status in AWAY:
        raise PeerUnavailable
    if not 200 <= status < 300:
        raise WebhookRefused(f"answered {status}")


def sign(secret: bytes, body: bytes, *, at: int) -> str:
    """The header that proves who sent a body and when; `at` in seconds since 1970."""
    return f"t={at},v1={hmac.new(secret, f'{at}.'.encode() + body, hashlib.sha256).hexdigest()}"


def _post(url: str, body: bytes, secret: bytes) -> int:
    parts = urlsplit(url)
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = connect(parts.hostname or "", parts.port, timeout=ANSWER_SECONDS)
    headers = {"Content-Type": "application/json", "Guildhall-Signature": sign(secret, body, at=int(time.time()))}
    target = parts._replace(scheme="", netloc="", fragment="", path=parts.path or "/").geturl()
    try:
        connection.request("POST", target, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def _as_text(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")
