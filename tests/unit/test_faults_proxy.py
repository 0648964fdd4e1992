"""The proxy that the fault tests stand on: it must do to bytes what it says."""

import asyncio
import struct
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faults.commits import CommitCuts
from tests.faults.tcp_proxy import Cut, CutAfter, Filter, Mode, Proxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echo_behind_proxy(make_filter: Callable[[], Filter] = Filter) -> AsyncIterator[Proxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    upstream = server.sockets[0].getsockname()[:2]
    proxy = Proxy(("127.0.0.1", 0), upstream, make_filter=make_filter)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
        server.close()


@asynccontextmanager
async def connection(proxy: Proxy) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def heard(reader: asyncio.StreamReader, size: int, *, seconds: float = 5) -> bytes:
    async with asyncio.timeout(seconds):
        return await reader.readexactly(size)


async def test_it_passes_everything_on() -> None:
    async with echo_behind_proxy() as proxy, connection(proxy) as (reader, writer):
        writer.write(b"hello")
        assert await heard(reader, 5) == b"hello"
        writer.write_eof()
        assert await reader.read() == b""


async def test_a_black_hole_swallows_without_a_word_and_gives_it_back_when_it_closes() -> None:
    async with echo_behind_proxy() as proxy, connection(proxy) as (reader, writer):
        proxy.set_mode(Mode.BLACK_HOLE)
        writer.write(b"hello")
        with pytest.raises(TimeoutError):
            await heard(reader, 1, seconds=0.2)
        proxy.set_mode(Mode.PASS)
        assert await heard(reader, 5) == b"hello"


async def test_a_reset_breaks_what_is_open_and_welcomes_what_is_new() -> None:
    async with echo_behind_proxy() as proxy:
        async with connection(proxy) as (reader, writer):
            writer.write(b"a")
            assert await heard(reader, 1) == b"a"
            proxy.reset()
            with pytest.raises(ConnectionResetError):
                await heard(reader, 1)
        async with connection(proxy) as (reader, writer):
            writer.write(b"b")
            assert await heard(reader, 1) == b"b"


async def test_a_delay_holds_each_byte_for_so_long() -> None:
    async with echo_behind_proxy() as proxy, connection(proxy) as (reader, writer):
        proxy.set_mode(Mode.DELAY, delay_seconds=0.15)
        begun = asyncio.get_running_loop().time()
        writer.write(b"a")
        await heard(reader, 1)
        assert asyncio.get_running_loop().time() - begun >= 0.3


async def test_it_cuts_after_so_many_bytes_of_replies() -> None:
    async with echo_behind_proxy(lambda: CutAfter(3)) as proxy, connection(proxy) as (reader, writer):
        writer.write(b"hello")
        assert await heard(reader, 3) == b"hel"
        writer.write(b"more")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await heard(reader, 1)


async def test_it_works_on_unix_sockets() -> None:
    with tempfile.TemporaryDirectory() as folder:
        here, there = Path(folder) / "here", Path(folder) / "there"

        async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hi")
            await writer.drain()
            writer.close()

        server = await asyncio.start_unix_server(greet, there)
        proxy = Proxy(here, there)
        await proxy.start()
        reader, writer = await asyncio.open_unix_connection(here)
        assert await reader.read() == b"hi"
        writer.close()
        await proxy.stop()
        server.close()
        assert not here.exists()


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", 4 + len(body)) + body


COMMITTED = _message(b"C", b"COMMIT\0") + _message(b"Z", b"I")
IN_TRANSACTION = _message(b"C", b"INSERT 0 1\0") + _message(b"Z", b"T")


@pytest.mark.parametrize("binary", [False, True])
def test_the_answer_of_the_armed_transaction_is_withheld(binary: bool) -> None:
    cuts, key = CommitCuts(), uuid.uuid4()
    cuts.arm(str(key))
    following = cuts.filter()
    following.request(b"INSERT " + (key.bytes if binary else str(key).encode()))
    assert following.reply(IN_TRANSACTION) == IN_TRANSACTION
    following.request(b"COMMIT")
    with pytest.raises(Cut):
        following.reply(COMMITTED)
    assert cuts.cut == [key]
    assert not cuts.armed


def test_the_answers_of_other_transactions_pass_even_in_pieces() -> None:
    cuts = CommitCuts()
    cuts.arm(str(uuid.uuid4()))
    following = cuts.filter()
    following.request(b"INSERT something else; COMMIT")
    passed = b"".join(following.reply(COMMITTED[place : place + 1]) for place in range(len(COMMITTED)))
    assert passed == COMMITTED
    assert not cuts.cut


def test_a_statement_that_commits_by_itself_is_cut() -> None:
    cuts, key = CommitCuts(), uuid.uuid4()
    cuts.arm(str(key))
    following = cuts.filter()
    following.request(str(key).encode())
    with pytest.raises(Cut):
        following.reply(_message(b"C", b"SELECT 1\0") + _message(b"Z", b"I"))


def test_what_is_rolled_back_is_not_cut() -> None:
    cuts, key = CommitCuts(), uuid.uuid4()
    cuts.arm(str(key))
    following = cuts.filter()
    following.request(str(key).encode())
    answer = _message(b"C", b"ROLLBACK\0") + _message(b"Z", b"I")
    assert following.reply(answer) == answer
    assert cuts.armed


def test_a_request_that_is_to_be_lost_does_not_arrive() -> None:
    cuts, key = CommitCuts(), uuid.uuid4()
    cuts.lose(str(key))
    following = cuts.filter()
    text = str(key).encode()
    assert following.request(text[:20]) == text[:20]
    with pytest.raises(Cut):
        following.request(text[20:])
    assert cuts.lost == [key]
