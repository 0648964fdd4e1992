"""The checker: whether what is stored, read and streamed is what the ledger allows."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.faults.ledger import Outcome, Write

_EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class Stored:
    """One message, as a table, a page or a stream shows it."""

    key: str
    seq: int
    event_seq: int
    message_id: str


Sequences = Mapping[str, Sequence[Stored]]
"""Messages in the order in which they were met, by conversation."""


@dataclass
class Findings:
    """What breaks the demands: how often each, and some of them in words."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, kind: str, what: str) -> None:
        """One more."""
        self.counts[kind] += 1
        if self.counts[kind] <= _EXAMPLES:
            self.examples.append(f"{kind}: {what}")

    def merge(self, other: "Findings") -> None:
        """Adds those of another round."""
        self.counts.update(other.counts)
        self.examples.extend(other.examples)

    def __bool__(self) -> bool:
        return bool(self.counts)


def check(writes: Iterable[Write], *, table: Sequences, pages: Sequences, streams: Mapping[str, Sequences]) -> Findings:
    """Everything that is wrong.

    `pages` is what the API lists, oldest first; `streams` what each subscriber got from the first event on.
    """
    findings, writes = Findings(), list(writes)
    _check_writes(findings, writes, table)
    _check_order(findings, writes, table)
    for conversation_id, stored in table.items():
        _check_numbers(findings, conversation_id, stored)
        _check_equal(findings, "page differs", f"the pages of {conversation_id}", stored, pages[conversation_id])
        for name, sequences in streams.items():
            got = sequences.get(conversation_id, ())
            _check_stream(findings, f"{name}, {conversation_id}", stored, got)
    return findings


def _check_writes(findings: Findings, writes: Iterable[Write], table: Sequences) -> None:
    found: dict[str, list[tuple[str, Stored]]] = {}
    for conversation_id, stored in table.items():
        for message in stored:
            found.setdefault(message.key, []).append((conversation_id, message))
    for write in writes:
        rows = found.pop(write.key, [])
        if len(rows) > 1:
            findings.add("doubled", f"{write.outcome} {write.key} is stored {len(rows)} times")
        if write.outcome is Outcome.ACK and not rows:
            findings.add("lost", f"ACK {write.key} (seq {write.seq}) is not stored")
        elif write.message_id and not any(_is_as_told(write, *row) for row in rows):
            findings.add("not as told", f"ACK {write.key} is not stored as number {write.seq}")
        if write.outcome is Outcome.REFUSED and rows:
            findings.add("refused but stored", write.key)
    for key in found:
        findings.add("nobody wrote it", key)


def _check_order(findings: Findings, writes: Iterable[Write], table: Sequences) -> None:
    """What one stream sent to one conversation is stored in the order in which it was sent, repeated or not."""
    numbers = {message.key: message.seq for stored in table.values() for message in stored}
    latest: dict[tuple[str, str], int] = {}
    for write in writes:
        if write.stream and write.key in numbers:
            lane = write.stream, write.conversation_id
            if numbers[write.key] < latest.get(lane, 0):
                findings.add("out of order", f"{write.key} of {write.stream} is number {numbers[write.key]}")
            latest[lane] = max(numbers[write.key], latest.get(lane, 0))


def _is_as_told(write: Write, conversation_id: str, stored: Stored) -> bool:
    return (conversation_id, stored.message_id, stored.seq) == (write.conversation_id, write.message_id, write.seq)


def _check_numbers(findings: Findings, conversation_id: str, stored: Sequence[Stored]) -> None:
    for position, message in enumerate(stored, start=1):
        if message.seq != position:
            findings.add("hole", f"seq {message.seq} of {conversation_id} stands at place {position}")
            return
    event_seqs = [message.event_seq for message in stored]
    if event_seqs != sorted(set(event_seqs)):
        findings.add("event order", f"event_seq of {conversation_id} does not rise with seq")


def _check_stream(findings: Findings, where: str, stored: Sequence[Stored], got: Sequence[Stored]) -> None:
    met = Counter(message.message_id for message in got)
    for message in stored:
        if not met[message.message_id]:
            findings.add("stream hole", f"{where} misses number {message.seq}")
    for message_id, times in met.items():
        if times > 1:
            findings.add("streamed twice", f"{where} had {message_id} {times} times")
    if len(met) == len(stored) == len(got):
        _check_equal(findings, "stream differs", where, stored, got)
    elif extra := set(met) - {message.message_id for message in stored}:
        findings.add("streamed, not stored", f"{where} had {len(extra)} messages that no table has")


def _check_equal(findings: Findings, kind: str, where: str, want: Sequence[Stored], got: Sequence[Stored]) -> None:
    if list(want) != list(got):
        place = next((i for i, pair in enumerate(zip(want, got, strict=False)) if pair[0] != pair[1]), len(got))
        findings.add(kind, f"{where} from place {place + 1} on ({len(want)} stored, {len(got)} got)")
