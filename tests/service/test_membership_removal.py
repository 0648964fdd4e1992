"""Removing members: rank, the last admin, what it raises and tells, and coming back."""

import asyncio
import contextvars
import uuid

import grpc
import pytest
from guildhall.events.v1 import event_sink_pb2 as events
from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.membership.v1 import member_service_pb2 as members
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import CURRENT, Call
from services.chassis.database import Database
from services.membership import continuity, removals, workspaces
from services.membership import members as membership
from services.membership.errors import LastAdmin
from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.suite import Suite, refused

ROUNDS = 50


async def test_who_is_removed_finds_nothing_any_more(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    member_id = await workspace.join(bob)
    assert member_id in await workspace.member_ids(bob)

    await workspace.remove(member_id)

    assert (await refused(workspace.page(bob))).reason == "NOT_FOUND"
    assert await workspace.member_ids(workspace.admin) == [workspace.admin_member_id]


async def test_removing_again_with_the_same_key_is_answered_and_without_finds_nobody(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    member_id, key = await workspace.join(bob), str(uuid.uuid4())

    await workspace.remove(member_id, request_id=key)
    await workspace.remove(member_id, request_id=key)

    assert (await refused(workspace.remove(member_id))).reason == "NOT_FOUND"
    assert (await refused(workspace.remove(str(uuid.uuid4()), request_id=key))).reason == "IDEMPOTENCY_MISMATCH"


async def test_a_stored_answer_is_not_given_to_who_was_removed_since(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, cy = await somebody(suite, "Bob"), await somebody(suite, "Cy")
    bob_id, cy_id = await workspace.join(bob, members.ROLE_ADMIN), await workspace.join(cy)
    key = str(uuid.uuid4())
    await workspace.remove(cy_id, by=bob, request_id=key)
    await workspace.remove(cy_id, by=bob, request_id=key)

    await workspace.remove(bob_id)

    assert (await refused(workspace.remove(cy_id, by=bob, request_id=key))).reason == "NOT_FOUND"


@pytest.mark.parametrize("role", [members.ROLE_MEMBER, members.ROLE_VIEWER])
async def test_only_an_admin_removes(suite: Suite, role: members.Role.ValueType) -> None:
    workspace = await new_workspace(suite)
    bob, cy = await somebody(suite, "Bob"), await somebody(suite, "Cy")
    await workspace.join(bob, role)
    cy_id = await workspace.join(cy)

    refusal = await refused(workspace.remove(cy_id, by=bob))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    await workspace.remove(cy_id)


async def test_an_admin_removes_another_admin_but_never_themselves(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    bob_id = await workspace.join(bob, members.ROLE_ADMIN)

    assert (await refused(workspace.remove(bob_id, by=bob))).reason == "RANK_TOO_LOW"
    await workspace.remove(workspace.admin_member_id, by=bob)

    assert await workspace.member_ids(bob) == [bob_id]
    assert (await refused(workspace.remove(bob_id, by=bob))).reason == "RANK_TOO_LOW"


async def test_a_member_of_another_workspace_is_not_found(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    other = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    elsewhere = await other.join(bob)

    refusal = await refused(workspace.remove(elsewhere))

    assert refusal.code == grpc.StatusCode.NOT_FOUND
    assert refusal.raw == (await refused(workspace.remove(str(uuid.uuid4())))).raw
    assert elsewhere in await other.member_ids(bob)


async def test_a_pending_guest_is_not_found_and_a_confirmed_one_is_removed(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil = await somebody(suite, "Gil")
    guest = await workspace.add_guest(gil)
    assert (await refused(workspace.remove(guest.member_id))).reason == "NOT_FOUND"

    await workspace.confirm_guest(guest.member_id)
    await workspace.remove(guest.member_id)

    assert (await refused(workspace.page(gil))).reason == "NOT_FOUND"


async def test_two_admins_removing_each_other_never_leave_none(suite: Suite) -> None:
    people = [await somebody(suite, "Ann"), await somebody(suite, "Ben")]
    for _ in range(ROUNDS):
        workspace = await new_workspace(suite, people[0])
        ids = [workspace.admin_member_id, await _join_quickly(suite, workspace, people[1].user_id)]

        results = await asyncio.gather(
            workspace.remove(ids[1], by=people[0]), workspace.remove(ids[0], by=people[1]), return_exceptions=True
        )

        lost = [result for result in results if isinstance(result, BaseException)]
        assert len(lost) == 1
        assert isinstance(lost[0], grpc.aio.AioRpcError)
        assert lost[0].code() == grpc.StatusCode.NOT_FOUND
        verdicts = await workspace.check(*({"user_id": person.user_id} for person in people))
        assert [verdict.role for verdict in verdicts if verdict.allowed] == [members.ROLE_ADMIN]


async def _join_quickly(suite: Suite, workspace: Workspace, user_id: str) -> str:
    """A second admin without a mail, of which a hundred would take their time."""
    database: Database = suite.frames["membership"].database
    row = await database.transaction(
        lambda tx: membership.join(tx, workspace_id=workspace.id, user_id=user_id, role="admin")
    )
    assert row is not None
    return str(row.id)


async def test_the_last_admin_stays_and_the_last_but_one_may_go(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    bob_id = await workspace.join(bob)
    await _join_quickly(suite, workspace, str(uuid.uuid4()))
    database: Database = suite.frames["membership"].database

    async def require(tx: AsyncConnection, user_id: str) -> None:
        await workspaces.lock(tx, workspace.id)
        target = await membership.find_active(tx, workspace_id=workspace.id, user_id=user_id)
        assert target is not None
        await continuity.require_another_admin(tx, target)

    await database.transaction(lambda tx: require(tx, workspace.admin.user_id))
    await database.transaction(lambda tx: require(tx, bob.user_id))
    other = next(one for one in await workspace.member_ids(bob) if one not in (bob_id, workspace.admin_member_id))
    await workspace.remove(other)
    with pytest.raises(LastAdmin):
        await database.transaction(lambda tx: require(tx, workspace.admin.user_id))
    await database.transaction(lambda tx: require(tx, bob.user_id))


async def test_who_comes_back_gets_a_new_member_id(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    first = await workspace.join(bob)
    await workspace.remove(first)

    second = await workspace.join(bob)

    assert second != first
    old, new = await workspace.check({"member_id": first}, {"member_id": second})
    assert (old.allowed, old.reason) == (False, access.ACCESS_REASON_NOT_A_MEMBER)
    assert (new.allowed, new.user_id) == (True, bob.user_id)


async def test_a_removal_raises_the_revision(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    member_id = await workspace.join(await somebody(suite, "Bob"))
    before = await workspace.revision()

    await workspace.remove(member_id)

    assert await workspace.revision() == before + 1


async def test_what_is_refused_or_only_gives_rights_leaves_the_revision_alone(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    assert await workspace.revision() == 1

    await workspace.join(await somebody(suite, "Bob"))
    guest = await workspace.add_guest(await somebody(suite, "Gil"))
    await workspace.confirm_guest(guest.member_id)
    await refused(workspace.remove(str(uuid.uuid4())))

    assert await workspace.revision() == 1


async def test_no_verdict_at_the_raised_revision_still_allows(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    member_id = await workspace.join(bob)
    seen: list[tuple[int, bool]] = []

    async def watch() -> None:
        while not seen or seen[-1][1]:
            verdict = (await workspace.check({"user_id": bob.user_id}))[0]
            seen.append((verdict.access_revision, verdict.allowed))

    watching = [asyncio.create_task(watch()) for _ in range(4)]
    await workspace.remove(member_id)
    await asyncio.gather(*watching)

    assert {allowed for revision, allowed in seen if revision == 1} <= {True}
    assert {allowed for revision, allowed in seen if revision == 2} == {False}


async def test_removal_tells_guest_and_messaging_in_the_same_transaction(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    member_id = await workspace.join(bob)
    database: Database = suite.frames["membership"].database
    written: list[tuple[str, events.Event]] = []

    class RolledBack(Exception):
        """Ends the transaction once its outbox rows were read, before the relay could take them."""

    async def remove_and_read(tx: AsyncConnection) -> None:
        actor = await membership.access_workspace(
            tx, workspace_id=workspace.id, user_id=workspace.admin.user_id, capability="members.remove"
        )
        await removals.remove(tx, actor, member_id=member_id)
        for row in await tx.exec_driver_sql("SELECT target, payload FROM outbox WHERE kind = 'member_removed'"):
            event = events.Event.FromString(row.payload)
            if event.member_removed.member_id == member_id:
                written.append((row.target, event))
        raise RolledBack

    call = Call("test", str(uuid.uuid4()), "gateway", float("inf"), user_id=workspace.admin.user_id)
    context = contextvars.copy_context()
    context.run(CURRENT.set, call)
    with pytest.raises(RolledBack):
        await asyncio.create_task(database.transaction(remove_and_read), context=context)

    assert sorted(target for target, _ in written) == ["guest", "messaging"]
    assert all(event.member_removed.user_id == bob.user_id for _, event in written)
    assert await workspace.revision() == 1
    assert member_id in await workspace.member_ids(bob)
