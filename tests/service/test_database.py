"""The pool against a real PostgreSQL that ends its connections."""

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import Database
from services.chassis.errors import StorageUnavailable
from tests.support.suite import Suite

END = text("SELECT pg_terminate_backend(pg_backend_pid())")
ONE = text("SELECT 1")


def end_all(suite: Suite) -> None:
    """Ends every connection of guest's role, as a restart would."""
    with suite.stack.admin_database() as admin:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'guest'")


async def one(tx: AsyncConnection) -> int:
    return int(await tx.scalar(ONE) or 0)


@pytest.mark.parametrize("way", ["transaction", "read"])
async def test_a_connection_found_dead_costs_nobody_an_answer(way: str, suite: Suite) -> None:
    database = Database(suite.settings("guest"))
    try:
        for _ in range(3):
            assert await getattr(database, way)(one) == 1
            end_all(suite)
        assert await getattr(database, way)(one) == 1
    finally:
        await database.close()


@pytest.mark.parametrize("tries", [1, 5])
async def test_work_that_loses_its_connection_each_time_is_given_up_after_the_second(tries: int, suite: Suite) -> None:
    database = Database(suite.settings("guest"))
    begun = []

    async def work(tx: AsyncConnection) -> None:
        begun.append(True)
        await tx.execute(END)

    try:
        with pytest.raises(StorageUnavailable):
            await database.transaction(work, tries=tries)
        assert len(begun) == 2
    finally:
        await database.close()


async def test_a_statement_of_a_hot_path_is_planned_once_whatever_it_is_asked(suite: Suite) -> None:
    database = Database(suite.settings("guest"), pool_size=1)
    # A plan for one row looks so much cheaper than one for any number of them that it would be made each time.
    asked = text("SELECT count(*) FROM generate_series(1, CAST(:rows AS int))")
    plans = text("SELECT sum(generic_plans), sum(custom_plans) FROM pg_prepared_statements WHERE statement ~ 'series'")

    async def ask(tx: AsyncConnection) -> None:
        await tx.execute(asked, {"rows": 1})

    async def count(tx: AsyncConnection) -> list[int]:
        return [int(number) for number in (await tx.execute(plans)).one()]

    try:
        for _ in range(30):
            await database.read(ask, hot=True)
            await database.read(ask)
        generic, custom = await database.read(count, hot=True)
        assert generic >= 20
        assert custom == 0
        generic, custom = await database.read(count)
        assert custom >= 20
    finally:
        await database.close()
