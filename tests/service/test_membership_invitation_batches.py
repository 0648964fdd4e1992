"""Inviting many at once, and the list of invitations."""

import uuid
from typing import Any

import pytest
from guildhall.membership.v1 import error_reason_pb2 as reasons
from guildhall.membership.v1 import invitation_service_pb2 as invitations
from guildhall.membership.v1 import invitation_service_pb2_grpc as invitation_rpc
from guildhall.membership.v1 import member_service_pb2 as members

from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.suite import Person, Suite, refused

OPEN, REVOKED = invitations.INVITATION_STATE_OPEN, invitations.INVITATION_STATE_REVOKED


def address() -> str:
    """An address that nobody has."""
    return f"new-{uuid.uuid4().hex}@example.com"


def item(email: str, role: Any = members.ROLE_MEMBER) -> invitations.InvitationItem:
    return invitations.InvitationItem(email=email, role=role)


async def invite_each(workspace: Workspace, *items: invitations.InvitationItem, request_id: str = "") -> Any:
    """The results of inviting many."""
    stub = workspace.suite.stub(invitation_rpc.InvitationServiceStub)
    request = invitations.BatchCreateInvitationsRequest(workspace_id=workspace.id, items=items, request_id=request_id)
    return (await workspace.admin.call(stub.BatchCreateInvitations, request)).results


async def page(workspace: Workspace, person: Person | None = None, **fields: Any) -> Any:
    """What ListInvitations answers."""
    stub = workspace.suite.stub(invitation_rpc.InvitationServiceStub)
    request = invitations.ListInvitationsRequest(workspace_id=workspace.id, **fields)
    return await (person or workspace.admin).call(stub.ListInvitations, request)


def lower_limit(workspace: Workspace, name: str, value: int) -> None:
    """Allows a workspace less than others."""
    with workspace.suite.database("membership_owner") as database:
        database.execute("INSERT INTO workspace_limits VALUES (%s, %s, %s)", (workspace.id, name, value))


async def test_each_of_many_is_made_or_refused_by_itself(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    good, banned, last = address(), address(), address()
    with suite.database("membership_owner") as database:
        database.execute(
            "INSERT INTO workspace_bans (id, workspace_id, email, normalized_email) VALUES (%s, %s, %s, %s)",
            (uuid.uuid4(), workspace.id, banned, banned),
        )

    results = await invite_each(
        workspace,
        item(good, members.ROLE_ADMIN),
        item("a,b@example.com"),
        item(banned.upper()),
        item("nobody"),
        item(last),
    )

    assert [result.WhichOneof("result") for result in results] == [
        "invitation",
        "refusal",
        "refusal",
        "refusal",
        "invitation",
    ]
    assert (results[0].invitation.email, results[0].invitation.role) == (good, members.ROLE_ADMIN)
    assert [result.refusal.reason for result in results[1:4]] == [
        reasons.ERROR_REASON_INVALID_REQUEST,
        reasons.ERROR_REASON_BANNED,
        reasons.ERROR_REASON_INVALID_REQUEST,
    ]
    assert "contains characters" in results[1].refusal.message
    assert [each.email for each in (await page(workspace)).invitations] == [last, good]
    assert await suite.mailed_token(last) != await suite.mailed_token(good)


async def test_an_address_that_comes_twice_is_invited_once_as_it_comes_last(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    twice, other = address(), address()

    results = await invite_each(workspace, item(twice), item(other), item(twice.upper(), members.ROLE_VIEWER))

    assert results[0] == results[2]
    assert results[2].invitation.role == members.ROLE_VIEWER
    assert len((await page(workspace)).invitations) == 2


async def test_those_for_whom_there_is_no_room_are_refused_and_keep_what_they_have(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    kept, new, too_many = address(), address(), address()
    await workspace.invite(kept)
    lower_limit(workspace, "open_invitations", 2)

    results = await invite_each(workspace, item(new), item(too_many), item(kept, members.ROLE_VIEWER))

    assert [result.WhichOneof("result") for result in results] == ["invitation", "refusal", "invitation"]
    assert results[1].refusal.reason == reasons.ERROR_REASON_LIMIT_REACHED
    refusal = await refused(workspace.invite(too_many))
    assert (refusal.reason, refusal.metadata["limit"]) == ("LIMIT_REACHED", "open_invitations")
    assert {each.email for each in (await page(workspace, state=OPEN)).invitations} == {kept, new}


async def test_who_cannot_be_invited_again_today_keeps_the_invitation_they_have(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    token = await workspace.invite(bob.email)
    lower_limit(workspace, "invitations_a_day", 1)

    (result,) = await invite_each(workspace, item(bob.email))

    assert result.refusal.reason == reasons.ERROR_REASON_LIMIT_REACHED
    assert (await workspace.accept(bob, token)).member.user_id == bob.user_id


async def test_inviting_many_again_with_the_same_key_mails_nobody_twice(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    wanted, key = [item(address()), item(address())], str(uuid.uuid4())

    first = await invite_each(workspace, *wanted, request_id=key)
    again = await invite_each(workspace, *wanted, request_id=key)

    assert list(first) == list(again)
    assert len((await page(workspace)).invitations) == 2


async def test_many_are_at_least_one_and_at_most_a_hundred(suite: Suite) -> None:
    workspace = await new_workspace(suite)

    for wrong in ([], [item(address())] * 101):
        assert list((await refused(invite_each(workspace, *wrong))).fields) == ["items"]
    results = await invite_each(workspace, *(item(address()) for _ in range(100)))
    assert {result.WhichOneof("result") for result in results} == {"invitation"}


async def test_a_batch_is_logged_under_one_lock_each_by_itself(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    twice = address()
    await invite_each(workspace, item(twice), item(address()))
    await invite_each(workspace, item(twice))

    with suite.database("membership") as database:
        logged = database.execute(
            "SELECT action, count(*), count(DISTINCT target_id) FROM activities"
            " WHERE workspace_id = %s AND target_type = 'invitation' GROUP BY action ORDER BY action",
            (workspace.id,),
        ).fetchall()
        kept = database.execute(
            "SELECT count(*) FROM activities WHERE workspace_id = %s AND metadata::text LIKE %s",
            (workspace.id, "%@%"),
        ).fetchone()
    assert logged == [("invitation.created", 3, 3), ("invitation.revoked", 1, 1)]
    assert kept == (0,)


@pytest.mark.parametrize("role", [members.ROLE_MEMBER, members.ROLE_VIEWER])
async def test_only_who_may_invite_sees_the_list_and_invites_many(suite: Suite, role: Any) -> None:
    workspace = await new_workspace(suite)
    bob, eve = await somebody(suite, "Bob"), await somebody(suite, "Eve")
    await workspace.join(bob, role)
    stub = suite.stub(invitation_rpc.InvitationServiceStub)
    request = invitations.BatchCreateInvitationsRequest(workspace_id=workspace.id, items=[item(address())])

    assert (await refused(page(workspace, bob))).reason == "PERMISSION_DENIED"
    assert (await refused(bob.call(stub.BatchCreateInvitations, request))).reason == "PERMISSION_DENIED"
    unknown = await refused(
        eve.call(stub.ListInvitations, invitations.ListInvitationsRequest(workspace_id=str(uuid.uuid4())))
    )
    assert (await refused(page(workspace, eve))).raw == unknown.raw
    assert (await refused(eve.call(stub.BatchCreateInvitations, request))).raw == unknown.raw
    assert len((await page(workspace)).invitations) == 1


async def test_the_list_is_newest_first_page_by_page_and_by_state(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    assert not (await page(workspace)).invitations
    addresses = [address() for _ in range(5)]
    for each in addresses:
        await invite_each(workspace, item(each))
    await invite_each(workspace, item(addresses[0]))

    first = await page(workspace, page_size=4)
    second = await page(workspace, page_size=4, page_token=first.next_page_token)

    listed = [each.email for each in (*first.invitations, *second.invitations)]
    assert listed == [addresses[0], *reversed(addresses)]
    assert not second.next_page_token
    assert [each.email for each in (await page(workspace, state=REVOKED)).invitations] == [addresses[0]]
    assert len((await page(workspace, state=OPEN)).invitations) == 5
    token_of_another_list = await refused(page(workspace, state=OPEN, page_token=first.next_page_token))
    assert list(token_of_another_list.fields) == ["page_token"]


async def test_the_list_says_where_each_stands(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, expired = await somebody(suite, "Bob"), address()
    member_id = await workspace.join(bob)
    await invite_each(workspace, item(expired))
    with suite.database("membership") as database:
        database.execute(
            "UPDATE invitations SET expire_at = statement_timestamp() WHERE workspace_id = %s AND email = %s",
            (workspace.id, expired),
        )

    newest, accepted = (await page(workspace)).invitations

    assert (newest.email, newest.state) == (expired, invitations.INVITATION_STATE_EXPIRED)
    assert not newest.HasField("accept_time")
    assert (accepted.email, accepted.state) == (bob.email, invitations.INVITATION_STATE_ACCEPTED)
    assert accepted.HasField("accept_time")
    members_stub_view = next(each for each in (await workspace.page(bob)).members if each.member_id == member_id)
    assert members_stub_view.invitation_id == accepted.invitation_id
    assert members_stub_view.inviter_member_id == workspace.admin_member_id


async def test_another_workspaces_invitations_are_not_listed(suite: Suite) -> None:
    workspace, other = await new_workspace(suite), await new_workspace(suite)
    await invite_each(other, item(address()))

    assert not (await page(workspace)).invitations
    assert len((await page(other)).invitations) == 1
