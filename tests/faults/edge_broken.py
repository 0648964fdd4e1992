"""F6: each edge of the suite becomes a black hole for some seconds, then is reset again and again, under load.

Where an edge carries permission, nobody may be let in while it is a hole; without Valkey nothing may stop; and all is
as before ten seconds after. Control: messaging remembers what membership has said.
"""

import asyncio
import itertools
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from guildhall.guest.v1 import guest_invite_service_pb2 as invites
from guildhall.guest.v1 import guest_invite_service_pb2_grpc as invites_rpc
from guildhall.guest.v1 import guest_service_pb2 as guests
from guildhall.guest.v1 import guest_service_pb2_grpc as guests_rpc
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc as users_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as members_rpc
from guildhall.messaging.v1 import message_service_pb2 as messages
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc

from deploy.stack.settings import SERVICES
from tests.faults.bench import WRITERS, Bench, Result, Round, Tally
from tests.faults.edges import VALKEY, Edge, proxied
from tests.faults.people import Person, join_by_link, make_channels, make_guest_link
from tests.faults.tcp_proxy import Mode
from tests.support.deliveries import until

MOST_SECONDS = 10.0
_HOLE_SECONDS = 3.0
_RESETS = 15
_CALL_SECONDS = 1.5
_PAUSE_SECONDS = 0.05
_IN_A_ROW = 6
"""So many answers one after the other: both replicas have found what they lost."""
_GIVE_UP_SECONDS = 30.0

Ask = Callable[[Person], Awaitable[Any]]


@dataclass
class Asker:
    """Asks one question again and again, and knows when it was answered."""

    ask: Callable[[], Awaitable[Any]]
    answered: list[tuple[float, float]] = field(default_factory=list)
    """When each question that was answered was asked, and when the answer came."""
    _in_a_row: int = 0
    _since: float = 0.0
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ends."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def between(self, since: float, until: float) -> int:
        """How many questions that were asked and answered in that time."""
        return sum(since <= begun and ended <= until for begun, ended in self.answered)

    async def recovered(self, since: float) -> float:
        """How long after a moment the first of some answers in a row came."""
        self._in_a_row = 0
        try:
            await until(lambda: self._in_a_row >= _IN_A_ROW, seconds=_GIVE_UP_SECONDS)
        except TimeoutError:
            return _GIVE_UP_SECONDS
        return self._since - since

    async def _run(self) -> None:
        while True:
            begun = time.monotonic()
            try:
                await self.ask()
                self.answered.append((begun, time.monotonic()))
                self._since = self._since if self._in_a_row else time.monotonic()
                self._in_a_row += 1
            except grpc.aio.AioRpcError:
                self._in_a_row = 0
            await asyncio.sleep(_PAUSE_SECONDS)


@dataclass
class _Edges:
    """What was seen at the edges."""

    let_through: dict[str, int] = field(default_factory=dict)
    strangers: dict[str, int] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    recovery_seconds: dict[str, float] = field(default_factory=dict)

    def detail(self) -> dict[str, Any]:
        """For the report."""
        return {
            "edges": len(self.recovery_seconds),
            "let_through": {name: count for name, count in self.let_through.items() if count},
            "strangers_let_in": {name: count for name, count in self.strangers.items() if count},
            "stopped_without_valkey": self.stopped,
            "recovery_seconds_worst": round(max(self.recovery_seconds.values(), default=0.0), 2),
            "recovery_seconds_goal": MOST_SECONDS,
            "recovery_seconds": {name: round(value, 2) for name, value in self.recovery_seconds.items()},
        }

    @property
    def holds(self) -> bool:
        """Whether all of it is as it must be."""
        is_closed = not any((*self.let_through.values(), *self.strangers.values()))
        return is_closed and not self.stopped and max(self.recovery_seconds.values()) <= MOST_SECONDS


class _House:
    """A workspace with a guest, and a stranger; and what they ask."""

    def __init__(self, round_: Round, guest: Person, stranger: Person) -> None:
        self.member = round_.members[0]
        self.guest = guest
        self.stranger = stranger
        self._place = {"workspace_id": round_.workspace_id}
        self._turns = itertools.cycle((self._send, self._read))

    @classmethod
    async def make(cls, bench: Bench, round_: Round) -> "_House":
        """With a channel of its own: who checks the round's knows all that was written there."""
        guest, stranger = (await bench.people.take(WRITERS + 2))[WRITERS:]
        self = cls(round_, guest, stranger)
        (self._place["conversation_id"],) = await make_channels(self.member, round_.workspace_id, 1)
        link = await make_guest_link(self.member, round_.workspace_id, self._place["conversation_id"])
        await join_by_link(guest, link)
        return self

    def only_read(self) -> None:
        """For the control: what a batch of writes is told is not remembered, and each would wait its whole time."""
        self._turns = itertools.cycle((self._read,))

    def question(self, edge: Edge) -> tuple[Person, Ask]:
        """Who asks what, that cannot be answered without this edge."""
        of_service: Mapping[str, Ask] = {
            "identity": self._get_user,
            "membership": self._list_members,
            "guest": self._get_policy,
            "messaging": self._write_or_read,
        }
        if edge.other == "guest":
            return self.guest, of_service[edge.service]
        if (edge.service, edge.other) == ("guest", "messaging"):
            return self.member, self._invite
        return self.member, of_service[edge.service]

    async def _get_user(self, person: Person) -> Any:
        return await person.call(users_rpc.UserServiceStub, "GetUser", users.GetUserRequest(), seconds=_CALL_SECONDS)

    async def _list_members(self, person: Person) -> Any:
        request = members.ListMembersRequest(workspace_id=self._place["workspace_id"], page_size=1)
        return await person.call(members_rpc.MemberServiceStub, "ListMembers", request, seconds=_CALL_SECONDS)

    async def _get_policy(self, person: Person) -> Any:
        request = guests.GetGuestPolicyRequest(workspace_id=self._place["workspace_id"])
        return await person.call(guests_rpc.GuestServiceStub, "GetGuestPolicy", request, seconds=_CALL_SECONDS)

    async def _write_or_read(self, person: Person) -> Any:
        """In turn: a write asks in its batch, a read for itself."""
        return await next(self._turns)(person)

    async def _read(self, person: Person) -> Any:
        request = messages.ListMessagesRequest(**self._place, page_size=1)
        return await person.call(messages_rpc.MessageServiceStub, "ListMessages", request, seconds=_CALL_SECONDS)

    async def _send(self, person: Person) -> Any:
        request = messages.SendMessageRequest(**self._place, client_message_id=str(uuid.uuid4()), text="hello")
        return await person.call(messages_rpc.MessageServiceStub, "SendMessage", request, seconds=_CALL_SECONDS)

    async def _invite(self, person: Person) -> Any:
        request = invites.CreateGuestInviteRequest(
            workspace_id=self._place["workspace_id"],
            conversation_ids=[self._place["conversation_id"]],
            guest_ttl=Duration(seconds=60),
        )
        return await person.call(
            invites_rpc.GuestInviteServiceStub, "CreateGuestInvite", request, seconds=_CALL_SECONDS
        )


async def run(bench: Bench) -> Result:
    """Nobody is let through, and everything comes back."""
    found, tally = _Edges(), Tally()
    async with proxied(bench) as edges:
        for number in range(bench.rounds):
            for service in SERVICES:
                bench.tell(f"round {number + 1} of {bench.rounds}: the edges of {service}")
                asked = [edge for edge in edges if edge.service == service and not _is_for_events(edge)]
                round_, house = await _begin(bench, "F6")
                for edge in asked:
                    await _break(edge, house, found)
                tally.add(round_, await round_.finish())
    let_through = await _control(bench)
    return Result(
        rounds=bench.rounds,
        holds=found.holds and not tally.findings,
        control_failed=let_through > 0,
        detail={
            **found.detail(),
            **tally.detail(),
            "control": {"protection_off": "membership is asked afresh", "let_through": let_through},
        },
    )


def _is_for_events(edge: Edge) -> bool:
    """Whether an edge carries nothing that a caller waits for: identity asks nobody, and membership not messaging."""
    to_peer = edge.other in SERVICES
    return to_peer and (edge.service == "identity" or (edge.service, edge.other) == ("membership", "messaging"))


async def _begin(bench: Bench, name: str) -> tuple[Round, _House]:
    workspace_id, team = await bench.home()
    round_ = Round(bench, name, workspace_id=workspace_id, members=team)
    house = await _House.make(bench, round_)
    await round_.begin()
    return round_, house


async def _break(edge: Edge, house: _House, found: _Edges, *, alone: bool = False) -> None:
    """`alone` is without a stranger who asks beside them."""
    person, ask = house.question(edge)
    asker, stranger = Asker(lambda: ask(person)), Asker(lambda: ask(house.stranger))
    asker.start()
    if edge.service != "identity" and not alone:  # there everybody asks about themselves
        stranger.start()
    await asker.recovered(time.monotonic())
    begun = time.monotonic()
    _set(edge, Mode.BLACK_HOLE)
    await asyncio.sleep(_HOLE_SECONDS)
    # Before it is closed: what had waited in it comes out then.
    answered = asker.between(begun, time.monotonic())
    _set(edge, Mode.PASS)
    recovery = await asker.recovered(time.monotonic())
    for _ in range(_RESETS):
        for proxy in edge.proxies:
            proxy.reset()
        await asyncio.sleep(0.1)
    recovery = max(recovery, await asker.recovered(time.monotonic()))
    await asyncio.gather(asker.stop(), stranger.stop())
    if edge.other == VALKEY:
        found.stopped += [] if answered else [edge.name]
    else:
        found.let_through[edge.name] = found.let_through.get(edge.name, 0) + answered
    found.strangers[edge.name] = found.strangers.get(edge.name, 0) + len(stranger.answered)
    found.recovery_seconds[edge.name] = max(found.recovery_seconds.get(edge.name, 0.0), recovery)


def _set(edge: Edge, mode: Mode) -> None:
    for proxy in edge.proxies:
        proxy.set_mode(mode)


async def _control(bench: Bench) -> int:
    """How many messages are taken while membership cannot be asked."""
    bench.tell("control: what membership has said is remembered")
    async with proxied(bench, "messaging", launcher=("--without", "fresh_access")) as edges:
        edge = next(edge for edge in edges if edge.other == "membership")
        round_, house = await _begin(bench, "F6-control")
        await round_.stop_writing()
        house.only_read()
        found = _Edges()
        await _break(edge, house, found, alone=True)
        await round_.finish(settle_seconds=10)
    return sum(found.let_through.values())
