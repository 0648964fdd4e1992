"""A workspace is never without an admin, however many of them go at once."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import psycopg
import pytest
import uuid_utils
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as member_rpc

from tests.service.test_membership_continuity import ADMINS, bans, leaves, put_in, suspends
from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.suite import Person, Suite, refusal_of, refused

ROUNDS = int(os.environ.get("GUILDHALL_TEST_ROUNDS", "100"))
"""Of the races that are won by a hair: `GUILDHALL_TEST_ROUNDS=1000 make test T=…` plays them for longer."""

Leaving = Callable[[Workspace, Person, str], Awaitable[Any]]


async def demotes(workspace: Workspace, person: Person, other_id: str) -> Any:
    """Makes the other one a member."""
    stub = workspace.suite.stub(member_rpc.MemberServiceStub)
    request = members.UpdateMemberRoleRequest(workspace_id=workspace.id, member_id=other_id, role=members.ROLE_MEMBER)
    return await person.call(stub.UpdateMemberRole, request)


def restore(database: psycopg.Connection[Any], workspace: Workspace, people: list[Person]) -> list[str]:
    """Both are admins again, by the shortest way; returns their member ids."""
    database.execute("DELETE FROM workspace_bans WHERE workspace_id = %s", (workspace.id,))
    query = (
        "INSERT INTO members (id, workspace_id, user_id, role, kind, state, joined_at)"
        " VALUES (%s, %s, %s, 'admin', 'full', 'active', statement_timestamp())"
        " ON CONFLICT (workspace_id, user_id) DO UPDATE SET role = 'admin', state = 'active', suspended_at = NULL"
        " RETURNING id::text"
    )
    ids = []
    for person in people:
        row = database.execute(query, (str(uuid_utils.uuid7()), workspace.id, person.user_id)).fetchone()
        assert row is not None
        ids.append(str(row[0]))
    return ids


@pytest.mark.parametrize(
    ("first", "second", "rounds"),
    [
        (leaves, leaves, ROUNDS),
        (demotes, demotes, ROUNDS),
        (suspends, suspends, 50),
        (bans, bans, 50),
        (suspends, leaves, 50),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
async def test_two_admins_who_go_at_once_never_leave_none(
    suite: Suite, first: Leaving, second: Leaving, rounds: int
) -> None:
    people = [await suite.person("Ann"), await suite.person("Ben")]
    workspace = await new_workspace(suite, people[0])
    with suite.database("membership") as database:
        for number in range(rounds):
            if number % 400 == 399:
                people = [await suite.signed_in(person.email) for person in people]
            ids = restore(database, workspace, people)

            results = await asyncio.gather(
                first(workspace, people[0], ids[1]), second(workspace, people[1], ids[0]), return_exceptions=True
            )

            assert len(database.execute(ADMINS, (workspace.id,)).fetchall()) >= 1
            lost = [result for result in results if isinstance(result, BaseException)]
            assert all(isinstance(error, grpc.aio.AioRpcError) for error in lost)
            reasons = [refusal_of(error).reason for error in lost if isinstance(error, grpc.aio.AioRpcError)]
            assert set(reasons) <= {"LAST_ADMIN", "PERMISSION_DENIED", "NOT_FOUND"}
            assert len(lost) == 1


async def test_the_only_admin_cannot_leave_and_one_of_two_can(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    await workspace.join(bob)

    refusal = await refused(leaves(workspace, workspace.admin, ""))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LAST_ADMIN")
    await put_in(workspace, "admin")
    await leaves(workspace, workspace.admin, "")

    assert (await refused(workspace.page(workspace.admin))).reason == "NOT_FOUND"


async def test_a_suspended_admin_and_a_guest_do_not_count(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    second = await put_in(workspace, "admin")
    await suspends(workspace, workspace.admin, second)

    assert (await refused(leaves(workspace, workspace.admin, ""))).reason == "LAST_ADMIN"


def refusals_of(workspace: Workspace) -> list[tuple[str, str]]:
    """(action, reason) of what the log holds as refused."""
    with workspace.suite.database("membership") as database:
        query = (
            "SELECT action, metadata ->> 'error' FROM activities"
            " WHERE workspace_id = %s AND outcome = 'refused' ORDER BY number"
        )
        return database.execute(query, (workspace.id,)).fetchall()


async def test_what_members_are_refused_is_in_the_log_and_what_strangers_try_is_not(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, eve = await somebody(suite, "Bob"), await somebody(suite, "Eve")
    await workspace.join(bob)

    await refused(leaves(workspace, workspace.admin, ""))
    await refused(suspends(workspace, bob, workspace.admin_member_id))
    await refused(bans(workspace, workspace.admin, workspace.admin_member_id))
    await refused(suspends(workspace, eve, workspace.admin_member_id))

    assert refusals_of(workspace) == [
        ("member.left", "LAST_ADMIN"),
        ("member.suspended", "PERMISSION_DENIED"),
        ("member.banned", "RANK_TOO_LOW"),
    ]
