"""A world small enough to explore: one conversation, one reader who loses access, one message.

It stands where PostgreSQL, membership and guest stand. Each question is one step in it, as each is one statement or one
transaction of theirs; the code that decides is messaging's own.
"""

import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from guildhall.guest.v1 import guest_access_service_pb2 as guests_pb
from guildhall.guest.v1 import guest_service_pb2
from guildhall.membership.v1 import access_service_pb2 as access_pb
from guildhall.membership.v1 import member_service_pb2 as members_pb

from services.chassis.call import Call
from services.messaging import access, events, messages
from services.messaging.peers import GuestChannels
from tests.faults.explorer import Schedule

WORKSPACE, CONVERSATION = str(uuid.uuid4()), str(uuid.uuid4())
GROUP = str(uuid.uuid4())
READER, READER_MEMBER = str(uuid.uuid4()), str(uuid.uuid4())
WRITER, WRITER_MEMBER = str(uuid.uuid4()), str(uuid.uuid4())
_THEN = datetime(2026, 1, 1, tzinfo=UTC)
_HOUR = 3600.0


@dataclass
class World:
    """What is committed. `reader_is_guest` and `public` are how it begins."""

    schedule: Schedule
    reader_is_guest: bool = False
    public: bool = True
    answers_travel: bool = False
    """True if an answer may be overtaken on its way back."""
    is_member: bool = True
    is_granted: bool = True
    takes_part: bool = True
    of_group: bool = False
    """True for a group's conversation, whose people are written down some time after they changed."""
    is_in_group: bool = True
    access_revision: int = 1
    conversation_revision: int = 1
    texts: list[str] = field(default_factory=list)
    loss_acknowledged: bool = False
    secret: bool = False
    """True if the message was written after the loss was acknowledged."""

    def write(self, text: str) -> None:
        """Commits a message."""
        self.secret = self.loss_acknowledged
        self.texts.append(text)

    async def asked(self, question: str) -> None:
        """A question arrives at a peer, and is answered in the step that begins now."""
        await self.schedule.turn(question)

    async def answered(self, question: str) -> None:
        """The answer arrives."""
        if self.answers_travel:
            await self.schedule.turn(f"{question}: answer")

    def call(self) -> Call:
        """A call of the reader's."""
        return Call(
            rpc="",
            request_id="",
            peer="gateway",
            deadline=time.monotonic() + 60,
            user_id=READER,
            session_id=str(uuid.uuid4()),
        )

    def message_row(self, number: int) -> dict[str, object]:
        """The columns of one message."""
        return {
            "message_id": str(uuid.UUID(int=number)),
            "seq": number,
            "message_event_seq": number,
            "sender_member_id": WRITER_MEMBER,
            "sender_user_id": WRITER,
            "client_message_id": str(uuid.UUID(int=number)),
            "text": self.texts[number - 1],
            "created_at": _THEN,
            "version": 1,
            "deleted_at": None,
            "is_plain": True,
            "reply_to_at": None,
            "reactions": None,
        }


class WorldDatabase:
    """messaging's database: knows the statements that read for streams and pages."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._answers: dict[Any, Callable[[Mapping[str, Any]], list[SimpleNamespace]]] = {
            events.READ: self._read,
            events.SNAPSHOT: self._snapshot,
            events.SIGHTS: self._sights,
            messages.LIST: self._list,
            access.SEEN_AMONG: lambda _parameters: [],
        }

    async def read(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """As Database.read."""
        return await work(self)

    async def scalars(self, statement: Any, parameters: Mapping[str, Any]) -> "Rows":
        """The first column; there is none yet."""
        return await self.execute(statement, parameters)

    async def execute(self, statement: Any, parameters: Mapping[str, Any]) -> "Rows":
        """One statement, when it is its turn."""
        await self._world.schedule.turn("messaging reads")
        return Rows(self._answers[statement](parameters))

    def _read(self, parameters: Mapping[str, Any]) -> list[SimpleNamespace]:
        world, head = self._world, len(self._world.texts)
        position, revision = parameters["positions"][0], parameters["revisions"][0]
        changed = world.conversation_revision > revision
        if head == position and not changed:
            return []
        facts = {
            "conversation_id": CONVERSATION,
            "workspace_id": WORKSPACE,
            "visibility": "public" if world.public else "private",
            "revision": world.conversation_revision,
            "head": head,
            "member_ids": self._member_ids() if changed else None,
            "bytes": 0,
            "together": None,
        }
        found = [
            {"event_seq": number, "event_kind": "message_created", **world.message_row(number)}
            for number in range(position + 1, head + 1)
        ]
        return [SimpleNamespace(**facts, **row) for row in found or [{"event_seq": None}]]

    def _snapshot(self, _parameters: Mapping[str, Any]) -> list[SimpleNamespace]:
        nothing = SimpleNamespace(conversation_id=None, read_at=_THEN)
        sees = self._world.reader_is_guest or self._world.public or self._world.takes_part
        return [self._seen(read_at=_THEN)] if sees else [nothing]

    def _sights(self, _parameters: Mapping[str, Any]) -> list[SimpleNamespace]:
        world = self._world
        if world.reader_is_guest:
            return [self._seen(member_id=None, granted=True)]
        if world.public:
            return [self._seen(member_id=None, granted=False)]
        return [self._seen(member_id=READER_MEMBER, granted=False)] if world.takes_part else []

    def _list(self, _parameters: Mapping[str, Any]) -> list[SimpleNamespace]:
        facts = {"visibility": "public" if self._world.public else "private", "member_ids": self._member_ids()}
        found = [self._world.message_row(number) for number in range(len(self._world.texts), 0, -1)]
        return [SimpleNamespace(**facts, **row) for row in found or [{"message_id": None}]]

    def _seen(self, **more: object) -> SimpleNamespace:
        return SimpleNamespace(
            conversation_id=CONVERSATION,
            workspace_id=WORKSPACE,
            head=len(self._world.texts),
            revision=self._world.conversation_revision,
            created_at=_THEN,
            group_id=GROUP if self._world.of_group else None,
            **more,
        )

    def _member_ids(self) -> list[str]:
        return [READER_MEMBER] if self._world.takes_part and not self._world.reader_is_guest else []


class Rows:
    """What a statement gave."""

    def __init__(self, rows: Sequence[SimpleNamespace]) -> None:
        self._rows = rows

    def all(self) -> Sequence[SimpleNamespace]:
        """All rows."""
        return self._rows

    def __iter__(self) -> Any:
        return iter(self._rows)


class WorldMembership:
    """membership: the verdict and its revision come from one snapshot."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def check_access(self, **_question: object) -> access_pb.AccessVerdict:
        """As peers.Membership.check_access."""
        await self._world.asked("membership decides")
        verdict = self._verdict()
        await self._world.answered("membership decides")
        return verdict

    async def check_in_group(self, **_question: object) -> access_pb.AccessVerdict:
        """As peers.Membership.check_in_group."""
        await self._world.asked("membership decides in the group")
        verdict = self._verdict()
        verdict.in_group = self._world.is_member and self._world.is_in_group
        await self._world.answered("membership decides in the group")
        return verdict

    def _verdict(self) -> access_pb.AccessVerdict:
        world = self._world
        if not world.is_member:
            reason = access_pb.ACCESS_REASON_NOT_A_MEMBER
            return access_pb.AccessVerdict(reason=reason, access_revision=world.access_revision)
        kind = members_pb.MEMBER_KIND_GUEST if world.reader_is_guest else members_pb.MEMBER_KIND_FULL
        return access_pb.AccessVerdict(
            allowed=True,
            reason=access_pb.ACCESS_REASON_ROLE,
            member_id=READER_MEMBER,
            user_id=READER,
            role=members_pb.ROLE_MEMBER,
            kind=kind,
            access_revision=world.access_revision,
        )

    async def access_revision(self, _workspace_id: str, *, deadline: float) -> int:
        """As peers.Membership.access_revision."""
        await self._world.asked("membership tells the revision")
        revision = self._world.access_revision
        await self._world.answered("membership tells the revision")
        return revision


class WorldGuests:
    """guest."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def check(self, **_question: object) -> guests_pb.GuestVerdict:
        """As peers.Guests.check."""
        await self._world.asked("guest decides")
        state = guest_service_pb2.GUEST_STATE_ACTIVE
        verdict = guests_pb.GuestVerdict(state=state, granted=self._world.is_granted)
        await self._world.answered("guest decides")
        return verdict

    async def channels(self, **_question: object) -> GuestChannels:
        """As peers.Guests.channels."""
        await self._world.asked("guest lists channels")
        grants = {CONVERSATION: None} if self._world.is_granted else {}
        await self._world.answered("guest lists channels")
        return GuestChannels(grants=grants, ended=False, holds_until=time.monotonic() + _HOUR)
