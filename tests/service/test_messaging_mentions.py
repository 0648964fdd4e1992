"""ResolveMentions: whom handles would reach, told to those who may send, of people whom they may know."""

import uuid
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as members_rpc
from guildhall.membership.v1 import user_group_service_pb2 as user_groups
from guildhall.membership.v1 import user_group_service_pb2_grpc as user_groups_rpc
from guildhall.messaging.v1 import message_service_pb2 as pb
from guildhall.messaging.v1 import message_service_pb2_grpc as rpc

from tests.service.test_messaging_conversations import Room
from tests.support.suite import Person, Suite, refused


class Town(Room):
    """A workspace whose people have handles."""

    async def named(self, handle: str) -> tuple[Person, str]:
        """A new full member with a handle, and their member id."""
        person, member_id = await self.member()
        await self.name(person, member_id, handle)
        return person, member_id

    async def name(self, person: Person, member_id: str, handle: str) -> None:
        """Has somebody take a handle, or give theirs up."""
        member = members.Member(workspace_id=self.workspace_id, member_id=member_id, handle=handle)
        request = members.UpdateMemberRequest(member=member, update_mask=FieldMask(paths=["handle"]))
        await person.call(self.suite.stub(members_rpc.MemberServiceStub).UpdateMember, request)

    async def user_group(self, handle: str, *member_ids: str) -> str:
        """A user group of some members."""
        stub = self.suite.stub(user_groups_rpc.UserGroupServiceStub)
        made = await self.admin.call(
            stub.CreateUserGroup,
            user_groups.CreateUserGroupRequest(workspace_id=self.workspace_id, handle=handle, name=handle),
        )
        user_group_id = str(made.user_group.user_group_id)
        for member_id in member_ids:
            request = user_groups.AddUserGroupMemberRequest(
                workspace_id=self.workspace_id, user_group_id=user_group_id, member_id=member_id
            )
            await self.admin.call(stub.AddUserGroupMember, request)
        return user_group_id

    def resolve(self, person: Person, *handles: str, to: str = "") -> Any:
        """ResolveMentions; await it for the response."""
        request = pb.ResolveMentionsRequest(
            workspace_id=self.workspace_id, conversation_id=to or self.channel_id, handles=handles
        )
        return person.call(self.suite.stub(rpc.MessageServiceStub).ResolveMentions, request)

    async def resolved(self, person: Person, *handles: str, to: str = "") -> Sequence[pb.ResolvedMention]:
        """The answers."""
        mentions: Sequence[pb.ResolvedMention] = (await self.resolve(person, *handles, to=to)).mentions
        assert [mention.handle for mention in mentions] == list(handles)
        return mentions

    def take_part(self, person: Person, member_id: str, conversation_id: str) -> None:
        """Makes somebody a participant, as joining does."""
        with self.suite.database("messaging") as database:
            database.execute(
                "INSERT INTO participants (conversation_id, member_id, user_id, workspace_id) VALUES (%s, %s, %s, %s)",
                (conversation_id, member_id, person.user_id, self.workspace_id),
            )


@pytest.fixture
async def town(suite: Suite) -> Town:
    """A workspace of this test's own."""
    made = await Town.make(suite)
    assert isinstance(made, Town)
    return made


def ids(mentioned: Sequence[pb.MentionedMember]) -> set[str]:
    """Who is named."""
    return {member.member_id for member in mentioned}


async def test_a_public_channel_reaches_every_full_member(town: Town) -> None:
    bob, bob_id = await town.named("bob")
    (mention,) = await town.resolved(town.admin, "BOB")
    assert (mention.user_group_id, mention.everyone) == ("", False)
    assert list(mention.notified) == [pb.MentionedMember(member_id=bob_id, user_id=bob.user_id)]
    assert (mention.notified_count, mention.not_in_conversation_count) == (1, 0)


async def test_a_private_channel_reaches_those_who_take_part(town: Town) -> None:
    private = await town.channel(private=True)
    bob, bob_id = await town.named("bob")
    _, eve_id = await town.named("eve")
    town.take_part(bob, bob_id, private)
    team_id = await town.user_group("team", bob_id, eve_id)
    team, eve = await town.resolved(town.admin, "team", "eve", to=private)
    assert team.user_group_id == team_id
    assert (ids(team.notified), ids(team.not_in_conversation)) == ({bob_id}, {eve_id})
    assert (team.notified_count, team.not_in_conversation_count) == (1, 1)
    assert (ids(eve.notified), ids(eve.not_in_conversation)) == (set(), {eve_id})


async def test_nobodys_handle_is_answered_like_one_that_was_given_up(town: Town) -> None:
    bob, bob_id = await town.named("bob")
    assert (await town.resolved(town.admin, "bob"))[0].notified_count == 1
    await town.name(bob, bob_id, "")
    given_up, unknown, impossible = await town.resolved(town.admin, "bob", "nobody", "no such handle, ever")
    for mention in (given_up, unknown, impossible):
        assert mention == pb.ResolvedMention(handle=mention.handle)


async def test_everybody_means_those_who_take_part(town: Town) -> None:
    bob, bob_id = await town.named("bob")
    town.take_part(bob, bob_id, town.channel_id)
    for mention in await town.resolved(town.admin, "here", "Channel", "everyone", "ALL"):
        assert mention == pb.ResolvedMention(handle=mention.handle, everyone=True, notified_count=2)


async def test_each_handle_is_answered_in_its_place_and_twice_if_it_is_there_twice(town: Town) -> None:
    _, bob_id = await town.named("bob")
    found = await town.resolved(town.admin, "bob", "here", "nobody", "bob")
    assert [ids(mention.notified) for mention in found] == [{bob_id}, set(), set(), {bob_id}]
    assert [mention.everyone for mention in found] == [False, True, False, False]


async def test_a_guest_learns_nothing_of_whom_they_share_no_channel_with(town: Town) -> None:
    bob, bob_id = await town.named("bob")
    _, eve_id = await town.named("eve")
    town.take_part(bob, bob_id, town.channel_id)
    await town.user_group("team", bob_id, eve_id)
    person, _ = await town.guest()
    team, eve = await town.resolved(person, "team", "eve")
    assert (ids(team.notified), team.notified_count) == ({bob_id}, 1)
    assert (team.not_in_conversation_count, list(team.not_in_conversation)) == (0, [])
    # As what never existed.
    assert eve == pb.ResolvedMention(handle="eve")
    (for_a_member,) = await town.resolved(bob, "team")
    assert ids(for_a_member.notified) == {bob_id, eve_id}


async def test_a_locked_guest_may_not_mention(town: Town) -> None:
    person, guest = await town.guest()
    await town.resolve(person, "here")
    town.lock(guest)
    refusal = await refused(town.resolve(person, "here"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "GUEST_LOCKED")
    town.end(guest)
    assert (await refused(town.resolve(person, "here"))).reason == "NOT_FOUND"


async def test_a_viewer_may_not_mention(town: Town) -> None:
    viewer, _ = await town.member(members.ROLE_VIEWER)
    refusal = await refused(town.resolve(viewer, "here"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    member, _ = await town.member()
    await town.resolve(member, "here")


async def test_what_one_does_not_see_is_answered_like_an_unknown_conversation(town: Town) -> None:
    member, member_id = await town.member()
    viewer, _ = await town.member(members.ROLE_VIEWER)
    guest, _ = await town.guest()
    elsewhere = await Town.make(town.suite)
    hidden = await town.channel(private=True)
    for person in (member, viewer, guest, town.outsider()):
        refusals = [
            await refused(town.resolve(person, "here", to=place))
            for place in (hidden, str(uuid.uuid4()), elsewhere.channel_id)
        ]
        assert {refusal.reason for refusal in refusals} == {"NOT_FOUND"}
        assert len({refusal.raw for refusal in refusals}) == 1
    town.take_part(member, member_id, hidden)
    await town.resolve(member, "here", to=hidden)


async def test_a_removed_member_neither_mentions_nor_is_mentioned(town: Town) -> None:
    bob, bob_id = await town.named("bob")
    await town.resolve(bob, "here")
    await town.remove(bob_id)
    assert (await refused(town.resolve(bob, "here"))).reason == "NOT_FOUND"
    assert (await town.resolved(town.admin, "bob"))[0] == pb.ResolvedMention(handle="bob")


@pytest.mark.parametrize("handles", [[], [""], ["x" * 65], ["a"] * 51, ["a\0b"]])
async def test_handles_that_cannot_be_are_refused(town: Town, handles: list[str]) -> None:
    assert (await refused(town.resolve(town.admin, *handles))).reason == "INVALID_REQUEST"
    assert len(await town.resolved(town.admin, *["x" * 64] * 50)) == 50
