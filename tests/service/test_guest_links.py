"""Links: for whom they are, how they are shown and ended, and what strangers learn from them."""

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from guildhall.guest.v1 import guest_invite_service_pb2 as pb
from guildhall.guest.v1 import guest_invite_service_pb2_grpc as rpc
from guildhall.membership.v1 import member_service_pb2 as members

from services.guest import invites
from services.guest.limits import LIMITS
from tests.service.test_guest_invites import HOUR, House
from tests.service.test_guest_redemption import redemption_refused
from tests.service.test_membership_limits import documented, retry_after
from tests.support.guest_calls import call, span, update_policy
from tests.support.suite import Refusal, Suite, refused


@pytest.fixture
async def house(suite: Suite) -> House:
    """A workspace of this test's own."""
    return await House.make(suite)


def preview(house: House, token: str) -> Any:
    stub = house.suite.stub(rpc.GuestInviteServiceStub)
    return stub.PreviewGuestInvite(pb.PreviewGuestInviteRequest(token=token), timeout=10)


async def listed(house: House, **fields: Any) -> list[str]:
    return [invite.invite_id for invite in (await call(house, "ListGuestInvites", **fields)).invites]


async def test_a_preview_tells_the_names_and_nothing_else(house: House) -> None:
    made = await house.invite(email="gus@example.com")
    assert await preview(house, made.token) == pb.PreviewGuestInviteResponse(workspace_name="House", inviter_name="Ada")
    assert house.uses(made.invite.invite_id) == 0


async def test_every_link_that_does_not_work_is_answered_alike(house: House) -> None:
    unknown = await refused(preview(house, "ghg_unknown"))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "GUEST_INVITE_INVALID")
    expired, revoked, used_up = [await house.invite(max_uses=1) for _ in range(3)]
    house.sql(
        "UPDATE guest_invites SET expire_at = statement_timestamp() WHERE id = %(id)s", id=expired.invite.invite_id
    )
    await call(house, "RevokeGuestInvite", invite_id=revoked.invite.invite_id)
    await house.redeem(house.outsider(), used_up.token)
    member, member_id = await house.member(members.ROLE_ADMIN)
    orphaned = await house.invite(by=member)
    assert (await preview(house, orphaned.token)).inviter_name == "Mel"
    await house.remove(member_id)
    for made in (expired, revoked, used_up, orphaned):
        assert (await refused(preview(house, made.token))).raw == unknown.raw
        assert (await redemption_refused(house, house.outsider(), made.token)).raw == unknown.raw
    assert (await preview(house, (await house.invite()).token)).workspace_name == "House"


async def test_a_link_for_an_address_is_used_by_whose_verified_address_it_is(house: House) -> None:
    right, wrong = await house.suite.person("Gus"), await house.suite.person("Eve")
    made = await house.invite(email=f" {right.email.upper()} ".strip(), max_uses=1)
    assert (made.invite.email, made.invite.domain) == (right.email, "")
    for other in (wrong, house.outsider()):
        refusal = await redemption_refused(house, other, made.token)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "GUEST_INVITE_FOR_ANOTHER")
    assert house.uses(made.invite.invite_id) == 0
    assert (await house.redeem(right, made.token)).user_id == right.user_id
    assert house.uses(made.invite.invite_id) == 1


async def test_a_link_for_a_domain_is_used_by_people_of_exactly_that_domain(house: House) -> None:
    person = await house.suite.person("Gus")
    made = await house.invite(domain="EXAMPLE.com")
    assert made.invite.domain == "example.com"
    assert (await house.redeem(person, made.token)).user_id == person.user_id
    for domain in ("ample.com", "sub.example.com", "example.com.evil.test"):
        other = await house.invite(domain=domain)
        refusal = await redemption_refused(house, await house.suite.person("Eve"), other.token)
        assert refusal.reason == "GUEST_INVITE_FOR_ANOTHER", domain


@pytest.mark.parametrize(("field", "value"), [("domain", "a b"), ("domain", "a@b"), ("domain", ""), ("email", "x")])
async def test_a_binding_that_nobody_could_have_is_a_bad_field(house: House, field: str, value: str) -> None:
    stub = house.suite.stub(rpc.GuestInviteServiceStub)
    refusal = await refused(house.admin.call(stub.CreateGuestInvite, house.request(**{field: value})))
    assert (refusal.reason, list(refusal.fields)) == ("INVALID_REQUEST", [field])


async def test_twenty_wrong_presenters_a_day_are_told_so_and_the_right_one_still_gets_in(house: House) -> None:
    right = await house.suite.person("Gus")
    made = await house.invite(email=right.email)
    wrong = [house.outsider() for _ in range(24)]
    refusals = await asyncio.gather(*(redemption_refused(house, person, made.token) for person in wrong))
    reasons = [refusal.reason for refusal in refusals]
    assert reasons.count("GUEST_INVITE_FOR_ANOTHER") == 20
    assert reasons.count("GUEST_INVITE_INVALID") == 4
    told = wrong[reasons.index("GUEST_INVITE_FOR_ANOTHER")]
    assert (await redemption_refused(house, told, made.token)).reason == "GUEST_INVITE_FOR_ANOTHER", "counted once"
    late = wrong[reasons.index("GUEST_INVITE_INVALID")]
    assert (await redemption_refused(house, late, made.token)).reason == "GUEST_INVITE_INVALID"
    (shown,) = (await call(house, "ListGuestInvites")).invites
    assert (shown.wrong_presenters, shown.uses) == (20, 0)
    house.sql(
        "UPDATE guest_invite_attempts SET attempted_at = attempted_at - interval '24 hours' WHERE invite_id = %(id)s",
        id=made.invite.invite_id,
    )
    assert (await redemption_refused(house, house.outsider(), made.token)).reason == "GUEST_INVITE_FOR_ANOTHER"
    assert (await house.redeem(right, made.token)).user_id == right.user_id


async def test_an_admin_lists_all_links_newest_first_and_page_by_page(house: House) -> None:
    admin, _ = await house.member(members.ROLE_ADMIN)
    made = [(await house.invite(by=by)).invite for by in (house.admin, admin, house.admin)]
    first = await call(house, "ListGuestInvites", page_size=2)
    second = await call(house, "ListGuestInvites", page_size=2, page_token=first.next_page_token)
    assert [*first.invites, *second.invites] == list(reversed(made))
    assert second.next_page_token == ""
    assert made[0].state == pb.GUEST_INVITE_STATE_OPEN
    elsewhere = await refused(
        call(await House.make(house.suite), "ListGuestInvites", page_token=first.next_page_token, by=house.admin)
    )
    assert elsewhere.reason in ("NOT_FOUND", "INVALID_REQUEST")


async def test_a_member_who_may_invite_lists_and_revokes_their_own_links_only(house: House) -> None:
    member, _ = await house.member()
    for_all = await house.invite()
    denied = await refused(call(house, "ListGuestInvites", by=member))
    assert (denied.code, denied.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    await update_policy(house, members_may_invite=True)
    own = await house.invite(by=member)
    assert await listed(house, by=member) == [own.invite.invite_id]
    assert await listed(house) == [own.invite.invite_id, for_all.invite.invite_id]
    missing = await refused(call(house, "RevokeGuestInvite", by=member, invite_id=str(uuid.uuid4())))
    others = await refused(call(house, "RevokeGuestInvite", by=member, invite_id=for_all.invite.invite_id))
    assert (missing.code, others.raw) == (grpc.StatusCode.NOT_FOUND, missing.raw)
    revoked = await call(house, "RevokeGuestInvite", by=member, invite_id=own.invite.invite_id)
    assert revoked.invite.state == pb.GUEST_INVITE_STATE_REVOKED


async def test_links_of_another_workspace_are_unknown_and_strangers_and_guests_find_none(house: House) -> None:
    other = await House.make(house.suite)
    made = await other.invite()
    missing = await refused(call(house, "RevokeGuestInvite", invite_id=str(uuid.uuid4())))
    assert (await refused(call(house, "RevokeGuestInvite", invite_id=made.invite.invite_id))).raw == missing.raw
    stranger = house.outsider()
    for method, fields in (("ListGuestInvites", {}), ("RevokeGuestInvite", {"invite_id": made.invite.invite_id})):
        assert (await refused(call(other, method, by=stranger, **fields))).raw == missing.raw
    guest, _ = await other.guest()
    for method, fields in (("ListGuestInvites", {}), ("RevokeGuestInvite", {"invite_id": made.invite.invite_id})):
        assert (await refused(call(other, method, by=guest, **fields))).reason == "PERMISSION_DENIED"
    assert (await call(other, "RevokeGuestInvite", invite_id=made.invite.invite_id)).invite.invite_id


async def test_a_revocation_is_repeatable_and_leaves_who_is_in(house: House) -> None:
    made, request_id = await house.invite(), str(uuid.uuid4())
    person = house.outsider()
    guest = await house.redeem(person, made.token)
    fields = {"invite_id": made.invite.invite_id, "request_id": request_id}
    first = await call(house, "RevokeGuestInvite", **fields)
    assert await call(house, "RevokeGuestInvite", **fields) == first
    assert await call(house, "RevokeGuestInvite", invite_id=made.invite.invite_id) == first
    other = await refused(call(house, "RevokeGuestInvite", invite_id=str(uuid.uuid4()), request_id=request_id))
    assert other.reason in ("IDEMPOTENCY_MISMATCH", "NOT_FOUND")
    assert (await redemption_refused(house, house.outsider(), made.token)).reason == "GUEST_INVITE_INVALID"
    assert await house.redeem(person, made.token) == guest


async def test_a_member_invites_where_the_policy_lets_them_into_channels_they_see(house: House) -> None:
    stub = house.suite.stub(rpc.GuestInviteServiceStub)
    member, member_id = await house.member()
    viewer, _ = await house.member(members.ROLE_VIEWER)
    private = await house.channel(private=True)
    denied = await refused(member.call(stub.CreateGuestInvite, house.request()))
    assert denied.reason == "PERMISSION_DENIED"
    await update_policy(house, members_may_invite=True)
    assert (await refused(viewer.call(stub.CreateGuestInvite, house.request()))).reason == "PERMISSION_DENIED"
    hidden = await refused(member.call(stub.CreateGuestInvite, house.request(private)))
    unknown = await refused(member.call(stub.CreateGuestInvite, house.request(str(uuid.uuid4()))))
    assert (hidden.code, hidden.raw) == (grpc.StatusCode.NOT_FOUND, unknown.raw)
    made = await house.invite(by=member)
    guest = await house.redeem(house.outsider(), made.token)
    assert (await house.get(house.admin, guest.member_id)).sponsor_member_id == member_id
    assert guest.sponsor_member_id == "", "the guest shares no channel with them"
    await update_policy(house, members_may_invite=False)
    assert (await redemption_refused(house, house.outsider(), made.token)).reason == "GUEST_INVITE_INVALID"
    await update_policy(house, members_may_invite=True)
    again = await house.redeem(house.outsider(), made.token)
    assert (await house.get(house.admin, again.member_id)).sponsor_member_id == member_id


async def test_a_link_gives_no_longer_a_stay_than_the_policy(house: House) -> None:
    stub = house.suite.stub(rpc.GuestInviteServiceStub)
    made = await house.invite(guest_ttl=Duration(seconds=7200))
    await update_policy(house, maximum_stay=HOUR)
    refusal = await refused(house.admin.call(stub.CreateGuestInvite, house.request(guest_ttl=span(2 * HOUR))))
    assert (refusal.reason, list(refusal.fields)) == ("INVALID_REQUEST", ["guest_ttl"])
    assert (await house.invite(guest_ttl=span(HOUR))).token
    guest = await house.redeem(house.outsider(), made.token)
    assert guest.expire_time.ToDatetime() - guest.create_time.ToDatetime() == HOUR


async def _link(house: House, number: int) -> Any:
    return await house.invite(max_uses=1 + number)


async def _channel(house: House, number: int) -> Any:
    (member_id,) = house.sql("SELECT member_id::text FROM guests WHERE workspace_id = %(id)s", id=house.workspace_id)[0]
    return await call(house, "GrantChannel", member_id=member_id, conversation_id=await house.channel())


ONE_MORE = {"open_guest_invites": (_link, 2), "guest_invites_a_day": (_link, 2), "guest_channels": (_channel, 2)}


@pytest.mark.parametrize("name", sorted(LIMITS))
async def test_the_last_one_fits_and_one_more_is_refused_by_the_limits_name(house: House, name: str) -> None:
    one_more, most = ONE_MORE[name]
    await house.guest()
    house.sql(
        "INSERT INTO workspace_limits VALUES (%(id)s, %(name)s, %(most)s)", id=house.workspace_id, name=name, most=most
    )
    await one_more(house, 0)
    refusal = await refused(one_more(house, 1))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
    assert (refusal.metadata["limit"], refusal.metadata["most"]) == (name, str(most))
    assert retry_after(refusal) == LIMITS[name].retry_after_seconds
    other = await House.make(house.suite)
    await other.guest()
    await one_more(other, 0)
    await one_more(other, 1)


def test_the_table_in_the_documents_is_the_code() -> None:
    assert documented("guest") == {name: (limit.most, limit.what) for name, limit in LIMITS.items()}


async def test_links_made_at_once_do_not_pass_the_limit_together(house: House) -> None:
    house.sql("INSERT INTO workspace_limits VALUES (%(id)s, 'open_guest_invites', 3)", id=house.workspace_id)
    answers = await asyncio.gather(*(house.invite() for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(answer, pb.CreateGuestInviteResponse) for answer in answers) == 3


async def test_what_is_known_of_strangers_is_forgotten(house: House) -> None:
    made = await house.invite(email="gus@example.com")
    await redemption_refused(house, house.outsider(), made.token)
    await call(house, "RevokeGuestInvite", invite_id=made.invite.invite_id)
    database = house.suite.frames["guest"].database
    await database.transaction(invites.forget)
    (kept,) = (await call(house, "ListGuestInvites")).invites
    assert (kept.email, kept.wrong_presenters) == ("gus@example.com", 1)
    house.sql(
        "UPDATE guest_invites SET revoked_at = revoked_at - interval '720 hours' WHERE id = %(id)s",
        id=made.invite.invite_id,
    )
    house.sql(
        "UPDATE guest_invite_attempts SET attempted_at = attempted_at - interval '24 hours' WHERE invite_id = %(id)s",
        id=made.invite.invite_id,
    )
    await database.transaction(invites.forget)
    (kept,) = (await call(house, "ListGuestInvites")).invites
    assert (kept.email, kept.wrong_presenters) == ("", 0)
