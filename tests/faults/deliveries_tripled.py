"""F11: every event and every task is delivered three times, in no order; some of it long after the rest is done.

All use cases are done with the post between the services held back; then it is dealt out. What the tables hold in the
end must be what they hold after one delivery in order. It is the same each round, but for the order.
Control: an inbox that takes each delivery for an event of its own.
"""

import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psycopg
from google.protobuf.message import Message
from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import text

from deploy.stack.settings import SERVICES
from services.chassis import inbox
from services.guest import redemptions
from tests.faults.bench import Bench, Result
from tests.faults.identity_use_cases import IDENTITY
from tests.faults.use_cases import USE_CASES, Call, new_town
from tests.faults.workshop import Workshop, open_workshop
from tests.service.test_membership_workspaces import _KNOWN, Workspace, somebody
from tests.support.suite import Suite

TIMES = 3
_BATCH = 5
# Not of the effects: the post itself, and what the search does by its own clock.
UNCOUNTED = {"alembic_version", "inbox", "outbox", "sight_losses", "search_entries", "search_positions"}
INTEGERS = """
    SELECT t.table_schema, t.table_name, coalesce(
        array_agg(c.column_name::text) FILTER (
            WHERE c.data_type IN ('smallint', 'integer', 'bigint') AND c.is_identity = 'NO'
        ), '{}'
    )
    FROM information_schema.tables t JOIN information_schema.columns c USING (table_schema, table_name)
    WHERE t.table_schema = ANY(%s) AND t.table_type = 'BASE TABLE' AND NOT EXISTS (
        SELECT FROM pg_class WHERE relispartition AND oid = format('%%I.%%I', t.table_schema, t.table_name)::regclass
    )
    GROUP BY 1, 2
"""
STORED_ANEW = text("""
    INSERT INTO inbox (event_id, source, kind, payload)
    SELECT gen_random_uuid(), given.source, given.kind, given.payload FROM unnest(
        CAST(:ids AS uuid[]), CAST(:sources AS text[]), CAST(:kinds AS text[]), CAST(:payloads AS bytea[])
    ) AS given (id, source, kind, payload)
""")
STALE = """
    INSERT INTO redemptions (id, invite_id, workspace_id, user_id, started_at)
    VALUES (%s, %s, %s, %s, statement_timestamp() - interval '1 hour')
"""

Send = Callable[[Sequence[Any]], Awaitable[None]]


class Post:
    """Everything that the relays hand on, to services and to workers: held back, then dealt out `times` times."""

    def __init__(self, suite: Suite, chance: random.Random, *, times: int) -> None:
        self.kinds: Counter[str] = Counter()
        self.sent = 0
        self._chance = chance
        self._times = times
        self._holding = True
        self._held: list[tuple[Send, Any]] = []
        self._late: list[tuple[Send, Any]] = []
        self._relays = [frame.relay for frame in suite.frames.values()]
        self._plain = [(dict(relay._deliver), relay._hand_over) for relay in self._relays]
        for relay, (deliver, hand_over) in zip(self._relays, self._plain, strict=True):
            relay._deliver = {peer: self._taking(send) for peer, send in deliver.items()}
            relay._hand_over = self._taking(hand_over)

    def _taking(self, send: Send) -> Send:
        async def take(parcels: Sequence[Any]) -> None:
            kept = [(send, _copied(parcel)) for parcel in parcels]
            self.kinds.update(_kind(parcel) for parcel in parcels)
            if self._holding:
                self._held += kept
            else:
                await self._deal(kept)

        return take

    async def let_go(self) -> None:
        """Hands out what was held back; what comes from now on is dealt out at once."""
        self._holding = False
        held, self._held = self._held, []
        await self._deal(held)

    async def deal_late(self) -> None:
        """Hands out the last copy of everything, when all of it has long been done."""
        late, self._late = self._late, []
        await self._send(late)

    def close(self) -> None:
        """The relays send by themselves again."""
        for relay, (deliver, hand_over) in zip(self._relays, self._plain, strict=True):
            relay._deliver, relay._hand_over = deliver, hand_over

    async def _deal(self, parcels: list[tuple[Send, Any]]) -> None:
        if self._times > 1:
            self._late += parcels
            parcels = [parcel for parcel in parcels for _ in range(self._times - 1)]
            self._chance.shuffle(parcels)
        await self._send(parcels)

    async def _send(self, parcels: list[tuple[Send, Any]]) -> None:
        """In batches of any size; one of them may hold the same event twice."""
        while parcels:
            send = parcels[0][0]
            size = self._chance.randint(1, _BATCH)
            batch = [parcel for parcel in parcels if parcel[0] is send][:size]
            for parcel in batch:
                parcels.remove(parcel)
            await send([_copied(parcel) for _, parcel in batch])
            self.sent += len(batch)


def _copied(parcel: Any) -> Any:
    if not isinstance(parcel, Message):
        return parcel
    copy = type(parcel)()
    copy.CopyFrom(parcel)
    return copy


def _kind(parcel: Any) -> str:
    return str(parcel.WhichOneof("payload")) if isinstance(parcel, events.Event) else "task"


class Digest:
    """What all tables hold: how many rows, and the sum of each column of numbers. And how many mails were written."""

    def __init__(self, admin: psycopg.Connection[Any], mail: Path) -> None:
        self._admin = admin
        self._mail = mail
        self._columns: list[tuple[str, list[str]]] = [
            (f"{schema}.{table}", columns)
            for schema, table, columns in admin.execute(INTEGERS, [list(SERVICES)])
            if table not in UNCOUNTED
        ]

    def take(self) -> Counter[str]:
        """As of now."""
        found: Counter[str] = Counter({"mails": sum(1 for _ in self._mail.glob("*.eml"))})
        for table, columns in self._columns:
            sums = "".join(f", coalesce(sum({column}), 0)::bigint" for column in columns)
            row = self._admin.execute(f"SELECT count(*){sums} FROM {table}".encode()).fetchone()
            assert row is not None
            for column, value in zip(("rows", *columns), row, strict=True):
                found[f"{table} {column}"] = int(value)
        return found


async def run(bench: Bench) -> Result:
    """The tables hold the same as after one delivery."""
    differing: list[str] = []
    sent, kinds = 0, Counter[str]()
    async with open_workshop(bench.cluster.folder / "workshop.log") as shop:
        bench.tell("everything delivered once, in order")
        once, _ = await _story(shop, times=1, seed=0)
        for number in range(bench.rounds):
            bench.tell(f"round {number + 1} of {bench.rounds}: three times, shuffled")
            thrice, post = await _story(shop, times=TIMES, seed=number)
            differing += _differences(once, thrice)
            sent, kinds = sent + post.sent, kinds + post.kinds
        bench.tell("control: each delivery is an event of its own")
        with _inbox_takes_all():
            doubled = _differences(once, (await _story(shop, times=TIMES, seed=0))[0])
    payloads = {field.name for field in events.Event.DESCRIPTOR.oneofs_by_name["payload"].fields}
    missing = sorted(payloads - set(kinds))
    return Result(
        rounds=bench.rounds,
        holds=not (differing or missing),
        control_failed=bool(doubled),
        detail={
            "parcels_delivered": sent,
            "kinds": dict(sorted(kinds.items())),
            "kinds_that_never_came": missing,
            "compared": len(once),
            "differing": differing[:12],
            "control": {"protection_off": "the inbox knows what it had", "differing": doubled[:12]},
        },
    )


async def _story(shop: Workshop, *, times: int, seed: int) -> tuple[Counter[str], Post]:
    """What the tables gain by all use cases."""
    calls = [await case.prepare(shop.suite) for case in (*USE_CASES.values(), *IDENTITY.values())]
    calls.append(await _abandoned(shop.suite))
    # Somebody who is asked for in the midst of it: nobody can sign up while mails are held back.
    _KNOWN.pop((id(shop.suite), "Eve"), None)
    await somebody(shop.suite, "Eve")
    await shop.journal.settled()
    digest = Digest(shop.journal.admin, shop.suite.stack.settings.layout.mail)
    before = digest.take()
    post = Post(shop.suite, random.Random(seed), times=times)
    try:
        for call in calls:
            await _done(call)
        await shop.journal.relayed()
        await post.let_go()
        await shop.journal.settled()
        await post.deal_late()
        await shop.journal.settled()
    finally:
        post.close()
    after = digest.take()
    return Counter({name: after[name] - before[name] for name in after}), post


async def _abandoned(suite: Suite) -> Call:
    """No RPC: a redemption whose call died an hour ago is given up by the sweep."""
    town, gil, redemption_id = await new_town(suite), await somebody(suite, "Gil"), str(uuid.uuid4())
    invite_id = (await town.guest_link()).invite.invite_id
    await Workspace(suite, town.admin, town.workspace_id, "").add_guest(gil, redemption_id)
    with suite.database("guest") as guest:
        guest.execute(STALE, [redemption_id, invite_id, town.workspace_id, gil.user_id])
    return lambda: suite.frames["guest"].database.transaction(redemptions.abandon_stale)


async def _done(call: Call) -> None:
    """The call as a client makes it: again, while it is told to."""
    for tries_left in range(3, -1, -1):
        try:
            await call()
            return
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or not tries_left:
                raise


def _differences(once: Mapping[str, int], other: Mapping[str, int]) -> list[str]:
    return [f"{name}: {once[name]}, then {other[name]}" for name in once if once[name] != other[name]]


@contextmanager
def _inbox_takes_all() -> Iterator[None]:
    plain, inbox.STORE = inbox.STORE, STORED_ANEW
    try:
        yield
    finally:
        inbox.STORE = plain
