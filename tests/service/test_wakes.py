"""Wake-ups through a real Valkey: heard, and heard again after the way to it was lost without a word."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.stack.suite import Suite
from services.chassis.wakes import Wakes
from tests.faults.tcp_proxy import Mode, Proxy


@pytest.fixture
async def way(backends: Suite) -> AsyncIterator[Proxy]:
    """A way to Valkey that can be lost."""
    proxy = Proxy(("127.0.0.1", 0), Path(backends.valkey.url.removeprefix("unix://")))
    await proxy.start()
    yield proxy
    await proxy.stop()


async def test_a_server_that_falls_silent_is_left_and_wakes_are_heard_again(backends: Suite, way: Proxy) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = Wakes(f"redis://127.0.0.1:{way.port}", silence_seconds=0.2)
    speaker = Wakes(backends.valkey.url)
    async with asyncio.timeout(20):
        listening = asyncio.create_task(listener.listen({"test.silence": heard.put_nowait}))
        assert await heard.get() == ""  # everybody is woken once when the listening begins
        speaker.publish("test.silence", "before")
        assert await heard.get() == "before"

        way.set_mode(Mode.BLACK_HOLE)
        while way.accepted == 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        way.set_mode(Mode.PASS)
        assert await heard.get() == ""
        speaker.publish("test.silence", "after")
        while await heard.get() != "after":
            pass

    listening.cancel()
    await listener.close()
    await speaker.close()


async def test_a_quiet_server_that_answers_is_kept(backends: Suite, way: Proxy) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = Wakes(f"redis://127.0.0.1:{way.port}", silence_seconds=0.2)
    speaker = Wakes(backends.valkey.url)
    async with asyncio.timeout(20):
        listening = asyncio.create_task(listener.listen({"test.quiet": heard.put_nowait}))
        assert await heard.get() == ""
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(heard.get(), 2)  # ten silences, and nobody was woken anew
        speaker.publish("test.quiet", "still here")
        assert await heard.get() == "still here"
    assert way.accepted == 1
    listening.cancel()
    await listener.close()
    await speaker.close()
