"""People who are gone or kept out: identity tells of them, and every workspace of theirs goes on without.

The event's transaction forgets the person and says what is to be ended; each stay ends in one of its own, by the
worker, since no transaction locks two workspaces.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import Database
from services.chassis.errors import NotFound
from services.chassis.outbox import emit, enqueue
from services.chassis.worker import Work, Worker
from services.membership import activities, continuity, handles, members, openings, removals, workspaces
from services.membership.activities import SUITE, Activity
from services.membership.revisions import raise_access_revision

log = structlog.get_logger()

LATE_SECONDS = 60
ERASE, DISABLE, DISABLE_STAYS, FORGET_PERSON = "member.erase", "member.disable", "user.disable", "activity.forget"

DEPART = text("INSERT INTO departed_users (user_id) VALUES (:user_id) ON CONFLICT DO NOTHING")
STAYS_OF = text("SELECT id FROM members WHERE user_id = :user_id ORDER BY id")
REFS_OF = text("SELECT ref FROM activity_people WHERE user_id = :user_id ORDER BY ref")
# identity's revision tells which of two events is the newer one. Of who was deleted nothing is kept.
SET_DISABLED = text("""
    INSERT INTO disabled_users AS d (user_id, is_disabled, revision)
    SELECT CAST(:user_id AS uuid), :is_disabled, :revision
    WHERE NOT EXISTS (SELECT FROM departed_users WHERE user_id = CAST(:user_id AS uuid))
    ON CONFLICT (user_id) DO UPDATE SET is_disabled = excluded.is_disabled, revision = excluded.revision
    WHERE d.revision <= excluded.revision
    RETURNING d.user_id
""")
IS_DISABLED = text("SELECT is_disabled FROM disabled_users WHERE user_id = :user_id")
FULL_STAYS_OF = text("SELECT id FROM members WHERE user_id = :user_id AND kind = 'full' ORDER BY id")
WORKSPACE_OF = text("SELECT workspace_id FROM members WHERE id = :member_id")
# In a statement of its own after the lock. Of a pending guest too: nobody may confirm somebody who is gone.
FIND = text(f"SELECT {members.COLUMNS} FROM members m WHERE m.workspace_id = :workspace_id AND m.id = :member_id")
DELETE_PENDING = text("DELETE FROM members WHERE workspace_id = :workspace_id AND id = :member_id")
DEMOTE = text("""
    UPDATE members SET role = 'member', version = version + 1, updated_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND id = :member_id
""")
# What names a person besides their stays and the log.
FORGET = tuple(
    text(statement)
    for statement in (
        "DELETE FROM workspace_bans WHERE user_id = :user_id",
        "DELETE FROM group_bans WHERE user_id = :user_id",
        "DELETE FROM disabled_users WHERE user_id = :user_id",
        "UPDATE workspaces SET created_by = NULL WHERE created_by = :user_id",
        "DELETE FROM idempotency_keys WHERE caller = CAST(:user_id AS text)",
    )
)
# The address that they were invited by. The row stays: it is used up, and its id is in the log.
FORGET_ADDRESS = text("""
    UPDATE invitations SET email = NULL, normalized_email = NULL
    WHERE workspace_id = :workspace_id AND id = :invitation_id
""")
HEAD_OF = text("""
    SELECT h.workspace_id FROM workspace_heads h JOIN activity_people p ON p.workspace_id = h.workspace_id
    WHERE p.ref = :ref FOR NO KEY UPDATE OF h
""")
DELETE_REF = text("DELETE FROM activity_people WHERE ref = :ref")
DELETE_DETAILS = text("""
    DELETE FROM activity_details WHERE (workspace_id, number, about) IN (
        SELECT workspace_id, number, about FROM activity_details WHERE ref = :ref LIMIT :size
    )
""")
# Longer than any transaction: whoever was let in before the departure was written down has ended by then.
LATELY = text("""
    SELECT user_id FROM departed_users
    WHERE departed_at > statement_timestamp() - interval '10 minutes' AND user_id > CAST(:after AS uuid)
    ORDER BY user_id LIMIT :size
""")
BATCH = 100
DETAILS = 500
"""How many a transaction forgets: somebody active for years has left a hundred thousand."""
FORGET_DEPARTED = text("DELETE FROM departed_users WHERE departed_at <= statement_timestamp() - interval '7 days'")


async def apply_deleted(tx: AsyncConnection, payload: events.UserDeleted) -> None:
    """Forgets a person, and has the worker end their stays; the messages that they wrote are not ours."""
    await tx.execute(DEPART, {"user_id": payload.user_id})
    await _erase(tx, payload.user_id)


async def _erase(tx: AsyncConnection, user_id: str) -> None:
    named = {"user_id": user_id}
    for member_id in (await tx.execute(STAYS_OF, named)).scalars().all():
        await enqueue(tx, ERASE, str(member_id))
    for ref in (await tx.execute(REFS_OF, named)).scalars().all():
        await enqueue(tx, FORGET_PERSON, str(ref))
    await handles.forget(tx, user_id)
    for statement in FORGET:
        await tx.execute(statement, named)


async def apply_disabled(tx: AsyncConnection, payload: events.UserDisabled) -> None:
    """Has the worker take from somebody what a workspace or a group must not be without.

    Nothing, if they were enabled again by an event that came before this one.
    """
    if not await _set_disabled(tx, payload, is_disabled=True):
        return
    await disable_stays(tx, payload.user_id)
    # Once more for what was let in just before, and was written, or arrived at guest, just after.
    await enqueue(tx, DISABLE_STAYS, payload.user_id, delay_seconds=LATE_SECONDS)


async def disable_stays(tx: AsyncConnection, user_id: str) -> None:
    """Has the worker look at each stay of somebody who is disabled, in a transaction for each."""
    for member_id in (await tx.execute(FULL_STAYS_OF, {"user_id": user_id})).scalars().all():
        await enqueue(tx, DISABLE, str(member_id))


async def apply_enabled(tx: AsyncConnection, payload: events.UserEnabled) -> None:
    """From now on they count again. What was taken from them is not given back."""
    await _set_disabled(tx, payload, is_disabled=False)


async def _set_disabled(
    tx: AsyncConnection, payload: events.UserDisabled | events.UserEnabled, *, is_disabled: bool
) -> bool:
    """Whether the event was news."""
    told = {"user_id": payload.user_id, "revision": payload.revision, "is_disabled": is_disabled}
    return (await tx.execute(SET_DISABLED, told)).one_or_none() is not None


async def _locked(tx: AsyncConnection, member_id: str) -> Row[Any] | None:
    """A stay, pending ones too, with its workspace locked; None if it, or the workspace, has ended."""
    workspace_id = await tx.scalar(WORKSPACE_OF, {"member_id": member_id})
    if workspace_id is None:
        return None
    try:
        await workspaces.lock(tx, str(workspace_id))
    except NotFound:
        return None
    return (await tx.execute(FIND, {"workspace_id": workspace_id, "member_id": member_id})).one_or_none()


async def erase(tx: AsyncConnection, member_id: str) -> None:
    """Ends a deleted person's stay, as removing them would; a last admin is succeeded. It is safe to do twice."""
    member = await _locked(tx, member_id)
    if member is None:
        return
    workspace_id = str(member.workspace_id)
    if member.state == "pending":
        await tx.execute(DELETE_PENDING, {"workspace_id": workspace_id, "member_id": member_id})
        return
    succeeded = await _succeed(tx, member)
    followed = await removals.end_stay(tx, member)
    # Their handle was given up just now, and kept for them.
    await handles.forget(tx, str(member.user_id))
    if member.invitation_id is not None:
        await tx.execute(FORGET_ADDRESS, {"workspace_id": workspace_id, "invitation_id": member.invitation_id})
    ended = Activity("member.removed", "member", metadata={"cause": "user_deleted"})
    await activities.record(tx, workspace_id, [ended, *succeeded, *followed], origin=SUITE)
    await raise_access_revision(tx, workspace_id, "user_deleted")


async def disable(tx: AsyncConnection, member_id: str) -> None:
    """Takes the admin role and all owning roles from a disabled person, after others have them. Safe to do twice.

    With the admin role goes the right to invite, and for good what they vouched for at identity; guest links, which a
    policy may let any member make, go there as well. Who was enabled meanwhile keeps all of it.
    """
    member = await _locked(tx, member_id)
    if member is None or not await tx.scalar(IS_DISABLED, {"user_id": member.user_id}):
        return
    workspace_id = str(member.workspace_id)
    kept_out = events.MemberDisabled(workspace_id=workspace_id, member_id=member_id)
    await emit(tx, ["guest"], events.Event(member_disabled=kept_out))
    done = await _succeed(tx, member)
    if member.role == "admin":
        await tx.execute(DEMOTE, {"workspace_id": workspace_id, "member_id": member_id})
        await openings.close_of_member(tx, workspace_id=workspace_id, member_id=member_id)
        roles = {"cause": "user_disabled", "before": {"role": "admin"}, "after": {"role": "member"}}
        done.append(Activity("member.role_updated", "member", target_user_id=str(member.user_id), metadata=roles))
    done += await continuity.pass_on_groups(tx, workspace_id, member_id=member_id, demote=True)
    if done:
        await activities.record(tx, workspace_id, done, origin=SUITE)
        await raise_access_revision(tx, workspace_id, "member_role_lowered")


async def _succeed(tx: AsyncConnection, member: Row[Any]) -> list[Activity]:
    if member.role != "admin":
        return []
    return await continuity.succeed_admin(tx, str(member.workspace_id), leaving_member_id=str(member.id))


async def forget_person(tx: AsyncConnection, ref: str) -> None:
    """Takes from a workspace's log who a person was, then what was theirs; the chain stays. It is safe to do twice.

    First the reference, with the head locked, so that nothing more becomes theirs and nothing of theirs is shown. Then
    the details, a batch at a time, each as work of its own: all that is done in the workspace would wait for that lock.
    """
    named = {"ref": ref, "size": DETAILS}
    await tx.execute(HEAD_OF, named)
    for statement in (DELETE_REF, DELETE_DETAILS):
        if (await tx.execute(statement, named)).rowcount:
            await enqueue(tx, FORGET_PERSON, ref)
            return


def works(worker: Worker) -> dict[str, Work]:
    """What the worker does about a person, a stay, or one workspace's log, each in a transaction of its own."""
    changes = {ERASE: erase, DISABLE: disable, DISABLE_STAYS: disable_stays, FORGET_PERSON: forget_person}
    return {name: _work(worker, change) for name, change in changes.items()}


def _work(worker: Worker, change: Callable[[AsyncConnection, str], Awaitable[None]]) -> Work:
    async def perform(subject_id: str, _row_id: str) -> None:
        await worker.database.transaction(lambda tx: change(tx, subject_id))

    return perform


async def sweep(database: Database) -> None:
    """Each minute: erases once more who departed lately, since a call that was let in before may have joined after.

    A transaction for each, so that one of them who cannot be erased now is no obstacle to the others. Departures
    themselves are forgotten after 7 days.
    """
    user_ids: Sequence[str] = [workspaces.FIRST]
    while user_ids:
        user_ids = await _departed_lately(database, after=user_ids[-1])
        for user_id in user_ids:
            await _erase_again(database, user_id)
    await database.transaction(_forget_departed)


async def _departed_lately(database: Database, *, after: str) -> Sequence[str]:
    async def read(tx: AsyncConnection) -> Sequence[str]:
        return [str(user_id) for user_id in (await tx.execute(LATELY, {"after": after, "size": BATCH})).scalars()]

    return await database.read(read)


async def _erase_again(database: Database, user_id: str) -> None:
    try:
        await database.transaction(lambda tx: _erase(tx, user_id))
    except Exception as error:
        log.warning("not_erased_again", error=type(error).__name__)


async def _forget_departed(tx: AsyncConnection) -> None:
    await tx.execute(FORGET_DEPARTED)
