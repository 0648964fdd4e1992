"""The mails of a folder, each file read once: thousands of tests look into the same one."""

import email
import email.policy
import os
from collections import defaultdict
from email.message import EmailMessage
from pathlib import Path


class MailFolder:
    """What was written so far, by the address it went to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: set[str] = set()
        self._raw: defaultdict[str, list[tuple[str, bytes]]] = defaultdict(list)

    def to(self, address: str) -> list[EmailMessage]:
        """The mails to an address, oldest first: their names are UUIDv7."""
        # The names alone: a folder of thousands is looked into again every few milliseconds.
        for name in set(os.listdir(self._folder)) - self._known:
            if name.endswith(".eml"):
                self._known.add(name)
                raw = (self._folder / name).read_bytes()
                self._raw[str(read(raw.partition(b"\n\n")[0])["To"])].append((name, raw))
        return [read(raw) for _, raw in sorted(self._raw[address])]

    def texts(self, address: str) -> list[str]:
        """Their texts."""
        return [text_of(message) for message in self.to(address)]


def read(raw: bytes) -> EmailMessage:
    """A mail from its bytes."""
    return email.message_from_bytes(raw, policy=email.policy.default)


def text_of(message: EmailMessage) -> str:
    """The text of a mail, not its HTML."""
    body = message.get_body(("plain",))
    assert body is not None, "the mail has no text"
    return str(body.get_content())
