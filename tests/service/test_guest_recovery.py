"""A redemption that dies half-way: nothing is left behind, nothing is done twice, and the next call makes it whole."""

import asyncio
import uuid

import grpc
import pytest
from guildhall.guest.v1 import guest_invite_service_pb2 as invite_pb
from guildhall.guest.v1 import guest_service_pb2 as pb
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.guest import redemptions, tasks
from tests.service.test_guest_invites import House
from tests.service.test_guest_redemption import redeem_with_patience, redemption_refused, states, until, verdict
from tests.support.suite import Person, Suite


@pytest.fixture
async def house(suite: Suite) -> House:
    """A workspace of this test's own."""
    return await House.make(suite)


async def add_pending(house: House, person: Person, redemption_id: str) -> str:
    """A pending member's id, as a redemption makes one."""
    stub = house.suite.stub(member_service_pb2_grpc.MemberServiceStub, certificate="guest")
    request = members.AddGuestMemberRequest(
        workspace_id=house.workspace_id, user_id=person.user_id, redemption_id=redemption_id
    )
    return str((await person.call(stub.AddGuestMember, request)).member.member_id)


def attempt(house: House, made: invite_pb.CreateGuestInviteResponse, person: Person) -> dict[str, str]:
    return {
        "invite_id": made.invite.invite_id,
        "workspace_id": house.workspace_id,
        "user_id": person.user_id,
    }


async def test_a_redemption_killed_before_its_decision_leaves_nothing_behind(house: House) -> None:
    made, person = await house.invite(), house.outsider()
    database = house.suite.frames["guest"].database
    redemption_id = await database.transaction(lambda tx: redemptions.begin(tx, **attempt(house, made, person)))
    member_id = await add_pending(house, person, redemption_id)
    for sweep in tasks.sweeps(database).values():
        await sweep()
    assert states(house, person) == ["STARTED"], "it may still be under way"
    house.sql(
        "UPDATE redemptions SET started_at = started_at - interval '60 seconds' WHERE id = %(id)s", id=redemption_id
    )
    for sweep in tasks.sweeps(database).values():
        await sweep()
    assert states(house, person) == ["ABANDONED"]
    await until_gone(house, member_id)
    late = {"redemption_id": redemption_id, "member_id": member_id, **attempt(house, made, person)}
    with pytest.raises(redemptions.Superseded):
        await database.transaction(lambda tx: redemptions.decide(tx, **late))
    assert house.sql("SELECT 1 FROM guests WHERE member_id = %(id)s", id=member_id) == []
    assert house.uses(made.invite.invite_id) == 0
    guest = await house.redeem(person, made.token)
    assert guest.member_id != member_id
    assert house.uses(made.invite.invite_id) == 1


async def until_gone(house: House, member_id: str) -> None:
    """Until membership has taken a pending member away."""

    async def is_gone() -> bool:
        with house.suite.database("membership") as database:
            return database.execute("SELECT 1 FROM members WHERE id = %s", (member_id,)).fetchone() is None

    await until(is_gone, "the pending member is taken away")


async def test_a_redemption_killed_before_its_decision_is_taken_up_by_the_next_call(house: House) -> None:
    made, person = await house.invite(), house.outsider()
    database = house.suite.frames["guest"].database
    redemption_id = await database.transaction(lambda tx: redemptions.begin(tx, **attempt(house, made, person)))
    member_id = await add_pending(house, person, redemption_id)
    assert not (await verdict(house, person)).allowed
    guest = await house.redeem(person, made.token)
    assert guest.member_id == member_id
    assert (await verdict(house, person)).allowed
    assert states(house, person) == ["COMMITTED"]


async def decided(
    house: House, made: invite_pb.CreateGuestInviteResponse, person: Person, *, forgets_event: bool = False
) -> str:
    """The member id of a guest whose redemption died between the decision and the confirmation."""
    database = house.suite.frames["guest"].database
    redemption_id = await database.transaction(lambda tx: redemptions.begin(tx, **attempt(house, made, person)))
    member_id = await add_pending(house, person, redemption_id)
    values = {"redemption_id": redemption_id, "member_id": member_id, **attempt(house, made, person)}

    async def decide(tx: AsyncConnection) -> None:
        await redemptions.decide(tx, **values)
        if forgets_event:
            await tx.execute(text("DELETE FROM outbox WHERE kind = 'guest_redeemed'"))

    await database.transaction(decide)
    return member_id


async def test_a_redemption_killed_before_its_confirmation_is_confirmed_by_the_event(house: House) -> None:
    made, person = await house.invite(), house.outsider()
    member_id = await decided(house, made, person)

    async def is_confirmed() -> bool:
        return (await verdict(house, person)).allowed

    await until(is_confirmed, "the pending member is confirmed")
    assert (await house.get(person, member_id)).state == pb.GUEST_STATE_ACTIVE


async def test_a_repeated_redemption_confirms_what_the_first_could_not(house: House) -> None:
    made, person = await house.invite(), house.outsider()
    member_id = await decided(house, made, person, forgets_event=True)
    assert not (await verdict(house, person)).allowed
    guest = await house.redeem(person, made.token)
    assert guest.member_id == member_id
    assert (await verdict(house, person)).allowed
    assert house.uses(made.invite.invite_id) == 1


async def test_a_guest_whose_pending_member_was_lost_is_made_again(house: House) -> None:
    made, person, request_id = await house.invite(), house.outsider(), str(uuid.uuid4())
    guest = await house.redeem(person, made.token, request_id=request_id)
    with house.suite.database("membership") as database:
        database.execute("DELETE FROM members WHERE id = %s", (guest.member_id,))
    again = await house.redeem(person, made.token, request_id=request_id)
    assert again.member_id != guest.member_id
    assert (await verdict(house, person)).member_id == again.member_id
    assert (await house.get(house.admin, guest.member_id)).state == pb.GUEST_STATE_ENDED


async def ban(house: House, person: Person) -> None:
    """Keeps a person out, and takes away what membership has of them: a pending member too."""
    request = members.BanMemberRequest(workspace_id=house.workspace_id, user_id=person.user_id)
    await house.admin.call(house.suite.stub(member_service_pb2_grpc.MemberServiceStub).BanMember, request)


async def test_a_redemption_that_a_ban_overtakes_gives_the_links_only_use_back(house: House) -> None:
    made, person = await house.invite(max_uses=1), house.outsider()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'guest' AND wait_event_type = 'Lock'"

    async def is_waited_for() -> bool:
        return house.sql(waiting) == [(1,)]

    with house.suite.database("guest") as holder, holder.transaction():
        holder.execute("SELECT 1 FROM guest_invites WHERE id = %s FOR NO KEY UPDATE", (made.invite.invite_id,))
        redeeming = asyncio.create_task(redemption_refused(house, person, made.token))
        await until(is_waited_for, "the pending member is there, and the decision waits for the link's row")
        await ban(house, person)
    assert (await redeeming).reason == "GUEST_INVITE_INVALID"
    assert states(house, person) == ["COMMITTED", "ABANDONED"]
    assert house.uses(made.invite.invite_id) == 0
    assert (await house.redeem(house.outsider(), made.token)).state == pb.GUEST_STATE_ACTIVE


async def test_a_redemption_killed_before_its_confirmation_gives_its_use_back_once_when_nobody_is_let_in(
    house: House,
) -> None:
    made, person = await house.invite(), house.outsider()
    await house.redeem(house.outsider(), made.token)
    member_id = await decided(house, made, person, forgets_event=True)
    assert house.uses(made.invite.invite_id) == 2
    await ban(house, person)
    refusals = [await redemption_refused(house, person, made.token) for _ in range(2)]
    assert {refusal.reason for refusal in refusals} == {"GUEST_INVITE_INVALID"}
    assert (await house.get(house.admin, member_id)).state == pb.GUEST_STATE_ENDED
    assert house.uses(made.invite.invite_id) == 1


async def test_who_was_let_in_and_removed_has_had_their_use(house: House) -> None:
    made, person = await house.invite(), house.outsider()
    guest = await house.redeem(person, made.token)
    with house.suite.database("membership") as database:
        database.execute("DELETE FROM members WHERE id = %s", (guest.member_id,))
    again = await house.redeem(person, made.token)
    assert again.member_id != guest.member_id
    assert house.uses(made.invite.invite_id) == 2


async def test_who_was_let_in_by_the_event_and_removed_has_had_their_use(house: House) -> None:
    made, person = await house.invite(max_uses=1), house.outsider()
    member_id = await decided(house, made, person)

    async def is_noted() -> bool:
        return house.sql("SELECT unconfirmed FROM guests WHERE member_id = %(id)s", id=member_id) == [(False,)]

    await until(is_noted, "guest has heard that they were let in")
    assert (await verdict(house, person)).allowed
    # Removed, of which guest has not heard yet.
    with house.suite.database("membership") as database:
        database.execute("DELETE FROM members WHERE id = %s", (member_id,))
    assert (await redemption_refused(house, person, made.token)).reason == "GUEST_INVITE_INVALID"
    assert house.uses(made.invite.invite_id) == 1


async def test_without_membership_nothing_is_decided(house: House) -> None:
    made, person = await house.invite(), house.outsider()
    await house.suite.stop("membership")
    try:
        refusal = await redemption_refused(house, person, made.token)
    finally:
        await house.suite.start("membership")
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "PEER_UNAVAILABLE")
    assert house.uses(made.invite.invite_id) == 0
    back = await redeem_with_patience(house, person, made.token)
    assert isinstance(back, pb.Guest)
    assert back.state == pb.GUEST_STATE_ACTIVE
