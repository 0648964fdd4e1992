"""How long messages may be edited: set for a workspace by its admins, told to messaging with each verdict."""

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.membership.v1 import access_service_pb2_grpc as access_rpc
from guildhall.membership.v1 import group_service_pb2 as groups
from guildhall.membership.v1 import group_service_pb2_grpc as group_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspace_rpc

from services.membership.groups import COMMUNITY
from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.suite import Person, Suite, refused

LONGEST = Duration(seconds=366 * 86_400)


async def update(
    workspace: Workspace, *paths: str, by: Person | None = None, request_id: str = "", **fields: Any
) -> workspaces.Workspace:
    """Has somebody, or the admin, change what the paths name."""
    stub = workspace.suite.stub(workspace_rpc.WorkspaceServiceStub)
    changed = workspaces.Workspace(workspace_id=workspace.id, **fields)
    request = workspaces.UpdateWorkspaceRequest(
        workspace=changed, update_mask=FieldMask(paths=paths), request_id=request_id
    )
    answer = (await (by or workspace.admin).call(stub.UpdateWorkspace, request)).workspace
    assert isinstance(answer, workspaces.Workspace)
    return answer


async def set_window(workspace: Workspace, window: Duration | None, *, by: Person | None = None, etag: str = "") -> Any:
    """Has somebody, or the admin, set the window; None takes the limit away."""
    return await update(workspace, "message_edit_window", by=by, message_edit_window=window, etag=etag)


async def told(workspace: Workspace, **subject: str) -> Duration | None:
    """What messaging is told with a verdict about the admin, or somebody else."""
    verdict = (await workspace.check(subject or {"user_id": workspace.admin.user_id}, capability="messages.send"))[0]
    return verdict.message_edit_window if verdict.HasField("message_edit_window") else None


async def shown(workspace: Workspace, person: Person) -> Duration | None:
    """The window as GetWorkspace shows it to somebody."""
    stub = workspace.suite.stub(workspace_rpc.WorkspaceServiceStub)
    request = workspaces.GetWorkspaceRequest(workspace_id=workspace.id)
    found = (await person.call(stub.GetWorkspace, request)).workspace
    return found.message_edit_window if found.HasField("message_edit_window") else None


async def test_without_a_window_messages_are_edited_for_ever(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    assert await shown(workspace, workspace.admin) is None
    assert await told(workspace) is None


@pytest.mark.parametrize("window", [Duration(), Duration(nanos=1000), Duration(seconds=90, nanos=500_000_000), LONGEST])
async def test_a_window_is_shown_to_members_and_told_with_each_verdict(suite: Suite, window: Duration) -> None:
    workspace, other = await new_workspace(suite), await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    member_id = await workspace.join(bob)

    changed = await set_window(workspace, window)

    assert changed.message_edit_window == window
    assert await shown(workspace, bob) == window
    assert await told(workspace) == await told(workspace, member_id=member_id) == window
    assert await told(other) is None


async def test_a_window_that_is_named_and_not_set_ends_the_limit(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    await set_window(workspace, Duration(seconds=60))

    changed = await set_window(workspace, None)

    assert not changed.HasField("message_edit_window")
    assert await told(workspace) is None


async def test_what_the_mask_does_not_name_stays(suite: Suite) -> None:
    workspace, minute = await new_workspace(suite), Duration(seconds=60)
    await set_window(workspace, minute)

    renamed = await update(workspace, "name", name="Research")
    closed = await update(workspace, "message_edit_window", name="Marketing", message_edit_window=Duration())
    both = await update(workspace, "name", "message_edit_window", name="Sales", message_edit_window=minute)

    assert (renamed.name, renamed.message_edit_window) == ("Research", minute)
    assert (closed.name, closed.message_edit_window) == ("Research", Duration())
    assert (both.name, both.message_edit_window) == ("Sales", minute)


async def test_an_etag_is_good_once_for_the_window_too(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    first = await set_window(workspace, Duration(seconds=60))

    await set_window(workspace, Duration(seconds=30), etag=first.etag)
    refusal = await refused(set_window(workspace, Duration(seconds=20), etag=first.etag))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert await told(workspace) == Duration(seconds=30)


@pytest.mark.parametrize(
    "window",
    [
        Duration(seconds=-1),
        Duration(nanos=-1),
        Duration(seconds=1, nanos=-1),
        Duration(seconds=1, nanos=1_000_000_000),
        Duration(seconds=366 * 86_400, nanos=1000),
        Duration(seconds=367 * 86_400),
    ],
)
async def test_a_window_that_is_none_is_refused(suite: Suite, window: Duration) -> None:
    workspace = await new_workspace(suite)

    refusal = await refused(set_window(workspace, window))

    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
    assert list(refusal.fields) == ["workspace.message_edit_window"]
    assert await told(workspace) is None


async def test_only_an_admin_sets_the_window(suite: Suite) -> None:
    workspace, minute = await new_workspace(suite), Duration(seconds=60)
    bob, cy, gil, eve = [await somebody(suite, name) for name in ("Bob", "Cy", "Gil", "Eve")]
    await workspace.join(bob)
    await workspace.join(cy, members.ROLE_VIEWER)
    await workspace.confirm_guest((await workspace.add_guest(gil)).member_id)

    for person in (bob, cy, gil):
        assert (await refused(set_window(workspace, minute, by=person))).reason == "PERMISSION_DENIED"
    assert (await refused(set_window(workspace, minute, by=eve))).reason == "NOT_FOUND"
    assert await told(workspace) is None
    await set_window(workspace, minute)
    assert await told(workspace) == minute


async def test_a_window_takes_no_access_away_and_is_written_down(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    before = await workspace.revision()

    await set_window(workspace, Duration(seconds=90))
    await set_window(workspace, None)

    assert await workspace.revision() == before
    with suite.database("membership") as database:
        query = "SELECT metadata FROM activities WHERE workspace_id = %s AND action = 'workspace.updated'"
        rows = database.execute(query + " ORDER BY number", (workspace.id,)).fetchall()
    limit, none = {"message_edit_window": "90s"}, {"message_edit_window": None}
    assert rows == [({"before": none, "after": limit},), ({"before": limit, "after": none},)]


async def test_a_verdict_in_a_group_tells_it_and_one_about_a_stranger_does_not(suite: Suite) -> None:
    workspace, minute = await new_workspace(suite), Duration(seconds=60)
    await set_window(workspace, minute)
    stub = suite.stub(group_rpc.GroupServiceStub)
    request = groups.CreateGroupRequest(workspace_id=workspace.id, name="Year 7", role_scheme_id=COMMUNITY)
    group_id = (await workspace.admin.call(stub.CreateGroup, request)).group.group_id
    eve = await somebody(suite, "Eve")

    verdicts = await workspace.check({"user_id": workspace.admin.user_id, "group_id": group_id})

    assert verdicts[0].message_edit_window == minute
    assert await told(workspace, user_id=eve.user_id) is None
    own = access.CheckAccessRequest(workspace_id=workspace.id, capability="messages.send")
    checked = await workspace.admin.call(suite.stub(access_rpc.AccessServiceStub).CheckAccess, own)
    assert checked.verdict.message_edit_window == minute
