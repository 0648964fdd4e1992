"""What is secret or a person's own, in calls that are answered, goes to no log, no worker's log and nowhere in Valkey.

test_canaries.py fills requests that are mostly refused. These are good ones, of every RPC to which something sensitive
is sent, by the strongest who may call it. Every sensitive text has a mark, as far as the request is still good with it.
Where it is not (a token, a code) what was sent is looked for as it is, and so are the secrets of the answers.
"""

import asyncio
import re
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
import redis
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from deploy.stack.settings import SERVICES
from services.chassis import contracts
from tests.suite.test_access_matrix import STRONGEST, TABLE
from tests.suite.test_canaries import Traces, listen
from tests.support.backends import wait_until
from tests.support.examples import Example, all_examples, rpc_of
from tests.support.examples.cast import Caller, Cast
from tests.support.examples.verdicts import EMPTY, OK, called, door, verdict
from tests.support.examples.world import House, Town
from tests.support.requests import DEEPEST
from tests.support.suite import Suite

MARK = f"canary{uuid.uuid4().hex[:8]}"
SECRET = re.compile(r"[A-Za-z0-9_.~+/=-]{32,}")
"""A text that is long and not made of words: a token, a key, a link's secret."""
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
WORDS = {TABLE.word(OK), TABLE.word(EMPTY)}
MARKED_AT_LEAST = 28
"""RPCs that are answered with a mark in their request."""


def sensitive(message: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    """Every text or piece of content that is there and is sensitive, by the message that holds it."""
    for field, value in message.ListFields():
        if field.message_type and not field.message_type.GetOptions().map_entry:
            for part in value if field.is_repeated else [value]:
                yield from sensitive(part)
        elif field.GetOptions().debug_redact and field.type in (field.TYPE_STRING, field.TYPE_BYTES):
            yield message, field


def is_sensitive(described: Descriptor, depth: int = 0) -> bool:
    """Whether a message of this kind may hold something sensitive."""
    return depth < DEEPEST and any(
        field.GetOptions().debug_redact or (field.message_type and is_sensitive(field.message_type, depth + 1))
        for field in described.fields
    )


def examples() -> dict[str, Example]:
    """Those of RPCs to which something sensitive is sent, and which somebody may call."""
    return {
        name: each
        for name, each in all_examples().items()
        if WORDS & set(TABLE.rows[name].values()) and is_sensitive(contracts.request_class(rpc_of(name)).DESCRIPTOR)
    }


def marked(good: Message) -> Message:
    """The request with a mark in every sensitive text."""
    request = type(good)()
    request.CopyFrom(good)
    for number, (holder, field) in enumerate(list(sensitive(request))):
        texts = getattr(holder, field.name)
        new = [_mark(field, text, number) for text in (texts if field.is_repeated else [texts])]
        if field.is_repeated:
            del texts[:]
            texts.extend(new)
        else:
            setattr(holder, field.name, new[0])
    return request


def _mark(field: FieldDescriptor, text: str | bytes, number: int) -> str | bytes:
    """As much like what was there as a text with a mark in it can be."""
    if isinstance(text, bytes):
        return f"{MARK}{number}".encode()
    if "@" in text:
        return f"{MARK}{number}-{uuid.uuid4().hex[:6]}@example.com"
    if text.startswith("https://"):
        return f"https://example.com/{MARK}{number}"
    return f"{MARK}{number} {text}"[: max(len(MARK) + 2, len(text))] if " " in text else f"{MARK}{number}"


def secrets_in(message: Message) -> set[str]:
    """The secrets that a message holds: what is sensitive and no text of a person's."""
    values = {value for holder, field in sensitive(message) for value in _texts(getattr(holder, field.name))}
    return {value for value in values if SECRET.fullmatch(value) and not UUID.fullmatch(value)}


def _texts(value: Any) -> list[str]:
    return [each for each in ([value] if isinstance(value, str | bytes) else value) if isinstance(each, str)]


class Calls:
    """Makes one good call of each RPC, with marks if it may have them."""

    def __init__(self, town: Town) -> None:
        self._town = town
        self._cast: Cast | None = None
        self.marked: set[str] = set()
        self.answered: set[str] = set()
        self.secrets: set[str] = set()
        self.refusals: list[bytes] = []

    async def make(self, name: str, example: Example) -> None:
        """The call: with marks, and if that is refused, as it is; in a new workspace if this one is used up."""
        if await self._once(name, example, with_marks=True):
            self.marked.add(name)
        elif not await self._once(name, example, with_marks=False):
            self._cast = None
            if not await self._once(name, example, with_marks=False):
                return
        self.answered.add(name)

    async def _once(self, name: str, example: Example, *, with_marks: bool) -> bool:
        cast = await self._present()
        column = next(column for column in STRONGEST if TABLE.rows[name][column] in WORDS)
        caller = Caller(column) if column == "peer" else cast.present.get(column) or await cast.renew(column)
        if example.spends_caller or example.personal:
            cast.present.pop(column, None)
        try:
            good, forwarded = await example.build(rpc_of(name), cast.house, caller)
        except (grpc.aio.AioRpcError, AssertionError):
            return False  # something of the workspace is gone, as it may be by what was called before
        request = marked(good) if with_marks else good
        if with_marks and request == good:
            return False
        metadata, certificate = door(rpc_of(name), example, caller, forwarded)
        messages, error = await called(
            self._town.suite, name, rpc_of(name), request, metadata=metadata, certificate=certificate, seconds=0.5
        )
        if error is not None:
            self.refusals.append((error.details() or "").encode())
            self.refusals += [bytes(v) for k, v in error.trailing_metadata() or () if k == "grpc-status-details-bin"]
        for message in (request, *messages):
            self.secrets |= secrets_in(message)
        self.secrets |= {value.removeprefix("Bearer ") for key, value in metadata if key == "authorization"}
        return TABLE.word(verdict(messages, error)) in WORDS

    async def _present(self) -> Cast:
        if self._cast is None:
            self._cast = Cast(await House(self._town).prepare(), await House(self._town).prepare())
        return self._cast


def waiting(suite: Suite) -> int:
    """Events that are due and were not tried once, and tasks that no worker has ended."""
    due = " UNION ALL ".join(
        f"SELECT 1 FROM {service}.outbox WHERE NOT dead AND attempts = 0 AND due_at <= statement_timestamp()"
        for service in SERVICES
    )
    with suite.stack.admin_database() as admin:
        (rows,) = admin.execute(f"SELECT count(*) FROM ({due}) due").fetchone() or (0,)  # type: ignore[arg-type]
    with redis.Redis.from_url(suite.stack.valkey.url) as client:
        counts: Any = [*(client.llen(service) for service in SERVICES), client.hlen("unacked")]
    return int(rows) + sum(counts)


async def restart(suite: Suite, **changes: object) -> None:
    """All four services, with settings changed."""
    await suite.stop(*SERVICES)
    await suite.start(*SERVICES, **changes)


@pytest.fixture
async def restored(suite: Suite) -> AsyncIterator[None]:
    """Has the services as they were, once what the test captures is over: they hold the stream they write to."""
    yield
    await restart(suite)


async def test_nothing_of_them_leaves_for_a_log_or_valkey(
    suite: Suite, restored: None, capfd: pytest.CaptureFixture[str]
) -> None:
    await restart(suite, log_level="debug")
    found, ready, over = Traces(), threading.Event(), threading.Event()
    path = f"{suite.stack.settings.layout.sockets}/valkey.sock"
    listening = threading.Thread(target=listen, args=(path, found, ready, over), daemon=True)
    listening.start()
    assert ready.wait(10)
    calls = Calls(await Town(suite).prepare())
    for name, example in examples().items():
        await calls.make(name, example)
    await asyncio.to_thread(wait_until, lambda: waiting(suite) == 0, "what was left for later was begun", seconds=60)
    last = uuid.uuid4().hex
    with redis.Redis.from_url(suite.stack.valkey.url) as client:
        client.echo(last)
    wait_until(lambda: last.encode() in found.commands, "every command before this one was noted")
    over.set()
    listening.join(10)
    logs = {path.name: path.read_text(errors="replace") for path in suite.stack.settings.layout.logs.glob("*.log")}
    logs["the services"] = "".join(capfd.readouterr())
    assert calls.answered == set(examples())
    assert len(calls.marked) >= MARKED_AT_LEAST, sorted(calls.marked)
    assert len(calls.secrets) > 20
    assert "SendMessage" in logs["the services"]
    assert b'"PUBLISH"' in found.commands
    assert [refusal for refusal in calls.refusals if MARK.encode() in refusal] == []
    for text in (MARK, *calls.secrets):
        assert [name for name, lines in logs.items() if text in lines] == []
        assert text.encode() not in found.commands
