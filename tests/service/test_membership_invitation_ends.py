"""How invitations go on and end: resent, revoked, previewed, declined, forgotten."""

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from guildhall.membership.v1 import invitation_service_pb2 as invitations
from guildhall.membership.v1 import invitation_service_pb2_grpc as invitation_rpc
from guildhall.membership.v1 import member_service_pb2 as members

from services.membership.tasks import forget
from tests.service.test_membership_invitation_batches import lower_limit, page
from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.suite import Person, Suite, refusal_of, refused


def stub_of(suite: Suite) -> Any:
    return suite.stub(invitation_rpc.InvitationServiceStub)


async def open_one(workspace: Workspace, person: Person) -> tuple[str, str]:
    """The id and the token of a new invitation."""
    token = await workspace.invite(person.email)
    return (await page(workspace, page_size=1)).invitations[0].invitation_id, token


async def resend(workspace: Workspace, invitation_id: str, *, by: Person | None = None, request_id: str = "") -> Any:
    request = invitations.ResendInvitationRequest(
        workspace_id=workspace.id, invitation_id=invitation_id, request_id=request_id
    )
    return (await (by or workspace.admin).call(stub_of(workspace.suite).ResendInvitation, request)).invitation


async def revoke(workspace: Workspace, invitation_id: str, *, by: Person | None = None) -> Any:
    request = invitations.RevokeInvitationRequest(workspace_id=workspace.id, invitation_id=invitation_id)
    return (await (by or workspace.admin).call(stub_of(workspace.suite).RevokeInvitation, request)).invitation


async def decline(person: Person, suite: Suite, token: str) -> None:
    await person.call(stub_of(suite).DeclineInvitation, invitations.DeclineInvitationRequest(token=token))


async def preview(suite: Suite, token: str) -> Any:
    """What the holder of a token is told, who needs no account."""
    return await stub_of(suite).PreviewInvitation(invitations.PreviewInvitationRequest(token=token), timeout=10)


def change(suite: Suite, statement: str, *values: object) -> None:
    """Moves a row's time, which no caller can."""
    with suite.database("membership_owner") as database:
        assert database.execute(statement.encode(), values).rowcount == 1


async def test_resending_keeps_the_id_and_ends_the_links_before(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    invitation_id, first = await open_one(workspace, bob)
    count = workspace.count_mails(bob.email)

    again = await resend(workspace, invitation_id)

    second = await suite.mailed_token(bob.email, count=count + 1)
    assert (again.invitation_id, again.resend_count) == (invitation_id, 1)
    assert second != first
    assert (await refused(workspace.accept(bob, first))).reason == "INVITATION_INVALID"
    assert (await refused(preview(suite, first))).reason == "INVITATION_INVALID"
    assert (await workspace.accept(bob, second)).member.invitation_id == invitation_id


async def test_one_that_is_past_its_time_can_be_resent_and_lasts_seven_new_days(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    invitation_id, first = await open_one(workspace, bob)
    move = "UPDATE invitations SET expire_at = statement_timestamp() - interval '3 days' WHERE id = %s"
    change(suite, move, invitation_id)
    count = workspace.count_mails(bob.email)
    assert (await refused(workspace.accept(bob, first))).reason == "INVITATION_INVALID"

    again = await resend(workspace, invitation_id)

    assert again.state == invitations.INVITATION_STATE_OPEN
    assert again.expire_time.seconds - again.create_time.seconds == pytest.approx(7 * 86400, abs=60)
    token = await suite.mailed_token(bob.email, count=count + 1)
    assert (await workspace.accept(bob, token)).member.user_id == bob.user_id


async def test_resending_with_the_same_key_turns_the_token_once(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, key = await somebody(suite, "Bob"), str(uuid.uuid4())
    invitation_id, _ = await open_one(workspace, bob)

    answers = [await resend(workspace, invitation_id, request_id=key) for _ in range(2)]

    assert answers[0] == answers[1]
    assert answers[1].resend_count == 1


async def test_an_invitation_is_resent_twenty_times_and_no_more(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    invitation_id, _ = await open_one(workspace, await somebody(suite, "Bob"))
    change(suite, "UPDATE invitations SET rotation = 19 WHERE id = %s", invitation_id)

    assert (await resend(workspace, invitation_id)).resend_count == 20
    refusal = await refused(resend(workspace, invitation_id))
    assert (refusal.reason, refusal.metadata["limit"]) == ("LIMIT_REACHED", "resends")


async def test_a_mail_of_today_counts_each_time_that_it_is_sent(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    invitation_id, _ = await open_one(workspace, await somebody(suite, "Bob"))
    lower_limit(workspace, "invitations_a_day", 2)

    assert (await resend(workspace, invitation_id)).resend_count == 1
    refusal = await refused(resend(workspace, invitation_id))
    assert (refusal.reason, refusal.metadata["limit"]) == ("LIMIT_REACHED", "invitations_a_day")


async def test_to_a_banned_address_nothing_is_resent(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    invitation_id, _ = await open_one(workspace, bob)
    ban = (
        "INSERT INTO workspace_bans (id, workspace_id, email, normalized_email, expire_at) VALUES (%s, %s, %s, %s, %s)"
    )
    change(suite, ban, uuid.uuid4(), workspace.id, bob.email, bob.email, "9999-01-01")

    assert (await refused(resend(workspace, invitation_id))).reason == "BANNED"
    assert (await refused(workspace.invite(bob.email))).reason == "BANNED"

    lift = "UPDATE workspace_bans SET expire_at = statement_timestamp() WHERE workspace_id = %s"
    change(suite, lift, workspace.id)
    assert (await resend(workspace, invitation_id)).resend_count == 1


async def test_who_resends_it_answers_for_it(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    ann, bob = await somebody(suite, "Ann"), await somebody(suite, "Bob")
    ann_id = await workspace.join(ann, members.ROLE_ADMIN)
    await workspace.invite(bob.email, by=ann)
    invitation_id = (await page(workspace, page_size=1)).invitations[0].invitation_id
    change(suite, "UPDATE members SET role = 'member' WHERE id = %s", ann_id)
    count = workspace.count_mails(bob.email)

    again = await resend(workspace, invitation_id)

    assert again.inviter_member_id == workspace.admin_member_id
    token = await suite.mailed_token(bob.email, count=count + 1)
    assert (await workspace.accept(bob, token)).member.user_id == bob.user_id


async def test_a_revoked_one_is_over_and_revoking_again_says_the_same(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    invitation_id, token = await open_one(workspace, bob)

    answers = [await revoke(workspace, invitation_id) for _ in range(2)]

    assert answers[0] == answers[1]
    assert answers[0].state == invitations.INVITATION_STATE_REVOKED
    assert (await refused(workspace.accept(bob, token))).reason == "INVITATION_INVALID"
    refusal = await refused(resend(workspace, invitation_id))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "INVITATION_ENDED")


async def test_what_was_accepted_or_declined_is_neither_revoked_nor_resent(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, cy = await somebody(suite, "Bob"), await somebody(suite, "Cy")
    accepted, of_bob = await open_one(workspace, bob)
    declined, of_cy = await open_one(workspace, cy)
    await workspace.accept(bob, of_bob)
    await decline(cy, suite, of_cy)

    for ended in (accepted, declined):
        assert (await refused(revoke(workspace, ended))).reason == "INVITATION_ENDED"
        assert (await refused(resend(workspace, ended))).reason == "INVITATION_ENDED"


async def test_only_who_may_invite_resends_and_revokes(suite: Suite) -> None:
    workspace, other = await new_workspace(suite), await new_workspace(suite)
    bob, eve = await somebody(suite, "Bob"), await somebody(suite, "Eve")
    await workspace.join(bob)
    invitation_id, _ = await open_one(workspace, eve)

    for call in (resend, revoke):
        assert (await refused(call(workspace, invitation_id, by=bob))).reason == "PERMISSION_DENIED"
        unknown = await refused(call(workspace, str(uuid.uuid4())))
        assert (await refused(call(workspace, invitation_id, by=eve))).raw == unknown.raw
        assert (await refused(call(other, invitation_id))).raw == unknown.raw
    with suite.database("membership") as database:
        tried = "SELECT action, target_id::text FROM activities WHERE workspace_id = %s AND outcome = 'refused'"
        rows = database.execute(tried, (workspace.id,)).fetchall()
    assert rows == [("invitation.resent", invitation_id), ("invitation.revoked", invitation_id)]
    assert (await resend(workspace, invitation_id)).resend_count == 1


async def test_a_preview_tells_where_a_link_leads_and_not_to_whom_it_was_sent(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    token = await workspace.invite(bob.email, members.ROLE_VIEWER)

    answer = await preview(suite, token)

    assert (answer.workspace_name, answer.role) == ("Engineering", members.ROLE_VIEWER)
    assert answer.expire_time == (await page(workspace)).invitations[0].expire_time
    assert bob.email.encode() not in answer.SerializeToString()
    assert (await workspace.accept(bob, token)).member.role == members.ROLE_VIEWER


async def test_every_link_that_cannot_be_used_gets_the_same_bytes(suite: Suite) -> None:
    people = [await somebody(suite, name) for name in ("Ann", "Bob", "Cy", "Dee", "Eve", "Fay", "Gil")]
    ann, bob, cy, dee, eve, fay, gil = people
    workspace, ended = await new_workspace(suite), await new_workspace(suite)
    ann_id = await workspace.join(ann, members.ROLE_ADMIN)
    used, of_ann = await workspace.invite(bob.email), await workspace.invite(cy.email, by=ann)
    revoked_id, revoked = await open_one(workspace, dee)
    expired_id, expired = await open_one(workspace, eve)
    declined, of_ended = await workspace.invite(fay.email), await ended.invite(gil.email)
    tokens = [used, of_ann, revoked, expired, declined, of_ended]
    assert [(await preview(suite, token)).workspace_name for token in tokens] == ["Engineering"] * 6

    await workspace.accept(bob, used)
    await workspace.remove(ann_id)
    await revoke(workspace, revoked_id)
    change(suite, "UPDATE invitations SET expire_at = statement_timestamp() WHERE id = %s", expired_id)
    await decline(fay, suite, declined)
    change(suite, "UPDATE workspaces SET deleted_at = statement_timestamp() WHERE id = %s", ended.id)

    unknown = await refused(preview(suite, "ghi_unknown"))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "INVITATION_INVALID")
    for token in tokens:
        assert (await refused(preview(suite, token))).raw == unknown.raw
    for person, token in zip((cy, dee, eve, fay, gil), tokens[1:], strict=True):
        assert (await refused(workspace.accept(person, token))).raw == unknown.raw


async def test_the_addressee_declines_and_nobody_else_can(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, eve = await somebody(suite, "Bob"), await somebody(suite, "Eve")
    _, token = await open_one(workspace, bob)

    assert (await refused(decline(eve, suite, token))).reason == "INVITATION_FOR_ANOTHER"
    assert (await preview(suite, token)).workspace_name == "Engineering"

    await decline(bob, suite, token)
    await decline(bob, suite, token)
    assert (await refused(decline(eve, suite, token))).reason == "INVITATION_INVALID"
    assert (await refused(workspace.accept(bob, token))).reason == "INVITATION_INVALID"
    assert (await page(workspace)).invitations[0].state == invitations.INVITATION_STATE_DECLINED
    await workspace.join(bob)


async def test_accepting_and_declining_at_once_end_in_one_of_the_two(suite: Suite) -> None:
    bob = await somebody(suite, "Bob")
    for _ in range(8):
        workspace = await new_workspace(suite)
        _, token = await open_one(workspace, bob)
        accepted, declined = await asyncio.gather(
            workspace.accept(bob, token), decline(bob, suite, token), return_exceptions=True
        )
        joined = len(await workspace.member_ids(workspace.admin)) == 2
        assert isinstance(accepted, grpc.aio.AioRpcError) != joined
        assert isinstance(declined, grpc.aio.AioRpcError) == joined


async def test_a_link_that_is_replaced_while_it_waits_for_the_lock_is_refused(suite: Suite) -> None:
    for _ in range(8):
        # Somebody else each time: the mail of the round before may come last.
        bob, workspace = await somebody(suite, "Bob"), await new_workspace(suite)
        invitation_id, token = await open_one(workspace, bob)
        accepted, resent = await asyncio.gather(
            workspace.accept(bob, token), resend(workspace, invitation_id), return_exceptions=True
        )
        joined = len(await workspace.member_ids(workspace.admin)) == 2
        failed = resent if joined else accepted
        assert refusal_of(failed).reason == ("INVITATION_ENDED" if joined else "INVITATION_INVALID")
        assert not isinstance(accepted if joined else resent, BaseException)


async def test_a_suspended_member_is_not_let_in_again_by_an_invitation(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    member_id = await workspace.join(bob)
    suspend = "UPDATE members SET state = 'suspended', suspended_at = statement_timestamp() WHERE id = %s"
    change(suite, suspend, member_id)
    token = await workspace.invite(bob.email)

    assert (await refused(workspace.accept(bob, token))).reason == "MEMBER_SUSPENDED"

    change(suite, "UPDATE members SET state = 'active', suspended_at = NULL WHERE id = %s", member_id)
    assert (await workspace.accept(bob, token)).member.member_id == member_id


async def test_a_full_workspace_lets_nobody_in_and_the_invitation_waits(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    token = await workspace.invite(bob.email)
    lower_limit(workspace, "members", 1)

    refusal = await refused(workspace.accept(bob, token))
    assert (refusal.reason, refusal.metadata["limit"]) == ("LIMIT_REACHED", "members")

    change(suite, "UPDATE workspace_limits SET value = 2 WHERE workspace_id = %s", workspace.id)
    assert (await workspace.accept(bob, token)).member.user_id == bob.user_id


@pytest.mark.parametrize(("days", "is_kept"), [("29 days 23 hours", True), ("30 days", False)])
async def test_an_address_is_forgotten_thirty_days_after_the_invitations_time(
    suite: Suite, days: str, is_kept: bool
) -> None:
    workspace = await new_workspace(suite)
    bob, cy = await somebody(suite, "Bob"), await somebody(suite, "Cy")
    invitation_id, _ = await open_one(workspace, bob)
    member_id = await workspace.join(cy)
    with suite.database("membership") as database:
        database.execute(
            "UPDATE invitations SET expire_at = statement_timestamp() - CAST(%s AS interval) WHERE workspace_id = %s",
            (days, workspace.id),
        )

    await forget(suite.frames["membership"].database)

    accepted, unended = (await page(workspace)).invitations
    assert (accepted.email, unended.email) == ((cy.email, bob.email) if is_kept else ("", ""))
    assert accepted.state == invitations.INVITATION_STATE_ACCEPTED
    expected = invitations.INVITATION_STATE_EXPIRED if is_kept else invitations.INVITATION_STATE_REVOKED
    assert unended.state == expected
    assert (await workspace.check({"member_id": member_id}))[0].allowed
    if is_kept:
        assert (await resend(workspace, invitation_id)).resend_count == 1
    else:
        assert (await refused(resend(workspace, invitation_id))).reason == "INVITATION_ENDED"


async def test_a_forgotten_address_is_not_theirs_who_have_no_verified_one(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await suite.person("Bob")
    await workspace.join(bob)
    _, token = await open_one(workspace, bob)
    forgotten = "UPDATE invitations SET email = NULL, normalized_email = NULL, revoked_at = {} WHERE {}"
    which = "workspace_id = %s AND accepted_at IS NULL"
    change(suite, forgotten.format("statement_timestamp()", which), workspace.id)
    with suite.database("identity") as database:
        database.execute("UPDATE users SET email_verified_at = NULL WHERE id = %s", (bob.user_id,))

    assert (await refused(workspace.accept(bob, token))).reason == "INVITATION_INVALID"
    assert (await refused(decline(bob, suite, token))).reason == "INVITATION_INVALID"
