"""When two spellings of an address are one, and where its mail goes."""

import pytest

from services.chassis import emails
from services.chassis.errors import InvalidRequest


@pytest.mark.parametrize(
    ("written", "normalized"),
    [
        ("Ada@Example.COM", "ada@example.com"),
        ("ａｄａ＠ｅｘａｍｐｌｅ.com", "ada@example.com"),
        ("\u00a0ada@example.com\u2003", "ada@example.com"),
        ("STRASSE@x.de", "strasse@x.de"),
        ("straße@x.de", "strasse@x.de"),
        ("a.d.a+list@example.com", "a.d.a+list@example.com"),
        ("Jo\u0308rg@example.com", "j\u00f6rg@example.com"),
    ],
)
def test_spellings_of_one_address_have_one_form(written: str, normalized: str) -> None:
    assert emails.normalize(written) == normalized
    assert emails.normalize(normalized) == normalized


@pytest.mark.parametrize("letters", ["\u0390", "\u1fb4", "\u0345", "\u01c5", "\ufb03", "\u2126", "\u1e9e", "\u0130"])
def test_the_form_is_a_fixed_point(letters: str) -> None:
    once = emails.normalize(f"a{letters}@example.com")
    assert emails.normalize(once) == once


@pytest.mark.parametrize(
    "written",
    [
        "ada",
        "@example.com",
        "ada@",
        "ada＠b@example.com",
        "ada@exam\u00a0ple.com",
        "ada@example..com",
        "ada@example.com.",
        "ada,bob@example.com",
        "ada<bob@example.com>",
        '"ada"@example.com',
        "a\u200bda@example.com",
        "a\u202eda@example.com",
        "a\x01da@example.com",
        "=?utf-8?q?ada?=@example.com",
        "\ufdfa" * 20 + "@example.com",
    ],
)
def test_what_mail_cannot_be_addressed_to_is_refused_by_field(written: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        emails.normalize(written)
    assert [field for field, _ in refusal.value.fields] == ["email"]
    assert written not in f"{refusal.value} {refusal.value.fields}"


@pytest.mark.parametrize(
    ("written", "mailbox"),
    [
        ("Ada@Example.com", "Ada@Example.com"),
        ("Jörg@example.com", "Jörg@example.com"),
        ("ⓐda@example.com", "ada@example.com"),
        ("ada@straße.de", "ada@strasse.de"),
    ],
)
def test_mail_goes_to_the_mailbox_that_the_unique_form_names(written: str, mailbox: str) -> None:
    assert emails.mailbox(written) == mailbox
