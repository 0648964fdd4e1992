"""Events as another service delivers them, and waiting for what they bring about."""

import asyncio
import uuid
from collections.abc import Callable

from guildhall.events.v1 import event_sink_pb2 as events

from tests.support.suite import Suite


async def until(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    """Waits for an effect, not for a time."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError("never happened")
        await asyncio.sleep(0.01)


async def until_put_back_is_done(suite: Suite, service: str, condition: Callable[[], bool]) -> None:
    """Waits for what a service has put back for some seconds: their time is over now, and it looks at once."""
    due = (
        "UPDATE inbox SET due_at = statement_timestamp() WHERE event_id IN (SELECT event_id FROM inbox"
        " WHERE applied_at IS NULL AND due_at > statement_timestamp() FOR UPDATE SKIP LOCKED)"
    )

    def done() -> bool:
        suite.rows(service, due, ())
        suite.frames[service].inbox.wake()
        return condition()

    await until(done)


async def deliver(suite: Suite, event: events.Event, *, source: str, to: str = "membership", times: int = 1) -> None:
    """Delivers an event of another service, and waits until it is applied."""
    event.event_id = str(uuid.uuid4())
    sink = suite.sink(to, certificate=source)
    for _ in range(times):
        await sink.DeliverEvents(events.DeliverEventsRequest(events=[event]), timeout=10)

    def applied() -> bool:
        query = "SELECT count(*) FROM inbox WHERE event_id = %s AND applied_at IS NOT NULL"
        return suite.rows(to, query, (event.event_id,)) == [(1,)]

    await until(applied)
