"""What takes sight away from guests is known to membership before it is acknowledged, whoever dies in between."""

import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
import uuid_utils
from guildhall.guest.v1 import guest_service_pb2 as pb

from services.guest import grants, guests, sight
from services.guest.peers import Membership
from tests.service.test_guest_expiry import extend
from tests.service.test_guest_invites import HOUR, House
from tests.service.test_guest_redemption import until
from tests.support.guest_calls import at, call, clock, revision, update_policy
from tests.support.suite import Person, Suite

Way = Callable[[House, Person, pb.Guest], Awaitable[Any]]


@pytest.fixture
async def house(suite: Suite) -> House:
    """A workspace of this test's own."""
    return await House.make(suite)


def about(method: str, **fields: Any) -> Way:
    return lambda house, _person, guest: call(house, method, member_id=guest.member_id, **fields)


def regrant(**shifts: timedelta) -> Way:
    """The channel granted anew, with times relative to the clock."""

    async def make(house: House, _person: Person, guest: pb.Guest) -> Any:
        times = {name: at(clock(house) + shift) for name, shift in shifts.items()}
        fields = {"member_id": guest.member_id, "conversation_id": house.channel_id, **times}
        return await call(house, "GrantChannel", **fields)

    return make


async def come_back(house: House, person: Person, guest: pb.Guest) -> Any:
    """Somebody whose grace is over redeems another link."""
    house.move_times(guest.member_id, expire_in="-24 hours")
    return await house.redeem(person, (await house.invite(await house.channel())).token)


async def revoke_channel(house: House, _person: Person, guest: pb.Guest) -> Any:
    fields = {"member_id": guest.member_id, "conversation_id": house.channel_id}
    return await call(house, "RevokeChannel", **fields)


WAYS: dict[str, Way] = {
    "guest_removed": about("RemoveGuest"),
    "guest_promoted": about("PromoteGuest", role=pb.PROMOTED_ROLE_MEMBER),
    "guest_replaced": come_back,
    "channel_revoked": revoke_channel,
    "channel_expiry_shortened": regrant(expire_time=HOUR),
    "channel_history_shortened": regrant(history_start_time=-HOUR),
    "policy_tightened": lambda house, _person, _guest: update_policy(house, grace=HOUR),
}


async def transfer(house: House, _person: Person, guest: pb.Guest) -> Any:
    await update_policy(house, members_may_invite=True)
    fields = {"member_id": guest.member_id, "sponsor_member_id": (await house.member())[1]}
    before = await revision(house)
    await call(house, "TransferSponsor", **fields)
    assert await revision(house) == before


async def longer(house: House, _person: Person, guest: pb.Guest) -> Any:
    return await extend(house, guest, clock(house) + 2 * HOUR)


async def another(house: House, _person: Person, guest: pb.Guest) -> Any:
    fields = {"member_id": guest.member_id, "conversation_id": await house.channel()}
    return await call(house, "GrantChannel", **fields)


async def not_granted(house: House, _person: Person, guest: pb.Guest) -> Any:
    fields = {"member_id": guest.member_id, "conversation_id": str(uuid.uuid4())}
    return await call(house, "RevokeChannel", **fields)


HARMLESS: dict[str, Way] = {
    "extended": longer,
    "granted": another,
    "granted as before": regrant(),
    "revoked what was not granted": not_granted,
    "looser policy": lambda house, _person, _guest: update_policy(house, grace=25 * HOUR),
    "other notices": lambda house, _person, _guest: update_policy(house, notice_days=[2]),
    "transferred": transfer,
}


def losses(house: House) -> list[str]:
    rows = house.sql("SELECT cause FROM sight_losses WHERE workspace_id = %(id)s", id=house.workspace_id)
    return [cause for (cause,) in rows]


def test_each_cause_has_its_way_here() -> None:
    assert set(WAYS) == set(sight.CAUSES)


@pytest.mark.parametrize("cause", sorted(sight.CAUSES))
async def test_each_cause_has_raised_the_revision_when_it_is_acknowledged(house: House, cause: str) -> None:
    person, guest = await house.guest()
    before = await revision(house)
    await WAYS[cause](house, person, guest)
    assert await revision(house) > before
    assert losses(house) == []


@pytest.mark.parametrize("what", sorted(HARMLESS))
async def test_what_takes_nothing_away_leaves_the_revision_alone(house: House, what: str) -> None:
    person, guest = await house.guest()
    before = await revision(house)
    await HARMLESS[what](house, person, guest)
    present = await revision(house)
    assert present == before or what == "transferred"


async def test_longer_times_of_a_grant_take_nothing_away(house: House) -> None:
    person, guest = await house.guest()
    await regrant(expire_time=HOUR / 2, history_start_time=-HOUR)(house, person, guest)
    before = await revision(house)
    await regrant(expire_time=HOUR, history_start_time=-2 * HOUR)(house, person, guest)
    assert await revision(house) == before
    await regrant(expire_time=HOUR / 4, history_start_time=-3 * HOUR)(house, person, guest)
    assert await revision(house) == before + 1


async def revoke_and_die(house: House, guest: pb.Guest) -> None:
    """What RevokeChannel commits, without what comes after it."""
    named = {"workspace_id": house.workspace_id, "member_id": guest.member_id}

    async def work(tx: Any) -> None:
        await guests.lock(tx, **named)
        await grants.revoke(tx, **named, conversation_id=house.channel_id, etag="")

    await house.suite.frames["guest"].database.transaction(work)


async def test_what_a_call_that_died_has_taken_away_is_settled_without_it(house: House) -> None:
    _, guest = await house.guest()
    before = await revision(house)
    await revoke_and_die(house, guest)
    assert (losses(house), await revision(house)) == (["channel_revoked"], before)
    house.sql(
        "UPDATE sight_losses SET created_at = created_at - interval '5 seconds' WHERE workspace_id = %(id)s",
        id=house.workspace_id,
    )

    async def is_settled() -> bool:
        return losses(house) == []

    await until(is_settled, "the loss is settled")
    assert await revision(house) == before + 1


async def test_a_repetition_waits_for_what_the_first_call_could_not_do(house: House) -> None:
    _, guest = await house.guest()
    fields = {"member_id": guest.member_id, "conversation_id": house.channel_id, "request_id": str(uuid.uuid4())}
    first = await call(house, "RevokeChannel", **fields)
    before = await revision(house)
    # As if the first call had died after its transaction.
    house.sql(
        "INSERT INTO sight_losses (id, workspace_id, cause) VALUES (%(id)s, %(workspace_id)s, 'channel_revoked')",
        id=str(uuid_utils.uuid7()),
        workspace_id=house.workspace_id,
    )
    assert await call(house, "RevokeChannel", **fields) == first
    assert (losses(house), await revision(house)) == ([], before + 1)


async def test_a_loss_raises_the_revision_once_however_often_it_is_settled(house: House) -> None:
    _, guest = await house.guest()
    before = await revision(house)
    await revoke_and_die(house, guest)
    (loss_id,) = house.sql("SELECT id::text FROM sight_losses WHERE workspace_id = %(id)s", id=house.workspace_id)[0]
    frame = house.suite.frames["guest"]
    settling = sight.Losses(frame.database, Membership(frame.channels["membership"]))
    await settling.settle(house.workspace_id)
    house.sql(
        "INSERT INTO sight_losses (id, workspace_id, cause) VALUES (%(id)s, %(workspace_id)s, 'channel_revoked')",
        id=loss_id,
        workspace_id=house.workspace_id,
    )
    await settling.settle(house.workspace_id)
    assert (losses(house), await revision(house)) == ([], before + 1)


async def test_a_loss_in_a_workspace_that_is_gone_is_settled_too(house: House) -> None:
    gone = str(uuid.uuid4())
    house.sql(
        "INSERT INTO sight_losses (id, workspace_id, cause, created_at) VALUES "
        "(%(id)s, %(workspace_id)s, 'guest_removed', statement_timestamp() - interval '1 hour')",
        id=str(uuid_utils.uuid7()),
        workspace_id=gone,
    )

    async def is_settled() -> bool:
        return house.sql("SELECT 1 FROM sight_losses WHERE workspace_id = %(id)s", id=gone) == []

    await until(is_settled, "the loss is settled")


async def test_a_loss_that_cannot_be_settled_holds_up_no_other_workspace(house: House) -> None:
    other = await House.make(house.suite)
    with house.suite.database("membership") as database, database.transaction():
        # Held, so that nothing raises the revision of the house, whose loss is the older one.
        database.execute("SELECT 1 FROM workspace_heads WHERE workspace_id = %s FOR UPDATE", [house.workspace_id])
        for place in (house, other):
            house.sql(
                "INSERT INTO sight_losses (id, workspace_id, cause, created_at) VALUES "
                "(%(id)s, %(workspace_id)s, 'guest_removed', statement_timestamp() - interval '1 hour')",
                id=str(uuid_utils.uuid7()),
                workspace_id=place.workspace_id,
            )

        async def is_settled() -> bool:
            return losses(other) == []

        await until(is_settled, "the other's loss is settled")
        assert losses(house) == ["guest_removed"]
