"""A system administrator's rights over workspaces are theirs alone: a session that an app's adapter made has none."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from guildhall.identity.v1 import session_service_pb2 as sessions
from guildhall.identity.v1 import session_service_pb2_grpc as sessions_rpc
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc as users_rpc
from guildhall.membership.v1 import workspace_service_pb2 as pb
from guildhall.membership.v1 import workspace_service_pb2_grpc as rpc

from services.membership.__main__ import build
from services.membership.settings import MembershipSettings
from tests.service.test_identity_takeovers import app_session
from tests.support.administrators import administrator, backend
from tests.support.apps import App
from tests.support.suite import Person, Suite, answered, refused


@pytest.fixture(scope="module")
async def app(suite: Suite) -> App:
    return App(suite, await backend(suite, "identity.adapter"))


@pytest.fixture
async def only_administrators_create(suite: Suite) -> AsyncIterator[None]:
    """membership, as long as only system administrators make workspaces."""
    settings = suite.settings("membership", workspace_creation="administrators")
    assert isinstance(settings, MembershipSettings)
    await suite.stop("membership")
    suite.frames["membership"] = build(settings)
    await suite.frames["membership"].start()
    yield
    await suite.stop("membership")
    await suite.start("membership")


async def both(suite: Suite, app: App) -> tuple[Person, Person]:
    """An administrator who signed in, and the same as whom an app lets a browser call."""
    root = await administrator(suite)
    return root, await app_session(app, root.user_id)


async def is_denied(call: Any) -> bool:
    refusal = await refused(answered(call))
    return (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")


async def session_of(suite: Suite, person: Person) -> str:
    """The id of the session that somebody calls with."""
    stub = suite.stub(sessions_rpc.SessionServiceStub)
    answer = await person.call(stub.GetCurrentSession, sessions.GetCurrentSessionRequest())
    return str(answer.session.session_id)


async def test_the_archived_workspaces_are_listed_by_no_session_of_an_app(suite: Suite, app: App) -> None:
    stub, request = suite.stub(rpc.WorkspaceServiceStub), pb.ListWorkspacesRequest(only_archived=True)
    root, by_app = await both(suite, app)

    assert await is_denied(lambda: by_app.call(stub.ListWorkspaces, request))
    assert not (await by_app.call(stub.ListWorkspaces, pb.ListWorkspacesRequest())).workspaces
    await root.call(stub.ListWorkspaces, request)


@pytest.mark.usefixtures("only_administrators_create")
async def test_where_only_administrators_make_workspaces_no_session_of_an_app_does(suite: Suite, app: App) -> None:
    stub, request = suite.stub(rpc.WorkspaceServiceStub), pb.CreateWorkspaceRequest(name="Root's")
    root, by_app = await both(suite, app)

    assert await is_denied(lambda: by_app.call(stub.CreateWorkspace, request))
    assert (await answered(lambda: root.call(stub.CreateWorkspace, request))).workspace.name == "Root's"


async def test_another_service_is_told_of_no_administrator_but_the_one_whose_own_session_it_names(
    suite: Suite, app: App
) -> None:
    stub = suite.stub(users_rpc.UserServiceStub, certificate="membership")
    root, by_app = await both(suite, app)
    other, person = await administrator(suite), await suite.person("Ada")
    asked = [root.user_id, other.user_id, person.user_id]
    by_app_id = await session_of(suite, by_app)

    async def told(session_id: str) -> set[str]:
        request = users.BatchGetUsersRequest(user_ids=asked, caller_session_id=session_id)
        return {user.user_id for user in (await stub.BatchGetUsers(request, timeout=10)).users if user.system_admin}

    assert await told(root.session_id) == {root.user_id}
    assert [await told(session_id) for session_id in ("", by_app_id, person.session_id)] == [set(), set(), set()]
