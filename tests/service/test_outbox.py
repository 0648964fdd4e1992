"""The outbox's relay: batches that are too large for one call, and peers that give no answer."""

import uuid
from collections.abc import Sequence

import pytest
from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import outbox
from services.membership.groups import EVENT_SIZE
from tests.support.deliveries import until
from tests.support.suite import Suite

MESSAGE_BYTES = 1 << 20
"""What a server takes (frame.py)."""


def groups_deleted(count: int = EVENT_SIZE) -> events.Event:
    """Groups that nobody has heard of: messaging has nothing to do about them."""
    ids = [str(uuid.uuid4()) for _ in range(count)]
    return events.Event(group_deleted=events.GroupDeleted(workspace_id=str(uuid.uuid4()), group_ids=ids))


async def emitted(suite: Suite, batch: Sequence[events.Event]) -> list[str]:
    """Has membership tell messaging of events, all in one transaction; returns their ids."""
    ids: list[str] = []

    async def emit(tx: AsyncConnection) -> None:
        ids.clear()
        for event in batch:
            await outbox.emit(tx, ["messaging"], event)
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
