"""Codes of groups: exact uses, an end with their creator's right, and one answer for all that cannot be used."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc
import pytest
from guildhall.membership.v1 import group_invite_service_pb2 as invites
from guildhall.membership.v1 import group_invite_service_pb2_grpc as invite_rpc
from guildhall.membership.v1 import member_service_pb2 as members

from services.membership import group_invites
from tests.service.test_membership_group_bans import in_the_future
from tests.service.test_membership_groups import EDUCATION, Place, new_place
from tests.service.test_membership_workspaces import somebody
from tests.support.outboxes import Written, written
from tests.support.suite import Person, Suite, refused

BUSY = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def new_code(place: Place, group: Any, *, by: Person | None = None, **fields: Any) -> Any:
    """An invite with its code."""
    return (await place.codes("CreateGroupInvite", by=by, group_id=group.group_id, **fields)).group_invite


async def redeem(place: Place, person: Person, code: str, **fields: Any) -> Any:
    """Somebody's use of a code."""
    return await place.codes("RedeemGroupInvite", by=person, code=code, **fields)


async def patiently(call: Callable[[], Awaitable[Any]]) -> Any:
    """Calls as a client does: again when told that the suite is busy, which says nothing of the code."""
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() not in BUSY:
                raise


async def preview(suite: Suite, code: str) -> Any:
    """What a code leads to, asked by nobody in particular."""
    stub = suite.stub(invite_rpc.GroupInviteServiceStub)
    return await stub.PreviewGroupInvite(invites.PreviewGroupInviteRequest(code=code), timeout=10)


async def uses_of(place: Place, group: Any) -> list[int]:
    """How often a group's codes were used, the newest first."""
    return [one.uses for one in (await place.codes("ListGroupInvites", group_id=group.group_id)).group_invites]


@pytest.fixture
async def outbox(suite: Suite) -> AsyncIterator[Written]:
    """What membership writes into its outbox: what identity has taken is deleted there."""
    async with written(suite, "membership") as noted:
        yield noted


def told(outbox: Written, code: str) -> list[str]:
    """What identity was told of a code, in order."""
    found = outbox.events("o.kind IN ('invite_opened', 'invite_closed')")
    kinds = [(str(event.WhichOneof("payload")), event) for event in found]
    return [kind for kind, event in kinds if getattr(event, kind).token_hash == group_invites.code_hash(code)]


async def test_a_member_comes_in_by_a_code_whatever_its_case(suite: Suite, outbox: Written) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    made = await place.create("Choir", avatar_url="https://example.com/choir.png")
    invite = await new_code(place, made, role="moderator", expire_time=in_the_future(days=1))

    shown = await preview(suite, invite.code.upper())
    answer = await redeem(place, bob, invite.code.upper())

    assert len(invite.code) == 20
    assert (shown.workspace_name, shown.group_name, shown.role) == ("Engineering", "Choir", "moderator")
    assert (shown.avatar_url, shown.open_to_outsiders) == (made.avatar_url, False)
    assert shown.expire_time == invite.expire_time
    assert (answer.member.member_id, answer.member.name) == (bob_id, "Bob")
    joined = answer.group_member
    assert (joined.role, joined.user_name, joined.group_invite_id) == ("moderator", "Bob", invite.group_invite_id)
    assert await uses_of(place, made) == [1]
    assert not told(outbox, invite.code)


async def test_an_outsider_comes_into_the_workspace_too_if_the_code_says_so(suite: Suite, outbox: Written) -> None:
    place = await new_place(suite)
    eve = await somebody(suite, "Eve")
    made = await place.create()
    closed, opened = await new_code(place, made), await new_code(place, made, workspace_role=members.ROLE_VIEWER)

    inward = await refused(redeem(place, eve, closed.code))
    answer = await redeem(place, eve, opened.code)

    assert (inward.code, inward.reason) == (grpc.StatusCode.NOT_FOUND, "CODE_INVALID")
    assert (await preview(suite, opened.code)).open_to_outsiders
    assert (answer.member.role, answer.member.kind) == (members.ROLE_VIEWER, members.MEMBER_KIND_FULL)
    assert answer.member.member_id in await place.workspace.member_ids(eve)
    assert answer.group_member.role == "member"
    assert told(outbox, opened.code) == ["invite_opened"]


async def test_redeeming_again_returns_the_member_as_they_are_and_spends_nothing(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    made = await place.create()
    await place.add(made, bob_id, "admin")
    invite, key = await new_code(place, made, max_uses=1), str(uuid.uuid4())
    cy, _cy_id = await place.newcomer("Cy")

    assert (await redeem(place, bob, invite.code)).group_member.role == "admin"
    first = await redeem(place, cy, invite.code, request_id=key)

    assert await redeem(place, cy, invite.code, request_id=key) == first
    assert (await redeem(place, cy, invite.code)).group_member == first.group_member
    assert await uses_of(place, made) == [1]


async def test_creating_again_with_the_same_key_returns_the_same_code_and_keeps_it_sealed(suite: Suite) -> None:
    place = await new_place(suite)
    made, key = await place.create(), str(uuid.uuid4())

    first = await new_code(place, made, request_id=key)
    second = await new_code(place, made, request_id=key)

    assert second == first
    assert len(await uses_of(place, made)) == 1
    with suite.database("membership") as database:
        stored = database.execute(
            "SELECT answer FROM idempotency_keys WHERE method LIKE '%CreateGroupInvite'"
        ).fetchall()
    assert stored
    assert not [row for row in stored if first.code.encode() in row[0]]


async def test_the_owning_role_and_more_than_ones_own_are_given_by_no_code(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    made, school = await place.create(), await place.create(role_scheme_id=EDUCATION)
    await place.add(made, bob_id, "moderator")

    assert list((await refused(new_code(place, made, role="owner"))).fields) == ["role"]
    assert list((await refused(new_code(place, made, role="teacher"))).fields) == ["role"]
    assert (await refused(new_code(place, made, by=bob, role="admin"))).reason == "RANK_TOO_LOW"
    assert (await new_code(place, made, by=bob, role="moderator")).role == "moderator"
    assert (await new_code(place, school)).role == "student"


async def test_a_code_takes_the_right_to_invite_and_for_outsiders_also_the_workspaces(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    made = await place.create()
    await place.add(made, bob_id, "member")
    assert (await refused(new_code(place, made, by=bob))).reason == "PERMISSION_DENIED"
    listing = place.codes("ListGroupInvites", by=bob, group_id=made.group_id)
    assert (await refused(listing)).reason == "PERMISSION_DENIED"

    await place.people("UpdateGroupMemberRole", group_id=made.group_id, member_id=bob_id, role="moderator")

    outward = new_code(place, made, by=bob, workspace_role=members.ROLE_MEMBER)
    assert (await refused(outward)).reason == "PERMISSION_DENIED"
    assert (await new_code(place, made, by=bob)).created_by_member_id == bob_id
    assert (await refused(new_code(place, made, expire_time=in_the_future(seconds=-1)))).fields.keys() == {
        "expire_time"
    }


async def test_codes_are_listed_newest_first_and_can_be_revoked_again_and_again(suite: Suite, outbox: Written) -> None:
    place = await new_place(suite)
    bob, _bob_id = await place.newcomer("Bob")
    made, other = await place.create(), await place.create()
    old, new = [await new_code(place, made, workspace_role=members.ROLE_MEMBER) for _ in range(2)]

    async def revoke(group: Any) -> Any:
        fields = {"group_id": group.group_id, "group_invite_id": old.group_invite_id}
        return (await place.codes("RevokeGroupInvite", **fields)).group_invite

    page = await place.codes("ListGroupInvites", group_id=made.group_id, page_size=1)
    rest = await place.codes("ListGroupInvites", group_id=made.group_id, page_token=page.next_page_token)
    assert [*page.group_invites, *rest.group_invites] == [new, old]
    assert (await refused(revoke(other))).reason == "NOT_FOUND"

    revoked = await revoke(made)

    assert revoked.HasField("revoke_time")
    assert await revoke(made) == revoked
    assert told(outbox, old.code) == ["invite_opened", "invite_closed"]
    assert (await refused(redeem(place, bob, old.code))).reason == "CODE_INVALID"
    assert (await redeem(place, bob, new.code)).group_member.group_id == made.group_id


async def _make_unusable(place: Place, made: Any, invite: Any, why: str) -> None:
    ann_id = invite.created_by_member_id
    change = {"group_id": made.group_id, "member_id": ann_id}
    if why == "revoked":
        await place.codes("RevokeGroupInvite", group_id=made.group_id, group_invite_id=invite.group_invite_id)
    elif why == "expired":
        with place.suite.database("membership") as database:
            database.execute(
                "UPDATE group_invites SET expire_at = statement_timestamp() WHERE id = %s", [invite.group_invite_id]
            )
    elif why == "used up":
        other, _other_id = await place.newcomer("Other")
        await redeem(place, other, invite.code)
    elif why == "creator lowered":
        await place.people("UpdateGroupMemberRole", role="member", **change)
    elif why == "creator out of the group":
        await place.people("RemoveGroupMember", **change)
    elif why == "creator out of the workspace":
        await place.workspace.remove(ann_id)
    elif why == "creator banned above":
        user_id = (await somebody(place.suite, "Ann")).user_id
        await place.bans("BanUser", group_id=made.parent_group_id, user_id=user_id)
    elif why == "group deleted":
        await place.group("DeleteGroup", group_id=made.group_id)


WHY = (
    *("revoked", "expired", "used up", "creator lowered", "creator out of the group", "creator out of the workspace"),
    *("creator banned above", "group deleted"),
)


@pytest.mark.parametrize("why", WHY)
async def test_every_code_that_cannot_be_used_gets_the_same_bytes(suite: Suite, why: str) -> None:
    place = await new_place(suite)
    ann, ann_id = await place.newcomer("Ann")
    bob, _bob_id = await place.newcomer("Bob")
    made = await place.create(parent_group_id=(await place.create()).group_id)
    await place.add(made, ann_id, "moderator")
    invite = await new_code(place, made, by=ann, max_uses=1)
    assert (await preview(suite, invite.code)).role == "member"

    await _make_unusable(place, made, invite, why)

    previewed, unknown = await refused(preview(suite, invite.code)), await refused(preview(suite, "a" * 20))
    redeemed = await refused(redeem(place, bob, invite.code))
    assert previewed.reason == "CODE_INVALID"
    assert previewed.raw == unknown.raw == redeemed.raw == (await refused(redeem(place, bob, "b" * 20))).raw


async def test_a_code_for_outsiders_dies_with_the_right_to_invite_into_the_workspace(suite: Suite) -> None:
    place = await new_place(suite)
    ann, ann_id = await place.newcomer("Ann", "admin")
    eve = await somebody(suite, "Eve")
    made = await place.create()
    await place.add(made, ann_id, "moderator")
    invite = await new_code(place, made, by=ann, workspace_role=members.ROLE_MEMBER)
    assert (await preview(suite, invite.code)).open_to_outsiders

    with suite.database("membership") as database:
        database.execute("UPDATE members SET role = 'member' WHERE id = %s", [ann_id])

    assert (await refused(redeem(place, eve, invite.code))).reason == "CODE_INVALID"


async def test_guests_and_suspended_members_do_not_come_in(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    gil = await somebody(suite, "Gil")
    guest = await place.workspace.add_guest(gil)
    await place.workspace.confirm_guest(guest.member_id)
    made = await place.create()
    invite = await new_code(place, made, max_uses=1)
    with suite.database("membership") as database:
        database.execute(
            "UPDATE members SET state = 'suspended', suspended_at = statement_timestamp() WHERE id = %s", [bob_id]
        )

    assert (await refused(redeem(place, gil, invite.code))).reason == "GUESTS_EXCLUDED"
    assert (await refused(redeem(place, bob, invite.code))).reason == "MEMBER_SUSPENDED"
    assert await uses_of(place, made) == [0]
    cy, _cy_id = await place.newcomer("Cy")
    await redeem(place, cy, invite.code)


async def test_who_is_banned_from_the_workspace_comes_in_by_no_code_and_spends_none(
    suite: Suite, outbox: Written
) -> None:
    place = await new_place(suite)
    eve = await somebody(suite, "Eve")
    made = await place.create()
    invite = await new_code(place, made, workspace_role=members.ROLE_MEMBER, max_uses=1)
    with suite.database("membership") as database:
        database.execute(
            "INSERT INTO workspace_bans (id, workspace_id, user_id) VALUES (gen_random_uuid(), %s, %s)",
            [place.id, eve.user_id],
        )

    assert (await refused(redeem(place, eve, invite.code))).reason == "BANNED"
    assert await uses_of(place, made) == [0]
    with suite.database("membership") as database:
        database.execute("DELETE FROM workspace_bans WHERE workspace_id = %s", [place.id])
    await redeem(place, eve, invite.code)
    assert told(outbox, invite.code) == ["invite_opened", "invite_closed"]


@pytest.mark.parametrize("revoked", [False, True])
async def test_sixty_four_at_once_use_a_code_of_five_five_times_at_the_most(
    suite: Suite, outbox: Written, revoked: bool
) -> None:
    place = await new_place(suite)
    made = await place.create()
    people = [await somebody(suite, f"Crowd{number}") for number in range(16)]
    inside = await place.newcomer("Inside")
    await place.add(made, inside[1], "member")
    invite = await new_code(place, made, workspace_role=members.ROLE_MEMBER, max_uses=5)

    # Each of the sixteen at four times, and who is in already besides.
    calls = [patiently(partial(redeem, place, person, invite.code)) for person in people * 4]
    calls += [patiently(partial(redeem, place, inside[0], invite.code)) for _ in range(4)]
    if revoked:
        ended = {"group_id": made.group_id, "group_invite_id": invite.group_invite_id}
        calls.insert(20, patiently(partial(place.codes, "RevokeGroupInvite", **ended)))
    results = await asyncio.gather(*calls, return_exceptions=True)

    lost = [result for result in results if isinstance(result, BaseException)]
    assert all(isinstance(error, grpc.aio.AioRpcError) and error.code() == grpc.StatusCode.NOT_FOUND for error in lost)
    page = await place.people("ListGroupMembers", group_id=made.group_id)
    came = [member for member in page.group_members if member.group_invite_id == invite.group_invite_id]
    (uses,) = await uses_of(place, made)
    assert uses == len(came) <= 5
    assert len(await place.workspace.member_ids(place.workspace.admin)) == 2 + uses
    if not revoked:
        assert uses == 5
    assert told(outbox, invite.code).count("invite_closed") >= (not revoked)
