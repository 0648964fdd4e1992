"""Every RPC, called by everybody who may come to its door, gives what the table beside this file says.

`GUILDHALL_MATRIX=write` writes into the table what was found, to be looked through with `git diff`.
"""

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from tests.support.examples import Example, all_examples, missing, rpc_of
from tests.support.examples.cast import COLUMNS, Caller, Cast
from tests.support.examples.deleted import deleted_things
from tests.support.examples.digests import Digests, changed
from tests.support.examples.ids import ids, never_issued, replaced
from tests.support.examples.table import NOT_APPLICABLE, Table
from tests.support.examples.verdicts import EMPTY, OK, called, door, more, verdict
from tests.support.examples.world import House, Town
from tests.support.reflected import Metadata
from tests.support.suite import Suite

pytestmark = pytest.mark.usefixtures("no_workers")

WRITES = os.environ.get("GUILDHALL_MATRIX") == "write"
HEADINGS = {
    "anonymous": "anon",
    "malformed": "bad",
    "expired": "exp",
    "revoked": "rev",
    "viewer": "view",
    "member": "memb",
    "moderator": "mod",
    "owner": "ownr",
    "admin": "admn",
    "guest": "gst",
    "far_guest": "far",
    "locked": "lock",
    "ended": "end",
    "banned": "ban",
    "stranger": "strg",
    "root": "root",
    "account": "acct",
    "unscoped": "nosc",
    "bound": "bnd",
    "peer": "peer",
    "wrong_peer": "wrng",
}
CALLERS = tuple(HEADINGS)
IDS = {"other": "othr", "mixed": "mix", "deleted": "del", "never": "nevr"}
TABLE = Table(Path(__file__).parent / "access_matrix.txt", {**HEADINGS, **IDS})
STRONGEST = ("admin", "owner", "root", "guest", "account", "peer", "stranger", "anonymous")
AT_ONCE = 4
LETS_IN = {OK, EMPTY}
LEFT_BEHIND = {
    # A redemption takes two services: it is written down before it is decided, and as abandoned when it is refused.
    "guest.GuestInviteService/RedeemGuestInvite": ["guest.redemptions", "membership.inbox"],
}
"""What a refusal leaves behind all the same, and why."""
Target = tuple[Message, Metadata]
"""What is asked for, and what a peer forwards with it."""


@dataclass
class Found:
    """What came of the calls of one run."""

    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    written: dict[str, list[str]] = field(default_factory=dict)
    """RPCs whose refusals left something behind, and in which tables."""


class Matrix:
    """Calls each RPC as everybody, those who are to be refused first and under the eyes of the digests."""

    def __init__(self, cast: Cast, deleted: dict[str, str], elsewhere: dict[str, str]) -> None:
        """`deleted` and `elsewhere` have an id of each kind of thing that is gone, or in another workspace."""
        self._cast = cast
        self._house = cast.house
        self._suite = cast.town.suite
        self._deleted = deleted
        self._elsewhere = elsewhere
        self._digests = Digests(self._suite)
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def row(self, name: str, example: Example, found: Found) -> None:
        """What everybody finds behind one RPC."""
        row: dict[str, str] = {}
        expected = TABLE.rows.get(name, {})
        refused = [column for column in CALLERS if self._is_refused(expected.get(column, ""))]
        target = await self._target(name, example, Caller(""))
        if refused and not WRITES:
            own = {column: self._caller(column) for column in refused if example.personal}
            targets = {column: await self._target(name, example, caller) for column, caller in own.items()}
            before = await self._digests.take()
            # What is refused uses nothing up: one target does for all.
            calls = (self._refused(name, example, column, targets.get(column, target)) for column in refused)
            row |= dict(zip(refused, await asyncio.gather(*calls), strict=True))
            if tables := changed(before, await self._digests.take()):
                found.written[name] = tables
        used_up = True
        for column in CALLERS:
            if column not in row:
                caller = self._caller(column)
                if used_up or example.personal:
                    target = await self._target(name, example, caller)
                row[column] = await self._call(name, example, caller, target)
                used_up = row[column] == TABLE.word(OK)
                if used_up and example.spends_caller and column in COLUMNS:
                    await self._cast.renew(column)
        row |= await self._about_ids(name, example, row)
        found.rows[name] = {column: row[column] for column in (*CALLERS, *IDS)}

    def _is_refused(self, word: str) -> bool:
        return word != "" and TABLE.legend.get(word, word) not in LETS_IN

    async def _target(self, name: str, example: Example, caller: Caller) -> Target:
        return await example.build(rpc_of(name), self._house, caller)

    async def _refused(self, name: str, example: Example, column: str, target: Target) -> str:
        async with self._gate:
            return await self._call(name, example, self._caller(column), target)

    def _caller(self, column: str) -> Caller:
        return self._cast.present.get(column) or Caller(column)

    async def _call(self, name: str, example: Example, caller: Caller, target: Target) -> str:
        request, forwarded = target
        rpc = rpc_of(name)
        metadata, certificate = door(rpc, example, caller, forwarded)
        door_of: dict[str, Any] = {"metadata": metadata, "certificate": certificate}
        messages, error = await called(self._suite, name, rpc, request, **door_of)
        while error is None and verdict(messages, None) == EMPTY and (token := more(messages)):
            # A page may be empty and not the last: a search whose time is over goes on with the next.
            following: Any = type(request)()
            following.CopyFrom(request)
            following.page_token = token
            messages, error = await called(self._suite, name, rpc, following, **door_of)
        return TABLE.word(verdict(messages, error))

    async def _about_ids(self, name: str, example: Example, row: dict[str, str]) -> dict[str, str]:
        """What the strongest caller finds who names other things."""
        strongest = next((column for column in STRONGEST if row[column] in (TABLE.word(OK), TABLE.word(EMPTY))), None)
        found = dict.fromkeys(IDS, NOT_APPLICABLE)
        if strongest is None:
            return found
        caller = self._caller(strongest)
        request, forwarded = await self._target(name, example, caller)
        for kind in IDS:
            words = [
                await self._call(name, example, caller, (other, forwarded)) for other in self._changed(request, kind)
            ]
            found[kind] = "/".join(dict.fromkeys(words)) or NOT_APPLICABLE
        return found

    def _changed(self, request: Message, kind: str) -> list[Message]:
        """The request with other ids in it: with all of them, or with each in turn."""
        named = ids(request)
        if kind in ("other", "mixed") and "workspace_id" not in named.values():
            return []
        others = {value: self._other(value, its_kind, kind) for value, its_kind in named.items()}
        others = {value: other for value, other in others.items() if other}
        if kind == "other":
            return [replaced(request, others)]
        return [replaced(request, {value: other}) for value, other in others.items()]

    def _other(self, value: str, its_kind: str, kind: str) -> str:
        if kind == "never":
            return never_issued(value)
        if kind == "deleted":
            return self._deleted.get(its_kind, "")
        return "" if kind == "mixed" and its_kind == "workspace_id" else self._elsewhere.get(its_kind, "")


@pytest.fixture(scope="module")
async def found(suite: Suite) -> Found:
    """The whole matrix, found once."""
    town = await Town(suite).prepare()
    house, elsewhere = await House(town).prepare(), await House(town).prepare()
    cast = await Cast(house, elsewhere).prepare()
    matrix, found = Matrix(cast, await deleted_things(house), await elsewhere.things()), Found()
    for name, example in all_examples().items():
        try:
            await matrix.row(name, example, found)
        except grpc.aio.AioRpcError as error:
            raise AssertionError(f"the example of {name} could not be made: {error.details()}") from error
    if WRITES:
        TABLE.write(found.rows)
    return found


def test_every_rpc_has_an_example() -> None:
    assert missing() == []


def test_every_rpc_has_a_line_in_the_table() -> None:
    assert sorted(set(all_examples()) ^ set(TABLE.rows)) == []


def test_every_rpc_lets_somebody_in_or_the_table_says_why_not() -> None:
    lets_in = {TABLE.word(OK), TABLE.word(EMPTY)}
    open_rpcs = {rpc_of(name).name for name, row in TABLE.rows.items() if lets_in & set(row.values())}
    closed = {name for name in TABLE.rows if rpc_of(name).name not in open_rpcs}
    assert closed == set(TABLE.remarks)


async def test_everybody_finds_what_the_table_says(found: Found) -> None:
    wrong = [
        f"{name} as {column}: the table says {TABLE.rows[name][column]}, found {word}"
        for name, row in found.rows.items()
        for column, word in row.items()
        if TABLE.rows.get(name, {}).get(column) != word
    ]
    assert not wrong, "\n".join([*wrong, "If this is as it should be: GUILDHALL_MATRIX=write, and look at the diff."])


async def test_a_refusal_writes_nothing(found: Found) -> None:
    assert found.written == LEFT_BEHIND


async def test_the_digests_see_a_single_row(suite: Suite) -> None:
    house = await House(await Town(suite).prepare()).prepare()
    digests = Digests(suite)
    before = await digests.take()
    await house.message()
    tables = changed(before, await digests.take())
    assert {"messaging.conversations", "messaging.messages"} <= set(tables)
    before = await digests.take()
    await house.invitation()
    assert {"membership.invitations", "membership.outbox"} <= set(changed(before, await digests.take()))
