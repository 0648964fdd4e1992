"""A guest whose time is over reads, and changes nothing but what takes from themselves.

The RPCs are found from the contracts. One that lets a guest do something, and is in neither table, fails by its name.
"""

import asyncio
import hashlib
import random
import re
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from guildhall.options.v1 import access_pb2

from services.chassis import contracts
from tests.support.guest_worlds import Soul, World
from tests.support.reflected import Requests, answers, mutates, texts
from tests.support.suite import Suite

pytestmark = pytest.mark.usefixtures("no_guest_worker")

REASON = re.compile(r"\b[A-Z]+(?:_[A-Z]+)+\b")
IN_A_RESULT = re.compile(r"GUEST_LOCKED|PERMISSION_DENIED|NOT_FOUND")
NEVER = frozenset({"NOT_FOUND", "PERMISSION_DENIED"})
VARIANTS = 12
NOT_COUNTED = frozenset(
    {
        # Attempts are logged, and what was said before is prepared for the search meanwhile.
        "membership.activities",
        "membership.activity_people",
        "membership.activity_details",
        "membership.workspace_heads",
        "messaging.search_entries",
        "messaging.search_positions",
        "guest.guest_notices",
    }
)


class Things:
    """What a guest has of their own, for one round of changes."""

    def __init__(self, world: World, guest: Soul) -> None:
        self.world = world
        self.guest = guest
        self.data = b"content"

    async def prepare(self) -> "Things":
        """While the guest still may: two messages, one of them reacted to, and three announced files."""
        self.edited, self.deleted = await self.send(), await self.send()
        self.uploads = [await self.announce() for _ in range(3)]
        return self

    async def call(self, rpc: str, **fields: Any) -> Any:
        """An RPC of messaging in the channel, by the guest."""
        return await self.world.of(self.guest.person, rpc, self.world.granted[0], **fields)

    async def send(self) -> str:
        """A message's id."""
        key = str(uuid.uuid4())
        return str(
            (await self.call("MessageService/SendMessage", client_message_id=key, text="mine")).message.message_id
        )

    async def announce(self) -> str:
        """A file's id."""
        return str((await self.call("FileService/CreateUpload", **self.upload)).file.file_id)

    @property
    def upload(self) -> dict[str, Any]:
        """What is said of a file."""
        digest = hashlib.sha256(self.data).digest()
        return {"name": "a.pdf", "mime_type": "application/pdf", "size_bytes": len(self.data), "sha256": digest}

    @property
    def place(self) -> dict[str, Any]:
        """The channel."""
        return {"workspace_id": self.world.workspace_id, "conversation_id": self.world.granted[0]}

    @property
    def message(self) -> dict[str, Any]:
        """Their message in it."""
        return {**self.place, "message_id": self.edited}

    def sending(self) -> dict[str, Any]:
        """A message."""
        return {**self.place, "client_message_id": str(uuid.uuid4()), "text": "hello"}

    def named(self, file_id: str) -> dict[str, Any]:
        """A file of theirs."""
        return {"workspace_id": self.world.workspace_id, "file_id": file_id}


Fields = Callable[[Things], dict[str, Any]]

WRITES: Mapping[str, Fields] = MappingProxyType(
    {
        "messaging.MessageService/SendMessage": Things.sending,
        "messaging.MessageService/PublishMessages": lambda things: {"messages": [things.sending()]},
        "messaging.MessageService/EditMessage": lambda things: {**things.message, "text": "edited"},
        "messaging.ReactionService/AddReaction": lambda things: {**things.message, "emoji": "👍"},
        "messaging.ReactionService/RemoveReaction": lambda things: {**things.message, "emoji": "👍"},
        "messaging.EventService/SendTyping": lambda things: things.place,
        "messaging.FileService/CreateUpload": lambda things: {**things.place, **things.upload},
        "messaging.FileService/UploadChunk": lambda things: {**things.named(things.uploads[0]), "data": things.data},
        "messaging.FileService/UploadFile": lambda things: {"start": things.named(things.uploads[1])},
        "membership.MemberService/UpdateMember": lambda things: {
            "member": {
                "workspace_id": things.world.workspace_id,
                "member_id": things.guest.member_id,
                "title": str(uuid.uuid4()),
            },
            "update_mask": FieldMask(paths=["title"]),
        },
    }
)
"""What a guest may do, until their time is over."""

STAYS: Mapping[str, tuple[str, Fields]] = MappingProxyType(
    {
        "messaging.ReadStateService/MarkRead": ("reading goes on", lambda things: {**things.place, "seq": 1}),
        "messaging.ReadStateService/MarkUnread": ("reading goes on", lambda things: {**things.place, "seq": 1}),
        "messaging.MessageService/DeleteMessage": (
            "what they said stays theirs to take back",
            lambda things: {**things.place, "message_id": things.deleted},
        ),
        "messaging.FileService/DeleteFile": (
            "an upload of their own that nobody has seen",
            lambda things: things.named(things.uploads[2]),
        ),
        "membership.MemberService/LeaveWorkspace": (
            "leaving is everybody's, at any time",
            lambda things: {"workspace_id": things.world.workspace_id},
        ),
    }
)
"""What changes something and is a locked guest's all the same, why, and with which fields; leaving comes last."""

READS: Mapping[str, Fields] = MappingProxyType(
    {
        "messaging.MessageService/ListMessages": lambda things: things.place,
        "messaging.MessageService/GetMessage": lambda things: things.message,
        "messaging.EventService/Subscribe": lambda things: {"workspace_id": things.world.workspace_id},
        "messaging.ConversationService/ListConversations": lambda things: {"workspace_id": things.world.workspace_id},
        "messaging.FileService/GetFile": lambda things: things.named(things.world.pool["file_id"][0]),
        "messaging.FileService/DownloadFile": lambda things: things.named(things.world.pool["file_id"][0]),
        "membership.MemberService/ListMembers": lambda things: {"workspace_id": things.world.workspace_id},
        "membership.WorkspaceService/GetWorkspace": lambda things: {"workspace_id": things.world.workspace_id},
        "guest.GuestService/ListVisibleMembers": lambda things: {"workspace_id": things.world.workspace_id},
        "guest.GuestService/GetGuest": lambda things: {
            "workspace_id": things.world.workspace_id,
            "member_id": things.guest.member_id,
        },
    }
)
"""A few that show what a guest shares: the same before and after the lock, and nothing once the grace is over."""


def rpc_of(short: str) -> contracts.Rpc:
    package, name = short.split(".")
    return contracts.rpcs()[f"/guildhall.{package}.v1.{name}"]


def in_a_workspace(message: Any, depth: int = 0) -> bool:
    """Whether a request can name a workspace."""
    parts = [field.message_type for field in message.fields if field.message_type and depth < 3]
    return "workspace_id" in message.fields_by_name or any(in_a_workspace(part, depth + 1) for part in parts)


def others() -> list[contracts.Rpc]:
    """The mutating RPCs of a workspace that no guest may use."""
    tabled = {rpc_of(short).name for short in (*WRITES, *STAYS)}
    return [
        rpc
        for rpc in contracts.rpcs().values()
        if rpc.lets_in(access_pb2.CALLER_USER) and mutates(rpc) and rpc.name not in tabled
        if in_a_workspace(contracts.request_class(rpc).DESCRIPTOR)  # type: ignore[attr-defined]
    ]


async def outcome(world: World, guest: Soul, rpc: contracts.Rpc, request: Message) -> str:
    """OK, or the reason of a refusal, wherever it stands."""
    messages, refusal, _ = await answers(world.suite, guest.person, rpc, request)
    told = "\n".join(refusal)
    if refusal:
        found = REASON.search(told)
        return found[0] if found else told
    inside = IN_A_RESULT.search("\n".join(text for message in messages for text in texts(message)))
    return inside[0] if inside else "OK"


async def does(things: Things, short: str, fields: Fields) -> str:
    """What comes of an RPC with a table's fields."""
    rpc = rpc_of(short)
    return await outcome(things.world, things.guest, rpc, contracts.request_class(rpc)(**fields(things)))


def rows(world: World) -> dict[str, Any]:
    """A digest of each table's rows of the workspace, but for those that are not counted."""
    found = {}
    for service in ("membership", "guest", "messaging"):
        with world.suite.database(service) as database:
            columns = database.execute(
                "SELECT table_name, array_agg(column_name::text) FROM information_schema.columns "
                "WHERE table_schema = %s GROUP BY table_name",
                [service],
            ).fetchall()
            for table, names in columns:
                which = "workspace_id" if "workspace_id" in names else "conversation_id"
                if f"{service}.{table}" in NOT_COUNTED or which not in names or table == "guest_invite_channels":
                    continue
                values = [world.workspace_id] if which == "workspace_id" else world.pool["conversation_id"]
                # The expiry job says of a guest what has been true without it.
                kept = "to_jsonb(t) - 'state' - 'updated_at'" if table == "guests" else "to_jsonb(t) || xmin::text"
                query = f"SELECT count(*), md5(string_agg(md5(({kept})::text), '' ORDER BY md5(({kept})::text))) "
                query += f"FROM {table} t WHERE {which} = ANY(%s::uuid[])"
                found[table] = database.execute(query.encode(), [values]).fetchone()
    return found


async def town(suite: Suite) -> tuple[World, Soul]:
    """A workspace with a channel that is granted to a guest, and the guest."""
    world = World(suite, 7)
    await world.found()
    member = await world.soul("member", shared=True)
    world.granted = [await world.channel(member, private=False, shared=True)]
    return world, await world.guest(*world.granted, shared=True)


async def refusals(world: World, guest: Soul) -> dict[str, set[str]]:
    """What comes of the RPCs that no guest may use, each with many requests about what there is."""
    requests = Requests({key: values for key, values in world.pool.items() if key.endswith("_id")}, random.Random(7))
    found: dict[str, set[str]] = {}
    for rpc in others():
        made = [requests.one(rpc, world.chance.choice(world.places)) for _ in range(VARIANTS)]
        assert all(made), f"no valid request could be made for {rpc.name}"
        outcomes = await asyncio.gather(*(outcome(world, guest, rpc, each) for each in made if each is not None))
        found[rpc.name] = set(outcomes) - {"INVALID_REQUEST"}
    return found


async def test_a_locked_guest_changes_nothing_but_what_takes_from_themselves(suite: Suite) -> None:
    world, guest = await town(suite)
    active, locked = await Things(world, guest).prepare(), await Things(world, guest).prepare()
    assert {short: await does(active, short, fields) for short, fields in READS.items()} == dict.fromkeys(READS, "OK")
    never = await refusals(world, guest)
    assert {name: reasons for name, reasons in never.items() if not reasons or reasons - NEVER} == {}
    assert {short: await does(active, short, fields) for short, fields in WRITES.items()} == dict.fromkeys(WRITES, "OK")
    world.move(guest.member_id, expire_in="-1 hour")
    before = rows(world)
    found = {short: await does(locked, short, fields) for short, fields in WRITES.items()}
    assert found == dict.fromkeys(WRITES, "GUEST_LOCKED")
    never = await refusals(world, guest)
    assert {name: r for name, r in never.items() if not r or r - NEVER - {"GUEST_LOCKED"}} == {}
    assert rows(world) == before
    assert {short: await does(locked, short, fields) for short, fields in READS.items()} == dict.fromkeys(READS, "OK")
    found = {short: await does(locked, short, fields) for short, (_, fields) in STAYS.items()}
    assert found == dict.fromkeys(STAYS, "OK")


async def test_the_digests_see_a_single_row(suite: Suite) -> None:
    world, guest = await town(suite)
    before = rows(world)
    await Things(world, guest).send()
    changed = {table for table, digest in rows(world).items() if digest != before[table]}
    assert {"messages", "conversations"} <= changed


@pytest.mark.parametrize(
    ("expire_in", "grace_in", "writes", "reads"),
    [
        ("1 hour", "1 hour", "OK", "OK"),
        ("0", "1 hour", "GUEST_LOCKED", "OK"),
        ("-1 hour", "1 hour", "NOT_FOUND", "NOT_FOUND"),
    ],
)
async def test_the_database_clock_alone_moves_a_guest_through_every_rpc(
    suite: Suite, expire_in: str, grace_in: str, writes: str, reads: str
) -> None:
    world, guest = await town(suite)
    things = await Things(world, guest).prepare()
    # At the very edge the later state holds: times are half open, and the statement's clock has moved on.
    world.move(guest.member_id, expire_in=expire_in, grace_in=grace_in)
    found = {short: await does(things, short, fields) for short, fields in WRITES.items()}
    assert found == dict.fromkeys(WRITES, writes)
    found = {short: await does(things, short, fields) for short, fields in READS.items()}
    assert found == dict.fromkeys(READS, reads)
