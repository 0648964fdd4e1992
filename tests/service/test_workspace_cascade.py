"""A deleted workspace in guest and messaging: shut at once by membership's word, and emptied by the workers."""

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import grpc
import pytest
from guildhall.guest.v1 import guest_invite_service_pb2_grpc as invite_rpc
from guildhall.guest.v1 import guest_service_pb2 as guests
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspace_rpc
from guildhall.messaging.v1 import event_service_pb2 as events

from services.guest import purges as guest_purges
from services.guest import redemptions
from services.guest.errors import GuestInviteInvalid
from services.messaging import purges as messaging_purges
from tests.service.test_guest_redemption import redemption_refused
from tests.service.test_messaging_conversations import Room
from tests.service.test_messaging_streams import listening
from tests.support.deliveries import until
from tests.support.suite import Person, Suite, refused

TABLES = {
    "guest": {
        "guest_invites": "workspace_id = %(workspace_id)s",
        "guest_invite_channels": "conversation_id = ANY(%(channel_ids)s::uuid[])",
        "redemptions": "workspace_id = %(workspace_id)s",
        "guests": "workspace_id = %(workspace_id)s",
        "guest_grants": "workspace_id = %(workspace_id)s",
    },
    "messaging": {
        "conversations": "workspace_id = %(workspace_id)s",
        "participants": "workspace_id = %(workspace_id)s",
        "messages": "conversation_id = ANY(%(channel_ids)s::uuid[])",
    },
}


@dataclass
class Home:
    """A workspace with something in every table of guest and messaging."""

    room: Room
    member: Person
    guest: Person
    guest_member_id: str
    channel_ids: list[str]
    token: str
    """Of a link that still works."""

    @classmethod
    async def make(cls, suite: Suite) -> "Home":
        """A new one."""
        room = await Room.make(suite)
        assert isinstance(room, Room)
        member, _ = await room.member()
        private = await room.channel(member, private=True)
        await room.channel()
        person, guest = await room.guest()
        for number in range(5):
            await room.sent(room.admin, f"{number}")
            await room.sent(member, f"{number}", to=private)
        token = (await room.invite(max_uses=9)).token
        channel_ids = [*await room.seen(room.admin), private]
        return cls(room, member, person, guest.member_id, channel_ids, token)

    async def delete(self) -> None:
        """Ends the workspace."""
        stub = self.room.suite.stub(workspace_rpc.WorkspaceServiceStub)
        request = workspaces.DeleteWorkspaceRequest(workspace_id=self.room.workspace_id)
        await self.room.admin.call(stub.DeleteWorkspace, request)

    def held(self, *services: str) -> dict[str, int]:
        """How many rows each table holds of it."""
        named = {"workspace_id": self.room.workspace_id, "channel_ids": self.channel_ids}
        found: dict[str, int] = {}
        for service in services or tuple(TABLES):
            with self.room.suite.database(service) as database:
                for table, condition in TABLES[service].items():
                    query: Any = f"SELECT count(*) FROM {table} WHERE {condition}"
                    row = database.execute(query, named).fetchone()
                    found[table] = int(row[0]) if row else 0
        return {table: count for table, count in found.items() if count}


@pytest.fixture
async def home(suite: Suite) -> Home:
    """A workspace of this test's own."""
    return await Home.make(suite)


async def test_a_deleted_workspace_is_unknown_to_everybody_at_once(home: Home) -> None:
    room = home.room
    invite_stub = room.suite.stub(invite_rpc.GuestInviteServiceStub)
    calls: tuple[Callable[[Person], Awaitable[Any]], ...] = (
        lambda person: room.conversations(person),
        lambda person: room.read(person),
        lambda person: room.send(person),
        lambda person: room.get(person, home.guest_member_id),
    )
    people = (room.admin, home.member, home.guest)
    assert await room.seen(home.guest) == [room.channel_id]
    assert (await room.get(home.guest, home.guest_member_id)).state == guests.GUEST_STATE_ACTIVE
    assert (await room.texts(home.member))[:2] == ["0", "1"]

    await home.delete()

    found = {
        (index, who): await refused(call(person))
        for index, call in enumerate(calls)
        for who, person in enumerate(people)
    }
    assert {refusal.code for refusal in found.values()} == {grpc.StatusCode.NOT_FOUND}
    inviting = await refused(room.admin.call(invite_stub.CreateGuestInvite, room.request()))
    making = await refused(room.channel())
    assert (inviting.reason, making.reason) == ("NOT_FOUND", "NOT_FOUND")
    redeeming = await redemption_refused(room, room.outsider(), home.token)
    assert redeeming == await redemption_refused(room, room.outsider(), "ghg_unknown")
    assert await redemption_refused(room, home.guest, home.token) == redeeming
    room.workspace_id = str(uuid.uuid4())
    unknown = [await refused(call(room.admin)) for call in calls]
    assert all(refusal.raw == unknown[index].raw for (index, _), refusal in found.items())


async def test_the_streams_of_a_deleted_workspace_end_and_no_other(home: Home, suite: Suite) -> None:
    other = await Home.make(suite)
    async with (
        listening(home.room, home.room.admin) as admin,
        listening(home.room, home.member) as member,
        listening(home.room, home.guest) as guest,
        listening(other.room, other.guest) as elsewhere,
    ):
        await home.delete()
        for listener in (admin, member, guest):
            end = await listener.finish(seconds=3)
            assert (end.reason, list(end.positions)) == (events.STREAM_END_REASON_ACCESS_ENDED, [])
            assert not listener.events
        await other.room.sent(other.room.admin, "still here")
        await elsewhere.until(lambda: elsewhere.texts(other.room.channel_id) == ["still here"])
        assert elsewhere.end is None


async def test_the_workers_remove_what_a_deleted_workspace_held_and_nothing_else(home: Home, suite: Suite) -> None:
    other = await Home.make(suite)
    untouched = other.held()
    assert set(untouched) == set(home.held()) == {table for tables in TABLES.values() for table in tables}

    await home.delete()

    await until(lambda: not home.held(), seconds=60)
    assert other.held() == untouched
    assert await other.room.seen(other.guest) == [other.room.channel_id]


async def test_what_was_still_being_written_goes_with_a_later_round(home: Home) -> None:
    room = home.room
    await home.delete()
    await until(lambda: not home.held(), seconds=60)
    late = {"id": str(uuid.uuid4()), "workspace_id": room.workspace_id, "person": str(uuid.uuid4())}
    with room.suite.database("messaging") as database:
        database.execute(
            "INSERT INTO conversations (id, workspace_id, kind, name, visibility, created_by_member_id)"
            " VALUES (%(id)s, %(workspace_id)s, 'channel', 'late', 'public', %(person)s)",
            late,
        )
    room.sql(
        "INSERT INTO guest_invites (id, workspace_id, token_hash, created_by_member_id, guest_ttl, expire_at)"
        " VALUES (%(id)s, %(workspace_id)s, sha256('late'), %(person)s, interval '1 hour',"
        " statement_timestamp() + interval '1 hour')",
        **late,
    )
    for service in TABLES:
        with room.suite.database(service) as database:
            waiting = database.execute(
                "UPDATE outbox SET due_at = statement_timestamp() WHERE kind = 'workspace.purge' AND subject_id = %s"
                " AND due_at > statement_timestamp() + interval '35 seconds' RETURNING id",
                (room.workspace_id,),
            ).fetchall()
            assert len(waiting) == 1, "longer than the lease of a row that is being done"
    await until(lambda: not home.held(), seconds=60)


@pytest.mark.parametrize(("service", "purges"), [("guest", guest_purges), ("messaging", messaging_purges)])
@pytest.mark.parametrize("batch", [1, 3, 500])
async def test_a_transaction_of_a_purge_removes_no_more_than_its_batch(
    home: Home, service: str, purges: ModuleType, batch: int
) -> None:
    database = home.room.suite.frames[service].database
    left = sum(home.held(service).values())
    rounds = 0
    while await database.transaction(lambda tx: purges.purge(tx, home.room.workspace_id, batch=batch)):
        now = sum(home.held(service).values())
        assert 0 <= left - now <= batch
        left, rounds = now, rounds + 1
    assert (left, home.held(service)) == (0, {})
    assert rounds <= 12 or batch < 500
    assert not await database.transaction(lambda tx: purges.purge(tx, home.room.workspace_id, batch=batch))


async def test_from_the_first_step_of_a_purge_on_a_link_is_answered_as_an_unknown_one(home: Home) -> None:
    room = home.room
    database = room.suite.frames["guest"].database
    unknown = await redemption_refused(room, room.outsider(), "ghg_unknown")
    assert (await room.redeem(room.outsider(), home.token)).workspace_id == room.workspace_id
    assert await database.transaction(lambda tx: guest_purges.purge(tx, room.workspace_id))
    while True:
        assert await redemption_refused(room, room.outsider(), home.token) == unknown
        if not await database.transaction(lambda tx: guest_purges.purge(tx, room.workspace_id, batch=1)):
            return


async def test_a_redemption_that_meets_the_purge_makes_no_guest(home: Home) -> None:
    room = home.room
    database = room.suite.frames["guest"].database
    invite_id = str(
        room.sql("SELECT id FROM guest_invites WHERE max_uses = 9 AND workspace_id = %(id)s", id=room.workspace_id)[0][
            0
        ]
    )
    attempt = {"invite_id": invite_id, "workspace_id": room.workspace_id, "user_id": str(uuid.uuid4())}
    redemption_id = await database.transaction(lambda tx: redemptions.begin(tx, **attempt))
    while await database.transaction(lambda tx: guest_purges.purge(tx, room.workspace_id)):
        pass
    late = {"redemption_id": redemption_id, "member_id": str(uuid.uuid4()), **attempt}
    with pytest.raises(redemptions.Superseded):
        await database.transaction(lambda tx: redemptions.decide(tx, **late))
    with pytest.raises(GuestInviteInvalid):
        await database.transaction(lambda tx: redemptions.begin(tx, **attempt))
    assert home.held("guest") == {}
