"""Links that let guests in: who makes them, for what, and what is kept of their secret."""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from guildhall.guest.v1 import guest_access_service_pb2 as access_pb
from guildhall.guest.v1 import guest_access_service_pb2_grpc as access_rpc
from guildhall.guest.v1 import guest_invite_service_pb2 as invite_pb
from guildhall.guest.v1 import guest_invite_service_pb2_grpc as invite_rpc
from guildhall.guest.v1 import guest_service_pb2 as pb
from guildhall.guest.v1 import guest_service_pb2_grpc as rpc
from guildhall.membership.v1 import invitation_service_pb2 as invitations
from guildhall.membership.v1 import invitation_service_pb2_grpc, member_service_pb2_grpc, workspace_service_pb2_grpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.messaging.v1 import conversation_service_pb2 as conversations
from guildhall.messaging.v1 import conversation_service_pb2_grpc

from services.chassis.secret import token_hash
from services.identity.keys import SigningKeys
from tests.support.suite import Person, Suite, refused

HOUR = timedelta(hours=1)


@dataclass
class House:
    """A workspace with an admin and a channel, and the ways in for guests."""

    suite: Suite
    admin: Person
    workspace_id: str
    admin_member_id: str
    channel_id: str

    @classmethod
    async def make(cls, suite: Suite) -> "House":
        """A new one, of a new person."""
        admin = await suite.known("Ada")
        stub = suite.stub(workspace_service_pb2_grpc.WorkspaceServiceStub)
        made = await admin.call(stub.CreateWorkspace, workspaces.CreateWorkspaceRequest(name="House"))
        house = cls(suite, admin, made.workspace.workspace_id, made.member.member_id, "")
        house.channel_id = await house.channel()
        return house

    async def channel(self, owner: Person | None = None, *, private: bool = False) -> str:
        """A new channel's id."""
        stub = self.suite.stub(conversation_service_pb2_grpc.ConversationServiceStub)
        request = conversations.CreateChannelRequest(
            workspace_id=self.workspace_id,
            name=f"c-{uuid.uuid4().hex[:8]}",
            visibility=conversations.VISIBILITY_PRIVATE if private else conversations.VISIBILITY_PUBLIC,
        )
        made = await (owner or self.admin).call(stub.CreateChannel, request)
        return str(made.conversation.conversation_id)

    async def member(self, role: members.Role.ValueType = members.ROLE_MEMBER) -> tuple[Person, str]:
        """A new full member, and their member id."""
        person = await self.suite.known("Mel")
        stub = self.suite.stub(invitation_service_pb2_grpc.InvitationServiceStub)
        await self.admin.call(
            stub.CreateInvitation,
            invitations.CreateInvitationRequest(workspace_id=self.workspace_id, email=person.email, role=role),
        )
        token = await self.suite.mailed_token(person.email)
        accepted = await person.call(stub.AcceptInvitation, invitations.AcceptInvitationRequest(token=token))
        return person, accepted.member.member_id

    async def remove(self, member_id: str) -> None:
        """Ends a membership."""
        stub = self.suite.stub(member_service_pb2_grpc.MemberServiceStub)
        request = members.RemoveMemberRequest(workspace_id=self.workspace_id, member_id=member_id)
        await self.admin.call(stub.RemoveMember, request)

    def outsider(self) -> Person:
        """Somebody signed in from outside. Their session is the admin's, which spares signing up."""
        user_id = str(uuid.uuid4())
        keys = SigningKeys(self.suite.stack.settings.layout.keys)
        ((clock,),) = self.suite.rows("identity", "SELECT statement_timestamp()", ())
        token = keys.sign(user_id=user_id, session_id=self.admin.session_id, issued_at=clock).text
        return Person(user_id, "", "Gus", self.admin.session_id, "", token)

    def request(self, *channel_ids: str, **changes: Any) -> invite_pb.CreateGuestInviteRequest:
        """What makes a link for channels, the house's one if none is named."""
        values: dict[str, Any] = {"guest_ttl": Duration(seconds=3600)} | changes
        channels = channel_ids or (self.channel_id,)
        return invite_pb.CreateGuestInviteRequest(workspace_id=self.workspace_id, conversation_ids=channels, **values)

    async def invite(
        self, *channel_ids: str, by: Person | None = None, **changes: Any
    ) -> invite_pb.CreateGuestInviteResponse:
        """A link."""
        stub = self.suite.stub(invite_rpc.GuestInviteServiceStub)
        answer = await (by or self.admin).call(stub.CreateGuestInvite, self.request(*channel_ids, **changes))
        assert isinstance(answer, invite_pb.CreateGuestInviteResponse)
        return answer

    async def redeem(self, person: Person, token: str, *, request_id: str = "") -> pb.Guest:
        """The person as a guest."""
        stub = self.suite.stub(invite_rpc.GuestInviteServiceStub)
        request = invite_pb.RedeemGuestInviteRequest(token=token, request_id=request_id)
        answer = await person.call(stub.RedeemGuestInvite, request)
        assert isinstance(answer.guest, pb.Guest)
        return answer.guest

    async def guest(self, *channel_ids: str) -> tuple[Person, pb.Guest]:
        """A new guest."""
        person = self.outsider()
        return person, await self.redeem(person, (await self.invite(*channel_ids)).token)

    async def get(self, person: Person, member_id: str) -> pb.Guest:
        """A guest as somebody sees them."""
        stub = self.suite.stub(rpc.GuestServiceStub)
        request = pb.GetGuestRequest(workspace_id=self.workspace_id, member_id=member_id)
        answer = await person.call(stub.GetGuest, request)
        assert isinstance(answer.guest, pb.Guest)
        return answer.guest

    async def check(self, *questions: tuple[str, str]) -> Sequence[access_pb.GuestVerdict]:
        """What messaging is told about (member, channel)."""
        stub = self.suite.stub(access_rpc.GuestAccessServiceStub, certificate="messaging")
        asked = [
            access_pb.GuestQuestion(workspace_id=self.workspace_id, member_id=member, conversation_id=channel)
            for member, channel in questions
        ]
        answer = await stub.BatchCheckGuests(access_pb.BatchCheckGuestsRequest(questions=asked), timeout=10)
        return list(answer.verdicts)

    def sql(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """Rows, by guest's own role; none for a statement without any."""
        return self.suite.rows("guest", statement, values)

    def move_times(self, member_id: str, *, expire_in: str, grace_in: str = "24 hours") -> None:
        """Sets a guest's expiry relative to the clock, and the grace's end relative to the expiry."""
        self.sql(
            "UPDATE guests SET expire_at = statement_timestamp() + %(expire_in)s::interval, "
            "grace_end_at = statement_timestamp() + %(expire_in)s::interval + %(grace_in)s::interval "
            "WHERE member_id = %(member_id)s",
            member_id=member_id,
            expire_in=expire_in,
            grace_in=grace_in,
        )

    def uses(self, invite_id: str) -> int:
        """How often a link was used."""
        return int(self.sql("SELECT uses FROM guest_invites WHERE id = %(id)s", id=invite_id)[0][0])


@pytest.fixture
async def house(suite: Suite) -> House:
    """A workspace of this test's own."""
    return await House.make(suite)


async def test_an_admin_makes_a_link_whose_secret_is_not_kept(house: House) -> None:
    second = await house.channel()
    made = await house.invite(house.channel_id, second, max_uses=3)
    assert made.token.startswith("ghg_")
    assert made.url == f"{house.suite.stack.settings.public_url}/join/{made.token}"
    assert not made.secret_omitted
    assert (made.invite.workspace_id, made.invite.max_uses, made.invite.uses) == (house.workspace_id, 3, 0)
    assert sorted(made.invite.conversation_ids) == sorted([house.channel_id, second])
    assert made.invite.guest_ttl.ToTimedelta() == HOUR
    lasting = made.invite.expire_time.ToDatetime() - made.invite.create_time.ToDatetime()
    assert lasting == timedelta(days=7)
    kept = house.sql(
        "SELECT token_hash, created_by_member_id::text FROM guest_invites WHERE id = %(id)s", id=made.invite.invite_id
    )
    assert kept == [(token_hash(made.token), house.admin_member_id)]


async def test_a_link_lasts_as_long_as_asked(house: House) -> None:
    made = await house.invite(invite_ttl=Duration(seconds=90, nanos=500_000_000))
    lasting = made.invite.expire_time.ToDatetime() - made.invite.create_time.ToDatetime()
    assert lasting == timedelta(seconds=90.5)


async def test_a_channel_named_twice_in_two_spellings_is_granted_once(house: House) -> None:
    made = await house.invite(house.channel_id.lower(), house.channel_id.upper())
    assert list(made.invite.conversation_ids) == [house.channel_id]


async def test_a_member_without_the_right_may_not_invite_guests_and_an_admin_may(house: House) -> None:
    stub = house.suite.stub(invite_rpc.GuestInviteServiceStub)
    member, _ = await house.member()
    refusal = await refused(member.call(stub.CreateGuestInvite, house.request()))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    admin, _ = await house.member(members.ROLE_ADMIN)
    assert (await house.invite(by=admin)).token


async def test_a_stranger_cannot_tell_a_workspace_from_none(house: House) -> None:
    stub = house.suite.stub(invite_rpc.GuestInviteServiceStub)
    unknown = house.request()
    unknown.workspace_id = str(uuid.uuid4())
    hidden = await refused(house.outsider().call(stub.CreateGuestInvite, house.request()))
    missing = await refused(house.outsider().call(stub.CreateGuestInvite, unknown))
    assert hidden == missing
    assert (hidden.code, hidden.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_a_guest_may_not_invite_guests_and_an_ended_one_finds_nothing(house: House) -> None:
    stub = house.suite.stub(invite_rpc.GuestInviteServiceStub)
    person, guest = await house.guest()
    refusal = await refused(person.call(stub.CreateGuestInvite, house.request()))
    assert refusal.reason == "PERMISSION_DENIED"
    house.move_times(guest.member_id, expire_in="-25 hours")
    ended = await refused(person.call(stub.CreateGuestInvite, house.request()))
    assert ended == await refused(house.outsider().call(stub.CreateGuestInvite, house.request()))


async def test_a_link_grants_only_channels_that_its_maker_sees(house: House) -> None:
    stub = house.suite.stub(invite_rpc.GuestInviteServiceStub)
    other_house = await House.make(house.suite)
    member, _ = await house.member()
    hidden_id = await house.channel(member, private=True)
    own_id = await house.channel(private=True)
    refusals = [
        await refused(house.admin.call(stub.CreateGuestInvite, house.request(house.channel_id, channel_id)))
        for channel_id in (str(uuid.uuid4()), other_house.channel_id, hidden_id)
    ]
    assert refusals[0].reason == "NOT_FOUND"
    assert refusals[0] == refusals[1] == refusals[2]
    assert (await house.invite(house.channel_id, own_id)).token


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"guest_ttl": Duration()}, "guest_ttl"),
        ({"guest_ttl": Duration(seconds=366 * 86400 + 1)}, "guest_ttl"),
        ({"guest_ttl": Duration(seconds=5, nanos=-5)}, "guest_ttl"),
        ({"guest_ttl": None}, "guest_ttl"),
        ({"invite_ttl": Duration(seconds=90 * 86400, nanos=1)}, "invite_ttl"),
        ({"invite_ttl": Duration(nanos=1)}, "invite_ttl"),
        ({"invite_ttl": Duration(seconds=5, nanos=2_000_000_000)}, "invite_ttl"),
        ({"max_uses": -1}, "max_uses"),
        ({"max_uses": 1001}, "max_uses"),
        ({"request_id": "no"}, "request_id"),
    ],
)
async def test_a_bad_field_of_a_link_is_named(house: House, changes: dict[str, Any], field: str) -> None:
    stub = house.suite.stub(invite_rpc.GuestInviteServiceStub)
    refusal = await refused(house.admin.call(stub.CreateGuestInvite, house.request(**changes)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert list(refusal.fields) == [field]


@pytest.mark.parametrize(
    "changes",
    [
        {"guest_ttl": Duration(seconds=1), "invite_ttl": Duration(seconds=1), "max_uses": 1},
        {"guest_ttl": Duration(seconds=366 * 86400), "invite_ttl": Duration(seconds=90 * 86400), "max_uses": 1000},
    ],
)
async def test_the_bounds_themselves_are_allowed(house: House, changes: dict[str, Any]) -> None:
    assert (await house.invite(**changes)).invite.max_uses == changes["max_uses"]


async def test_a_repeated_request_gets_the_same_link_and_later_the_link_without_its_secret(house: House) -> None:
    request_id = str(uuid.uuid4())
    first = await house.invite(request_id=request_id)
    assert await house.invite(request_id=request_id) == first
    house.sql(
        "UPDATE idempotency_keys SET created_at = created_at - interval '10 minutes' WHERE caller = %(caller)s",
        caller=house.admin.user_id,
    )
    later = await house.invite(request_id=request_id)
    assert later.invite == first.invite
    assert (later.token, later.url, later.secret_omitted) == ("", "", True)


async def test_a_key_is_for_one_body(house: House) -> None:
    stub = house.suite.stub(invite_rpc.GuestInviteServiceStub)
    request_id = str(uuid.uuid4())
    await house.invite(request_id=request_id)
    other = house.request(request_id=request_id, max_uses=7)
    refusal = await refused(house.admin.call(stub.CreateGuestInvite, other))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_MISMATCH")


async def test_concurrent_repetitions_make_one_link(house: House) -> None:
    request_id = str(uuid.uuid4())
    answers = await asyncio.gather(*(house.invite(request_id=request_id) for _ in range(8)))
    assert len({answer.token for answer in answers}) == 1
    count = house.sql("SELECT count(*) FROM guest_invites WHERE workspace_id = %(id)s", id=house.workspace_id)
    assert count == [(1,)]
