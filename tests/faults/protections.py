"""The protections that a control takes away, each by replacing what one name stands for. Only `launch` uses this.

A name that is gone is an error: a control that takes nothing away would prove nothing.
"""

import asyncio
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import TextClause, text


def _without_poll() -> None:
    """Replicas deliver only what they are woken for."""
    audiences = importlib.import_module("services.messaging.audiences")
    wakes = importlib.import_module("services.chassis.wakes")
    for name in ("POLL_SECONDS",):
        getattr(audiences, name)
        setattr(audiences, name, 1e9)
    wakes._wake_all  # noqa: B018 - it must be there
    wakes._wake_all = lambda _heard: None  # type: ignore[attr-defined]


def _without_fresh_access() -> None:
    """What membership and guest have said once is taken for true from then on."""
    peers = importlib.import_module("services.messaging.peers")
    for owner, method in (
        (peers.Membership, "check_access"),
        (peers.Membership, "access_revision"),
        (peers.Guests, "check"),
        (peers.Guests, "channels"),
    ):
        setattr(owner, method, _remembered(getattr(owner, method)))


def _remembered(ask: Callable[..., Any]) -> Callable[..., Any]:
    answers: dict[tuple[object, ...], Any] = {}

    @functools.wraps(ask)
    async def remembered(self: object, *arguments: object, **named: object) -> Any:
        key = (*arguments, *sorted((name, value) for name, value in named.items() if name != "deadline"))
        if key not in answers:
            answers[key] = await ask(self, *arguments, **named)
        return answers[key]

    return remembered


def _without_decision_at_delivery() -> None:
    """Who gets a message is decided when it is sent."""
    instead = importlib.import_module("tests.faults.decided_at_send")
    for name in ("Hub", "Outgoing"):
        module = importlib.import_module(f"services.messaging.{name.lower()}")
        getattr(module, name)
        setattr(module, name, getattr(instead, name))


def _without_side_lane() -> None:
    """A batch waits for every row that it locks. Where no statement skips locked rows there is no side lane yet."""
    package = importlib.import_module("services.messaging")
    for found in pkgutil.iter_modules(package.__path__, "services.messaging."):
        if found.name.endswith("__main__") or found.ispkg:
            continue
        module = importlib.import_module(found.name)
        for name, found_statement in list(vars(module).items()):
            if isinstance(found_statement, TextClause) and _skips_conversations(found_statement.text):
                setattr(module, name, text(found_statement.text.replace("SKIP LOCKED", "")))


def _skips_conversations(statement: str) -> bool:
    return "SKIP LOCKED" in statement and "conversations" in statement


def _without_dummy_verification() -> None:
    """Where there is no hash to compare with, the answer is no at once."""
    passwords = importlib.import_module("services.identity.passwords").Passwords
    verify = passwords.verify

    async def at_once(self: object, password_hash: str | None, password: str) -> bool:
        return password_hash is not None and await verify(self, password_hash, password)

    passwords.verify = at_once


def _without_drain() -> None:
    """A process that is told to stop does so at once, with what it has under way."""
    frame = importlib.import_module("services.chassis.frame").Frame
    frame.stop  # noqa: B018 - it must be there

    async def at_once(self: Any) -> None:
        await self._server.stop(None)

    frame.stop = at_once


def _without_haste() -> None:
    """Not a protection: a work takes a second longer once its effect is there, so that it can be killed just then."""
    worker = importlib.import_module("services.chassis.worker").Worker
    serve = worker.serve

    def slowed(work: Callable[..., Any]) -> Callable[..., Any]:
        async def slow(*arguments: str) -> None:
            await work(*arguments)
            await asyncio.sleep(1)

        return slow

    def with_slow_works(self: Any, works: Mapping[str, Any], sweeps: Any) -> None:
        serve(self, {kind: slowed(work) for kind, work in works.items()}, sweeps)

    worker.serve = with_slow_works


def _without_row_until_done() -> None:
    """A work's row is forgotten when it is begun, and it waits for its turn after that."""
    worker = importlib.import_module("services.chassis.worker")
    worker.BEGIN_WORK  # noqa: B018 - it must be there
    worker.BEGIN_WORK = text("DELETE FROM outbox WHERE id = :id AND target = 'worker' RETURNING kind, subject_id")
    serve = worker.Worker.serve

    def late(work: Callable[..., Any]) -> Callable[..., Any]:
        async def waiting(*arguments: str) -> None:
            await asyncio.sleep(1)
            await work(*arguments)

        return waiting

    def with_late_works(self: Any, works: Mapping[str, Any], sweeps: Any) -> None:
        serve(self, {kind: late(work) for kind, work in works.items()}, sweeps)

    worker.Worker.serve = with_late_works


WITHOUT: dict[str, Callable[[], None]] = {
    "drain": _without_drain,
    "haste": _without_haste,
    "row_until_done": _without_row_until_done,
    "dummy_verification": _without_dummy_verification,
    "poll": _without_poll,
    "fresh_access": _without_fresh_access,
    "decision_at_delivery": _without_decision_at_delivery,
    "side_lane": _without_side_lane,
}
