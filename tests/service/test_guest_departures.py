"""Guests who are removed, promoted, handed over, and listed."""

import uuid
from typing import Any

import grpc
import pytest
from guildhall.events.v1 import event_sink_pb2 as events
from guildhall.guest.v1 import guest_service_pb2 as pb
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.messaging.v1 import conversation_service_pb2 as conversations
from guildhall.messaging.v1 import conversation_service_pb2_grpc as conversation_rpc

from services.guest import departures, guests
from services.messaging.peers import Membership
from services.messaging.promotions import guest_promoted
from tests.service.test_guest_invites import House
from tests.service.test_guest_redemption import until
from tests.support.guest_calls import call, update_policy, verdict
from tests.support.suite import Person, Suite, refused

ACTIVE, LOCKED, ENDED = pb.GUEST_STATE_ACTIVE, pb.GUEST_STATE_LOCKED, pb.GUEST_STATE_ENDED
MEMBER, VIEWER = pb.PROMOTED_ROLE_MEMBER, pb.PROMOTED_ROLE_VIEWER


@pytest.fixture
async def house(suite: Suite) -> House:
    """A workspace of this test's own."""
    return await House.make(suite)


async def apply_promotion(house: House, told: events.GuestPromoted) -> None:
    """What messaging does about guest's event."""
    frame = house.suite.frames["messaging"]
    membership = Membership(frame.channels["membership"])
    await frame.database.transaction(lambda tx: guest_promoted(tx, told, membership=membership))


async def conversations_of(house: House, person: Person) -> set[str]:
    stub = house.suite.stub(conversation_rpc.ConversationServiceStub)
    request = conversations.ListConversationsRequest(workspace_id=house.workspace_id)
    answer = await person.call(stub.ListConversations, request)
    return {found.conversation_id for found in answer.conversations}


async def promote(house: House, guest: pb.Guest, **fields: Any) -> pb.Guest:
    answer = await call(house, "PromoteGuest", member_id=guest.member_id, **{"role": MEMBER, **fields})
    assert isinstance(answer.guest, pb.Guest)
    return answer.guest


async def remove(house: House, guest: pb.Guest, **fields: Any) -> pb.Guest:
    answer = await call(house, "RemoveGuest", member_id=guest.member_id, **fields)
    assert isinstance(answer.guest, pb.Guest)
    return answer.guest


async def transfer(house: House, guest: pb.Guest, sponsor_member_id: str, **fields: Any) -> pb.Guest:
    answer = await call(
        house, "TransferSponsor", member_id=guest.member_id, sponsor_member_id=sponsor_member_id, **fields
    )
    assert isinstance(answer.guest, pb.Guest)
    return answer.guest


async def test_a_removed_guest_is_no_member_by_the_time_it_is_acknowledged(house: House) -> None:
    person, guest = await house.guest()
    removed = await remove(house, guest)
    assert (removed.state, removed.end_reason) == (ENDED, pb.GUEST_END_REASON_REMOVED)
    assert (list(removed.conversation_ids), list(removed.channels)) == ([], [])
    assert (await verdict(house, member_id=guest.member_id)).member_id == ""
    (found,) = await house.check((guest.member_id, house.channel_id))
    assert (found.state, found.granted) == (ENDED, False)
    kept = house.suite.rows("guest", "SELECT 1 FROM guest_grants WHERE member_id = %(id)s", {"id": guest.member_id})
    assert kept == [], "what was granted goes with them"
    assert (await refused(conversations_of(house, person))).reason == "NOT_FOUND"
    assert await remove(house, guest) == removed, "who was removed stays so"
    assert await remove(house, guest, etag=guest.etag) == removed
    again = await house.redeem(person, (await house.invite()).token)
    assert again.member_id != guest.member_id


async def test_what_membership_did_not_hear_of_is_told_by_the_event(house: House) -> None:
    _, guest = await house.guest()
    named = {"workspace_id": house.workspace_id, "member_id": guest.member_id}

    async def decide(tx: Any) -> None:
        await guests.lock(tx, **named)
        await departures.remove(tx, **named, actor_user_id=house.admin.user_id, etag="")

    await house.suite.frames["guest"].database.transaction(decide)

    async def is_gone() -> bool:
        return (await verdict(house, member_id=guest.member_id)).member_id == ""

    await until(is_gone, "membership has removed the member")


async def test_a_promoted_guest_keeps_id_and_session_and_takes_part_in_what_was_granted(house: House) -> None:
    private, other = await house.channel(private=True), await house.channel(private=True)
    person, guest = await house.guest(house.channel_id, private)
    promoted = await promote(house, guest)
    assert (promoted.state, promoted.end_reason) == (ENDED, pb.GUEST_END_REASON_PROMOTED)
    found = await verdict(house, member_id=guest.member_id, capability="conversations.create")
    assert (found.allowed, found.kind, found.role) == (True, members.MEMBER_KIND_FULL, members.ROLE_MEMBER)

    async def takes_part() -> bool:
        return private in await conversations_of(house, person)

    await until(takes_part, "the promoted guest takes part")
    assert other not in await conversations_of(house, person)
    await house.channel(person)
    assert await promote(house, guest) == promoted, "who was promoted stays so"
    assert (await refused(call(house, "RemoveGuest", member_id=guest.member_id))).reason == "GUEST_ENDED"
    assert (await verdict(house, member_id=guest.member_id)).allowed


async def test_a_guest_is_promoted_to_the_role_that_was_named(house: House) -> None:
    _, guest = await house.guest()
    await promote(house, guest, role=VIEWER)
    found = await verdict(house, member_id=guest.member_id)
    assert (found.allowed, found.role) == (True, members.ROLE_VIEWER)


async def test_a_promotion_that_messaging_hears_of_twice_joins_once(house: House) -> None:
    private = await house.channel(private=True)
    person, guest = await house.guest(private)
    told = events.GuestPromoted(
        workspace_id=house.workspace_id,
        member_id=guest.member_id,
        user_id=person.user_id,
        conversation_ids=[private, str(uuid.uuid4())],
        role="member",
        actor_user_id=house.admin.user_id,
    )
    for _ in range(2):
        await apply_promotion(house, told)
    with house.suite.database("messaging") as connection:
        joined = connection.execute(
            "SELECT count(*), (SELECT last_event_seq FROM conversations WHERE id = %(id)s) FROM conversation_events "
            "WHERE conversation_id = %(id)s AND kind = 'participant_joined' AND member_id = %(member_id)s",
            {"id": private, "member_id": guest.member_id},
        ).fetchone()
    assert joined == (1, 1)


async def test_a_promotion_that_comes_after_the_removal_lets_nobody_take_part(house: House) -> None:
    private = await house.channel(private=True)
    person, guest = await house.guest(private)
    await promote(house, guest)

    async def takes_part() -> bool:
        return taking_part(house, guest.member_id)

    async def has_gone() -> bool:
        return not taking_part(house, guest.member_id)

    await until(takes_part, "the promoted guest takes part")
    await house.remove(guest.member_id)
    await until(has_gone, "the removed member takes no part")
    told = events.GuestPromoted(
        workspace_id=house.workspace_id,
        member_id=guest.member_id,
        user_id=person.user_id,
        conversation_ids=[private],
        role="member",
        actor_user_id=house.admin.user_id,
    )
    await apply_promotion(house, told)
    assert not taking_part(house, guest.member_id)


def taking_part(house: House, member_id: str) -> bool:
    """Whether it is written down that somebody takes part in anything."""
    query = "SELECT 1 FROM participants WHERE member_id = %(id)s"
    return house.suite.rows("messaging", query, {"id": member_id}) != []


async def test_who_has_ended_or_is_suspended_is_not_promoted_and_a_locked_guest_is(house: House) -> None:
    _, guest = await house.guest()
    house.move_times(guest.member_id, expire_in="-24 hours")
    refusal = await refused(promote(house, guest))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "GUEST_ENDED")
    assert "by an invitation" in refusal.text
    house.move_times(guest.member_id, expire_in="-23 hours")
    with house.suite.database("membership") as database:
        suspend = "UPDATE members SET state = %s, suspended_at = {} WHERE id = %s"
        database.execute(suspend.format("statement_timestamp()").encode(), ("suspended", guest.member_id))
        assert (await refused(promote(house, guest))).reason == "GUEST_ENDED"
        database.execute(suspend.format("NULL").encode(), ("active", guest.member_id))
    assert (await promote(house, guest)).end_reason == pb.GUEST_END_REASON_PROMOTED


async def test_who_may_remove_promote_and_hand_over(house: House) -> None:
    await update_policy(house, members_may_invite=True)
    sponsor, _ = await house.member()
    other, other_id = await house.member()
    person = house.outsider()
    guest = await house.redeem(person, (await house.invite(by=sponsor)).token)
    fellow, _ = await house.guest()
    elsewhere = await House.make(house.suite)
    calls: dict[str, dict[str, Any]] = {
        "RemoveGuest": {},
        "PromoteGuest": {"role": MEMBER},
        "TransferSponsor": {"sponsor_member_id": other_id},
    }
    for method, fields in calls.items():
        missing = await refused(call(house, method, member_id=str(uuid.uuid4()), **fields))
        assert (missing.code, missing.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        named = {"member_id": guest.member_id, **fields}
        for caller in (other, fellow, house.outsider()):
            assert (await refused(call(house, method, by=caller, **named))).raw == missing.raw, method
        assert (await refused(call(elsewhere, method, **named))).raw == missing.raw
        own = await refused(call(house, method, by=person, **named))
        assert (own.code, own.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    denied = await refused(promote(house, guest, by=sponsor))
    assert denied.reason == "PERMISSION_DENIED", "the sponsor sees the guest, but may not promote"
    await update_policy(house, members_may_invite=False)
    assert (await refused(remove(house, guest, by=sponsor))).raw == missing.raw
    await update_policy(house, members_may_invite=True)
    assert (await transfer(house, guest, other_id, by=sponsor)).sponsor_member_id == other_id
    assert (await refused(remove(house, guest, by=sponsor))).raw == missing.raw
    assert (await remove(house, guest, by=other)).state == ENDED


async def test_a_sponsor_is_an_active_full_member_who_may_invite(house: House) -> None:
    member, member_id = await house.member()
    _, guest = await house.guest()
    _, fellow = await house.guest()
    for unfit in (member_id, fellow.member_id, str(uuid.uuid4())):
        refusal = await refused(transfer(house, guest, unfit))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SPONSOR_UNFIT")
    await update_policy(house, members_may_invite=True)
    handed = await transfer(house, guest, member_id, etag=guest.etag)
    assert (handed.sponsor_member_id, handed.etag != guest.etag) == (member_id, True)
    assert await house.get(member, guest.member_id) == handed
    assert (await refused(transfer(house, guest, member_id, etag=guest.etag))).reason == "ETAG_MISMATCH"


async def test_each_change_is_repeatable_by_its_request_id(house: House) -> None:
    await update_policy(house, members_may_invite=True)
    _, member_id = await house.member()
    for method, fields in (
        ("TransferSponsor", {"sponsor_member_id": member_id}),
        ("RemoveGuest", {}),
        ("PromoteGuest", {"role": MEMBER}),
    ):
        _, guest = await house.guest()
        _, other = await house.guest()
        named = {"member_id": guest.member_id, "request_id": str(uuid.uuid4()), "etag": guest.etag, **fields}
        first = await call(house, method, **named)
        assert await call(house, method, **named) == first
        mismatch = await refused(call(house, method, **{**named, "member_id": other.member_id}))
        assert mismatch.reason == "IDEMPOTENCY_MISMATCH"
        assert (await house.get(house.admin, other.member_id)).state == ACTIVE
        stale = {**named, "member_id": other.member_id, "request_id": "", "etag": "99"}
        assert (await refused(call(house, method, **stale))).reason == "ETAG_MISMATCH"


async def ids(house: House, **fields: Any) -> list[str]:
    return [guest.member_id for guest in (await call(house, "ListGuests", **fields)).guests]


async def test_guests_are_listed_by_state_sponsor_and_page(house: House) -> None:
    await update_policy(house, members_may_invite=True)
    sponsor, sponsor_id = await house.member()
    other, _ = await house.member()
    made = await house.invite(by=sponsor)
    own = sorted([(await house.redeem(house.outsider(), made.token)).member_id for _ in range(3)])
    _, of_admin = await house.guest()
    everybody = sorted([*own, of_admin.member_id])
    assert await ids(house) == everybody
    first = await call(house, "ListGuests", page_size=3)
    second = await call(house, "ListGuests", page_size=3, page_token=first.next_page_token)
    assert [guest.member_id for guest in (*first.guests, *second.guests)] == everybody
    assert second.next_page_token == ""
    assert await ids(house, sponsor_member_id=sponsor_id) == own
    house.move_times(own[0], expire_in="-1 hour")
    house.move_times(own[1], expire_in="-24 hours")
    assert await ids(house, state=LOCKED) == [own[0]]
    assert await ids(house, state=ENDED) == [own[1]]
    assert await ids(house, state=ACTIVE) == sorted([own[2], of_admin.member_id])
    assert await ids(house, by=sponsor) == own
    assert await ids(house, by=sponsor, sponsor_member_id=house.admin_member_id) == []
    assert await ids(house, by=other) == []
    bad = await refused(call(house, "ListGuests", page_token=first.next_page_token, state=ACTIVE))
    assert (bad.reason, list(bad.fields)) == ("INVALID_REQUEST", ["page_token"])
    await update_policy(house, members_may_invite=False)
    assert (await refused(call(house, "ListGuests", by=sponsor))).reason == "PERMISSION_DENIED"
    missing = await refused(call(house, "ListGuests", workspace_id=str(uuid.uuid4())))
    assert (await refused(call(house, "ListGuests", by=house.outsider()))).raw == missing.raw


async def test_guests_whose_sponsor_is_gone_are_listed_and_say_who_it_was(house: House) -> None:
    admin, admin_id = await house.member(members.ROLE_ADMIN)
    guest = await house.redeem(house.outsider(), (await house.invite(by=admin)).token)
    _, other = await house.guest()
    assert await ids(house, orphaned=True) == []
    await house.remove(admin_id)

    async def is_orphaned() -> bool:
        return await ids(house, orphaned=True) == [guest.member_id]

    await until(is_orphaned, "the guest is orphaned")
    found = await house.get(house.admin, guest.member_id)
    assert (found.orphaned, found.sponsor_member_id, found.state) == (True, admin_id, ACTIVE)
    assert not (await house.get(house.admin, other.member_id)).orphaned
    handed = await transfer(house, guest, house.admin_member_id)
    assert (handed.orphaned, handed.sponsor_member_id) == (False, house.admin_member_id)
    assert await ids(house, orphaned=True) == []


async def test_what_was_done_to_guests_is_in_the_activity_log(house: House) -> None:
    await update_policy(house, members_may_invite=True)
    _, guest = await house.guest()
    _, member_id = await house.member()
    second = await house.channel()
    fields = {"member_id": guest.member_id, "conversation_id": second}
    await call(house, "GrantChannel", **fields)
    await call(house, "RevokeChannel", **fields)
    await transfer(house, guest, member_id)
    await remove(house, guest)
    expected = {
        "guest_policy.updated",
        "guest_invite.created",
        "guest.channel_granted",
        "guest.channel_revoked",
        "guest.sponsor_changed",
        "member.removed",
    }

    async def is_logged() -> bool:
        with house.suite.database("membership") as database:
            rows = database.execute(
                "SELECT action FROM activities WHERE workspace_id = %s", (house.workspace_id,)
            ).fetchall()
        return expected <= {action for (action,) in rows}

    await until(is_logged, "all is in the log")
