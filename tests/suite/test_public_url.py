"""The product's site, where links in mails lead: explained by the gateway until it is named, and used once it is."""

import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.suite.conftest import Running, booted, new_folder
from tests.support.json_api import mailed_token
from tests.support.mails import MailFolder

SITE = "https://app.example.com"
PASSWORD = "a long enough password"


@pytest.fixture(scope="module")
def named() -> Iterator[Running]:
    """A suite that was told of a site."""
    with new_folder("site") as folder, booted(folder, GUILDHALL_PUBLIC_URL=SITE) as suite:
        yield suite


def mail_to_who_signs_up(suite: Running, address: str) -> str:
    """The text of the mail that proves an address."""
    body = {"email": address, "password": PASSWORD, "name": "Ada", "requestId": str(uuid.uuid4())}
    httpx.post(f"http://{suite.gateway}/v1/auth:signUp", json=body, trust_env=False, timeout=10).raise_for_status()
    mailed_token(suite.settings.layout.mail, address, "prove")
    return MailFolder(suite.settings.layout.mail).texts(address)[0]


def link_in(mail: str) -> str:
    (link,) = re.findall(r"^\s*(https?://\S+)$", mail, re.MULTILINE)
    return link


def test_who_clicks_before_there_is_a_site_is_told_what_to_do_and_the_link_stays_good(running: Running) -> None:
    link = link_in(mail_to_who_signs_up(running, f"ada-{uuid.uuid4().hex[:8]}@example.com"))
    token = link.partition("?token=")[2]
    answer = httpx.get(link, trust_env=False, timeout=10)
    (path,) = re.findall(r"https://GATEWAY(/\S+)", answer.text)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "guildhall.identity.v1.AuthService/VerifyEmail" in answer.text
    assert token not in answer.text
    called = httpx.post(f"http://{running.gateway}{path}", json={"token": token}, trust_env=False, timeout=10)
    assert called.status_code == 200, called.text


def test_no_token_of_a_link_is_logged(running: Running) -> None:
    token = f"ghv_{uuid.uuid4().hex}"
    base = f"http://{running.gateway}"
    seen = httpx.get(f"{base}/reset-password?token={token}", trust_env=False, timeout=10).headers["x-request-id"]
    log = running.settings.layout.logs / "envoy.log"
    _until_logged(log, seen)

    assert "/reset-password" in log.read_text()
    logs = running.settings.layout.logs.glob("*.log")
    assert [path.name for path in logs if token in path.read_text(errors="replace")] == []


def test_links_lead_to_the_site_that_was_named(named: Running) -> None:
    link = link_in(mail_to_who_signs_up(named, "ada@example.com"))

    assert link.startswith(f"{SITE}/verify-email?token=")


@pytest.mark.parametrize(("origin", "is_let_in"), [(SITE, True), ("https://other.example.com", False)])
def test_the_sites_own_pages_may_call_the_gateway(origin: str, is_let_in: bool, named: Running) -> None:
    asked = {"origin": origin, "access-control-request-method": "POST"}
    answer = httpx.options(f"http://{named.gateway}/v1/auth:signIn", headers=asked, trust_env=False)

    assert answer.headers.get("access-control-allow-origin") == (origin if is_let_in else None)


def test_the_command_goes_on_calling_the_gateway(named: Running) -> None:
    assert named.token("grace@example.com")
    assert named.guildhall("status").returncode == 0
    doctor = named.guildhall("doctor", "--least-free-gib", "0")
    assert f"http://{named.gateway}" in doctor.stdout


def _until_logged(log: Path, request_id: str) -> None:
    deadline = time.monotonic() + 30
    while request_id not in log.read_text():
        assert time.monotonic() < deadline, "the call is not in the log"
        time.sleep(0.1)
