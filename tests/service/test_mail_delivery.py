"""Mails by SMTP and by webhook, to real servers."""

import asyncio
import hashlib
import hmac
import json
import re
import socket
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uuid_utils

from deploy.stack import certificates
from services.chassis.errors import PeerUnavailable
from services.chassis.mail import Mailer, made_at
from services.chassis.settings import MailSettings
from services.chassis.webhook import WebhookRefused
from tests.support.mail_receivers import RELAY_PASSWORD, USER, product, relay

ADDRESS = "ada@example.com"
ASKED_AT = datetime(2026, 11, 21, 3, 30, tzinfo=UTC)
AS_JSON = "2026-11-21T03:30:00Z"
PARAMETERS: dict[str, str | datetime] = {
    "asked_at": ASKED_AT,
    "expire_at": ASKED_AT,
    "token": "ghv_the-token",
    "link": "https://example.com/verify-email?token=ghv_the-token",
    "name": "Ädä\nLovelace",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> certificates.CertificateFiles:
    """The relay's certificate, for localhost and 127.0.0.1, and the CA that signed it."""
    return certificates.ensure(tmp_path_factory.mktemp("relay"), ("relay",))["relay"]


def by_smtp(port: int, files: certificates.CertificateFiles, **changes: Any) -> Mailer:
    """A mailer that knows the relay's CA and password."""
    password_file = files.key.with_name("password")
    password_file.write_text(f"{RELAY_PASSWORD}\n")
    settings = {
        "mail_delivery": "smtp",
        "mail_from": "Acme <no-reply@example.com>",
        "smtp_host": "127.0.0.1",
        "smtp_port": port,
        "smtp_ca_file": files.ca,
        "smtp_username": USER,
        "smtp_password_file": password_file,
    }
    return Mailer("identity", MailSettings(**(settings | changes)))


async def send(mailer: Mailer, *, to: str = ADDRESS, row_id: str | None = None) -> str:
    """Sends a mail; returns the id of its row."""
    row_id = row_id or str(uuid_utils.uuid7())
    await mailer.send("verify_email", to=to, row_id=row_id, parameters=PARAMETERS)
    return row_id


async def test_a_mail_goes_encrypted_and_authenticated_to_the_relay(files: certificates.CertificateFiles) -> None:
    async with relay(files) as receiver:
        row_id = await send(by_smtp(receiver.port, files))

    (message,) = receiver.accepted
    assert (receiver.recipients, receiver.encrypted) == ([ADDRESS], [True])
    assert message["From"] == "Acme <no-reply@example.com>"
    assert (message["To"], message["Message-ID"]) == (ADDRESS, f"<{row_id}@guildhall>")
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    assert "Token: ghv_the-token" in text.get_content().splitlines()
    assert f'href="{PARAMETERS["link"]}"' in html.get_content()


async def test_a_relay_that_another_ca_vouches_for_gets_nothing(
    files: certificates.CertificateFiles, tmp_path: Path
) -> None:
    other = certificates.ensure(tmp_path, ("relay",))["relay"]
    async with relay(files) as receiver:
        with pytest.raises(PeerUnavailable) as raised:
            await send(by_smtp(receiver.port, files, smtp_ca_file=other.ca))
        assert isinstance(raised.value.__cause__, ssl.SSLCertVerificationError)
        with pytest.raises(PeerUnavailable):
            await send(by_smtp(receiver.port, files, smtp_ca_file=None))
        assert not receiver.asked.is_set()


async def test_a_relay_without_starttls_gets_mail_only_if_that_is_turned_off(
    files: certificates.CertificateFiles,
) -> None:
    nobody = {"smtp_username": None, "smtp_password_file": None}
    async with relay(None) as receiver:
        with pytest.raises(PeerUnavailable):
            await send(by_smtp(receiver.port, files, **nobody))
        assert not receiver.asked.is_set()
        await send(by_smtp(receiver.port, files, smtp_starttls=False, **nobody))
    assert receiver.encrypted == [False]


async def test_a_wrong_password_is_nothing_that_a_mail_is_given_up_for(
    files: certificates.CertificateFiles, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("another password")
    async with relay(files) as receiver:
        with pytest.raises(PeerUnavailable):
            await send(by_smtp(receiver.port, files, smtp_password_file=tmp_path / "password"))
    assert not receiver.accepted


async def test_a_password_is_read_anew_for_each_mail(files: certificates.CertificateFiles) -> None:
    async with relay(files) as receiver:
        mailer = by_smtp(receiver.port, files)
        password_file = files.key.with_name("password")
        password_file.write_text("not yet the password")
        with pytest.raises(PeerUnavailable):
            await send(mailer)
        password_file.write_text(RELAY_PASSWORD)
        await send(mailer)
    assert len(receiver.accepted) == 1


async def test_where_nobody_listens_the_mail_waits(files: certificates.CertificateFiles) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(PeerUnavailable):
            await send(by_smtp(taken.getsockname()[1], files))


@pytest.mark.parametrize(
    "answers",
    [{"at_recipient": ["451 4.7.1 come back"]}, {"at_data": ["451 4.3.0 come back"]}, {"at_data": ["421 closing"]}],
)
async def test_a_mail_refused_for_now_is_taken_the_next_time_under_the_same_id(
    files: certificates.CertificateFiles, answers: dict[str, list[str]]
) -> None:
    async with relay(files, **answers) as receiver:
        mailer, row_id = by_smtp(receiver.port, files), str(uuid_utils.uuid7())
        with pytest.raises(OSError, match=r"come back|closing"):
            await send(mailer, row_id=row_id)
        assert not receiver.accepted
        await send(mailer, row_id=row_id)
    assert [message["Message-ID"] for message in receiver.accepted] == [f"<{row_id}@guildhall>"]
    assert len({message.as_bytes() for message in receiver.offered}) == 1


@pytest.mark.parametrize("answers", [{"at_recipient": ["550 5.1.1 nobody here"]}, {"at_data": ["554 5.7.1 no spam"]}])
async def test_a_mail_refused_for_good_is_done(
    files: certificates.CertificateFiles, answers: dict[str, list[str]]
) -> None:
    async with relay(files, **answers) as receiver:
        mailer = by_smtp(receiver.port, files)
        await send(mailer)
        assert not receiver.accepted
        await send(mailer)
    assert len(receiver.accepted) == 1


@pytest.mark.parametrize("reads_utf8", [True, False])
async def test_an_address_in_another_script_is_written_to_if_the_relay_can(
    files: certificates.CertificateFiles, reads_utf8: bool
) -> None:
    async with relay(files, reads_utf8=reads_utf8) as receiver:
        await send(by_smtp(receiver.port, files), to="Jörg@example.com")
    assert receiver.recipients == (["Jörg@example.com"] if reads_utf8 else [])


async def test_a_mail_whose_time_is_up_is_not_delivered_behind_the_back(files: certificates.CertificateFiles) -> None:
    async with relay(files) as receiver:
        receiver.hurry.clear()
        sending = asyncio.create_task(send(by_smtp(receiver.port, files)))
        await receiver.asked.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        receiver.hurry.set()
        await asyncio.wait_for(receiver.hung_up.wait(), 10)
    assert not receiver.offered


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """The key that the webhook's signatures are made with."""
    (tmp_path / "webhook-key").write_text("0123456789abcdef" * 4 + "\n")
    return tmp_path / "webhook-key"


def by_webhook(url: str, key_file: Path) -> Mailer:
    """A mailer that leaves the writing to the product."""
    return Mailer(
        "identity",
        MailSettings(mail_delivery="webhook", mail_webhook_url=url, mail_webhook_secret_file=key_file),
    )


def verified(headers: dict[str, str], body: bytes, key: bytes) -> dict[str, Any]:
    """The event, if its signature is right: what docs/mail.md tells a product to do."""
    signature = dict(part.split("=", 1) for part in headers["guildhall-signature"].split(","))
    expected = hmac.new(key, f"{signature['t']}.".encode() + body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(signature["v1"], expected)
    assert abs(time.time() - int(signature["t"])) < 300
    event = json.loads(body)
    assert isinstance(event, dict)
    return event


async def test_the_product_gets_a_signed_event_in_place_of_a_mail(key_file: Path) -> None:
    with product() as receiver:
        row_id = await send(by_webhook(receiver.url, key_file), to="ⓐda@example.com")

    ((headers, body),) = receiver.received
    assert headers["content-type"] == "application/json"
    assert re.fullmatch(r"t=\d+,v1=[0-9a-f]{64}", headers["guildhall-signature"])
    assert verified(headers, body, bytes.fromhex("0123456789abcdef" * 4)) == {
        "id": row_id,
        "kind": "verify_email",
        "to": ADDRESS,
        "parameters": PARAMETERS | {"asked_at": AS_JSON, "expire_at": AS_JSON, "name": "Ädä Lovelace"},
        "create_time": made_at(row_id).isoformat().replace("+00:00", "Z"),
    }
    with pytest.raises(AssertionError):
        verified(headers, body.replace(b"ada@", b"eve@"), bytes.fromhex("0123456789abcdef" * 4))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (302, WebhookRefused),
        (400, WebhookRefused),
        (500, WebhookRefused),
        (429, PeerUnavailable),
        (503, PeerUnavailable),
    ],
)
async def test_an_event_is_repeated_until_the_answer_is_2xx(
    key_file: Path, status: int, error: type[Exception]
) -> None:
    with product(status, 200) as receiver:
        mailer, row_id = by_webhook(receiver.url, key_file), str(uuid_utils.uuid7())
        with pytest.raises(error):
            await send(mailer, row_id=row_id)
        assert len(receiver.received) == 1, "a redirect was followed"
        await send(mailer, row_id=row_id)
    first, second = (body for _, body in receiver.received)
    assert first == second


async def test_a_product_that_is_away_makes_the_mail_wait(key_file: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(PeerUnavailable):
            await send(by_webhook(f"http://127.0.0.1:{taken.getsockname()[1]}/", key_file))


async def test_a_product_by_https_is_verified_by_the_systems_cas(
    key_file: Path, files: certificates.CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    with product(files=files) as receiver:
        with pytest.raises(PeerUnavailable) as raised:
            await send(by_webhook(receiver.url, key_file))
        assert isinstance(raised.value.__cause__, ssl.SSLCertVerificationError)
        assert not receiver.received
        monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
        await send(by_webhook(receiver.url, key_file))
    assert len(receiver.received) == 1
