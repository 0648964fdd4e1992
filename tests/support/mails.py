"""The mails of a folder, each file read once: thousands of tests look into the same one."""

import email
import email.policy
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
        for path in self._folder.glob("*.eml"):
            if path.name not in self._known:
                self._known.add(path.name)
                raw = path.read_bytes()
                self._raw[str(read(raw.partition(b"\n\n")[0])["To"])].append((path.name, raw))
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
