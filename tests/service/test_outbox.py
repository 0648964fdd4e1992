"""The outbox's relay: batches that are too large for one call, and peers that give no answer."""

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from deploy.stack.settings import SERVICES
from services.chassis import outbox
from services.chassis.errors import PeerUnavailable
from services.membership.groups import EVENT_SIZE
from tests.support.deliveries import until
from tests.support.suite import Suite

MESSAGE_BYTES = 1 << 20
"""What a server takes (frame.py)."""


def groups_deleted(count: int = EVENT_SIZE) -> events.Event:
    """Groups that nobody has heard of: messaging has nothing to do about them."""
    ids = [str(uuid.uuid4()) for _ in range(count)]
    return events.Event(group_deleted=events.GroupDeleted(workspace_id=str(uuid.uuid4()), group_ids=ids))


async def emitted(suite: Suite, batch: Sequence[events.Event], *, to: str = "messaging") -> list[str]:
    """Has membership tell another service of events, all in one transaction; returns their ids."""
    ids: list[str] = []

    async def emit(tx: AsyncConnection) -> None:
        ids.clear()
        for event in batch:
            await outbox.emit(tx, [to], event)
            ids.append(event.event_id)

    await suite.frames["membership"].database.transaction(emit)
    return ids


async def arrived(suite: Suite, ids: Sequence[str]) -> None:
    """Waits until messaging has the events, and membership no longer keeps them."""
    stored = "SELECT count(*) FROM inbox WHERE event_id = ANY(%s::uuid[])"
    kept = "SELECT count(*) FROM outbox WHERE id = ANY(%s::uuid[])"
    await until(lambda: suite.rows("messaging", stored, (list(ids),)) == [(len(ids),)])
    await until(lambda: suite.rows("membership", kept, (list(ids),)) == [(0,)])


async def test_a_tree_of_28_000_groups_is_told_though_it_is_more_than_a_message_takes(suite: Suite) -> None:
    batch = [groups_deleted() for _ in range(28)]
    assert sum(event.ByteSize() for event in batch) > MESSAGE_BYTES

    await arrived(suite, await emitted(suite, batch))


async def test_what_is_refused_for_its_size_is_sent_in_parts(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MOST_BYTES", 4 * MESSAGE_BYTES)

    await arrived(suite, await emitted(suite, [groups_deleted() for _ in range(28)]))


async def test_an_event_that_is_too_large_by_itself_is_counted_as_failed_and_holds_up_no_other(suite: Suite) -> None:
    too_large, other = await emitted(suite, [groups_deleted(30 * EVENT_SIZE), groups_deleted(1)])

    await arrived(suite, [other])
    attempts = "SELECT attempts FROM outbox WHERE id = %s"
    await until(lambda: suite.rows("membership", attempts, (too_large,))[0][0] > 0)
    suite.rows("membership", "DELETE FROM outbox WHERE id = %s", (too_large,))


async def forget(tx: AsyncConnection) -> None:
    """Takes away what was meant for targets that there are not."""
    await tx.execute(text("DELETE FROM outbox WHERE target IN ('silent', 'heard')"))


async def no_task(_ids: Sequence[str]) -> None:
    """Nobody hands over the work here: the service itself does."""


async def test_a_target_that_gives_no_answer_holds_up_no_other(suite: Suite) -> None:
    database = suite.frames["membership"].database
    asked, heard = asyncio.Event(), asyncio.Event()

    async def say_nothing(_batch: Sequence[events.Event]) -> None:
        asked.set()
        await heard.wait()
        raise PeerUnavailable

    async def hear(_batch: Sequence[events.Event]) -> None:
        heard.set()

    hand_over = suite.frames["membership"]._hand_over  # or work of other tests would wait for the end of its lease
    relay = outbox.Relay(database, deliver={"silent": say_nothing, "heard": hear}, hand_over=hand_over)
    await emitted(suite, [groups_deleted(1) for _ in range(201)], to="silent")
    running = asyncio.create_task(relay.run())
    try:
        await asyncio.wait_for(asked.wait(), 20)
        await emitted(suite, [groups_deleted(1)], to="heard")
        relay.wake()
        await asyncio.wait_for(heard.wait(), 20)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        # Not by a call that blocks the loop: a unit of work that outlives its caller may still hold the rows.
        await database.transaction(forget)


async def test_a_target_is_left_alone_for_longer_each_time_it_gives_no_answer_until_it_does(suite: Suite) -> None:
    database, is_away = suite.frames["membership"].database, True
    target = "silent once"

    async def deliver(_batch: Sequence[events.Event]) -> None:
        if is_away:
            raise PeerUnavailable

    relay = outbox.Relay(database, deliver={target: deliver}, hand_over=no_task)
    pauses = []
    for _ in range(8):
        await emitted(suite, [groups_deleted(), groups_deleted()], to=target)
        await relay.deliver_due(target)
        pauses.append(relay.pause_seconds(target))
    assert pauses == [0.5, 1, 2, 4, 8, 10, 10, 10]
    attempts = "SELECT max(attempts), count(*) FROM outbox WHERE target = %s"
    assert suite.rows("membership", attempts, (target,)) == [(0, 16)]

    is_away = False
    await emitted(suite, [groups_deleted()], to=target)
    await relay.deliver_due(target)

    assert relay.pause_seconds(target) == 0
    suite.rows("membership", "DELETE FROM outbox WHERE target = %s", (target,))


async def test_what_a_silent_target_was_not_asked_about_is_put_back_as_well(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MOST_BYTES", 1)
    calls = []

    async def say_nothing(batch: Sequence[events.Event]) -> None:
        calls.append(len(batch))
        raise PeerUnavailable

    relay = outbox.Relay(suite.frames["membership"].database, deliver={"mute": say_nothing}, hand_over=no_task)
    await emitted(suite, [groups_deleted(1) for _ in range(5)], to="mute")

    assert await relay.deliver_due("mute") == 5

    assert calls == [1], "one part is enough to know"
    late = "SELECT count(*) FROM outbox WHERE target = 'mute' AND due_at > statement_timestamp() + interval '6 seconds'"
    assert suite.rows("membership", late, ()) == [(0,)], "none waits for the end of its lease"
    suite.rows("membership", "DELETE FROM outbox WHERE target = 'mute'", ())


WAITING = """
    INSERT INTO outbox (id, target, kind, payload, due_at)
    SELECT gen_random_uuid(), %s, 'group_deleted', '', statement_timestamp() - make_interval(secs => n)
    FROM generate_series(1, %s) n
"""


@pytest.mark.parametrize("service", SERVICES)
def test_what_waits_for_one_target_is_not_read_to_find_what_is_due_for_another(suite: Suite, service: str) -> None:
    claim = outbox.CLAIM.text.replace(":target", "%s")
    # As the owner, who may have the table analysed, and in a transaction of which nobody else sees anything.
    with suite.database(f"{service}_owner") as database, database.transaction(force_rollback=True):
        for target, count in (("away", 20_000), ("there", 3)):
            database.execute(WAITING, (target, count))
        database.execute("ANALYZE outbox")
        ((plan,),) = database.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {claim}".encode(), ("there",)).fetchall()

    (scan,) = [node for node in nodes(plan[0]["Plan"]) if node.get("Index Name") == "outbox_due"]
    assert "target" in scan["Index Cond"]
    assert (scan["Actual Rows"], scan.get("Rows Removed by Filter", 0)) == (3, 0)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A node of a plan, and all below it."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)
