"""The poll of each replica: wake-ups make delivery faster, and nothing that happens to them can make it stop."""

import asyncio
import itertools
import time
from typing import Any

import pytest
from guildhall.messaging.v1 import message_service_pb2_grpc as messages_rpc

from services.messaging import audiences
from tests.service.test_messaging_conversations import Room
from tests.service.test_messaging_streams import Listener, append_directly, listening, replica
from tests.support.statements import Statement, statements_sent
from tests.support.suite import Suite

NOWHERE = "unix:///nowhere/valkey.sock"
POLLS = 2
CONVERSATIONS = 12


@pytest.fixture
async def room(suite: Suite) -> Room:
    """A workspace of this test's own."""
    made = await Room.make(suite)
    assert isinstance(made, Room)
    return made


@pytest.mark.parametrize("changes", [{}, {"redis_url": NOWHERE}], ids=["Valkey runs", "Valkey is dead"])
async def test_a_poll_is_not_starved_by_constant_wake_ups(room: Room, changes: dict[str, Any]) -> None:
    busy = await room.channel()
    async with replica(room, **changes) as (_, channel), listening(room, room.admin, channel=channel) as listener:
        woken_at: list[float] = []

        async def wake_again_and_again() -> None:
            stub = messages_rpc.MessageServiceStub(channel)
            while True:
                await room.admin.call(stub.SendMessage, room.send_request("wakes", to=busy))
                woken_at.append(time.monotonic())

        waking = asyncio.create_task(wake_again_and_again())
        try:
            await listener.until(lambda: listener.texts(busy))
            append_directly(room, "woke nobody")
            committed_at = time.monotonic()
            await listener.until(lambda: listener.texts(room.channel_id), seconds=3 * audiences.POLL_SECONDS)
            heard_at = time.monotonic()
        finally:
            waking.cancel()
            await asyncio.gather(waking, return_exceptions=True)
    during = [committed_at, *[at for at in woken_at if committed_at < at < heard_at], heard_at]
    # There was never a pause in which a poll that waits for one would have come.
    assert max(after - before for before, after in itertools.pairwise(during)) < audiences.POLL_SECONDS / 2


@pytest.mark.parametrize("changes", [{}, {"redis_url": NOWHERE}], ids=["Valkey runs", "Valkey is dead"])
async def test_all_that_is_watched_is_polled_by_one_statement_every_two_seconds(
    room: Room, changes: dict[str, Any]
) -> None:
    watched = {room.channel_id, *[await room.channel() for _ in range(CONVERSATIONS - 1)]}
    member, _ = await room.member()
    async with (
        replica(room, **changes) as (_, channel),
        listening(room, room.admin, channel=channel),
        listening(room, member, channel=channel),
    ):
        with statements_sent() as sent:
            # The first may be the streams' own, when they join; nothing else happens that anybody would wake for.
            async with asyncio.timeout((POLLS + 3) * 2 * audiences.POLL_SECONDS):
                while len(_apart(_readings(sent))) < POLLS + 1:  # noqa: ASYNC110 - a statement sets no event
                    await asyncio.sleep(0.05)
    polls = _apart(_readings(sent))[1:]
    for found in polls:
        assert len(found) == 1
        assert set(found[0].parameters["ids"]) == watched
    pauses = [after[0].at - before[0].at for before, after in itertools.pairwise(polls)]
    assert all(0.8 * audiences.POLL_SECONDS < pause < 2 * audiences.POLL_SECONDS for pause in pauses)
    assert audiences.POLL_SECONDS == 2


def _readings(sent: list[Statement]) -> list[Statement]:
    """The statements by which streams are read on: those that read events from a position, which search does not."""
    return [statement for statement in sent if statement.service == "messaging" and "asked.position" in statement.text]


def _apart(readings: list[Statement]) -> list[list[Statement]]:
    """Statements that follow each other at once, together."""
    groups: list[list[Statement]] = []
    for reading in readings:
        if groups and reading.at - groups[-1][-1].at < audiences.POLL_SECONDS / 4:
            groups[-1].append(reading)
        else:
            groups.append([reading])
    return groups


async def test_what_happens_in_one_workspace_has_only_its_streams_looked_at(room: Room) -> None:
    elsewhere = await Room.make(room.suite)
    assert isinstance(elsewhere, Room)
    async with listening(room, room.admin) as listener, listening(elsewhere, elsewhere.admin) as other:
        await _until_gained(room, listener)
        await _until_gained(elsewhere, other)
        with statements_sent() as sent:
            async with asyncio.timeout(10 * audiences.POLL_SECONDS):
                # Not at the first attempt if a poll comes at the same moment, which looks at all of them.
                while {elsewhere.workspace_id} not in _looks(sent):
                    await _until_gained(elsewhere, other)
                while {room.workspace_id, elsewhere.workspace_id} not in _looks(sent):  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.05)


async def _until_gained(room: Room, listener: Listener) -> None:
    """Waits until a live stream was told of a channel that was just made."""
    made = await room.channel()
    await listener.until(lambda: listener.has("conversation_gained", made))


def _looks(sent: list[Statement]) -> list[set[str]]:
    """The workspaces of which it was read who sees what, each time."""
    asked = [each.parameters for each in sent if each.service == "messaging"]
    return [set(each["workspace_ids"]) for each in asked if each and {"workspace_ids", "granted"} <= set(each)]
