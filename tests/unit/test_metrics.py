"""What is exported: named, explained and bounded as Prometheus' conventions ask, and true of the queue it is about."""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from prometheus_client import REGISTRY, Metric

import services.guest.metrics
import services.messaging.metrics
from services.chassis import contracts, telemetry
from services.chassis.coalesce import Coalescer
from services.chassis.errors import Overloaded
from tests.support.metrics import own

MODULES = (services.guest.metrics, services.messaging.metrics)
"""Imported, so that what they export is registered."""

UNITS = ("seconds", "items", "rows", "events", "connections", "units", "conversations")
COUNTED_THINGS = {
    "guildhall_calls_in_flight",
    "guildhall_event_loop_tasks",
    "guildhall_open_streams",
    "guildhall_side_lanes",
    "guildhall_subscriptions",
    "guildhall_guests_overdue",
}
"""Gauges whose name is what they count."""
LABELS = {"queue", "pool", "target", "outcome", "kind", "sweep", "state", "reason", "cause"}
"""Each has a few values that the code or a contract lists; none is an id, an address or a text."""


def ours() -> list[Metric]:
    return [family for family in REGISTRY.collect() if family.name.startswith("guildhall_")]


def test_every_metric_says_what_it_is_in_a_sentence_and_has_its_unit_in_its_name() -> None:
    assert len(ours()) > 30
    assert MODULES
    for family in ours():
        assert re.fullmatch(r"[A-Z].{15,}\.", family.documentation), family.name
        assert family.type in ("counter", "gauge", "histogram"), family.name
        if family.type != "counter" and family.name not in COUNTED_THINGS:
            assert family.name.endswith(UNITS), family.name
        assert "millis" not in family.name


def test_labels_are_few_and_bounded() -> None:
    found = {label for family in ours() for sample in family.samples for label in sample.labels} - {"le"}
    declared = {
        label
        for collector in list(REGISTRY._collector_to_names)
        if str(getattr(collector, "_name", "")).startswith("guildhall_")
        for label in getattr(collector, "_labelnames", ())
    }
    assert "queue" in declared
    assert found | declared <= LABELS


async def test_a_queue_tells_its_batches_what_waits_and_what_it_refused() -> None:
    answer = asyncio.Event()

    async def flush(items: Sequence[str], _timeout_seconds: float) -> Sequence[str]:
        await answer.wait()
        return items

    queue: Coalescer[str, str] = Coalescer(flush, name="told", queue_limit=2)
    deadline = time.monotonic() + 5
    first = queue.submit("a", deadline=deadline)
    await asyncio.sleep(0)
    waiting = [queue.submit(item, deadline=deadline) for item in "bc"]
    assert own("guildhall_coalescer_waiting_items", queue="told") == 2
    with pytest.raises(Overloaded):
        queue.submit("d", deadline=deadline)
    assert own("guildhall_coalescer_refused_total", queue="told") == 1
    answer.set()
    assert await asyncio.gather(first, *waiting) == ["a", "b", "c"]
    assert own("guildhall_coalescer_waiting_items", queue="told") == 0
    assert own("guildhall_coalescer_batch_items_count", queue="told") == 2
    assert own("guildhall_coalescer_batch_items_sum", queue="told") == 3
    assert own("guildhall_coalescer_flush_seconds_count", queue="told") == 2


def test_defects_are_exported_as_nought_before_the_first() -> None:
    known = contracts.rpcs()["/guildhall.messaging.v1.MessageService/SendMessage"]
    rpc = replace(known, name="/guildhall.test.v1.TestService/Nought")
    telemetry.Counters(rpc, "unary")
    labels = {"grpc_type": "unary", "grpc_service": rpc.service, "grpc_method": rpc.method, "grpc_code": "Internal"}
    assert REGISTRY.get_sample_value("grpc_server_handled_total", labels) == 0
