"""messaging's decision code in a small world, and every way in which access to it can be lost.

The order of steps in each loss is the one that the services promise (architecture.md §5).
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from guildhall.messaging.v1 import event_service_pb2 as events_pb
from guildhall.messaging.v1 import message_service_pb2 as pb

from services.chassis.call import CURRENT
from services.chassis.errors import Fault
from services.chassis.secret import SecretKey
from services.messaging.access import Access
from services.messaging.group_lookups import GroupLookups
from services.messaging.guards import Guard
from services.messaging.guest_sight import Sights
from services.messaging.hub import Hub
from services.messaging.servicers.messages import MessageService
from tests.faults import decided_at_send
from tests.faults.explorer import Schedule, explore
from tests.faults.small_world import CONVERSATION, GROUP, WORKSPACE, World, WorldDatabase, WorldGuests, WorldMembership

Loss = Callable[[World], Awaitable[None]]
Run = tuple[list[str], tuple[bool, list[str]]]
"""A run's trace, whether the message was a secret, and what the reader got."""


class Model:
    """messaging in a small world: its hub, and whatever reaches the reader."""

    def __init__(self, world: World, *, membership: Any = None, hub_class: type[Hub] = Hub) -> None:
        self.world = world
        self.got: list[str] = []
        database: Any = WorldDatabase(world)
        self.database = database
        asked: Any = membership or WorldMembership(world)
        guests: Any = WorldGuests(world)
        groups = GroupLookups(database)
        groups.learn(CONVERSATION, GROUP if world.of_group else "")
        self.access = Access(database, asked, guests, groups)
        self.sights = Sights(database, access=self.access, guests=guests)
        self.guard = Guard(check_sessions=self._all_alive, membership=asked, guests=guests)
        self.hub = hub_class(self.database, access=self.access, guard=self.guard, sights=self.sights)

    async def _all_alive(self, session_ids: Sequence[str], _timeout_seconds: float) -> Sequence[bool]:
        return [True] * len(session_ids)

    async def follow(self) -> None:
        """The reader's stream, from before the first message."""
        try:
            async for frame in self.hub.subscribe(self.world.call(), workspace_id=WORKSPACE, resume={CONVERSATION: 0}):
                response = events_pb.SubscribeResponse.FromString(frame) if isinstance(frame, bytes) else frame
                self.got += [event.message_created.text for event in response.events.events if event.event_seq]
        except Fault:
            pass  # refused: nothing was shown

    async def list_messages(self) -> None:
        """The reader's unary read."""
        anything: Any = None
        service = MessageService(
            self.database,
            SecretKey(b"0" * 32),
            access=self.access,
            membership=anything,
            sights=self.sights,
            changes=anything,
            outgoing=anything,
            publications=set(),
        )
        CURRENT.set(self.world.call())
        request = pb.ListMessagesRequest(workspace_id=WORKSPACE, conversation_id=CONVERSATION)
        with contextlib.suppress(Fault):
            self.got += [message.text for message in (await service.ListMessages(request, None)).messages]


async def removed(world: World) -> None:
    """membership: the member and the revision go in one transaction, then the answer."""
    await world.schedule.turn("loss commits")
    world.is_member = False
    world.access_revision += 1
    await world.schedule.turn("loss is acknowledged")
    world.loss_acknowledged = True


async def channel_revoked(world: World) -> None:
    """guest: its own transaction, then membership's revision, then the answer."""
    await world.schedule.turn("loss commits")
    world.is_granted = False
    await world.schedule.turn("revision is raised")
    world.access_revision += 1
    await world.schedule.turn("loss is acknowledged")
    world.loss_acknowledged = True


async def taken_out(world: World) -> None:
    """messaging: a private conversation's participant and its own revision go in one transaction."""
    await world.schedule.turn("loss commits")
    world.takes_part = False
    world.conversation_revision += 1
    await world.schedule.turn("loss is acknowledged")
    world.loss_acknowledged = True


async def taken_out_of_group(world: World) -> None:
    """membership: the role in the group and the revision go in one transaction. That it is written down comes later."""
    await world.schedule.turn("loss commits")
    world.is_in_group = False
    world.access_revision += 1
    await world.schedule.turn("loss is acknowledged")
    world.loss_acknowledged = True


async def acknowledged_too_early(world: World) -> None:
    """A service that answers before the revision is raised."""
    await world.schedule.turn("loss commits")
    world.is_member = False
    await world.schedule.turn("loss is acknowledged")
    world.loss_acknowledged = True
    await world.schedule.turn("revision is raised")
    world.access_revision += 1


async def send(model: Model) -> None:
    """Somebody else's message: committed, and some time after that the wake-up."""
    if isinstance(model.hub, decided_at_send.Hub):
        await model.hub.decide(CONVERSATION)
    await model.world.schedule.turn("send commits")
    model.world.write("a message")
    await model.world.schedule.turn("send wakes")
    model.hub.wake(CONVERSATION)


class Remembering(WorldMembership):
    """Asks once, and takes the answer for true ever after."""

    async def check_access(self, **question: object) -> Any:
        """The first answer."""
        if not hasattr(self, "_first_verdict"):
            self._first_verdict = await super().check_access(**question)
        return self._first_verdict

    async def access_revision(self, workspace_id: str, *, deadline: float) -> int:
        """The first answer."""
        if not hasattr(self, "_first_revision"):
            self._first_revision = await super().access_revision(workspace_id, deadline=deadline)
        return self._first_revision


class Believing(WorldMembership):
    """Takes whoever is written down as taking part for who is in the group."""

    async def check_in_group(self, **question: object) -> Any:
        """In it, whatever the group says."""
        verdict = await super().check_in_group(**question)
        verdict.in_group = True
        return verdict


class Beginning(Schedule):
    """Before the exploration: whoever comes first goes first, and nothing is noted."""

    def __init__(self) -> None:
        super().__init__(())


async def run_stream(
    schedule: Schedule,
    *,
    loss: Loss | None,
    opens_first: bool = True,
    polls: bool = False,
    watches: bool = False,
    remembers: bool = False,
    believes: bool = False,
    decides_at_send: bool = False,
    **facts: bool,
) -> tuple[bool, list[str]]:
    """One run with a stream that is open already, or opens meanwhile. Returns whether the message was written after the
    acknowledged loss, and what the reader got."""
    world = World(Beginning() if opens_first else schedule, **facts)
    model = Model(
        world,
        membership=Remembering(world) if remembers else Believing(world) if believes else None,
        hub_class=decided_at_send.Hub if decides_at_send else Hub,
    )
    tasks = [asyncio.create_task(model.hub.run()), asyncio.create_task(model.follow())]
    if opens_first:
        await world.schedule.run()
        world.schedule = schedule
    tasks.append(asyncio.create_task(send(model)))
    if loss:
        tasks.append(asyncio.create_task(_later(loss(world))))
    if polls:
        tasks.append(asyncio.create_task(_poll(model)))
    if watches:
        tasks.append(asyncio.create_task(model.hub.watch_access()))
    await schedule.run()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return world.secret, model.got


async def _later(step: Awaitable[None]) -> None:
    await step


async def _poll(model: Model) -> None:
    await model.world.schedule.turn("poll")
    model.hub.wake()


async def run_read(schedule: Schedule, *, loss: Loss, **facts: bool) -> tuple[bool, list[str]]:
    """One run with a unary read; the same."""
    world = World(schedule, **facts)
    model = Model(world)

    async def write() -> None:
        await schedule.turn("send commits")
        world.write("a message")

    tasks = [asyncio.create_task(_later(step)) for step in (loss(world), write(), model.list_messages())]
    await schedule.run()
    await asyncio.gather(*tasks)
    return world.secret, model.got


def leaks(found: Sequence[Run]) -> list[list[str]]:
    """The traces of runs in which a secret reached the reader."""
    return [trace for trace, (secret, got) in found if secret and got]


def delivered(found: Sequence[Run]) -> int:
    """In how many runs the message reached the reader."""
    return sum(bool(got) for _, (_, got) in found)


LOSSES: dict[str, tuple[Loss, dict[str, bool]]] = {
    "member removed": (removed, {}),
    "channel revoked": (channel_revoked, {"reader_is_guest": True}),
    "taken out of a private conversation": (taken_out, {"public": False}),
    "taken out of a group": (taken_out_of_group, {"public": False, "of_group": True}),
}
"""Each loss with the world that it happens in."""


async def explore_all(*, most: int, seconds: float) -> dict[str, dict[str, int]]:
    """Every loss with every way to meet it: how many interleavings there are, and in how many a secret was shown.

    What is not explored when the time is up is left out: `cut` is 1 for such a case.
    """
    over = time.monotonic() + seconds
    ways: dict[str, Callable[..., Awaitable[tuple[bool, list[str]]]]] = {
        "open stream": run_stream,
        "open stream and a poll": functools.partial(run_stream, polls=True),
        "open stream and the watch on access": functools.partial(run_stream, watches=True),
        "stream that is being opened": functools.partial(run_stream, opens_first=False),
        "read": run_read,
    }
    # For guests and groups, which take another question, this would be a hundred thousand and more.
    slowly = functools.partial(run_stream, watches=True, answers_travel=True)
    sums = {}
    for loss_name, (loss, facts) in LOSSES.items():
        asks_more = facts.get("reader_is_guest") or facts.get("of_group")
        answers = {} if asks_more else {"the watch, and answers that travel slowly": slowly}
        for way_name, way in {**ways, **answers}.items():
            found = await explore(functools.partial(way, loss=loss, **facts), most=most, over=over)
            sums[f"{loss_name}, {way_name}"] = {
                "interleavings": len(found),
                "leaks": len(leaks(found)),
                "cut": int(time.monotonic() > over),
            }
    return sums
