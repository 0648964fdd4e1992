"""Whatever a guest asks of whatever RPC, nothing comes back but what they share.

The RPCs are found from the contracts, and the requests made from their rules: one that is new is asked without anybody
adding it here. What comes back is gone through text by text. `GUILDHALL_TEST_WORLDS=3` looks at as many worlds instead
of two, of which the guest shares a channel with the admin in one.
"""

import asyncio
import os
import random
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from services.chassis import contracts
from services.guest.visibility import Seen, Visibility
from tests.support.guest_worlds import Soul, World, populate
from tests.support.reflected import Requests, answers, do, let_in, mutates, texts
from tests.support.suite import Suite

AT_ONCE = 12
PLACES = 6
TRIES = 5
STREAM_SECONDS = 0.5
WORLDS = int(os.environ.get("GUILDHALL_TEST_WORLDS", "2"))

SHOWN_TO_MEMBERS = {
    "ListMembers",
    "GetMember",
    "GetGroup",
    "ListGroups",
    "ListGroupMembers",
    "ListUserGroups",
    "GetUserGroup",
    "ListConversations",
    "GetConversation",
    "ListParticipants",
    "ListMessages",
    "GetMessage",
    "SearchMessages",
    "ListReactions",
    "ListReadStates",
    "ListFiles",
    "GetFile",
    "Subscribe",
    "DownloadFile",
}
"""Some of the RPCs that tell a full member what the guest does not share."""


class Eyes:
    """Somebody who asks everything, and what they were told that they must not know."""

    def __init__(self, world: World, soul: Soul, *, most: int) -> None:
        """`most` is how many values are tried in each field."""
        self.world = world
        self.soul = soul
        self.leaks: list[str] = []
        self.unasked: list[str] = []
        self._most = most
        self._chance = random.Random(world.chance.random())
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def look(self, rpc: contracts.Rpc) -> None:
        """Asks one RPC all that there is to ask."""
        made = list(self._requests(rpc))
        if not made:
            self.unasked.append(rpc.name)
        await asyncio.gather(*(self._ask(rpc, request, given) for request, given in made))

    def _requests(self, rpc: contracts.Rpc) -> Iterator[tuple[Message, str]]:
        pool = self.world.pool
        if mutates(rpc):
            # A text of somebody else's that the guest writes down themselves would come back as theirs.
            pool = {key: values for key, values in pool.items() if key.endswith("_id")}
        requests = Requests(pool, self._chance)
        places = self._places()
        variants: list[tuple[dict[str, str], str]] = [(place, "") for place in places]
        names = dict.fromkeys(requests.named(contracts.request_class(rpc).DESCRIPTOR))  # type: ignore[attr-defined]
        for name in names:
            values = requests.values(name)
            for value in self._chance.sample(list(values), min(self._most, len(values))):
                variants.append(({**self._chance.choice(places), name: value}, value))
        for given, value in variants:
            request = requests.one(rpc, given)
            if request is not None:
                yield request, value

    def _places(self) -> list[dict[str, str]]:
        """Some of what there is, and some of it the guest's: what they may ask about is answered."""
        shared = [place for place in self.world.places if place["conversation_id"] in self.world.shared]
        others = [place for place in self.world.places if place not in shared]
        return self._chance.sample(shared, PLACES // 2) + self._chance.sample(others, PLACES // 2)

    async def _ask(self, rpc: contracts.Rpc, request: Message, value: str) -> None:
        async with self._gate:
            told = await self._told(rpc, request)
            if value and value in self.world.hidden(set()) and not mutates(rpc) and not rpc.server_streaming:
                await self._compare(rpc, request, value, told)

    async def _told(self, rpc: contracts.Rpc, request: Message) -> tuple[list[bytes], bytes]:
        messages, refusal, raw = await answers(self.world.suite, self.soul.person, rpc, request, seconds=STREAM_SECONDS)
        whole = "\n".join([*refusal, *(text for message in messages for text in texts(message))])
        for mark, what in self.world.hidden(set(texts(request))).items():
            if mark in whole:
                self.leaks.append(f"{rpc.name}: {what}")
        for message in messages:
            # Sealed for the request that it continues, so that only whether there is one can tell anything.
            if getattr(message, "next_page_token", ""):
                message.next_page_token = "more"
        return [message.SerializeToString(deterministic=True) for message in messages], raw

    async def _compare(self, rpc: contracts.Rpc, request: Message, value: str, told: Any) -> None:
        """What is hidden and what is unknown give the same bytes."""
        if not _is_id(value):
            return
        unknown = str(uuid.uuid4())
        other = type(request).FromString(request.SerializeToString().replace(value.encode(), unknown.encode()))
        for _ in range(TRIES):
            answer, raw = await self._told(rpc, other)
            spelled = [part.replace(unknown.encode(), value.encode()) for part in answer]
            if (spelled, raw) == told:
                return
            # A search that ran out of time ends its page early: what differs for that does not differ each time.
            told = await self._told(rpc, request)
        self.leaks.append(f"{rpc.name}: hidden differs from unknown: {self.world.marks[value]}")


def _is_id(value: str) -> bool:
    try:
        return str(uuid.UUID(value)) == value
    except ValueError:
        return False


def reads() -> list[contracts.Rpc]:
    return [rpc for rpc in let_in() if not mutates(rpc)]


async def is_whole(world: World, soul: Soul) -> bool:
    """Whether what a guest did has left them what they had."""
    name = "messaging.ConversationService/ListConversations"
    try:
        seen = (await do(world.suite, soul.person, name, workspace_id=world.workspace_id)).conversations
    except grpc.aio.AioRpcError:
        return False
    return set(world.granted) <= {conversation.conversation_id for conversation in seen}


@contextmanager
def a_predicate_that_leaks() -> Iterator[None]:
    """Guests see whoever is asked about."""
    true = Visibility.among

    async def everybody(self: Visibility, guest: Any, candidate_member_ids: Collection[str]) -> list[Seen]:
        return [Seen(member_id, "") for member_id in candidate_member_ids]

    Visibility.among = everybody  # type: ignore[method-assign]
    try:
        yield
    finally:
        Visibility.among = true  # type: ignore[method-assign]


@pytest.mark.parametrize("seed", range(1, 1 + WORLDS))
async def test_no_rpc_tells_a_guest_of_anything_they_do_not_share(suite: Suite, seed: int) -> None:
    world = World(suite, seed)
    guest = await populate(world)
    eyes = Eyes(world, guest, most=40)
    for rpc in reads():
        await eyes.look(rpc)
    writing = Eyes(world, guest, most=3)
    for rpc in filter(mutates, let_in()):
        await writing.look(rpc)
        if not await is_whole(world, writing.soul):
            writing.soul = await world.guest(*world.granted, shared=True)
    assert (eyes.unasked, writing.unasked) == ([], []), "no valid request could be made"
    found = sorted({*eyes.leaks, *writing.leaks})
    assert not found, "\n".join(found)


async def test_the_same_eyes_find_what_a_full_member_sees(suite: Suite) -> None:
    world = World(suite, 4)
    await populate(world)
    eyes = Eyes(world, world.far, most=40)
    for rpc in reads():
        await eyes.look(rpc)
    assert {leak.partition(":")[0].rpartition("/")[2] for leak in eyes.leaks} >= SHOWN_TO_MEMBERS


async def test_a_predicate_that_leaks_is_found_out(suite: Suite) -> None:
    world = World(suite, 5)
    guest = await populate(world)
    eyes = Eyes(world, guest, most=40)
    asked = [rpc for rpc in reads() if rpc.method in ("GetMember", "GetGuest")]
    with a_predicate_that_leaks():
        for rpc in asked:
            await eyes.look(rpc)
    assert any("GetMember: hidden" in leak for leak in eyes.leaks)
    honest = Eyes(world, guest, most=40)
    for rpc in asked:
        await honest.look(rpc)
    assert honest.leaks == []
