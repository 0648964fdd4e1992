"""Metrics against what they are about: real pools, tables, streams and workers."""

import asyncio
import math
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import metrics
from services.chassis.celery import make_app
from services.chassis.database import Database
from services.chassis.outbox import enqueue
from services.chassis.worker import sweep_task
from services.guest import metrics as of_guests
from tests.service.test_guest_invites import House
from tests.service.test_messaging_streams import listening, replica
from tests.support.chats import Chat
from tests.support.deliveries import until
from tests.support.metrics import answered, own, sample, scraped
from tests.support.suite import Suite


def gauges(columns: Mapping[str, Gauge]) -> dict[str, Gauge]:
    """Gauges like those that are exported, of this test's own: all services of this process share the others."""
    return {column: Gauge(column, "Of this test.", registry=CollectorRegistry()) for column in columns}


def value(gauge: Gauge) -> float:
    [family] = gauge.collect()
    return family.samples[0].value


@asynccontextmanager
async def looking(database: Database, statement: object, shown: Mapping[str, Gauge]) -> AsyncIterator[None]:
    """While something looks at tables, as a service does."""
    for gauge in shown.values():
        gauge.set(-1)
    task = asyncio.create_task(metrics.watch_table(database, statement, shown))  # type: ignore[arg-type]
    try:
        await until(lambda: all(value(gauge) != -1 for gauge in shown.values()))
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_backlog_is_as_old_as_what_has_been_due_the_longest(suite: Suite) -> None:
    database, shown = suite.frames["guest"].database, gauges(metrics.OF_BACKLOGS)
    kind, nobody = f"test.{uuid.uuid4().hex}", "nobody"
    async with looking(database, metrics.BACKLOGS, shown):
        dead = value(shown["outbox_dead"]), value(shown["inbox_dead"])
        assert value(shown["outbox_oldest"]) < 300
    with suite.database("guest") as rows:
        row = (
            "INSERT INTO outbox (id, target, kind, payload, created_at, due_at, dead) VALUES (gen_random_uuid(), %s, "
            "%s, '', statement_timestamp() - interval '400 s', statement_timestamp() + interval '60 s', %s)"
        )
        for is_dead in (False, True):
            rows.execute(row, (nobody, kind, is_dead))
        received = (
            "INSERT INTO inbox (event_id, source, kind, payload, received_at, due_at, dead) VALUES (gen_random_uuid(), "
            "%s, %s, '', statement_timestamp() - interval '500 s', statement_timestamp() + interval '60 s', %s)"
        )
        for is_dead in (False, True):
            rows.execute(received, (nobody, kind, is_dead))
        try:
            async with looking(database, metrics.BACKLOGS, shown):
                assert 400 <= value(shown["outbox_oldest"]) < 460
                assert 500 <= value(shown["inbox_oldest"]) < 560
                assert (value(shown["outbox_dead"]), value(shown["inbox_dead"])) == (dead[0] + 1, dead[1] + 1)
                assert value(shown["outbox_waiting"]) >= 1
                assert value(shown["inbox_waiting"]) >= 1
        finally:
            rows.execute("DELETE FROM outbox WHERE kind = %s", (kind,))
            rows.execute("DELETE FROM inbox WHERE kind = %s", (kind,))


async def test_what_is_meant_for_later_is_not_late(suite: Suite) -> None:
    database, shown = suite.frames["guest"].database, gauges(metrics.OF_BACKLOGS)
    subject_id = str(uuid.uuid4())
    work = "test.later"
    await database.transaction(lambda tx: enqueue(tx, work, subject_id, delay_seconds=-700))
    await database.transaction(lambda tx: enqueue(tx, work, subject_id, delay_seconds=3600))
    with suite.database("guest") as rows:
        try:
            planned = "SELECT created_at = due_at FROM outbox WHERE kind = %s AND due_at > statement_timestamp()"
            assert (True,) in rows.execute(planned + " + interval '30 min'", (work,)).fetchall()
            async with looking(database, metrics.BACKLOGS, shown):
                assert 700 <= value(shown["outbox_oldest"]) < 760, "by when it was due, not by when it was written"
            rows.execute("DELETE FROM outbox WHERE kind = %s AND created_at < statement_timestamp()", (work,))
            async with looking(database, metrics.BACKLOGS, shown):
                assert value(shown["outbox_oldest"]) < 300
        finally:
            rows.execute("DELETE FROM outbox WHERE kind = %s", (work,))


async def test_without_an_answer_of_the_database_there_is_no_number(suite: Suite, tmp_path: Path) -> None:
    url = f"postgresql://guest@/guildhall?host={tmp_path}"
    database, shown = Database(suite.settings("guest", database_url=url)), gauges(metrics.OF_BACKLOGS)
    try:
        async with looking(database, metrics.BACKLOGS, shown):
            assert [value(gauge) for gauge in shown.values() if value(gauge) == value(gauge)] == [], "NaN is unequal"
    finally:
        await database.close()


async def test_after_a_look_that_failed_late_the_next_comes_as_soon_as_ever(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "LOOK_SECONDS", 0.05)
    gauge = Gauge("seen", "Of this test.", registry=CollectorRegistry())
    statement = text("SELECT 1 AS seen FROM pg_advisory_xact_lock(hashtext('test of a look that fails'))")
    with suite.database("guest") as holder:
        holder.execute("SELECT pg_advisory_lock(hashtext('test of a look that fails'))")
        async with looking(suite.frames["guest"].database, statement, {"seen": gauge}):
            assert math.isnan(value(gauge)), "the look has waited for the lock until the role's lock_timeout"
            holder.execute("SELECT pg_advisory_unlock_all()")
            # Resting a hundred times as long as it waited would be minutes.
            await until(lambda: value(gauge) == 1)


async def test_between_looks_that_take_long_there_is_never_more_than_the_longest_rest(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(metrics, "MOST_REST_SECONDS", 0.1)
    gauge = Gauge("seen", "Of this test.", registry=CollectorRegistry())
    statement = text("SELECT extract(epoch FROM clock_timestamp()) AS seen FROM pg_sleep(1)")
    async with looking(suite.frames["guest"].database, statement, {"seen": gauge}):
        first = value(gauge)
        # A hundred times as long as the look took would be a minute and a half.
        await until(lambda: value(gauge) > first)


async def test_a_pool_tells_who_uses_it_who_waits_and_who_waited_in_vain(suite: Suite) -> None:
    database = Database(suite.settings("guest"), pool_size=1)
    held, let_go = asyncio.Event(), asyncio.Event()

    async def hold(_tx: AsyncConnection) -> None:
        held.set()
        await let_go.wait()

    async def nothing(_tx: AsyncConnection) -> None:
        pass

    before = own("guildhall_database_pool_timeouts_total", pool="statements")
    holding = asyncio.create_task(database.read(hold))
    try:
        await held.wait()
        waiting = asyncio.create_task(database.read(nothing))
        await until(lambda: own("guildhall_database_pool_waiting_units", pool="statements") == 1)
        assert own("guildhall_database_pool_used_connections", pool="statements") == 1
        assert own("guildhall_database_pool_size_connections", pool="statements") == 1
        assert own("guildhall_database_pool_used_connections", pool="transactions") == 0
        with pytest.raises(Exception, match="QueuePool limit"):
            await waiting
        assert own("guildhall_database_pool_timeouts_total", pool="statements") == before + 1
        assert own("guildhall_database_pool_waiting_units", pool="statements") == 0
        let_go.set()
        await holding
        assert own("guildhall_database_pool_used_connections", pool="statements") == 0
    finally:
        let_go.set()
        await database.close()


async def test_unfinished_tasks_are_counted() -> None:
    # Far more than other tests leave behind.
    waiting = [asyncio.create_task(asyncio.sleep(60)) for _ in range(5_000)]
    watching = asyncio.create_task(metrics.watch_loop())
    try:
        await until(lambda: own("guildhall_event_loop_tasks") >= 5_000)
        for task in waiting:
            task.cancel()
        await until(lambda: own("guildhall_event_loop_tasks") < 5_000)
    finally:
        watching.cancel()


async def test_a_loop_that_was_held_up_was_late() -> None:
    late = own("guildhall_event_loop_lag_seconds_sum")
    task = asyncio.create_task(metrics.watch_loop())
    try:
        await asyncio.sleep(0)
        held_until = time.monotonic() + metrics.LOOP_SECONDS + 0.3
        while time.monotonic() < held_until:
            pass
        await until(lambda: own("guildhall_event_loop_lag_seconds_sum") > late + 0.25)
    finally:
        task.cancel()


def alive(port: int) -> int:
    """What a probe is answered."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{metrics.ALIVE}", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code


async def test_a_probe_sees_a_loop_that_hangs_while_prometheus_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, let_go = asyncio.new_event_loop(), threading.Event()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = metrics.serve("127.0.0.1:0", loop)
    port = server.server_port
    try:
        assert await asyncio.to_thread(alive, port) == 200
        monkeypatch.setattr(metrics, "ANSWER_SECONDS", 0.2)
        loop.call_soon_threadsafe(let_go.wait)
        assert await asyncio.to_thread(alive, port) == 503
        assert "guildhall_" in await asyncio.to_thread(answered, port)
        monkeypatch.undo()
        let_go.set()
        assert await asyncio.to_thread(alive, port) == 200
    finally:
        let_go.set()
        server.shutdown()
        server.server_close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def test_a_message_is_timed_to_its_live_subscriber_and_to_the_search(suite: Suite) -> None:
    room = await Chat.make(suite)
    assert isinstance(room, Chat)
    delivered, found = own("guildhall_delivery_lag_seconds_count"), own("guildhall_search_lag_seconds_count")
    late = own("guildhall_delivery_lag_seconds_sum")
    # Of the services in this process, the one that began last is the one whose streams are shown.
    async with replica(room) as (_, channel), listening(room, room.admin, channel=channel) as listener:
        await until(lambda: own("guildhall_subscriptions", state="live") >= 1)
        await room.sent(room.admin, "timed")
        await listener.until(lambda: listener.texts(room.channel_id) == ["timed"])
        await until(lambda: own("guildhall_delivery_lag_seconds_count") == delivered + 1)
        assert 0 <= own("guildhall_delivery_lag_seconds_sum") - late < 10
        await until(lambda: own("guildhall_search_lag_seconds_count") > found)
        await until(lambda: own("guildhall_search_behind_conversations") == 0)


async def test_what_a_stream_that_comes_back_missed_is_not_called_late(suite: Suite) -> None:
    room = await Chat.make(suite)
    assert isinstance(room, Chat)
    room.age(await room.sent(room.admin, "missed"))
    late = own("guildhall_delivery_lag_seconds_sum")
    async with listening(room, room.admin, resume={room.channel_id: 0}) as listener:
        await listener.until(lambda: listener.texts(room.channel_id) == ["missed"])
        await room.sent(room.admin, "new")
        await listener.until(lambda: listener.texts(room.channel_id) == ["missed", "new"])
    assert own("guildhall_delivery_lag_seconds_sum") - late < 3600


async def test_guests_are_counted_as_the_worker_expires_them_and_timed_until_then(suite: Suite) -> None:
    house = await House.make(suite)
    _, guest = await house.guest()
    port = suite.stack.settings.ports.worker_metrics("guest")
    before = scraped(port)
    database, shown = suite.frames["guest"].database, gauges(of_guests.OF_DUE)
    # Those whom other tests have left behind, some of them days ago by their rows.
    house.sql(
        "UPDATE guests SET expire_at = expire_at + interval '9 days', grace_end_at = grace_end_at + interval '9 days'"
    )
    house.move_times(guest.member_id, expire_in="-10 minutes")
    async with looking(database, of_guests.DUE, shown):
        assert value(shown["overdue"]) == 1
        assert 600 <= value(shown["oldest"]) < 660
    make_app("guest", suite.stack.valkey.url).send_task(sweep_task("guest"), queue="guest")

    def risen(name: str, **labels: str) -> bool:
        return sample(scraped(port), name, **labels) > sample(before, name, **labels)

    await until(lambda: risen("guildhall_guest_expiries_total", state="locked"))
    await until(lambda: risen("guildhall_worker_tasks_total", kind="guest.expire", outcome="done"))
    await until(lambda: risen("guildhall_worker_sweeps_total", sweep="expire_guests", outcome="done"))
    await until(lambda: sample(scraped(port), "guildhall_worker_last_sweep_timestamp_seconds") > time.time() - 60)
    async with looking(database, of_guests.DUE, shown):
        assert value(shown["oldest"]) < 600


async def test_a_mail_and_a_work_that_fails_are_counted_by_the_worker(suite: Suite) -> None:
    port = suite.stack.settings.ports.worker_metrics("identity")
    before = scraped(port)
    await suite.person()
    name, labels = "guildhall_mails_total", {"kind": "verify_email", "outcome": "sent"}
    await until(lambda: sample(scraped(port), name, **labels) > sample(before, name, **labels))
    await suite.frames["identity"].database.transaction(lambda tx: enqueue(tx, "test.unknown", str(uuid.uuid4())))
    failed = {"kind": "test.unknown", "outcome": "failed"}
    try:
        await until(lambda: sample(scraped(port), "guildhall_worker_tasks_total", **failed) >= 1)
    finally:
        with suite.database("identity") as rows:
            rows.execute("DELETE FROM outbox WHERE kind = 'test.unknown'")
