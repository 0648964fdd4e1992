"""Settings of mail: what a way of delivery needs is named at start, and so is a template that does not compile."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.chassis.settings import MailSettings

HOST = {"mail_delivery": "smtp", "smtp_host": "relay.example.com"}


@pytest.fixture
def key(tmp_path: Path) -> str:
    """A file that holds a key."""
    (tmp_path / "key").write_text("ab" * 32 + "\n")
    return str(tmp_path / "key")


def faults(**settings: object) -> dict[str, str]:
    """What is said of each setting that is refused."""
    try:
        MailSettings(**settings)  # type: ignore[arg-type]
    except ValidationError as error:
        return {str(fault["loc"][0]): fault["msg"] for fault in error.errors()}
    return {}


def test_nothing_needs_to_be_set() -> None:
    settings = MailSettings()

    assert (settings.mail_delivery, settings.smtp_port, settings.smtp_starttls) == ("files", 587, True)


@pytest.mark.parametrize(
    ("delivery", "needed"),
    [("smtp", {"smtp_host"}), ("webhook", {"mail_webhook_url", "mail_webhook_secret_file"}), ("files", set())],
)
def test_what_a_delivery_needs_is_named(delivery: str, needed: set[str]) -> None:
    said = faults(mail_delivery=delivery)

    assert set(said) == needed
    assert all("is not set" in what for what in said.values())


def test_a_relay_with_a_user_and_without(key: str) -> None:
    assert not faults(**HOST)
    assert not faults(**HOST, smtp_username="guildhall", smtp_password_file=key)
    assert set(faults(**HOST, smtp_username="guildhall")) == {"smtp_password_file"}
    assert set(faults(**HOST, smtp_password_file=key)) == {"smtp_password_file"}


def test_a_password_is_not_sent_in_clear_but_to_this_machine(key: str) -> None:
    user = {"smtp_username": "guildhall", "smtp_password_file": key, "smtp_starttls": False}

    assert set(faults(**HOST, **user)) >= {"smtp_username"}
    for host in ("localhost", "127.0.0.1", "::1"):
        assert not faults(**{**HOST, "smtp_host": host}, **user)


@pytest.mark.parametrize(
    ("url", "is_sound"),
    [
        ("https://product.example.com/mails", True),
        ("http://127.0.0.1:8000/mails", True),
        ("http://localhost/", True),
        ("http://product.example.com/mails", False),
        ("http://127.0.0.1.example.com/", False),
        ("ftp://127.0.0.1/", False),
        ("https://user:password@product.example.com/", False),
        ("https://product.example.com/a b", False),
        ("https:///mails", False),
        ("product.example.com", False),
    ],
)
def test_a_webhook_is_https_or_on_this_machine(key: str, url: str, is_sound: bool) -> None:
    said = faults(mail_delivery="webhook", mail_webhook_url=url, mail_webhook_secret_file=key)

    assert set(said) == (set() if is_sound else {"mail_webhook_url"})


@pytest.mark.parametrize(
    ("sender", "is_sound"),
    [
        ("no-reply@example.com", True),
        ("Acme <no-reply@example.com>", True),
        ("Acme", False),
        ("a@example.com, b@example.com", False),
        ("Acme <no-reply@example.com>\nBcc: eve@example.com", False),
        ("", False),
    ],
)
def test_the_sender_is_one_address(sender: str, is_sound: bool) -> None:
    assert set(faults(mail_from=sender)) == (set() if is_sound else {"mail_from"})


def test_every_template_that_does_not_compile_is_named(tmp_path: Path) -> None:
    (tmp_path / "verify_email.html").write_text("<p>\n{{ token </p>")
    (tmp_path / "invitation.txt").write_text("{{ token | no_such_filter }}")
    (tmp_path / "layout.html").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "reset_password.txt").write_text("{{ token }}")
    (tmp_path / "logo.svg").write_text("{{ no template")

    said = faults(mail_templates_dir=tmp_path)["mail_templates_dir"]

    assert f"{tmp_path / 'verify_email.html'} line 2" in said
    assert f"{tmp_path / 'invitation.txt'} line 1" in said
    assert f"{tmp_path / 'layout.html'}: cannot be read" in said
    assert "reset_password" not in said
    assert "logo" not in said


def test_a_folder_of_templates_must_be_one(tmp_path: Path) -> None:
    assert "is not a folder" in faults(mail_templates_dir=tmp_path / "absent")["mail_templates_dir"]
    assert not faults(mail_templates_dir=tmp_path)


def test_a_worker_with_a_broken_template_names_it_and_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "verify_email.txt").write_text("{% if %}")
    environment = {"GUILDHALL_MAIL_TEMPLATES_DIR": str(tmp_path), "GUILDHALL_MAIL_DELIVERY": "smtp"}

    ended = subprocess.run(
        [sys.executable, "-m", "services.identity", "worker"],
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": ":".join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert ended.returncode == 2
    said = dict(line.split(": ", 1) for line in ended.stderr.splitlines())
    assert said["GUILDHALL_MAIL_TEMPLATES_DIR"].startswith(f"{tmp_path / 'verify_email.txt'} line 1")
    assert "is not set" in said["GUILDHALL_SMTP_HOST"]
