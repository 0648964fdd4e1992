"""Whatever is sent to an RPC, by the strongest who may call it, is answered or refused: nothing breaks, nothing leaks.

The requests are the same each time. `GUILDHALL_FUZZ=10000` sends as many to each RPC instead of a hundred.
"""

import asyncio
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from services.chassis import interceptors
from tests.suite.test_access_matrix import STRONGEST, TABLE
from tests.support.examples import Example, all_examples, rpc_of
from tests.support.examples.cast import Caller, Cast
from tests.support.examples.digests import SERVICES
from tests.support.examples.verdicts import EMPTY, OK, called, door, verdict
from tests.support.examples.world import House, Town
from tests.support.hard_values import hard_requests, mutated
from tests.support.suite import Suite

pytestmark = pytest.mark.usefixtures("no_workers")

REQUESTS = int(os.environ.get("GUILDHALL_FUZZ", "100"))
AT_ONCE = 10
STREAM_SECONDS = 0.3
"""Of a stream that is open and says nothing: it is not broken."""
BROKEN = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
EXCEPTION_TEXT = re.compile(
    r"Traceback|\w(Error|Exception)\b|psycopg|sqlalchemy|File \"|object at 0x|unexpected|SELECT|INSERT|UPDATE ", re.I
)
SHOWN = 400


def drawn(strategy: st.SearchStrategy[Any], number: int) -> list[Any]:
    """The same values each time; fewer if there are not as many different ones."""
    found: list[Any] = []

    @settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(value: Any) -> None:
        found.append(value)

    draw()
    return found


def attempts(good: Message, number: int) -> list[Message | bytes]:
    """Half of them with hard values, half of them with damaged bytes; more of those where there is nothing to fill."""
    hard = drawn(hard_requests(good), number // 2)[: number // 2]
    damaged = drawn(mutated(good), number - len(hard))
    while len(hard) + len(damaged) < number:
        damaged.append(good.SerializeToString() + bytes(len(damaged) % 50))
    return [*hard, *damaged]


def open_examples() -> dict[str, Example]:
    """Those that somebody may call; of things of others that nobody may touch, one's own are sent instead."""
    words = {TABLE.word(OK), TABLE.word(EMPTY)}
    return {name: each for name, each in all_examples().items() if words & set(TABLE.rows[name].values())}


class Fuzz:
    """Sends them."""

    def __init__(self, town: Town) -> None:
        self._town = town
        self._suite = town.suite
        self._cast: Cast | None = None
        self._house: House | None = None
        self.sent: dict[str, int] = {}
        self.broken: list[str] = []

    async def rpc(self, name: str, example: Example, number: int) -> None:
        """All that is sent to one RPC."""
        caller, good, forwarded = await self._good(name, example)
        tried = attempts(good, number)
        for start in range(0, len(tried), AT_ONCE):
            if example.spends_caller:
                caller = await self._renewed(caller)
            batch = tried[start : start + AT_ONCE]
            await asyncio.gather(*(self._send(name, example, caller, request, forwarded) for request in batch))
        self.sent[name] = len(tried)

    async def _good(self, name: str, example: Example) -> tuple[Caller, Message, Any]:
        """The strongest caller, and a request of theirs that is answered."""
        try:
            return await self._answered(name, example)
        except (grpc.aio.AioRpcError, AssertionError):
            # Something of the workspace was undone by what was sent before, as it may be: here is another.
            self._cast = None
            return await self._answered(name, example)

    async def _answered(self, name: str, example: Example) -> tuple[Caller, Message, Any]:
        if self._cast is None:
            house = await House(self._town).prepare()
            self._cast = Cast(house, await House(self._town).prepare())
        words = {TABLE.word(OK), TABLE.word(EMPTY)}
        column = next(column for column in STRONGEST if TABLE.rows[name][column] in words)
        caller = Caller(column) if column == "peer" else await self._cast.renew(column)
        good, forwarded = await example.build(rpc_of(name), self._cast.house, caller)
        control, its_own = await example.build(rpc_of(name), self._cast.house, caller)
        metadata, certificate = door(rpc_of(name), example, caller, its_own)
        answer = await called(self._suite, name, rpc_of(name), control, metadata=metadata, certificate=certificate)
        assert TABLE.word(verdict(*answer)) in words, f"{name}: the example itself is refused: {verdict(*answer)}"
        return await self._renewed(caller) if example.spends_caller else caller, good, forwarded

    async def _renewed(self, caller: Caller) -> Caller:
        assert self._cast is not None
        return caller if caller.column == "peer" else await self._cast.renew(caller.column)

    async def _send(
        self, name: str, example: Example, caller: Caller, request: Message | bytes, forwarded: Any
    ) -> None:
        metadata, certificate = door(rpc_of(name), example, caller, forwarded)
        _, error = await called(
            self._suite,
            name,
            rpc_of(name),
            request,
            metadata=metadata,
            certificate=certificate,
            seconds=STREAM_SECONDS,
        )
        if error is not None and (error.code() in BROKEN or EXCEPTION_TEXT.search(error.details() or "")):
            shown = repr(request if isinstance(request, bytes) else str(request))[:SHOWN]
            self.broken.append(f"{name}: {error.code().name}: {error.details()}: {shown}")


def forget_events(suite: Suite) -> None:
    """What was accepted and cannot be applied would be tried again for minutes, while other tests wait for it."""
    for service in SERVICES:
        suite.rows(f"{service}_owner", f"DELETE FROM {service}.inbox WHERE applied_at IS NULL", None)


@pytest.fixture(scope="module")
async def fuzz(suite: Suite) -> Fuzz:
    """Everything sent to every RPC."""
    fuzz = Fuzz(await Town(suite).prepare())
    for name, example in open_examples().items():
        await fuzz.rpc(name, example, REQUESTS)
    forget_events(suite)
    return fuzz


async def test_nothing_that_is_sent_breaks_an_rpc(fuzz: Fuzz) -> None:
    assert not fuzz.broken, "\n".join(fuzz.broken)


async def test_as_much_was_sent_to_every_rpc(fuzz: Fuzz) -> None:
    sent = {rpc_of(name).name for name, number in fuzz.sent.items() if number >= REQUESTS}
    assert sent == {rpc_of(name).name for name in all_examples()}


async def test_every_service_is_there_afterwards(suite: Suite, fuzz: Fuzz) -> None:
    assert fuzz.sent
    await House(await Town(suite).prepare()).prepare()


@contextmanager
def texts_with_nul_let_through() -> Iterator[None]:
    """Validation does not look for what PostgreSQL cannot store."""
    true = interceptors._nul_paths
    interceptors._nul_paths = lambda message, prefix="": []
    try:
        yield
    finally:
        interceptors._nul_paths = true


async def test_a_border_that_is_open_is_found_out(suite: Suite) -> None:
    name = "membership.GroupService/CreateGroup"
    fuzz = Fuzz(await Town(suite).prepare())
    with texts_with_nul_let_through():
        await fuzz.rpc(name, all_examples()[name], 200)
    assert any("INTERNAL" in each for each in fuzz.broken)
