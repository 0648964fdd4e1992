"""The explorer must make every interleaving once, and find the one that goes wrong."""

import asyncio

import pytest

from tests.faults.explorer import Schedule, explore


async def _two_times_two(schedule: Schedule) -> list[str]:
    done: list[str] = []

    async def task(name: str) -> None:
        for step in ("1", "2"):
            await schedule.turn(name)
            done.append(name + step)

    tasks = [asyncio.create_task(task(name)) for name in ("a", "b")]
    await schedule.run()
    await asyncio.gather(*tasks)
    return done


async def test_two_tasks_of_two_steps_have_six_interleavings() -> None:
    found = [outcome for _, outcome in await explore(_two_times_two, most=100)]
    assert len(found) == 6
    assert len({tuple(outcome) for outcome in found}) == 6
    assert all(outcome.index("a1") < outcome.index("a2") for outcome in found)


async def test_a_lost_update_is_found() -> None:
    async def run(schedule: Schedule) -> int:
        counter = 0

        async def add() -> None:
            nonlocal counter
            await schedule.turn("read")
            seen = counter
            await schedule.turn("write")
            counter = seen + 1

        tasks = [asyncio.create_task(add()) for _ in range(2)]
        await schedule.run()
        await asyncio.gather(*tasks)
        return counter

    assert {outcome for _, outcome in await explore(run, most=100)} == {1, 2}


async def test_a_model_that_is_too_big_is_refused() -> None:
    with pytest.raises(RuntimeError, match="too big"):
        await explore(_two_times_two, most=5)
