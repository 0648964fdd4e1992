"""The ledger: what a client meant to write, and what it was told.

Each write has a key, which its text begins with: so a row is traced to its write whatever id it was sent under.
A line is on file before the call it is about, as a client that dies in mid-call would have it.
"""

import json
import uuid
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Outcome(StrEnum):
    """What a client knows of a write."""

    INTENT = "INTENT"
    """It is under way; if nothing follows, the same as UNKNOWN."""
    ACK = "ACK"
    UNKNOWN = "UNKNOWN"
    """The last answer was lost or is worth a retry, and the client gave up."""
    REFUSED = "REFUSED"
    """Every answer was a refusal, so nothing may have been written."""


@dataclass(slots=True)
class Write:
    """One line of thought of a client."""

    key: str
    conversation_id: str
    stream: str = ""
    """Which PublishMessages client it went through: what one of them sends keeps its order."""
    outcome: Outcome = Outcome.INTENT
    message_id: str = ""
    seq: int = 0

    @property
    def text(self) -> str:
        """What is sent."""
        return f"{self.key} written by the ledger"


class Ledger:
    """Every write of one round, in memory and as a file of JSON lines."""

    def __init__(self, file: Path) -> None:
        self.writes: dict[str, Write] = {}
        self._file = file.open("a", buffering=1)

    def intend(self, conversation_id: str, *, stream: str = "") -> Write:
        """A new write, about to be sent."""
        write = Write(str(uuid.uuid4()), conversation_id, stream)
        self.writes[write.key] = write
        self._log(write)
        return write

    def acknowledge(self, write: Write, *, message_id: str, seq: int) -> None:
        """The service said that it is stored, and as what."""
        write.message_id, write.seq = message_id, seq
        self.settle(write, Outcome.ACK)

    def settle(self, write: Write, outcome: Outcome) -> None:
        """Nothing more will be tried."""
        write.outcome = outcome
        self._log(write)

    def count(self, outcome: Outcome) -> int:
        """How many writes ended so."""
        return sum(write.outcome is outcome for write in self.writes.values())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _log(self, write: Write) -> None:
        line = {"outcome": write.outcome, "key": write.key, "conversation": write.conversation_id, "seq": write.seq}
        self._file.write(json.dumps(line) + "\n")


def key_of(text: str) -> str:
    """The key that a text begins with."""
    return text.partition(" ")[0]
