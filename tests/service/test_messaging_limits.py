"""Each limit of messaging: the last one that fits, and the first one that does not."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.messaging.limits import LIMITS
from tests.service.test_membership_limits import retry_after
from tests.support.conversations import Hall, new_hall
from tests.support.suite import Suite, refused

DOCUMENT = Path(__file__).parents[2] / "docs" / "limits.md"
OneMore = Callable[[int], Awaitable[Any]]


async def _channels(hall: Hall) -> OneMore:
    return lambda _: hall.channel()


async def _group_conversations(hall: Hall) -> OneMore:
    group_id = await hall.group()
    return lambda _: hall.ask("CreateGroupConversation", group_id=group_id, name="Ours")


async def _participants(hall: Hall) -> OneMore:
    bob, _ = await hall.newcomer("Bob")
    _, cy_id = await hall.newcomer("Cy")
    ways = (
        lambda: hall.of("JoinConversation", hall.channel_id, by=bob),
        lambda: hall.of("AddParticipant", hall.channel_id, member_id=cy_id),
    )
    return lambda number: ways[number]()


async def _direct_conversations_a_day(hall: Hall) -> OneMore:
    people = [await hall.newcomer(name) for name in ("Bob", "Cy")]
    return lambda number: hall.direct(people[number][1])


WAYS = {
    "channels": (_channels, 2),
    "direct_conversations_a_day": (_direct_conversations_a_day, 1),
    "group_conversations": (_group_conversations, 1),
    "participants": (_participants, 2),
}
"""What reaches each limit, and at how many it is set so that just one more fits."""


def allow(hall: Hall, name: str, most: int) -> None:
    """What an operator does for one workspace."""
    hall.rows("INSERT INTO workspace_limits VALUES (%s, %s, %s)", hall.workspace_id, name, most)


@pytest.mark.parametrize("name", sorted(LIMITS))
async def test_the_last_one_fits_and_one_more_is_refused_by_the_limits_name(name: str, suite: Suite) -> None:
    prepare, most = WAYS[name]
    hall = await new_hall(suite)
    one_more = await prepare(hall)
    allow(hall, name, most)

    await one_more(0)
    refusal = await refused(one_more(1))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
    assert (refusal.metadata["limit"], refusal.metadata["most"]) == (name, str(most))
    # Of what is counted over a day there is none more in a minute.
    assert retry_after(refusal) == (3600 if name.endswith("_a_day") else 60)


@pytest.mark.parametrize("name", sorted(LIMITS))
async def test_what_is_lowered_for_one_workspace_holds_there_only(name: str, suite: Suite) -> None:
    prepare, most = WAYS[name]
    allow(await new_hall(suite), name, most)
    one_more = await prepare(await new_hall(suite))

    await one_more(0)
    await one_more(1)


async def test_many_who_make_channels_at_once_make_no_more_than_allowed(suite: Suite) -> None:
    hall = await new_hall(suite)
    allow(hall, "channels", 4)
    outcomes = await asyncio.gather(*(hall.channel() for _ in range(12)), return_exceptions=True)
    assert sum(isinstance(outcome, str) for outcome in outcomes) == 3
    assert len(await hall.seen(hall.admin)) == 4


async def test_direct_conversations_are_counted_by_who_opened_them_that_day_and_once(suite: Suite) -> None:
    hall = await new_hall(suite)
    bob, bob_id = await hall.newcomer("Bob")
    others = [(await hall.newcomer(name))[1] for name in ("Cy", "Dee", "Eve")]
    allow(hall, "direct_conversations_a_day", 2)
    opened = [await hall.direct(others[0]), await hall.direct(bob_id)]
    refusal = await refused(hall.direct(others[1]))
    assert refusal.metadata["limit"] == "direct_conversations_a_day"
    # What is there is there for whoever asks, and others have their own.
    assert await hall.direct(others[0]) == opened[0]
    assert await hall.direct(hall.admin_member_id, by=bob) == opened[1]
    assert await hall.direct(others[0], by=bob)
    hall.rows(
        "UPDATE conversations SET created_at = created_at - interval '1 day' WHERE id = %s", opened[0].conversation_id
    )
    assert await hall.direct(others[1])
    assert (await refused(hall.direct(others[2]))).reason == "LIMIT_REACHED"


async def test_whoever_opens_many_direct_conversations_at_once_opens_no_more_than_allowed(suite: Suite) -> None:
    hall = await new_hall(suite)
    others = [(await hall.newcomer(f"Bob{number}"))[1] for number in range(8)]
    allow(hall, "direct_conversations_a_day", 3)
    outcomes = await asyncio.gather(*(hall.direct(other) for other in others), return_exceptions=True)
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 3


def test_the_table_in_the_documents_is_the_code() -> None:
    row = re.compile(r"^\| `(\w+)` \| ([\d  ]+) \| (.+) \|$", re.MULTILINE)
    own = DOCUMENT.read_text().partition("## messaging")[2].partition("## guest")[0]
    written = {name: (int(re.sub(r"\s", "", most)), what) for name, most, what in row.findall(own)}
    assert written == {name: (limit.most, limit.what) for name, limit in LIMITS.items()}
