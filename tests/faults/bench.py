"""What every scenario works with, and one round of it: conversations, load on them, subscribers to them, a ledger."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.checker import Findings, check
from tests.faults.cluster import Cluster
from tests.faults.histories import read_heads, read_pages, read_table
from tests.faults.ledger import Ledger, Outcome
from tests.faults.load import Load, Manners, Writer
from tests.faults.people import People, Person, join_by_mail, make_channels, make_workspace
from tests.faults.publishers import Publisher
from tests.faults.subscribers import Subscriber, settled

CONVERSATIONS = 6
WRITERS = 4
SUBSCRIBERS = 4
SETTLE_SECONDS = 60.0


@dataclass
class Result:
    """What is reported of a scenario. `detail` holds figures, and examples of what went wrong."""

    rounds: int
    holds: bool
    control_failed: bool
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass
class Bench:
    """The suite, its people, and where progress is told."""

    cluster: Cluster
    people: People
    tell: Callable[[str], None]
    rounds: int
    _ledgers: int = 0

    def ledger(self, name: str) -> Ledger:
        """A new ledger, on file in the data directory."""
        self._ledgers += 1
        return Ledger(self.cluster.folder / f"ledger-{self._ledgers:03}-{name}.jsonl")

    async def home(self) -> tuple[str, Sequence[Person]]:
        """A new workspace and its members, the first of whom is its admin."""
        members = await self.people.take(WRITERS)
        workspace_id = await make_workspace(members[0])
        for member in members[1:]:
            await join_by_mail(self.people, members[0], member, workspace_id)
        return workspace_id, members


class Round:
    """Load and subscribers on conversations of their own. `begin`, break something, heal it, `finish`."""

    def __init__(
        self,
        bench: Bench,
        name: str,
        *,
        workspace_id: str,
        members: Sequence[Person],
        manners: Manners | None = None,
        resumes: bool = True,
        publishes: bool = True,
    ) -> None:
        self.workspace_id = workspace_id
        self.members = members
        self.ledger = bench.ledger(name)
        self.conversation_ids: list[str] = []
        self.subscribers: list[Subscriber] = []
        self.delivered_seconds: float | None = None
        self.writer = Writer(self.ledger, workspace_id=workspace_id, manners=manners)
        self._bench = bench
        self._resumes = resumes
        self._publishes = publishes
        self._load: Load | None = None
        self._publishers: list[Publisher] = []

    async def begin(self) -> None:
        """Opens the streams, then starts to write."""
        await self._bench.people.take(WRITERS)
        self.conversation_ids = await make_channels(self.members[0], self.workspace_id, CONVERSATIONS)
        for number in range(SUBSCRIBERS):
            subscriber = Subscriber(
                f"subscriber {number + 1}",
                self.members[number % len(self.members)],
                self._bench.people.open_channel(),
                workspace_id=self.workspace_id,
                conversation_ids=self.conversation_ids,
                resumes=self._resumes,
            )
            self.subscribers.append(subscriber)
            await subscriber.start()
        self.write()

    def write(self) -> None:
        """Starts to write, or does so again."""
        self._load = Load(self.writer, self.members, self.conversation_ids)
        self._load.start()
        if self._publishes:
            self._publishers = [self.publisher(member, f"publisher {n}") for n, member in enumerate(self.members[:2])]
            for publisher in self._publishers:
                publisher.start()

    def publisher(self, member: Person, name: str, *, burst: int = 0) -> Publisher:
        """Somebody who writes through a stream."""
        return Publisher(
            self.ledger,
            member,
            workspace_id=self.workspace_id,
            conversation_ids=self.conversation_ids,
            name=name,
            burst=burst,
        )

    async def stop_writing(self) -> None:
        """Writes no more; what is under way is brought to its end."""
        if self._load is not None:
            publishers, self._publishers = self._publishers, []
            await asyncio.gather(self._load.stop(), *(publisher.stop() for publisher in publishers))
            self._load = None

    async def finish(self, *, settle_seconds: float = SETTLE_SECONDS) -> Findings:
        """Writes no more, waits for the subscribers, and has the checker look."""
        await self.stop_writing()
        async with await self._bench.cluster.admin() as admin:
            heads = await read_heads(admin, self.conversation_ids)
            self.delivered_seconds = await settled(self.subscribers, heads, seconds=settle_seconds)
            table = await read_table(admin, self.conversation_ids)
        pages = await read_pages(self.members[0], self.workspace_id, self.conversation_ids)
        findings = check(
            self.ledger.writes.values(),
            table=table,
            pages=pages,
            streams={subscriber.name: subscriber.got for subscriber in self.subscribers},
        )
        if self.delivered_seconds is None:
            findings.add("not delivered", f"a subscriber was not at the heads after {settle_seconds:.0f} s")
        for subscriber in self.subscribers:
            if subscriber.resets:
                findings.add("reset", f"{subscriber.name} was reset {subscriber.resets} times")
            await subscriber.stop()
        self.ledger.close()
        return findings


class Tally:
    """The sums of a scenario's rounds, for its report."""

    def __init__(self) -> None:
        self.findings = Findings()
        self.outcomes: Counter[str] = Counter()
        self.breaks: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.delivered_seconds: list[float] = []

    def add(self, round_: Round, findings: Findings) -> None:
        """Takes in a finished round."""
        self.findings.merge(findings)
        for outcome in Outcome:
            self.outcomes[outcome] += round_.ledger.count(outcome)
        for subscriber in round_.subscribers:
            self.breaks.update(subscriber.breaks)
        self.codes.update(round_.writer.codes)
        if round_.delivered_seconds is not None:
            self.delivered_seconds.append(round_.delivered_seconds)

    def detail(self) -> dict[str, Any]:
        """For the report."""
        return {
            "writes": {str(outcome): count for outcome, count in self.outcomes.items() if count},
            "errors_seen": dict(self.codes),
            "stream_breaks": dict(self.breaks),
            "delivered_seconds_worst": round(max(self.delivered_seconds, default=0.0), 3),
            "findings": dict(self.findings.counts),
            "examples": self.findings.examples[:12],
        }
