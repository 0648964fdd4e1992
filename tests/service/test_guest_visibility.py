"""Whom a guest sees: one answer for checks, lists and explanations, and for hidden and unknown people alike."""

import random
import uuid
from typing import Any

import grpc
import pytest
from guildhall.guest.v1 import guest_access_service_pb2 as access
from guildhall.guest.v1 import guest_access_service_pb2_grpc as access_rpc
from guildhall.guest.v1 import guest_service_pb2 as pb

from tests.service.test_guest_invites import House
from tests.support.guest_calls import call, peer
from tests.support.suite import Person, Suite, refused


@pytest.fixture
async def house(suite: Suite) -> House:
    """A workspace of this test's own."""
    return await House.make(suite)


async def listed(house: House, member_id: str, *, size: int = 1_000) -> list[str]:
    """All whom a guest sees, page by page."""
    found: list[str] = []
    while True:
        fields = {"member_id": member_id, "page_size": size, "after_member_id": found[-1] if found else ""}
        page = [user.member_id for user in (await peer(house, "ListVisibleUsers", **fields)).users]
        found += page
        if len(page) < size:
            return found


async def filtered(house: House, member_id: str, *candidates: str) -> list[str]:
    answer = await peer(house, "FilterVisibleUsers", member_id=member_id, candidate_member_ids=candidates)
    return [user.member_id for user in answer.users]


async def explained(house: House, member_id: str, subject: str, **fields: Any) -> pb.ExplainVisibilityResponse:
    answer = await call(house, "ExplainVisibility", member_id=member_id, subject_member_id=subject, **fields)
    assert isinstance(answer, pb.ExplainVisibilityResponse)
    assert [step.decides for step in answer.steps] == [False] * (len(answer.steps) - 1) + [True]
    assert all(step.explanation for step in answer.steps)
    return answer


async def test_a_guest_sees_themselves_co_participants_and_fellow_guests_and_nobody_else(house: House) -> None:
    second = await house.channel()
    _, member_id = await house.member()
    _, guest = await house.guest()
    _, fellow = await house.guest(house.channel_id, second)
    _, stranger = await house.guest(second)
    assert await listed(house, guest.member_id) == sorted([guest.member_id, house.admin_member_id, fellow.member_id])
    everybody = [house.admin_member_id, member_id, guest.member_id, fellow.member_id, stranger.member_id]
    assert await filtered(house, guest.member_id, *everybody, str(uuid.uuid4())) == await listed(house, guest.member_id)
    fields = {"member_id": guest.member_id, "conversation_id": second}
    await call(house, "GrantChannel", **fields)
    assert stranger.member_id in await listed(house, guest.member_id)
    await call(house, "RevokeChannel", **fields)
    assert stranger.member_id not in await listed(house, guest.member_id)


async def test_what_is_over_shows_nobody(house: House) -> None:
    _, guest = await house.guest()
    _, fellow = await house.guest()
    over = "UPDATE guest_grants SET expire_at = statement_timestamp() {} WHERE member_id = %(id)s"
    for interval, seen in (("+ interval '1 hour'", True), ("", False)):
        house.sql(over.format(interval), id=fellow.member_id)
        assert (fellow.member_id in await listed(house, guest.member_id)) is seen
    assert await listed(house, fellow.member_id) == [fellow.member_id], "without a channel, only themselves"
    house.sql(over.format("+ interval '1 hour'"), id=fellow.member_id)
    house.move_times(fellow.member_id, expire_in="-1 hour")
    assert fellow.member_id in await listed(house, guest.member_id), "a locked guest is still there"
    house.move_times(fellow.member_id, expire_in="-24 hours")
    assert fellow.member_id not in await listed(house, guest.member_id)
    assert await listed(house, fellow.member_id) == []
    assert await filtered(house, fellow.member_id, fellow.member_id, guest.member_id) == []


async def test_nobody_is_visible_to_full_members_strangers_or_another_workspaces_guest(house: House) -> None:
    other = await House.make(house.suite)
    _, elsewhere = await other.guest()
    _, guest = await house.guest()
    for member_id in (house.admin_member_id, str(uuid.uuid4()), elsewhere.member_id):
        assert await listed(house, member_id) == []
        assert await filtered(house, member_id, guest.member_id, house.admin_member_id) == []
    assert await filtered(house, guest.member_id, other.admin_member_id, elsewhere.member_id) == []


async def test_pages_have_everybody_once_in_order(house: House) -> None:
    _, guest = await house.guest()
    made = await house.invite()
    for _ in range(5):
        await house.redeem(house.outsider(), made.token)
    whole = await listed(house, guest.member_id)
    assert (len(whole), whole) == (7, sorted(whole))
    for size in (1, 2, 3, 7):
        assert await listed(house, guest.member_id, size=size) == whole


async def test_checks_lists_and_explanations_agree(house: House) -> None:
    chance = random.Random(35)
    channels = [house.channel_id, await house.channel(), await house.channel(private=True)]
    _, hidden_id = await house.member()
    guests = [(await house.guest(*chance.sample(channels, chance.randint(1, 3))))[1] for _ in range(5)]
    house.move_times(guests[0].member_id, expire_in="-24 hours")
    people = [house.admin_member_id, hidden_id, str(uuid.uuid4()), *(guest.member_id for guest in guests)]
    for guest in guests:
        whole = await listed(house, guest.member_id)
        assert await filtered(house, guest.member_id, *people) == whole
        for subject in people:
            assert (await explained(house, guest.member_id, subject)).visible is (subject in whole)


async def members_of(house: House, person: Person, **fields: Any) -> list[tuple[str, str]]:
    answer = await call(house, "ListVisibleMembers", by=person, **fields)
    return [(member.member_id, member.name) for member in answer.members]


async def test_a_guest_lists_people_with_their_names_page_by_page(house: House) -> None:
    person = await house.suite.person("Gus")
    guest = await house.redeem(person, (await house.invite()).token)
    everybody = sorted([(guest.member_id, "Gus"), (house.admin_member_id, "Ada")])
    assert await members_of(house, person) == everybody
    first = await call(house, "ListVisibleMembers", by=person, page_size=1)
    second = await members_of(house, person, page_size=1, page_token=first.next_page_token)
    assert [(first.members[0].member_id, first.members[0].name), *second] == everybody
    denied = await refused(call(house, "ListVisibleMembers"))
    assert (denied.code, denied.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    missing = await refused(call(house, "ListVisibleMembers", by=person, workspace_id=str(uuid.uuid4())))
    assert (missing.code, missing.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert (await refused(call(house, "ListVisibleMembers", by=house.outsider()))).raw == missing.raw
    house.move_times(guest.member_id, expire_in="-24 hours")
    assert (await refused(call(house, "ListVisibleMembers", by=person))).raw == missing.raw


async def test_an_explanation_names_the_rule_that_decided(house: House) -> None:
    _, guest = await house.guest()
    _, fellow = await house.guest()
    _, hidden_id = await house.member()
    decided = {
        guest.member_id: (pb.VISIBILITY_RULE_THEMSELVES, True),
        fellow.member_id: (pb.VISIBILITY_RULE_FELLOW_GUEST, True),
        house.admin_member_id: (pb.VISIBILITY_RULE_CO_PARTICIPANT, True),
        hidden_id: (pb.VISIBILITY_RULE_CO_PARTICIPANT, False),
    }
    for subject, (rule, visible) in decided.items():
        answer = await explained(house, guest.member_id, subject)
        assert (answer.steps[-1].rule, answer.visible) == (rule, visible)
    assert list((await explained(house, guest.member_id, fellow.member_id)).steps[-1].conversation_ids) == [
        house.channel_id
    ]
    await call(house, "RevokeChannel", member_id=guest.member_id, conversation_id=house.channel_id)
    answer = await explained(house, guest.member_id, house.admin_member_id)
    assert (answer.steps[-1].rule, answer.visible) == (pb.VISIBILITY_RULE_GRANTS, False)
    house.move_times(guest.member_id, expire_in="-24 hours")
    answer = await explained(house, guest.member_id, guest.member_id)
    assert (answer.steps[-1].rule, answer.visible) == (pb.VISIBILITY_RULE_STATE, False)


async def test_who_is_told_why(house: House) -> None:
    person, guest = await house.guest()
    fellow_person, fellow = await house.guest()
    member, hidden_id = await house.member()
    fields = {"member_id": guest.member_id, "subject_member_id": hidden_id}
    missing = await refused(call(house, "ExplainVisibility", **{**fields, "member_id": str(uuid.uuid4())}))
    assert (missing.code, missing.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    for caller in (member, fellow_person, house.outsider()):
        assert (await refused(call(house, "ExplainVisibility", by=caller, **fields))).raw == missing.raw
    elsewhere = await House.make(house.suite)
    assert (await refused(call(elsewhere, "ExplainVisibility", **fields))).raw == missing.raw
    hidden = await explained(house, guest.member_id, hidden_id, by=person)
    unknown = await explained(house, guest.member_id, str(uuid.uuid4()), by=person)
    assert hidden == unknown, "who is hidden is nobody"
    assert (await explained(house, guest.member_id, fellow.member_id, by=person)).visible


async def test_only_membership_and_messaging_ask_whom_a_guest_sees(house: House) -> None:
    _, guest = await house.guest()
    named = {"workspace_id": house.workspace_id, "member_id": guest.member_id}
    one = access.FilterVisibleUsersRequest(**named, candidate_member_ids=[guest.member_id])
    many = access.ListVisibleUsersRequest(**named, page_size=1)
    for certificate, allowed in (("membership", True), ("messaging", True), ("identity", False), ("gateway", False)):
        stub = house.suite.stub(access_rpc.GuestAccessServiceStub, certificate=certificate)
        for ask in (stub.FilterVisibleUsers(one, timeout=10), stub.ListVisibleUsers(many, timeout=10)):
            if allowed:
                assert len((await ask).users) == 1
            else:
                assert (await refused(ask)).reason == "PEER_NOT_ALLOWED"
