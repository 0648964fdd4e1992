"""Cutting PostgreSQL's answer to a COMMIT: the transaction is in force, and whoever asked for it is never told.

Or cutting before the request arrives: then nothing is in force, and the client knows no more than before.

PostgreSQL's protocol, version 3 (documentation, "Message Formats"): after the start-up every message of the server is
a type byte and a length; ReadyForQuery ends each answer and says whether a transaction is open.
"""

import struct
import uuid
from dataclasses import dataclass, field

from tests.faults.tcp_proxy import Cut, Filter

_READY = b"Z"
_COMPLETE = b"C"
_IDLE = b"I"


@dataclass
class CommitCuts:
    """Which transactions lose their answer: the next one that carries an armed id."""

    armed: set[uuid.UUID] = field(default_factory=set)
    cut: list[uuid.UUID] = field(default_factory=list)
    armed_requests: set[uuid.UUID] = field(default_factory=set)
    lost: list[uuid.UUID] = field(default_factory=list)

    def filter(self) -> Filter:
        """For one connection."""
        return _CommitFilter(self)

    def arm(self, message_id: str) -> None:
        """Cuts the answer of the transaction that carries this id, once."""
        self.armed.add(uuid.UUID(message_id))

    def lose(self, message_id: str) -> None:
        """Cuts before the statement that carries this id arrives, once."""
        self.armed_requests.add(uuid.UUID(message_id))


def _carried(keys: set[uuid.UUID], data: bytes) -> set[uuid.UUID]:
    """Those of the ids that are in some bytes, as text or as they are in binary."""
    return {key for key in keys if str(key).encode() in data or key.bytes in data}


class _CommitFilter(Filter):
    """Follows one connection. Replies pass in whole messages, so that what is withheld is withheld whole."""

    def __init__(self, cuts: CommitCuts) -> None:
        self._cuts = cuts
        self._carried: set[uuid.UUID] = set()
        self._tail = b""
        self._pending = b""
        self._command = b""

    def request(self, data: bytes) -> bytes:
        """Notes which armed ids the open transaction carries. Raises `Cut`."""
        if self._cuts.armed or self._cuts.armed_requests:
            seen = self._tail + data
            self._carried |= _carried(self._cuts.armed, seen)
            self._tail = seen[-64:]
            if lost := _carried(self._cuts.armed_requests, seen):
                self._cuts.armed_requests -= lost
                self._cuts.lost += lost
                raise Cut
        return data

    def reply(self, data: bytes) -> bytes:
        """Passes whole messages; cuts where the transaction with an armed id turns out to be committed."""
        self._pending += data
        passed = b""
        while (message := self._next()) is not None:
            kind, body = message[:1], message[5:]
            if kind == _COMPLETE:
                self._command = body
            if kind == _READY and body == _IDLE:
                self._end_of_transaction()
            passed += message
        return passed

    def _end_of_transaction(self) -> None:
        carried, self._carried, self._tail = self._carried & self._cuts.armed, set(), b""
        # A single statement commits by itself, whatever it is called: a SELECT may well contain an INSERT.
        if carried and not self._command.startswith(b"ROLLBACK"):
            self._cuts.armed -= carried
            self._cuts.cut += carried
            raise Cut

    def _next(self) -> bytes | None:
        if len(self._pending) < 5:
            return None
        size = 1 + int(struct.unpack("!I", self._pending[1:5])[0])
        if len(self._pending) < size:
            return None
        message, self._pending = self._pending[:size], self._pending[size:]
        return message
