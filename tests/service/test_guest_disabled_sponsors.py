"""Who is disabled vouches for no guest: by no link, not even to who wants to sign up, nor as a sponsor."""

import pytest
from guildhall.guest.v1 import guest_invite_service_pb2 as invite_pb
from guildhall.guest.v1 import guest_invite_service_pb2_grpc as invite_rpc

from tests.service.test_guest_invite_events import open_until
from tests.service.test_guest_invites import House
from tests.service.test_guest_notices import queue, replan, subjects
from tests.service.test_guest_redemption import redemption_refused
from tests.service.test_membership_disabled import disabled, enabled
from tests.support.deliveries import until
from tests.support.guest_calls import call, update_policy
from tests.support.suite import Suite, refused


@pytest.fixture
async def house(suite: Suite) -> House:
    """A workspace of this test's own, in which every member may invite guests."""
    made = await House.make(suite)
    await update_policy(made, members_may_invite=True)
    return made


async def test_a_link_of_somebody_who_is_disabled_lets_nobody_in_until_they_are_enabled(house: House) -> None:
    mel, _mel_id = await house.member()
    made, ours = await house.invite(by=mel, max_uses=1), await house.invite()
    preview = house.suite.stub(invite_rpc.GuestInviteServiceStub).PreviewGuestInvite
    person = house.outsider()

    await disabled(house.suite, mel)

    refusal = await redemption_refused(house, person, made.token)
    assert refusal == await redemption_refused(house, person, "ghg_unknown")
    shown = preview(invite_pb.PreviewGuestInviteRequest(token=made.token), timeout=10)
    assert (await refused(shown)).reason == "GUEST_INVITE_INVALID"
    assert house.uses(made.invite.invite_id) == 0
    await house.redeem(house.outsider(), ours.token)

    await enabled(house.suite, mel)
    assert (await house.redeem(person, made.token)).workspace_id == house.workspace_id


async def test_nobody_signs_up_by_a_link_of_somebody_who_is_disabled(house: House) -> None:
    mel, _mel_id = await house.member()
    theirs, ours = await house.invite(by=mel), await house.invite()
    for made in (theirs, ours):
        await until(lambda made=made: open_until(house.suite, made.token) == [(False, True)])  # type: ignore[misc]

    await disabled(house.suite, mel)

    await until(lambda: open_until(house.suite, theirs.token) == [(True, False)])
    assert open_until(house.suite, ours.token) == [(False, True)]


async def test_a_link_that_was_being_made_while_its_member_was_disabled_is_closed_too(house: House) -> None:
    mel, _mel_id = await house.member()
    await disabled(house.suite, mel)
    # As if they had been asked about before: identity knows nothing of it here.
    made = await house.invite(by=mel)
    await until(lambda: open_until(house.suite, made.token) == [(False, True)])

    late = "kind = 'user.disable' AND subject_id = %s"
    with house.suite.database("membership") as database:
        found = database.execute(f"UPDATE outbox SET due_at = statement_timestamp() WHERE {late}", [mel.user_id])
        assert found.rowcount == 1
    house.suite.frames["membership"].relay.wake()

    await until(lambda: open_until(house.suite, made.token) == [(True, False)])


async def test_guests_are_not_handed_over_to_somebody_who_is_disabled(house: House) -> None:
    mel, mel_id = await house.member()
    _, guest = await house.guest()
    await disabled(house.suite, mel)
    handing_over = {"member_id": guest.member_id, "sponsor_member_id": mel_id}
    assert (await refused(call(house, "TransferSponsor", **handing_over))).reason == "SPONSOR_UNFIT"
    await enabled(house.suite, mel)
    assert (await call(house, "TransferSponsor", **handing_over)).guest.sponsor_member_id == mel_id


async def test_who_is_disabled_is_mailed_nothing_about_their_guests(house: House) -> None:
    mel, _mel_id = await house.member()
    person = await house.suite.known("Gus")
    guest = await house.redeem(person, (await house.invite(by=mel)).token)
    await disabled(house.suite, mel)

    house.move_times(guest.member_id, expire_in="-1 second")
    await replan(house, guest)
    await queue(house)

    sent = "SELECT count(*) FROM guest_notices WHERE member_id = %(id)s AND kind = 'locked' AND sent_at IS NOT NULL"
    await until(lambda: house.sql(sent, id=guest.member_id) == [(2,)])
    assert len(await subjects(house, person)) == 1
    assert [text for text in await subjects(house, mel) if "Gus" in text] == []
