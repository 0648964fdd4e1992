"""Which mails identity sends, to whom, and when there is no point in one."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import uuid_utils
from guildhall.identity.v1 import auth_service_pb2 as pb

from services.chassis.mail import made_at
from services.chassis.worker import Work
from services.identity.tasks import Mails
from tests.support.identities import execute, identity, new_address
from tests.support.mails import read, text_of
from tests.support.suite import PASSWORD, Suite, refused

ADD_USER = "INSERT INTO users (id, email, normalized_email, name) VALUES (%(user_id)s, %(email)s, %(email)s, %(name)s)"
ADD_TOKEN = """
    INSERT INTO verification_tokens
        (id, user_id, purpose, token_hash, pending_email, previous_email, created_at, expire_at, used_at)
    VALUES (
        %(id)s, %(user_id)s, %(purpose)s, %(token_hash)s, %(pending_email)s, %(previous_email)s,
        '2026-11-21 03:30:00+00', statement_timestamp() + CAST(%(lasts)s AS interval),
        CASE WHEN %(used)s THEN timestamptz '2026-11-21 04:40:00+00' END
    )
"""
PAGES = {
    "verify_email": "verify-email",
    "email_sign_in": "sign-in",
    "reset_password": "reset-password",
    "change_email": "verify-email",
}


class Desk:
    """identity's works of mail, which write into a folder of this test's own; and somebody who gets mails."""

    def __init__(self, suite: Suite, folder: Path) -> None:
        frame = suite.frames["identity"]
        self.suite = suite
        self.folder = folder
        self.secret = frame.secret
        settings = suite.settings("identity", mail_dir=folder, public_url="https://example.com/")
        self.works: Mapping[str, Work] = Mails(settings, frame.database, frame.secret).works()
        self.user_id = str(uuid.uuid4())
        self.email = f"{self.user_id}@example.com"
        self.execute(ADD_USER, user_id=self.user_id, email=self.email, name="Ada\nLovelace")

    def execute(self, statement: str, **parameters: object) -> None:
        with self.suite.database("identity") as connection:
            connection.execute(statement.encode(), parameters)

    def token(self, purpose: str, *, lasts: str = "1 hour", used: bool = False, **emails: str) -> str:
        """A row of verification_tokens; returns its id."""
        token_id = str(uuid.uuid4())
        row: dict[str, Any] = {"pending_email": None, "previous_email": None, **emails}
        row |= {"user_id": None if purpose == "unknown_address" else self.user_id}
        self.execute(
            ADD_TOKEN, id=token_id, token_hash=uuid.uuid4().bytes, purpose=purpose, lasts=lasts, used=used, **row
        )
        return token_id

    async def mail(self, kind: str, subject_id: str, *, to: str | None = None) -> str | None:
        """Does the work; the text of the mail to an address, None if none was written."""
        row_id = str(uuid_utils.uuid7())
        await self.works[f"mail.{kind}"](subject_id, row_id)
        path = self.folder / f"{row_id}.eml"
        if not path.exists():
            return None
        message = read(path.read_bytes())
        return text_of(message) if message["To"] == (to or self.email) else None


@pytest.fixture
def desk(suite: Suite, tmp_path: Path) -> Desk:
    return Desk(suite, tmp_path / "mails")


def emails_of(purpose: str) -> dict[str, str]:
    """The columns that a purpose needs beside the others."""
    return {"pending_email": f"new-{uuid.uuid4().hex}@example.com"} if purpose == "change_email" else {}


@pytest.mark.parametrize("purpose", PAGES)
async def test_a_token_is_mailed_to_the_address_that_it_proves(desk: Desk, purpose: str) -> None:
    emails = emails_of(purpose)
    token_id = desk.token(purpose, **emails)

    text = await desk.mail(purpose, token_id, to=emails.get("pending_email"))

    token = desk.secret.token("ghv", token_id)
    assert text is not None
    assert f"\nToken: {token}\n" in text
    assert f"\nhttps://example.com/{PAGES[purpose]}?token={token}\n" in text
    assert "2026-11-21 03:30 UTC" in text


@pytest.mark.parametrize("purpose", PAGES)
@pytest.mark.parametrize("ended", [{"lasts": "0 seconds"}, {"used": True}])
async def test_a_token_that_is_good_for_nothing_is_not_mailed(desk: Desk, purpose: str, ended: dict[str, Any]) -> None:
    assert await desk.mail(purpose, desk.token(purpose, **emails_of(purpose), **ended)) is None
    assert not desk.folder.exists()


@pytest.mark.parametrize("purpose", [*PAGES, "known_address"])
async def test_nothing_is_mailed_about_a_token_that_is_gone_or_has_another_purpose(desk: Desk, purpose: str) -> None:
    other = "known_address" if purpose in PAGES else "verify_email"

    assert await desk.mail(purpose, str(uuid.uuid4())) is None
    assert await desk.mail(purpose, desk.token(other)) is None
    assert not desk.folder.exists()


async def test_a_known_address_hears_of_it_without_a_token(desk: Desk) -> None:
    text = await desk.mail("known_address", desk.token("known_address"))

    assert text is not None
    assert "2026-11-21 03:30 UTC" in text
    assert "oken" not in text


@pytest.mark.parametrize("is_proven", [True, False])
async def test_whoever_has_an_address_is_told_that_somebody_wants_it_and_gets_no_token(
    desk: Desk, is_proven: bool
) -> None:
    holder_id, address = str(uuid.uuid4()), f"holder-{uuid.uuid4().hex}@example.com"
    desk.execute(ADD_USER, user_id=holder_id, email=address, name="Bob")
    if is_proven:
        desk.execute("UPDATE users SET email_verified_at = now() WHERE id = %(user_id)s", user_id=holder_id)
    token_id = desk.token("change_email", pending_email=address.upper())

    text = await desk.mail("change_email", token_id, to=address if is_proven else address.upper())

    assert text is not None
    assert "2026-11-21 03:30 UTC" in text
    assert ("oken" not in text) == is_proven


async def test_an_unknown_address_gets_nothing(desk: Desk) -> None:
    assert await desk.mail("unknown_address", desk.token("unknown_address")) is None
    assert not desk.folder.exists()


async def test_the_old_address_is_told_of_a_change_once_it_is_made(desk: Desk) -> None:
    emails = emails_of("change_email")
    token_id = desk.token("change_email", **emails)
    assert await desk.mail("email_changed", token_id) is None

    old = f"old-{uuid.uuid4().hex}@example.com"
    used_id = desk.token("change_email", used=True, previous_email=old, **emails)
    text = await desk.mail("email_changed", used_id, to=old)

    assert text is not None
    assert "2026-11-21 04:40 UTC" in text
    assert emails["pending_email"] not in text


async def test_a_changed_password_is_told_to_its_user_with_the_time_of_the_change(desk: Desk) -> None:
    text = await desk.mail("password_changed", desk.user_id)

    (path,) = desk.folder.iterdir()
    assert text is not None
    assert f"{made_at(path.stem):%Y-%m-%d %H:%M} UTC" in text
    assert await desk.mail("password_changed", str(uuid.uuid4())) is None


async def test_the_words_of_whoever_signed_up_do_not_reach_the_owner_of_the_address(
    suite: Suite, tmp_path: Path
) -> None:
    templates = tmp_path / "templates"
    templates.mkdir()
    for kind in ("verify_email", "reset_password"):
        (templates / f"{kind}.txt").write_text("{{ name is defined }} {{ name if name is defined }}")
    desk = Desk(suite, tmp_path / "mails")
    frame = suite.frames["identity"]
    settings = suite.settings("identity", mail_dir=desk.folder, mail_templates_dir=templates)
    desk.works = Mails(settings, frame.database, frame.secret).works()

    assert await desk.mail("verify_email", desk.token("verify_email")) == "False \n"
    assert await desk.mail("reset_password", desk.token("reset_password")) == "True Ada Lovelace\n"


@pytest.mark.parametrize("rpc", ["SignUp", "StartEmailSignIn", "ResendVerification", "RequestPasswordReset"])
async def test_a_call_that_is_repeated_spends_one_mail(suite: Suite, rpc: str) -> None:
    address, key = new_address(), str(uuid.uuid4())
    fields = {"password": PASSWORD, "name": "Ada"} if rpc == "SignUp" else {}
    counted = "SELECT count(*) FROM verification_tokens"
    async with identity(suite, mails_per_address=2) as (_, auth):

        async def ask(email: str = address, **more: str) -> Any:
            request = getattr(pb, f"{rpc}Request")(email=email, **fields, **more)
            return await getattr(auth, rpc)(request, timeout=10)

        [(before,)] = execute(suite, counted)
        for _ in range(4):
            await ask(request_id=key)
        assert execute(suite, counted) == [(before + 1,)]
        await ask()
        assert execute(suite, counted) == [(before + 2,)]
        # Also when there is no mail left: the same answer, and another body is refused.
        await ask()
        await ask(request_id=key)
        assert execute(suite, counted) == [(before + 2,)]
        assert (await refused(ask(address.upper(), request_id=key))).reason == "IDEMPOTENCY_MISMATCH"
