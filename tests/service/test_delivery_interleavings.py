"""Every interleaving of one loss of access, one send, and one stream or read, against messaging's own decision code.

Nothing written after the loss was acknowledged may reach the one who lost it (architecture.md §5). The last tests break
what that rests on, and the explorer must see it. `make faults` explores the biggest of these models (F12).
"""

import pytest

from tests.faults.delivery_model import (
    LOSSES,
    acknowledged_too_early,
    delivered,
    leaks,
    removed,
    run_read,
    run_stream,
)
from tests.faults.explorer import explore

MOST = 30_000
FULL_MEMBERS = ["member removed", "taken out of a private conversation", "taken out of a group"]


@pytest.mark.parametrize("name", LOSSES)
async def test_no_interleaving_shows_a_secret_on_an_open_stream(name: str) -> None:
    loss, facts = LOSSES[name]
    found = await explore(lambda schedule: run_stream(schedule, loss=loss, **facts), most=MOST)
    assert leaks(found) == []
    assert 0 < delivered(found) < len(found)


@pytest.mark.parametrize("name", LOSSES)
async def test_no_interleaving_with_a_poll_shows_a_secret(name: str) -> None:
    loss, facts = LOSSES[name]
    found = await explore(lambda schedule: run_stream(schedule, loss=loss, polls=True, **facts), most=MOST)
    assert leaks(found) == []
    assert 0 < delivered(found) < len(found)


@pytest.mark.parametrize("name", FULL_MEMBERS)
async def test_no_interleaving_with_the_watch_on_access_shows_a_secret(name: str) -> None:
    loss, facts = LOSSES[name]
    found = await explore(lambda schedule: run_stream(schedule, loss=loss, watches=True, **facts), most=MOST)
    assert leaks(found) == []
    assert 0 < delivered(found) < len(found)


@pytest.mark.parametrize("name", FULL_MEMBERS)
async def test_no_interleaving_shows_a_secret_on_a_stream_that_is_being_opened(name: str) -> None:
    loss, facts = LOSSES[name]
    found = await explore(lambda schedule: run_stream(schedule, loss=loss, opens_first=False, **facts), most=MOST)
    assert leaks(found) == []
    assert 0 < delivered(found) < len(found)


@pytest.mark.parametrize("name", LOSSES)
async def test_no_interleaving_shows_a_secret_to_a_read(name: str) -> None:
    loss, facts = LOSSES[name]
    found = await explore(lambda schedule: run_read(schedule, loss=loss, **facts), most=MOST)
    assert leaks(found) == []
    assert 0 < delivered(found) < len(found)


async def test_without_a_loss_every_interleaving_delivers() -> None:
    found = await explore(lambda schedule: run_stream(schedule, loss=None, polls=True), most=MOST)
    assert delivered(found) == len(found)


async def test_the_explorer_finds_the_leak_of_a_remembered_permission() -> None:
    found = await explore(lambda schedule: run_stream(schedule, loss=removed, remembers=True), most=MOST)
    assert leaks(found) != []


async def test_the_explorer_finds_the_leak_of_a_decision_at_the_sending() -> None:
    found = await explore(lambda schedule: run_stream(schedule, loss=removed, decides_at_send=True), most=MOST)
    assert 0 < len(leaks(found)) < delivered(found)


async def test_the_explorer_finds_the_leak_of_a_loss_acknowledged_too_early() -> None:
    found = await explore(lambda schedule: run_stream(schedule, loss=acknowledged_too_early), most=MOST)
    assert leaks(found) != []
