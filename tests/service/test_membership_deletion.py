"""Deleting a workspace: nobody sees anything newer at once, and what it held goes soon after."""

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.events.v1 import event_sink_pb2 as events
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as member_rpc
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspace_rpc

from services.chassis.database import Database
from services.membership import purges
from tests.service.test_membership_bans import ban
from tests.service.test_membership_continuity import EDUCATION, group_of, put_in
from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.suite import Person, Suite, refused


async def delete(workspace: Workspace, *, by: Person | None = None, **request: Any) -> None:
    """Ends a workspace."""
    stub = workspace.suite.stub(workspace_rpc.WorkspaceServiceStub)
    asked = workspaces.DeleteWorkspaceRequest(workspace_id=workspace.id, **request)
    await (by or workspace.admin).call(stub.DeleteWorkspace, asked)


async def get(workspace: Workspace, *, by: Person | None = None) -> Any:
    """What GetWorkspace answers."""
    stub = workspace.suite.stub(workspace_rpc.WorkspaceServiceStub)
    return await (by or workspace.admin).call(
        stub.GetWorkspace, workspaces.GetWorkspaceRequest(workspace_id=workspace.id)
    )


async def test_a_deleted_workspace_is_gone_for_everybody_at_once(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    bob_id = await workspace.join(bob)
    before = await workspace.revision()

    await delete(workspace)

    by_user, by_member = await workspace.check({"user_id": bob.user_id}, {"member_id": bob_id})
    assert (by_user.allowed, by_user.member_id, by_member.allowed) == (False, "", False)
    assert await workspace.revision() == before + 1
    unknown = Workspace(suite, workspace.admin, str(uuid.uuid4()), bob_id)
    for call in (
        lambda place: place.page(bob),
        lambda place: place.page(workspace.admin),
        lambda place: get(place),
        lambda place: place.remove(bob_id),
        lambda place: place.invite("x@example.com"),
        lambda place: delete(place),
        lambda place: ban(place, member_id=bob_id),
    ):
        hidden = await refused(call(workspace))
        assert hidden.code == grpc.StatusCode.NOT_FOUND
        assert hidden.raw == (await refused(call(unknown))).raw


async def test_nobody_joins_a_deleted_workspace(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    token = await workspace.invite(bob.email)
    pending = await workspace.add_guest(await somebody(suite, "Gil"))

    await delete(workspace)

    assert (await refused(workspace.accept(bob, token))).code == grpc.StatusCode.NOT_FOUND
    assert (await refused(workspace.confirm_guest(pending.member_id))).code == grpc.StatusCode.NOT_FOUND
    assert (await refused(workspace.add_guest(bob))).code == grpc.StatusCode.NOT_FOUND


async def test_only_an_admin_deletes(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    await workspace.join(bob)

    assert (await refused(delete(workspace, by=bob))).reason == "PERMISSION_DENIED"
    assert (await refused(delete(workspace, by=await somebody(suite, "Eve")))).reason == "NOT_FOUND"
    await delete(workspace)


async def test_deleting_again_with_the_same_key_is_answered(suite: Suite) -> None:
    workspace, key = await new_workspace(suite), str(uuid.uuid4())

    await delete(workspace, request_id=key)
    await delete(workspace, request_id=key)

    assert (await refused(delete(workspace))).reason == "NOT_FOUND"


async def test_a_deletion_with_an_old_etag_is_refused(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    old = (await get(workspace)).workspace.etag
    stub = suite.stub(workspace_rpc.WorkspaceServiceStub)
    named = workspaces.Workspace(workspace_id=workspace.id, name="Renamed")
    await workspace.admin.call(
        stub.UpdateWorkspace, workspaces.UpdateWorkspaceRequest(workspace=named, update_mask=FieldMask(paths=["name"]))
    )

    assert (await refused(delete(workspace, etag=old))).reason == "ETAG_MISMATCH"
    await delete(workspace, etag=(await get(workspace)).workspace.etag)


async def test_deletion_tells_guest_messaging_and_the_worker(suite: Suite) -> None:
    await suite.stop("guest", "messaging")
    try:
        workspace = await new_workspace(suite)
        await delete(workspace)
        with suite.database("membership") as database:
            rows = database.execute(
                "SELECT target, payload FROM outbox WHERE kind = 'workspace_deleted' ORDER BY target"
            ).fetchall()
    finally:
        await suite.start("guest", "messaging")
    told = [
        target
        for target, payload in rows
        if events.Event.FromString(payload).workspace_deleted.workspace_id == workspace.id
    ]
    assert told == ["guest", "messaging"]


def rows_of(suite: Suite, workspace_id: str) -> dict[str, int]:
    """How many rows each table holds of a workspace."""
    with suite.database("membership_owner") as database:
        tables = database.execute(
            "SELECT table_name FROM information_schema.columns"
            " WHERE table_schema = 'membership' AND column_name = 'workspace_id'"
        ).fetchall()
        assert tables
        return {
            table: count
            for (table,) in tables
            if (
                row := database.execute(
                    f"SELECT count(*) FROM {table} WHERE workspace_id = %s", (workspace_id,)
                ).fetchone()
            )
            and (count := row[0])
        }


@pytest.mark.parametrize("batch", [1, 500])
async def test_what_a_deleted_workspace_held_goes_but_its_log(suite: Suite, batch: int) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    bob_id, cy_id = await workspace.join(bob), await put_in(workspace, "member")
    stub = suite.stub(member_rpc.MemberServiceStub)
    mine = members.Member(workspace_id=workspace.id, member_id=bob_id, handle="bob")
    await bob.call(stub.UpdateMember, members.UpdateMemberRequest(member=mine, update_mask=FieldMask(paths=["handle"])))
    top = group_of(workspace, (bob_id, "owner"), (cy_id, "member"))
    group_of(workspace, (cy_id, "owner"), parent=group_of(workspace, (bob_id, "owner"), parent=top))
    group_of(workspace, (bob_id, "group_admin"), scheme=EDUCATION)
    await ban(workspace, email="x@example.com")
    await workspace.invite(f"{uuid.uuid4().hex}@example.com")
    other = await new_workspace(suite)
    await other.join(bob)
    untouched = rows_of(suite, other.id)
    with suite.database("membership") as direct:
        direct.execute(
            "INSERT INTO workspace_limits (workspace_id, name, value) VALUES (%s, 'members', 7)", (workspace.id,)
        )
    database: Database = suite.frames["membership"].database
    assert not await database.transaction(lambda tx: purges.purge(tx, workspace.id, batch=batch))
    log = rows_of(suite, workspace.id)["activities"]

    await delete(workspace)
    while await database.transaction(lambda tx: purges.purge(tx, workspace.id, batch=batch)):
        pass

    assert rows_of(suite, workspace.id) == {"workspace_heads": 1, "activities": log + 1}
    assert rows_of(suite, other.id) == untouched


async def test_the_row_that_stays_is_nameless(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    await delete(workspace)
    with suite.database("membership") as database:
        query = "SELECT name, created_by, deleted_at IS NOT NULL FROM workspaces WHERE id = %s"
        assert database.execute(query, (workspace.id,)).fetchone() == ("deleted", None, True)


async def test_a_deleted_workspace_is_on_nobodys_list(suite: Suite) -> None:
    workspace = await new_workspace(suite, await suite.person("Dee"))
    stub = suite.stub(workspace_rpc.WorkspaceServiceStub)
    asked = workspaces.ListWorkspacesRequest()
    assert [each.workspace_id for each in (await workspace.admin.call(stub.ListWorkspaces, asked)).workspaces] == [
        workspace.id
    ]

    await delete(workspace)

    assert not (await workspace.admin.call(stub.ListWorkspaces, asked)).workspaces


async def test_the_worker_removes_what_a_deleted_workspace_held(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    await put_in(workspace, "member")
    await delete(workspace)

    for _ in range(1500):
        if set(rows_of(suite, workspace.id)) == {"workspace_heads", "activities"}:
            return
        await asyncio.sleep(0.02)
    raise TimeoutError("it was never purged")
