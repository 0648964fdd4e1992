"""What mails say: by our templates, by a product's, and whatever people are called."""

import email
import email.policy
from datetime import UTC, datetime, timedelta, timezone
from email.message import EmailMessage
from pathlib import Path

import jinja2
import pytest
import uuid_utils

from services.chassis.mail import OWN, Mailer, made_at
from services.chassis.settings import MailSettings

ROW_ID = str(uuid_utils.uuid7())
ASKED_AT = datetime(2026, 11, 21, 5, 30, tzinfo=timezone(timedelta(hours=2)))
GIVEN = {
    "asked_at": ASKED_AT,
    "expire_at": ASKED_AT,
    "end_at": ASKED_AT,
    "name": "Ada",
    "workspace_name": "Engines",
    "guest_name": "Gus",
    "token": "ghv_the-token",
    "link": "https://example.com/verify-email?a=1&token=ghv_the-token",
}
WITH_TOKEN = {"verify_email", "email_sign_in", "reset_password", "change_email", "invitation"}
KINDS = [
    (service.parent.name, path.name.removesuffix(".subject.txt"))
    for service in sorted(OWN.glob("*/mails"))
    for path in sorted(service.glob("*.subject.txt"))
]


async def sent(folder: Path, service: str, kind: str, **changes: object) -> EmailMessage:
    """A mail as it was written to a file."""
    settings = MailSettings(mail_dir=folder / "mail", mail_templates_dir=changes.pop("templates", None))  # type: ignore[arg-type]
    parameters = GIVEN | changes
    await Mailer(service, settings).send(kind, to="Ada@Example.com", row_id=ROW_ID, parameters=parameters)  # type: ignore[arg-type]
    raw = (folder / "mail" / f"{ROW_ID}.eml").read_bytes()
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    return message


def body(message: EmailMessage, kind: str) -> str:
    """The text ("plain") or the HTML of a mail."""
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content())


def test_every_service_that_writes_mails_has_its_templates() -> None:
    assert {service for service, _ in KINDS} == {"identity", "membership", "guest"}
    assert {kind for _, kind in KINDS} >= WITH_TOKEN | {"known_address", "email_changed", "password_changed"}


@pytest.mark.parametrize(("service", "kind"), KINDS)
async def test_each_mail_has_text_and_html_that_say_the_same(tmp_path: Path, service: str, kind: str) -> None:
    message = await sent(tmp_path, service, kind)

    text, html = body(message, "plain"), body(message, "html")
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert message["To"] == "Ada@Example.com"
    assert message["Message-ID"] == f"<{ROW_ID}@guildhall>"
    assert message["Date"].datetime == made_at(ROW_ID).replace(microsecond=0)
    assert message["Subject"].strip()
    assert html.startswith("<!doctype html>")
    assert "2026-11-21 03:30 UTC" in text
    assert "2026-11-21 03:30 UTC" in html
    assert ("\nToken: ghv_the-token\n" in text) == (kind in WITH_TOKEN)
    assert (f"\n{GIVEN['link']}\n" in text) == (kind in WITH_TOKEN)
    assert ('href="https://example.com/verify-email?a=1&amp;token=ghv_the-token"' in html) == (kind in WITH_TOKEN)


async def test_a_mail_sent_again_is_the_same_file_to_the_byte(tmp_path: Path) -> None:
    await sent(tmp_path, "identity", "verify_email")
    once = {path.name: path.read_bytes() for path in (tmp_path / "mail").iterdir()}
    await sent(tmp_path, "identity", "verify_email")

    assert {path.name: path.read_bytes() for path in (tmp_path / "mail").iterdir()} == once
    assert list(once) == [f"{ROW_ID}.eml"]


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ link }}", "{% include 'x' %}"]
)
async def test_a_hostile_name_stays_text(tmp_path: Path, name: str) -> None:
    message = await sent(tmp_path, "membership", "invitation", workspace_name=name)

    html = body(message, "html")
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("example.com") == 1, "the name was rendered as a template"
    assert f'"{name}"' in body(message, "plain")
    assert message["Subject"] == f"You are invited to {name}"


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r", "\u2028", "\u0085", "\x0b", "\x1b[2J\n", "\x00\n"])
async def test_a_line_break_in_a_name_makes_neither_a_header_nor_a_line(tmp_path: Path, line_break: str) -> None:
    name = f"Engines{line_break}Bcc: eve@example.com{line_break}{line_break}Token: of-eve"

    message = await sent(tmp_path, "membership", "invitation", workspace_name=name)

    assert set(message.keys()) == {
        "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type",
    }  # fmt: skip
    assert message["Subject"].strip().startswith("You are invited to Engines ")
    tokens = [line for line in body(message, "plain").splitlines() if line.startswith("Token:")]
    assert tokens == ["Token: ghv_the-token"]


async def test_a_name_in_any_script_arrives_as_it_is(tmp_path: Path) -> None:
    message = await sent(tmp_path, "membership", "invitation", workspace_name="Команда 👩‍🚀 «Ω»")

    assert message["Subject"] == "You are invited to Команда 👩‍🚀 «Ω»"
    assert "Команда 👩‍🚀 «Ω»" in body(message, "plain")
    assert "Команда 👩‍🚀 «Ω»" in body(message, "html")


async def test_a_products_folder_replaces_file_by_file(tmp_path: Path) -> None:
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "verify_email.subject.txt").write_text("Welcome to Acme, prove it\n")
    (templates / "layout.html").write_text("<!doctype html><b>Acme</b>{% block content %}{% endblock %}")

    replaced = await sent(tmp_path, "identity", "verify_email", templates=templates)
    other = await sent(tmp_path, "identity", "reset_password", templates=templates)

    assert replaced["Subject"] == "Welcome to Acme, prove it"
    assert body(replaced, "html").startswith("<!doctype html><b>Acme</b>")
    assert "Token: ghv_the-token" in body(replaced, "plain"), "what the product has not replaced is ours"
    assert other["Subject"] == "Reset your password"
    assert "<b>Acme</b>" in body(other, "html")


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ nobody_gave_this }}", jinja2.UndefinedError),
        ("{{ ''.__class__.__mro__ }}", jinja2.exceptions.SecurityError),
        ("{% include '../../../secret' %}", jinja2.TemplateNotFound),
    ],
)
async def test_a_template_that_reaches_for_more_than_it_was_given_sends_nothing(
    tmp_path: Path, template: str, error: type[Exception]
) -> None:
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "verify_email.txt").write_text(template)

    with pytest.raises(error):
        await sent(tmp_path, "identity", "verify_email", templates=templates)
    assert not (tmp_path / "mail").exists()

    (templates / "verify_email.txt").write_text("{{ token }}")
    assert body(await sent(tmp_path, "identity", "verify_email", templates=templates), "plain") == "ghv_the-token\n"


async def test_mail_goes_to_the_mailbox_that_is_proven(tmp_path: Path) -> None:
    settings = MailSettings(mail_dir=tmp_path)
    await Mailer("identity", settings).send("verify_email", to="ⓐda@example.com", row_id=ROW_ID, parameters=GIVEN)

    assert "To: ada@example.com\n" in (tmp_path / f"{ROW_ID}.eml").read_text()


def test_the_time_of_a_mail_is_that_of_its_row() -> None:
    assert abs((made_at(str(uuid_utils.uuid7())) - datetime.now(UTC)).total_seconds()) < 60
