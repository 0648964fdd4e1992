"""Verifying the activity chain: whatever is changed behind the service's back is named."""

import asyncio
import threading
from typing import Any

import pytest
from guildhall.membership.v1 import activity_service_pb2 as pb
from guildhall.membership.v1 import activity_service_pb2_grpc as activity_rpc

from services.membership import activities, activity_chains
from tests.service.test_membership_groups import Place
from tests.service.test_membership_limits import retry_after
from tests.service.test_membership_peers import change
from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.deliveries import until
from tests.support.suite import Suite, refused

FLIPS = {
    "action": "'member.left'",
    "outcome": "'refused'",
    "happened_at": "happened_at + interval '1 microsecond'",
    "target_type": "'group'",
    "target_id": "'00000000-0000-0000-0000-000000000001'",
    "target_ref": "actor_ref",
    "actor_ref": "NULL",
    "request_id": "request_id || ' '",
    "metadata": "metadata || '{\"more\": 1}'",
    "actor_details_hash": "NULL",
    "hash": "sha256(hash)",
}

WAITING = """
    SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
    WHERE c.relname = 'activities' AND NOT l.granted
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
"""How many wait for somebody who has locked the log."""


async def log_of(suite: Suite) -> Workspace:
    """A workspace with eight activities, the fifth of somebody who joined."""
    workspace = await new_workspace(suite)
    for name in ("Bob", "Cy"):
        await workspace.join(await somebody(suite, name))
    return workspace


async def verify(workspace: Workspace, *, after: int = 0, after_hash: bytes = b"") -> Any:
    """What VerifyActivityChain answers."""
    stub = workspace.suite.stub(activity_rpc.ActivityServiceStub)
    request = pb.VerifyActivityChainRequest(workspace_id=workspace.id, after_number=after, after_hash=after_hash)
    return await workspace.admin.call(stub.VerifyActivityChain, request)


def tamper(workspace: Workspace, statement: str, *values: Any) -> None:
    """What only the database's owner can do."""
    with workspace.suite.database("membership_owner") as database:
        database.execute("SET search_path TO membership")
        assert database.execute(statement, (*values, workspace.id)).rowcount == 1


def found(answer: Any) -> tuple[bool, int, str]:
    """What is wrong, and where."""
    return answer.intact, answer.first_broken_number, answer.fault


async def test_an_untouched_chain_is_intact_to_its_head(suite: Suite) -> None:
    workspace = await log_of(suite)

    answer = await verify(workspace)

    assert found(answer) == (True, 0, "")
    assert answer.verified_number == answer.head_number == 8
    assert len(answer.verified_hash) == 32


async def test_one_chain_is_verified_at_a_time_and_who_comes_meanwhile_is_told_when_to_come_back(suite: Suite) -> None:
    workspace, other = await log_of(suite), await log_of(suite)
    with suite.database("membership_owner") as database, database.transaction():
        database.execute("LOCK TABLE membership.activities IN ACCESS EXCLUSIVE MODE")
        first = asyncio.create_task(verify(workspace))
        await until(lambda: suite.rows("membership", WAITING, ()) == [(1,)])

        refusal = await refused(verify(other))

    assert (refusal.reason, retry_after(refusal)) == ("OVERLOADED", 1)
    assert (await first).intact
    assert (await verify(other)).intact


async def test_hashing_leaves_the_event_loop_to_others(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = await log_of(suite)
    threads = set()

    def row_hash(*arguments: Any) -> bytes:
        threads.add(threading.current_thread())
        return activities.row_hash(*arguments)

    monkeypatch.setattr(activity_chains, "row_hash", row_hash)

    assert (await verify(workspace)).intact
    assert threads
    assert threading.current_thread() not in threads


async def test_a_new_workspace_has_a_chain_too(suite: Suite) -> None:
    answer = await verify(await new_workspace(suite))
    assert (answer.intact, answer.verified_number) == (True, 2)


@pytest.mark.parametrize("column", sorted(FLIPS))
async def test_a_row_that_was_changed_is_named_whatever_was_changed(column: str, suite: Suite) -> None:
    workspace = await log_of(suite)

    tamper(workspace, f"UPDATE activities SET {column} = {FLIPS[column]} WHERE number = 5 AND workspace_id = %s")

    answer = await verify(workspace)
    assert found(answer) == (False, 5, "hash")
    assert answer.verified_number == 4
    assert found(await verify(workspace, after=5))[1] == (0 if column != "hash" else 6)


async def test_a_row_that_is_gone_is_named_and_rows_at_the_end_by_the_head(suite: Suite) -> None:
    workspace = await log_of(suite)
    tamper(workspace, "DELETE FROM activities WHERE number = 5 AND workspace_id = %s")
    assert found(await verify(workspace)) == (False, 5, "missing")
    assert found(await verify(workspace, after=5)) == (False, 5, "missing")

    cut = await log_of(suite)
    tamper(cut, "DELETE FROM activities WHERE number = 8 AND workspace_id = %s")
    assert found(await verify(cut)) == (False, 8, "head")
    assert found(await verify(cut, after=8)) == (False, 8, "missing")
    assert found(await verify(cut, after=9)) == (False, 9, "head")


async def test_a_head_that_was_set_back_is_noticed(suite: Suite) -> None:
    workspace = await log_of(suite)
    set_head = """
        UPDATE workspace_heads h SET activity_number = a.number, activity_hash = a.hash FROM activities a
        WHERE a.workspace_id = h.workspace_id AND a.number = %s AND h.workspace_id = %s
    """
    tamper(workspace, set_head, 7)
    assert found(await verify(workspace)) == (False, 8, "head")
    tamper(workspace, set_head, 8)
    assert found(await verify(workspace)) == (True, 0, "")

    other = await log_of(suite)
    tamper(other, "UPDATE workspace_heads SET activity_hash = sha256(activity_hash) WHERE workspace_id = %s")
    assert found(await verify(other)) == (False, 8, "head")


@pytest.mark.parametrize("change_details", ['body = \'{"user_agent": "another"}\'', "salt = sha256(salt)"])
async def test_details_that_were_changed_are_named_and_forgotten_ones_are_no_fault(
    change_details: str, suite: Suite
) -> None:
    workspace = await log_of(suite)
    own = "about = 'actor' AND number = 5 AND workspace_id = %s"

    tamper(workspace, f"UPDATE activity_details SET {change_details} WHERE {own}")
    assert found(await verify(workspace)) == (False, 5, "details")

    tamper(workspace, f"DELETE FROM activity_details WHERE {own}")
    assert found(await verify(workspace)) == (True, 0, "")


async def test_a_chain_made_anew_is_noticed_by_who_kept_a_hash(suite: Suite) -> None:
    workspace, other = await log_of(suite), await log_of(suite)
    kept = await verify(workspace)

    right = await verify(workspace, after=8, after_hash=kept.verified_hash)
    wrong = await verify(other, after=8, after_hash=kept.verified_hash)

    assert (right.intact, right.verified_number) == (True, 8)
    assert found(wrong) == (False, 8, "known hash")


async def test_a_long_chain_is_verified_in_parts(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity_chains, "ROWS", 2)
    monkeypatch.setattr(activity_chains, "MOST_ROWS", 5)
    workspace = await log_of(suite)

    first = await verify(workspace)
    rest = await verify(workspace, after=first.verified_number, after_hash=first.verified_hash)

    assert (first.intact, first.verified_number, first.head_number) == (True, 5, 8)
    assert (rest.intact, rest.verified_number) == (True, 8)
    assert rest.verified_hash == (await verify(workspace, after=7)).verified_hash


async def test_changes_at_once_and_refusals_make_one_chain_without_gaps(suite: Suite) -> None:
    place = Place(suite, await new_workspace(suite))
    people = [await place.newcomer(name) for name in ("Bob", "Cy", "Dee")]

    async def busy(number: int) -> None:
        person, member_id = people[number]
        for turn in range(5):
            await refused(place.workspace.remove(place.workspace.admin_member_id, by=person))
            await change(place.workspace, "UpdateMemberRole", member_id=member_id, role=1 + turn % 2)
            await place.create(f"Team {turn} of {number}")

    await asyncio.gather(*(busy(number) for number in range(3)))

    answer = await verify(place.workspace)
    assert (answer.intact, answer.verified_number) == (True, answer.head_number)
    assert answer.head_number >= 2 + 3 * 5 * 2
