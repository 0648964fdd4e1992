"""How a workspace's log forgets somebody: their reference first, then their details by batches (ADR 8)."""

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.membership import erasures
from tests.service.test_membership_activities import log
from tests.service.test_membership_erasure import deleted, rows, verified, worked_off
from tests.service.test_membership_workspaces import Workspace, new_workspace
from tests.support.deliveries import deliver, until
from tests.support.suite import Person, Suite, refused

REF = "SELECT ref::text FROM activity_people WHERE workspace_id = %s AND user_id = %s"
DETAILS = "SELECT count(*) FROM activity_details WHERE ref = %s"
LEFT = text("""
    SELECT (SELECT count(*) FROM activity_people WHERE ref = :ref),
        (SELECT count(*) FROM activity_details WHERE ref = :ref),
        (SELECT count(*) FROM outbox WHERE kind = 'activity.forget' AND subject_id = :ref)
""")
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
HEAD = "SELECT activity_number FROM workspace_heads WHERE workspace_id = %s FOR NO KEY UPDATE NOWAIT"


async def _with_traces(suite: Suite) -> tuple[Workspace, Person, str]:
    """Somebody who joined and tried this and that, with their reference in the log."""
    workspace, bob = await new_workspace(suite), await suite.person("Bob")
    await workspace.join(bob)
    for _ in range(4):
        await refused(workspace.remove(workspace.admin_member_id, by=bob))
    ((ref,),) = rows(suite, REF, workspace.id, bob.user_id)
    return workspace, bob, ref


async def test_the_reference_goes_first_and_then_a_batch_of_details_at_a_time(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasures, "DETAILS", 2)
    _workspace, _bob, ref = await _with_traces(suite)
    ((count,),) = rows(suite, DETAILS, ref)
    assert count >= 5
    batches = -(-count // 2)

    async def forget(tx: AsyncConnection) -> list[tuple[Any, ...]]:
        seen = []
        for _ in range(batches + 2):
            await erasures.forget_person(tx, ref)
            seen.append(tuple((await tx.execute(LEFT, {"ref": ref})).one()))
        return seen

    # Each step leaves the next one as work in its own transaction, so that whoever is killed after it loses nothing.
    seen = await suite.frames["membership"].database.transaction(forget)
    assert seen[:-1] == [(0, max(count - 2 * step, 0), step + 1) for step in range(batches + 1)]
    assert seen[-1] == seen[-2]


async def test_nothing_in_the_workspace_waits_for_the_details_of_who_is_forgotten(suite: Suite) -> None:
    workspace, bob, ref = await _with_traces(suite)

    with suite.database("membership_owner") as database, database.transaction():
        database.execute("SELECT FROM membership.activity_details WHERE ref = %s FOR UPDATE", (ref,))
        await deliver(suite, deleted(bob), source="identity")
        await until(lambda: rows(suite, WAITING, database.info.backend_pid) != [(0,)])

        assert rows(suite, HEAD, workspace.id)
        assert rows(suite, REF, workspace.id, bob.user_id) == []

    await worked_off(suite)
    assert rows(suite, DETAILS, ref) == [(0,)]
    assert (await verified(workspace)).intact


async def test_what_is_left_of_a_forgotten_persons_details_is_shown_to_nobody(suite: Suite) -> None:
    workspace, _bob, ref = await _with_traces(suite)

    async def shown() -> set[bool]:
        tried = [one for one in await log(workspace) if one.action == "member.removed"]
        assert len(tried) == 4
        return {bool(one.actor_user_id and one.session_id and one.user_agent) for one in tried}

    assert await shown() == {True}
    with suite.database("membership") as database:
        database.execute("DELETE FROM activity_people WHERE ref = %s", (ref,))
    assert rows(suite, DETAILS, ref) != [(0,)]

    assert await shown() == {False}
    assert not any(one.client_address or one.user_agent for one in await log(workspace) if not one.actor_user_id)
