"""Redeeming a link: one person becoming a guest over two services, whoever dies in between."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from guildhall.events.v1 import event_sink_pb2 as events
from guildhall.guest.v1 import guest_invite_service_pb2 as invite_pb
from guildhall.guest.v1 import guest_invite_service_pb2_grpc as invite_rpc
from guildhall.guest.v1 import guest_service_pb2 as pb
from guildhall.guest.v1 import guest_service_pb2_grpc as rpc
from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.membership.v1 import access_service_pb2_grpc
from guildhall.membership.v1 import member_service_pb2 as members

from services.guest import redemptions
from services.guest.guests import member_removed
from tests.service.test_guest_invites import HOUR, House
from tests.support.suite import Person, Refusal, Suite, refusal_of, refused

CLOCK = "SELECT statement_timestamp()"


@pytest.fixture
async def house(suite: Suite) -> House:
    """A workspace of this test's own."""
    return await House.make(suite)


async def redemption_refused(house: House, person: Person, token: str, *, request_id: str = "") -> Refusal:
    stub = house.suite.stub(invite_rpc.GuestInviteServiceStub)
    request = invite_pb.RedeemGuestInviteRequest(token=token, request_id=request_id)
    return await refused(person.call(stub.RedeemGuestInvite, request))


async def verdict(house: House, person: Person) -> access.AccessVerdict:
    """What membership says of a person."""
    stub = house.suite.stub(access_service_pb2_grpc.AccessServiceStub, certificate="guest")
    question = access.AccessQuestion(
        workspace_id=house.workspace_id, user_id=person.user_id, capability="workspace.read"
    )
    answer = await stub.BatchCheckAccess(access.BatchCheckAccessRequest(questions=[question]), timeout=10)
    found = answer.verdicts[0]
    assert isinstance(found, access.AccessVerdict)
    return found


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Waits for an effect in another process."""
    for _ in range(3000):
        if await condition():
            return
        await asyncio.sleep(0.02)
    raise TimeoutError(f"never happened: {what}")


def states(house: House, person: Person) -> list[str]:
    """The states of a person's redemptions, oldest first."""
    rows = house.sql("SELECT state FROM redemptions WHERE user_id = %(id)s ORDER BY id", id=person.user_id)
    return [state for (state,) in rows]


async def test_a_redeemed_link_makes_a_guest_of_its_channels_for_its_time(house: House) -> None:
    made, person = await house.invite(), house.outsider()
    before = house.sql(CLOCK)[0][0]
    guest = await house.redeem(person, made.token)
    after = house.sql(CLOCK)[0][0]
    assert (guest.workspace_id, guest.user_id) == (house.workspace_id, person.user_id)
    assert (guest.state, guest.sponsor_member_id) == (pb.GUEST_STATE_ACTIVE, house.admin_member_id)
    assert list(guest.conversation_ids) == [house.channel_id]
    expire_at = guest.expire_time.ToDatetime(tzinfo=before.tzinfo)
    assert before + HOUR <= expire_at <= after + HOUR
    assert guest.grace_end_time.ToDatetime() - guest.expire_time.ToDatetime() == 24 * HOUR
    assert house.uses(made.invite.invite_id) == 1
    found = await verdict(house, person)
    assert (found.allowed, found.member_id, found.kind) == (True, guest.member_id, members.MEMBER_KIND_GUEST)


async def test_the_guest_and_the_admin_see_the_guest_and_nobody_else_does(house: House) -> None:
    person, guest = await house.guest()
    other_guest, _ = await house.guest()
    member, member_id = await house.member()
    assert await house.get(person, guest.member_id) == guest == await house.get(house.admin, guest.member_id)
    stub = house.suite.stub(rpc.GuestServiceStub)
    request = pb.GetGuestRequest(workspace_id=house.workspace_id, member_id=guest.member_id)
    unknown = pb.GetGuestRequest(workspace_id=house.workspace_id, member_id=str(uuid.uuid4()))
    not_a_guest = pb.GetGuestRequest(workspace_id=house.workspace_id, member_id=member_id)
    elsewhere = pb.GetGuestRequest(workspace_id=str(uuid.uuid4()), member_id=guest.member_id)
    missing = await refused(house.admin.call(stub.GetGuest, unknown))
    assert (missing.code, missing.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    for hidden_from in (other_guest, member, house.outsider()):
        assert await refused(hidden_from.call(stub.GetGuest, request)) == missing
    assert await refused(house.admin.call(stub.GetGuest, elsewhere)) == missing
    assert await refused(member.call(stub.GetGuest, not_a_guest)) == missing


async def test_who_is_a_guest_already_is_returned_and_spends_no_use(house: House) -> None:
    made, person = await house.invite(max_uses=1), house.outsider()
    guest = await house.redeem(person, made.token)
    assert await house.redeem(person, made.token) == guest
    other = await house.invite()
    assert await house.redeem(person, other.token) == guest
    assert (house.uses(made.invite.invite_id), house.uses(other.invite.invite_id)) == (1, 0)


async def test_concurrent_redemptions_of_one_person_make_one_guest_and_spend_one_use(house: House) -> None:
    made, person = await house.invite(), house.outsider()
    guests = await asyncio.gather(*(house.redeem(person, made.token) for _ in range(8)))
    assert len({guest.member_id for guest in guests}) == 1
    assert house.uses(made.invite.invite_id) == 1
    assert (await verdict(house, person)).member_id == guests[0].member_id
    assert "STARTED" not in states(house, person)


async def redeem_with_patience(house: House, person: Person, token: str) -> pb.Guest | Refusal:
    """Redeems as a client does: again when told that the suite is busy."""
    while True:
        try:
            return await house.redeem(person, token)
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE):
                return refusal_of(error)


async def test_of_64_people_at_once_five_get_in_by_five_uses(house: House) -> None:
    made = await house.invite(max_uses=5)
    people = [house.outsider() for _ in range(64)]
    answers = await asyncio.gather(*(redeem_with_patience(house, person, made.token) for person in people))
    guests = [answer for answer in answers if isinstance(answer, pb.Guest)]
    refusals = [answer for answer in answers if isinstance(answer, Refusal)]
    assert (len(guests), house.uses(made.invite.invite_id)) == (5, 5)
    assert {refusal.reason for refusal in refusals} == {"GUEST_INVITE_INVALID"}
    count = "SELECT count(*) FROM guests WHERE workspace_id = %(id)s"
    assert house.sql(count, id=house.workspace_id) == [(5,)]
    started = "SELECT count(*) FROM redemptions WHERE workspace_id = %(id)s AND state = 'STARTED'"
    assert house.sql(started, id=house.workspace_id) == [(0,)]


async def test_a_link_revoked_meanwhile_lets_in_as_many_as_it_counted(house: House) -> None:
    made = await house.invite()
    people = [house.outsider() for _ in range(16)]
    revoke = "UPDATE guest_invites SET revoked_at = statement_timestamp() WHERE id = %(id)s"
    redeeming = [asyncio.create_task(redeem_with_patience(house, person, made.token)) for person in people]
    await asyncio.wait(redeeming, return_when=asyncio.FIRST_COMPLETED)
    # In a thread: it waits for the row, and the service that holds it runs in this loop.
    await asyncio.to_thread(house.sql, revoke, id=made.invite.invite_id)
    answers = await asyncio.gather(*redeeming)
    guests = [answer for answer in answers if isinstance(answer, pb.Guest)]
    assert len(guests) == house.uses(made.invite.invite_id)
    assert (await redemption_refused(house, house.outsider(), made.token)).reason == "GUEST_INVITE_INVALID"


async def test_a_link_that_ends_while_its_row_is_waited_for_lets_nobody_in(house: House) -> None:
    made, person = await house.invite(), house.outsider()
    ending = "SET expire_at = statement_timestamp() + interval '1500 milliseconds'"
    house.sql(f"UPDATE guest_invites {ending} WHERE id = %(id)s", id=made.invite.invite_id)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'guest' AND wait_event_type = 'Lock'"
    over = "SELECT expire_at <= statement_timestamp() FROM guest_invites WHERE id = %(id)s"

    async def is_waited_for() -> bool:
        return house.sql(waiting) == [(1,)]

    async def is_over() -> bool:
        return house.sql(over, id=made.invite.invite_id) == [(True,)]

    with house.suite.database("guest") as holder, holder.transaction():
        holder.execute("SELECT 1 FROM guest_invites WHERE id = %s FOR NO KEY UPDATE", (made.invite.invite_id,))
        redeeming = asyncio.create_task(redemption_refused(house, person, made.token))
        await until(is_waited_for, "the redemption waits for the link's row")
        await until(is_over, "the link's time is over")
    assert (await redeeming).reason == "GUEST_INVITE_INVALID"
    assert house.uses(made.invite.invite_id) == 0


async def test_links_that_do_not_work_are_refused_with_the_same_bytes_and_a_good_one_lets_in(house: House) -> None:
    expired, revoked, used, good = [await house.invite(max_uses=1) for _ in range(4)]
    house.sql(
        "UPDATE guest_invites SET expire_at = statement_timestamp() WHERE id = %(id)s", id=expired.invite.invite_id
    )
    house.sql(
        "UPDATE guest_invites SET revoked_at = statement_timestamp() WHERE id = %(id)s", id=revoked.invite.invite_id
    )
    await house.redeem(house.outsider(), used.token)
    tokens = ("ghg_unknown", good.token + "x", good.token.swapcase(), expired.token, revoked.token, used.token)
    person = house.outsider()
    refusals = [await redemption_refused(house, person, token) for token in tokens]
    assert (refusals[0].code, refusals[0].reason) == (grpc.StatusCode.NOT_FOUND, "GUEST_INVITE_INVALID")
    assert all(refusal == refusals[0] for refusal in refusals)
    assert (await house.redeem(person, good.token)).state == pb.GUEST_STATE_ACTIVE


async def test_a_bad_token_field_is_named(house: House) -> None:
    for token in ("", "x" * 201, "a\0b"):
        refusal = await redemption_refused(house, house.outsider(), token)
        assert (refusal.reason, list(refusal.fields)) == ("INVALID_REQUEST", ["token"])


async def test_a_link_dies_with_its_makers_right_to_invite(house: House) -> None:
    second_admin, member_id = await house.member(members.ROLE_ADMIN)
    theirs, ours = await house.invite(by=second_admin), await house.invite()
    early = await house.redeem(house.outsider(), theirs.token)
    await house.remove(member_id)
    person = house.outsider()
    refusal = await redemption_refused(house, person, theirs.token)
    assert refusal == await redemption_refused(house, person, "ghg_unknown")
    assert house.uses(theirs.invite.invite_id) == 1
    assert (await house.redeem(person, ours.token)).state == pb.GUEST_STATE_ACTIVE
    assert (await house.get(house.admin, early.member_id)).state == pb.GUEST_STATE_ACTIVE


async def test_a_full_member_is_told_so_and_spends_no_use(house: House) -> None:
    made, (member, member_id) = await house.invite(), await house.member(members.ROLE_VIEWER)
    refusal = await redemption_refused(house, member, made.token)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_MEMBER")
    assert house.uses(made.invite.invite_id) == 0
    assert states(house, member) == ["ABANDONED"]
    found = await verdict(house, member)
    assert (found.member_id, found.kind, found.role) == (member_id, members.MEMBER_KIND_FULL, members.ROLE_VIEWER)
    await house.redeem(house.outsider(), made.token)
    assert house.uses(made.invite.invite_id) == 1


async def test_a_repeated_request_gets_the_same_answer_even_after_a_removal(house: House) -> None:
    made, person, request_id = await house.invite(), house.outsider(), str(uuid.uuid4())
    guest = await house.redeem(person, made.token, request_id=request_id)
    assert await house.redeem(person, made.token, request_id=request_id) == guest
    await house.remove(guest.member_id)
    await until_ended(house, guest.member_id)
    # Whoever was removed sees nobody, their sponsor included.
    guest.ClearField("sponsor_member_id")
    assert await house.redeem(person, made.token, request_id=request_id) == guest
    assert not (await verdict(house, person)).allowed
    assert "STARTED" not in states(house, person)


async def test_a_key_is_for_one_token(house: House) -> None:
    first, second = await house.invite(), await house.invite()
    person, request_id = house.outsider(), str(uuid.uuid4())
    await house.redeem(person, first.token, request_id=request_id)
    refusal = await redemption_refused(house, person, second.token, request_id=request_id)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_MISMATCH")
    assert await house.redeem(person, second.token, request_id=str(uuid.uuid4()))


async def until_ended(house: House, member_id: str) -> None:
    """Until guest has taken the removal in."""

    async def is_ended() -> bool:
        return house.sql("SELECT 1 FROM guests WHERE member_id = %(id)s AND ended_at IS NOT NULL", id=member_id) == [
            (1,)
        ]

    await until(is_ended, "the guest is ended")


async def test_a_removed_guest_loses_the_channels_and_comes_back_with_nothing_of_before(house: House) -> None:
    second_id = await house.channel()
    person, guest = await house.guest(house.channel_id, second_id)
    await house.remove(guest.member_id)
    await until_ended(house, guest.member_id)
    assert house.sql("SELECT 1 FROM guest_grants WHERE member_id = %(id)s", id=guest.member_id) == []
    assert [found.state for found in await house.check((guest.member_id, second_id))] == [pb.GUEST_STATE_ENDED]
    shown = await house.get(house.admin, guest.member_id)
    assert (shown.state, list(shown.conversation_ids)) == (pb.GUEST_STATE_ENDED, [])
    assert shown.etag != guest.etag
    back = await house.redeem(person, (await house.invite()).token)
    assert back.member_id != guest.member_id
    assert list(back.conversation_ids) == [house.channel_id]


async def test_somebody_else_being_removed_leaves_a_guest_alone(house: House) -> None:
    _, guest = await house.guest()
    _, other = await house.guest()
    await house.remove(other.member_id)
    await until_ended(house, other.member_id)
    assert await house.get(house.admin, guest.member_id) == guest


async def test_who_has_ended_starts_anew_with_the_channels_of_the_new_link(house: House) -> None:
    second_id = await house.channel()
    person, guest = await house.guest()
    house.move_times(guest.member_id, expire_in="-25 hours")
    made = await house.invite(second_id)
    anew = await house.redeem(person, made.token)
    assert (anew.member_id, anew.state) == (guest.member_id, pb.GUEST_STATE_ACTIVE)
    assert list(anew.conversation_ids) == [second_id]
    assert anew.etag != guest.etag
    assert house.uses(made.invite.invite_id) == 1


async def test_a_locked_guest_is_returned_locked_and_a_new_link_does_not_unlock(house: House) -> None:
    person, guest = await house.guest()
    house.move_times(guest.member_id, expire_in="-1 hour")
    made = await house.invite()
    assert (await house.redeem(person, made.token)).state == pb.GUEST_STATE_LOCKED
    assert house.uses(made.invite.invite_id) == 0


async def test_an_event_delivered_again_ends_nothing_twice(house: House) -> None:
    _, guest = await house.guest()
    await house.remove(guest.member_id)
    await until_ended(house, guest.member_id)
    row: dict[str, Any] = {"id": guest.member_id}
    before = house.sql("SELECT ended_at, generation FROM guests WHERE member_id = %(id)s", **row)
    removed = events.MemberRemoved(workspace_id=house.workspace_id, member_id=guest.member_id, user_id=guest.user_id)
    await house.suite.frames["guest"].database.transaction(lambda tx: member_removed(tx, removed))
    assert house.sql("SELECT ended_at, generation FROM guests WHERE member_id = %(id)s", **row) == before


async def test_what_was_decided_an_hour_ago_is_forgotten_and_the_guest_stays(house: House) -> None:
    person, made = house.outsider(), await house.invite()
    guest = await house.redeem(person, made.token)
    database = house.suite.frames["guest"].database
    await database.transaction(redemptions.forget_decided)
    assert states(house, person) == ["COMMITTED"]
    house.sql(
        "UPDATE redemptions SET started_at = started_at - interval '1 hour' WHERE user_id = %(id)s", id=person.user_id
    )
    await database.transaction(redemptions.forget_decided)
    assert states(house, person) == []
    again = await house.redeem(person, made.token)
    assert (again.member_id, house.uses(made.invite.invite_id)) == (guest.member_id, 1)
