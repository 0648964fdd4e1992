"""Invitations: one address, one use, seven days, and no longer than the sender may invite."""

import asyncio
import uuid

import grpc
import pytest
from guildhall.membership.v1 import invitation_service_pb2 as invitations
from guildhall.membership.v1 import invitation_service_pb2_grpc as invitation_rpc
from guildhall.membership.v1 import member_service_pb2 as members

from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.suite import Refusal, Suite, refused


async def _refused_as_invalid(workspace: Workspace, person: object, token: str) -> Refusal:
    refusal = await refused(workspace.accept(person, token))  # type: ignore[arg-type]
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "INVITATION_INVALID")
    return refusal


def _change(suite: Suite, statement: str, *values: object) -> None:
    """Moves a row's time, which no caller can."""
    with suite.database("membership") as database:
        assert database.execute(statement.encode(), values).rowcount == 1


async def test_the_owner_of_the_address_joins_in_the_role_offered(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    token = await workspace.invite(bob.email.upper(), members.ROLE_VIEWER)

    answer = await workspace.accept(bob, token)

    assert answer.workspace.workspace_id == workspace.id
    assert answer.workspace.name == "Engineering"
    assert (answer.member.user_id, answer.member.name) == (bob.user_id, "Bob")
    assert answer.member.role == members.ROLE_VIEWER
    assert answer.member.member_id in await workspace.member_ids(bob)


async def test_the_answer_and_the_mail_say_what_was_asked_for(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    address = f"new-{uuid.uuid4().hex}@example.com"
    stub = suite.stub(invitation_rpc.InvitationServiceStub)
    request = invitations.CreateInvitationRequest(
        workspace_id=workspace.id, email=address, role=members.ROLE_MEMBER, request_id=str(uuid.uuid4())
    )

    answer = await workspace.admin.call(stub.CreateInvitation, request)
    again = await workspace.admin.call(stub.CreateInvitation, request)
    mail = (await suite.mails(address))[0]

    assert again == answer
    invitation = answer.invitation
    assert (invitation.email, invitation.role) == (address, members.ROLE_MEMBER)
    assert invitation.inviter_member_id == workspace.admin_member_id
    assert invitation.expire_time.seconds - invitation.create_time.seconds == 7 * 86400
    token = await suite.mailed_token(address)
    assert "Engineering" in mail
    assert f"/invitations/accept?token={token}" in mail
    assert token.encode() not in answer.SerializeToString()


@pytest.mark.parametrize("role", [members.ROLE_MEMBER, members.ROLE_VIEWER])
async def test_only_an_admin_invites(suite: Suite, role: members.Role.ValueType) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    await workspace.join(bob, role)
    address = f"new-{uuid.uuid4().hex}@example.com"

    assert (await refused(workspace.invite(address, by=bob))).reason == "PERMISSION_DENIED"
    assert await workspace.invite(address)


@pytest.mark.parametrize(
    "email", ["a,b@example.com", "<a@example.com>", "a@b@example.com", "a\u2028b@example.com", "a"]
)
async def test_what_is_no_single_address_is_refused(suite: Suite, email: str) -> None:
    workspace = await new_workspace(suite)
    refusal = await refused(workspace.invite(email))
    assert (refusal.code, list(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["email"])


@pytest.mark.parametrize("role", [members.ROLE_UNSPECIFIED, 99])
async def test_an_unknown_role_is_refused(suite: Suite, role: members.Role.ValueType) -> None:
    workspace = await new_workspace(suite)
    refusal = await refused(workspace.invite("a@example.com", role))
    assert (refusal.code, list(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["role"])


async def test_somebody_else_is_refused_and_uses_nothing_up(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, eve = await somebody(suite, "Bob"), await somebody(suite, "Eve")
    token = await workspace.invite(bob.email)

    refusal = await refused(workspace.accept(eve, token))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "INVITATION_FOR_ANOTHER")
    assert (await workspace.accept(bob, token)).member.user_id == bob.user_id
    # What it was, a used one does not tell.
    await _refused_as_invalid(workspace, eve, token)


async def test_an_address_that_is_no_longer_verified_proves_nothing(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    token = await workspace.invite(bob.email)
    with suite.database("identity") as database:
        database.execute("UPDATE users SET email_verified_at = NULL WHERE id = %s", (bob.user_id,))

    assert (await refused(workspace.accept(bob, token))).reason == "INVITATION_FOR_ANOTHER"

    with suite.database("identity") as database:
        database.execute("UPDATE users SET email_verified_at = statement_timestamp() WHERE id = %s", (bob.user_id,))
    assert (await workspace.accept(bob, token)).member.user_id == bob.user_id


async def test_an_unknown_token_and_an_ended_one_give_the_same_bytes(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    token = await workspace.invite(bob.email)
    await workspace.remove((await workspace.accept(bob, token)).member.member_id)

    used = await _refused_as_invalid(workspace, bob, token)
    unknown = await _refused_as_invalid(workspace, bob, "ghi_unknown")

    assert used.raw == unknown.raw


async def test_a_new_invitation_to_the_same_address_replaces_the_open_one(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    first = await workspace.invite(bob.email)
    second = await workspace.invite(bob.email.capitalize(), members.ROLE_ADMIN)

    await _refused_as_invalid(workspace, bob, first)

    assert (await workspace.accept(bob, second)).member.role == members.ROLE_ADMIN


async def test_invitations_to_one_address_at_once_leave_one_open(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    address = f"new-{uuid.uuid4().hex}@example.com"
    stub = suite.stub(invitation_rpc.InvitationServiceStub)
    request = invitations.CreateInvitationRequest(workspace_id=workspace.id, email=address, role=members.ROLE_MEMBER)

    await asyncio.gather(*(workspace.admin.call(stub.CreateInvitation, request) for _ in range(8)))

    with suite.database("membership") as database:
        counts = database.execute(
            "SELECT count(*), count(revoked_at) FROM invitations WHERE workspace_id = %s", (workspace.id,)
        ).fetchone()
    assert counts == (8, 7)


async def test_an_invitation_is_valid_until_its_instant_and_not_at_it(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, cy = await somebody(suite, "Bob"), await somebody(suite, "Cy")
    which = "WHERE workspace_id = %s AND normalized_email = %s"
    move = "UPDATE invitations SET expire_at = statement_timestamp() + {} " + which
    late, early = await workspace.invite(bob.email), await workspace.invite(cy.email)
    _change(suite, move.format("interval '0 seconds'"), workspace.id, bob.email)
    _change(suite, move.format("interval '30 seconds'"), workspace.id, cy.email)

    await _refused_as_invalid(workspace, bob, late)
    assert (await workspace.accept(cy, early)).member.user_id == cy.user_id


async def test_an_invitation_that_expires_while_it_waits_for_the_lock_is_refused(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    token = await workspace.invite(bob.email)

    with suite.database("membership") as database, database.transaction():
        database.execute("SELECT FROM workspaces WHERE id = %s FOR NO KEY UPDATE", (workspace.id,))
        accepting = asyncio.create_task(workspace.accept(bob, token))
        with suite.database("membership_owner") as other:
            for _ in range(500):
                waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
                if other.execute(waiting).fetchone() != (0,):
                    break
                await asyncio.sleep(0.002)
        database.execute(
            "UPDATE invitations SET expire_at = clock_timestamp() WHERE workspace_id = %s", (workspace.id,)
        )

    assert (await refused(accepting)).reason == "INVITATION_INVALID"
    assert await workspace.member_ids(workspace.admin) == [workspace.admin_member_id]


async def test_an_invitation_ends_with_its_sender(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    ann, bob, cy = await somebody(suite, "Ann"), await somebody(suite, "Bob"), await somebody(suite, "Cy")
    ann_id = await workspace.join(ann, members.ROLE_ADMIN)
    of_ann, of_admin = await workspace.invite(bob.email, by=ann), await workspace.invite(cy.email)

    await workspace.remove(ann_id)

    await _refused_as_invalid(workspace, bob, of_ann)
    assert (await workspace.accept(cy, of_admin)).member.user_id == cy.user_id


async def test_an_invitation_ends_with_its_senders_right_and_comes_back_with_it(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    ann, bob = await somebody(suite, "Ann"), await somebody(suite, "Bob")
    ann_id = await workspace.join(ann, members.ROLE_ADMIN)
    token = await workspace.invite(bob.email, by=ann)
    _change(suite, "UPDATE members SET role = 'member' WHERE id = %s", ann_id)

    await _refused_as_invalid(workspace, bob, token)

    _change(suite, "UPDATE members SET role = 'admin' WHERE id = %s", ann_id)
    assert (await workspace.accept(bob, token)).member.user_id == bob.user_id


async def test_who_is_a_member_already_stays_as_they_are_and_uses_nothing_up(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    member_id = await workspace.join(bob, members.ROLE_ADMIN)
    token = await workspace.invite(bob.email, members.ROLE_VIEWER)

    answer = await workspace.accept(bob, token)
    assert (answer.member.member_id, answer.member.role) == (member_id, members.ROLE_ADMIN)

    await workspace.remove(member_id)
    assert (await workspace.accept(bob, token)).member.role == members.ROLE_VIEWER


async def test_sixteen_acceptances_at_once_make_one_member(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    token = await workspace.invite(bob.email)

    answers = await asyncio.gather(*(workspace.accept(bob, token) for _ in range(16)))

    assert len({answer.member.member_id for answer in answers}) == 1
    assert len(await workspace.member_ids(bob)) == 2


async def test_accepting_again_with_the_same_key_is_answered_until_one_is_removed(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    token, key = await workspace.invite(bob.email), str(uuid.uuid4())

    answers = await asyncio.gather(*(workspace.accept(bob, token, request_id=key) for _ in range(4)))

    assert all(answer == answers[0] for answer in answers)
    await workspace.remove(answers[0].member.member_id)
    assert (await refused(workspace.accept(bob, token, request_id=key))).reason == "INVITATION_INVALID"


async def test_a_pending_guest_who_accepts_becomes_a_full_member(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil = await somebody(suite, "Gil")
    pending = await workspace.add_guest(gil)
    token = await workspace.invite(gil.email)

    member = (await workspace.accept(gil, token)).member

    assert (member.kind, member.state) == (members.MEMBER_KIND_FULL, members.MEMBER_STATE_ACTIVE)
    confirmed = await workspace.confirm_guest(pending.member_id)
    assert (confirmed.member_id, confirmed.kind) == (member.member_id, members.MEMBER_KIND_FULL)


async def test_a_removal_at_the_same_time_lets_no_invitation_of_the_removed_through(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    ann = await somebody(suite, "Ann")
    guests = [await somebody(suite, name) for name in ("Bob", "Cy", "Dee", "Eve")]
    ann_id = await workspace.join(ann, members.ROLE_ADMIN)
    tokens = [await workspace.invite(guest.email, by=ann) for guest in guests]

    results = await asyncio.gather(
        workspace.remove(ann_id),
        *(workspace.accept(guest, token) for guest, token in zip(guests, tokens, strict=True)),
        return_exceptions=True,
    )

    assert results[0] is None
    for guest, token, result in zip(guests, tokens, results[1:], strict=True):
        if isinstance(result, BaseException):
            await _refused_as_invalid(workspace, guest, token)
