"""What identity and the worker are told of invitations: in the transaction of its cause, or not at all."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from guildhall.events.v1 import event_sink_pb2 as events
from guildhall.membership.v1 import member_service_pb2 as members

from tests.service.test_membership_disabled import disabled
from tests.service.test_membership_invitation_batches import page
from tests.service.test_membership_invitation_ends import decline, open_one, resend, revoke
from tests.service.test_membership_workspaces import new_workspace, somebody
from tests.support.membership_world import new_world
from tests.support.outboxes import written as noting
from tests.support.suite import Suite, refused


@pytest.fixture
async def written(suite: Suite) -> AsyncIterator[psycopg.Connection[Any]]:
    """A table `outbox_written` of every outbox row with the transaction that wrote it: the relay deletes the rows."""
    async with noting(suite, "membership") as noted:
        yield noted.database


def told(database: psycopg.Connection[Any], invitation_id: str) -> list[tuple[str, bytes]]:
    """What identity is told by the transaction that changed an invitation last."""
    rows = database.execute(
        """
        SELECT o.payload FROM outbox_written o JOIN invitations i ON i.xmin = o.writer
        WHERE i.id = %s AND o.kind IN ('invite_opened', 'invite_closed')
        """,
        (invitation_id,),
    ).fetchall()
    found = [events.Event.FromString(payload) for (payload,) in rows]
    return [(kind, getattr(event, kind).token_hash) for event in found if (kind := event.WhichOneof("payload"))]


def hash_of(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


async def test_identity_is_told_in_the_same_transaction_which_tokens_are_open(
    suite: Suite, written: psycopg.Connection[Any]
) -> None:
    workspace = await new_workspace(suite)
    bob, cy, dee = [await somebody(suite, name) for name in ("Bob", "Cy", "Dee")]
    invitation_id, first = await open_one(workspace, bob)
    assert told(written, invitation_id) == [("invite_opened", hash_of(first))]

    count = workspace.count_mails(bob.email)
    await resend(workspace, invitation_id)
    second = await suite.mailed_token(bob.email, count=count + 1)
    assert told(written, invitation_id) == [("invite_closed", hash_of(first)), ("invite_opened", hash_of(second))]

    replacing, third = await open_one(workspace, bob)
    assert told(written, replacing) == [("invite_closed", hash_of(second)), ("invite_opened", hash_of(third))]
    await workspace.accept(bob, third)
    assert told(written, replacing) == [("invite_closed", hash_of(third))]

    for person, end in ((cy, "decline"), (dee, "revoke")):
        ended, token = await open_one(workspace, person)
        await (decline(person, suite, token) if end == "decline" else revoke(workspace, ended))
        assert told(written, ended) == [("invite_closed", hash_of(token))]


async def test_the_end_of_a_sender_closes_the_tokens_they_sent(suite: Suite, written: psycopg.Connection[Any]) -> None:
    workspace = await new_workspace(suite)
    ann, bob = await somebody(suite, "Ann"), await somebody(suite, "Bob")
    ann_id = await workspace.join(ann, members.ROLE_ADMIN)
    token = await workspace.invite(bob.email, by=ann)

    await workspace.remove(ann_id)

    closed = written.execute("SELECT payload FROM outbox_written WHERE kind = 'invite_closed'").fetchall()
    hashes = [events.Event.FromString(payload).invite_closed.token_hash for (payload,) in closed]
    assert hash_of(token) in hashes


@pytest.mark.parametrize("way", ["SuspendMember", "UpdateMemberRole", "DisableUser"])
async def test_what_a_sender_can_no_longer_vouch_for_is_closed(
    suite: Suite, written: psycopg.Connection[Any], way: str
) -> None:
    world = await new_world(suite)
    workspace, eve = world.place.workspace, await somebody(suite, "Eve")
    ann = await suite.person("Ann")
    ann_id = await workspace.join(ann, members.ROLE_ADMIN)
    token, kept = await workspace.invite(eve.email, by=ann), await workspace.invite("else@example.com")
    group_id = await world.group()
    code = await world.call(
        "GroupInviteService/CreateGroupInvite", by=ann, group_id=group_id, workspace_role=members.ROLE_MEMBER
    )
    role: dict[str, Any] = {"role": members.ROLE_MEMBER} if way == "UpdateMemberRole" else {}

    if way == "DisableUser":
        await disabled(suite, ann)
    else:
        await world.call(f"MemberService/{way}", member_id=ann_id, **role)

    closed = written.execute("SELECT payload FROM outbox_written WHERE kind = 'invite_closed'").fetchall()
    hashes = [events.Event.FromString(payload).invite_closed.token_hash for (payload,) in closed]
    assert {hash_of(token), hash_of(code.group_invite.code)} <= set(hashes)
    assert hash_of(kept) not in hashes


async def test_what_was_rolled_back_writes_no_mail(suite: Suite, written: psycopg.Connection[Any]) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    broken = "CREATE FUNCTION break_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$"
    written.execute(broken)
    # The last thing of the transaction, long after the mail was put into the outbox.
    written.execute("CREATE TRIGGER break_it BEFORE INSERT ON activities EXECUTE FUNCTION break_it()")
    try:
        assert (await refused(workspace.invite(bob.email))).reason == "INTERNAL"
    finally:
        written.execute("DROP TRIGGER break_it ON activities")
        written.execute("DROP FUNCTION break_it")
    assert written.execute("SELECT count(*) FROM outbox_written").fetchone() == (0,)
    assert not (await page(workspace)).invitations

    await workspace.invite(bob.email)
    kinds = {kind for (kind,) in written.execute("SELECT kind FROM outbox_written").fetchall()}
    assert kinds == {"mail.invitation", "invite_opened"}
