"""Following who belongs to a workspace, and raising a revision for another service's change."""

import asyncio
import time
import uuid
from typing import Any

import grpc
import pytest
from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.membership.v1 import access_service_pb2_grpc as access_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as member_rpc
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspace_rpc

from services.membership import watches
from tests.service.test_membership_erasure import rows
from tests.service.test_membership_groups import new_place
from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.accounts import service_account
from tests.support.suite import Suite, answered, refusal_of, refused

SCOPE = "membership.watch"


class Watch:
    """One open stream."""

    def __init__(self, workspace: Workspace, *, after: int = 0, scope: str = SCOPE, bound_to: Any = ()) -> None:
        account = service_account(workspace.suite, scope, workspace_ids=bound_to)
        self.key_id = account.session_id
        stub = workspace.suite.stub(access_rpc.AccessServiceStub)
        request = access.WatchMembershipRequest(workspace_id=workspace.id, after_number=after)
        self._call = account.stream(stub.WatchMembership, request)
        self.last_number = after

    async def next(self) -> list[Any]:
        """The changes of the next response."""
        response = await asyncio.wait_for(self._call.read(), 20)
        assert response is not grpc.aio.EOF
        self.last_number = response.last_number
        return list(response.changes)

    async def until(self, action: str) -> list[Any]:
        """All changes up to the first with an action."""
        found: list[Any] = []
        while not any(change.action == action for change in found):
            found += await self.next()
        return found

    async def refusal(self) -> Any:
        """How it ended."""
        try:
            while await asyncio.wait_for(self._call.read(), 20) is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            return refusal_of(error)
        return None

    def close(self) -> None:
        """Ends it from this side."""
        self._call.cancel()


async def test_a_watcher_is_told_of_what_was_and_of_what_comes(suite: Suite) -> None:
    place = await new_place(suite)
    watch = Watch(place.workspace)
    first = await watch.next()
    assert [change.action for change in first] == ["workspace.created", "member.joined"]
    assert first[1].user_id == place.workspace.admin.user_id

    bob = await somebody(suite, "Bob")
    bob_id = await place.workspace.join(bob)
    group = await place.create("Team")
    await place.add(group, bob_id, "member")
    await place.workspace.remove(bob_id)

    changes = await watch.until("member.removed")
    watch.close()
    assert [change.action for change in changes] == [
        "member.joined",
        "invitation.accepted",
        "group.created",
        "group_member.added",
        "member.removed",
    ]
    added = changes[3]
    assert (added.target_type, added.target_id, added.user_id) == ("group", group.group_id, bob.user_id)
    assert [change.number for change in changes] == sorted(change.number for change in changes)
    assert all(change.HasField("change_time") for change in changes)


async def test_refusals_and_what_is_of_no_interest_are_passed_over(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    await workspace.join(bob)
    await refused(workspace.remove(workspace.admin_member_id, by=bob))
    await workspace.invite("cy@example.com")

    watch = Watch(workspace)
    changes = await watch.next()
    watch.close()

    assert "member.removed" not in {change.action for change in changes}
    assert "invitation.created" not in {change.action for change in changes}
    newest = rows(suite, "SELECT max(number) FROM activities WHERE workspace_id = %s", workspace.id)
    assert newest == [(watch.last_number,)]
    assert watch.last_number > changes[-1].number


async def test_a_watcher_resumes_after_a_number_without_loss_or_repetition(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    before = Watch(workspace)
    await before.next()
    before.close()
    await workspace.join(await somebody(suite, "Bob"))
    await workspace.join(await somebody(suite, "Cy"))

    whole, rest = Watch(workspace), Watch(workspace, after=before.last_number)
    numbers = [change.number for change in await whole.next()]
    resumed = [change.number for change in await rest.next()]
    whole.close()
    rest.close()

    assert resumed == [number for number in numbers if number > before.last_number]
    assert resumed


async def test_a_page_that_is_full_is_followed_by_the_rest_at_once(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "MOST_CHANGES", 2)
    place = await new_place(suite)
    for number in range(3):
        await place.create(f"Team {number}")

    watch = Watch(place.workspace)
    pages = [await watch.next() for _ in range(3)]
    watch.close()

    assert [len(page) for page in pages] == [2, 2, 1]


async def test_a_watcher_without_changes_gets_signs_of_life(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "ALIVE_SECONDS", 0.05)
    workspace = await new_workspace(suite)
    watch = Watch(workspace, after=2)

    assert [await watch.next() for _ in range(3)] == [[], [], []]
    assert watch.last_number == 2
    watch.close()


async def test_a_stream_ends_by_itself_for_the_watcher_to_be_let_in_anew(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "LONGEST_SECONDS", 0)
    assert await Watch(await new_workspace(suite)).refusal() is None


async def test_watchers_are_let_go_at_once_when_the_service_stops(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    watch = Watch(workspace)
    await watch.next()

    began = time.monotonic()
    await suite.stop("membership")
    try:
        assert await watch.refusal() is None
        assert time.monotonic() - began < 10
    finally:
        await suite.start("membership")
    again = await answered(lambda: Watch(workspace).next())
    assert again


async def test_the_stream_of_a_deleted_workspace_ends_and_none_is_opened(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    watch = Watch(workspace)
    await watch.next()

    stub = suite.stub(workspace_rpc.WorkspaceServiceStub)
    await workspace.admin.call(stub.DeleteWorkspace, workspaces.DeleteWorkspaceRequest(workspace_id=workspace.id))

    assert (await watch.refusal()).reason == "NOT_FOUND"
    assert (await Watch(workspace).refusal()).reason == "NOT_FOUND"


def revoke(suite: Suite, watch: Watch) -> None:
    """What RevokeServiceKey does to the key."""
    query = "UPDATE service_keys SET revoked_at = statement_timestamp() WHERE id = %s"
    suite.rows("identity_owner", query, (watch.key_id,))


async def test_a_stream_ends_with_the_key_that_opened_it_and_no_other_does(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    watch, other = Watch(workspace), Watch(workspace)
    assert await watch.next()
    assert await other.next()

    revoke(suite, watch)

    assert (await watch.refusal()).reason == "SESSION_ENDED"
    await workspace.join(await somebody(suite, "Bob"))
    assert await other.until("member.joined")
    other.close()


async def test_a_stream_ends_once_nobody_has_told_for_long_whether_its_key_is_alive(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "SESSION_SECONDS", 0.5)
    monkeypatch.setattr(watches, "HELD_SECONDS", 2)
    workspace = await new_workspace(suite)
    account = service_account(suite, "membership.members")
    bob = await somebody(suite, "Bob")
    watch = Watch(workspace)
    await watch.next()

    await suite.stop("identity")
    try:
        refusal = await watch.refusal()
    finally:
        await suite.start("identity")

    assert refusal.reason == "PEER_UNAVAILABLE"
    request = members.AddMemberRequest(workspace_id=workspace.id, user_id=bob.user_id, role=members.ROLE_MEMBER)
    stub = suite.stub(member_rpc.MemberServiceStub)
    await answered(lambda: account.call(stub.AddMember, request))
    again = await answered(lambda: Watch(workspace).next())
    assert again[-1].action == "member.joined"


async def test_a_service_account_watches_its_own_workspaces_and_with_the_scope_only(suite: Suite) -> None:
    workspace, other = await new_workspace(suite), await new_workspace(suite)

    assert (await Watch(workspace, bound_to=[other.id]).refusal()).reason == "NOT_FOUND"
    assert (await Watch(workspace, scope="membership.members").refusal()).reason == "CALLER_NOT_ALLOWED"
    watch = Watch(workspace, bound_to=[workspace.id])
    assert await watch.next()
    watch.close()
    call = workspace.admin.stream(
        suite.stub(access_rpc.AccessServiceStub).WatchMembership,
        access.WatchMembershipRequest(workspace_id=workspace.id),
    )
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call.read()
    assert refusal_of(error.value).reason == "CALLER_NOT_ALLOWED"


async def test_two_hundred_joins_at_once_are_all_told_in_the_order_of_their_numbers(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    watch = Watch(workspace)
    await watch.next()
    account = service_account(suite, "membership.members")
    stub = suite.stub(member_rpc.MemberServiceStub)
    people = [await somebody(suite, name) for name in ("Bob", "Cy", "Dee", "Eve")]

    async def come_and_go(user_id: str) -> None:
        request = members.AddMemberRequest(workspace_id=workspace.id, user_id=user_id, role=members.ROLE_MEMBER)
        for _ in range(25):
            member = (await account.call(stub.AddMember, request)).member
            await workspace.remove(member.member_id)

    await asyncio.gather(*(come_and_go(person.user_id) for person in people))
    told: list[Any] = []
    while len(told) < 200:
        told += await watch.next()
    watch.close()

    assert [change.number for change in told] == list(range(told[0].number, told[0].number + 200))
    assert sum(change.action == "member.joined" for change in told) == 100


async def _bump(workspace_id: str, suite: Suite, event_id: str, *, certificate: str = "guest") -> Any:
    stub = suite.stub(access_rpc.AccessServiceStub, certificate=certificate)
    request = access.BumpAccessRevisionRequest(workspace_id=workspace_id, event_id=event_id)
    return await stub.BumpAccessRevision(request, timeout=10)


async def test_a_bump_raises_the_revision_once_for_each_event(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    first, second = str(uuid.uuid4()), str(uuid.uuid4())

    answers = await asyncio.gather(*(_bump(workspace.id, suite, first) for _ in range(16)))
    assert {answer.access_revision for answer in answers} == {2}
    assert (await _bump(workspace.id, suite, second, certificate="messaging")).access_revision == 3
    assert (await _bump(workspace.id, suite, first)).access_revision == 3


async def test_a_bump_of_an_unknown_workspace_is_not_found_and_is_for_peers(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    assert (await refused(_bump(str(uuid.uuid4()), suite, str(uuid.uuid4())))).reason == "NOT_FOUND"
    for certificate in ("gateway", "identity"):
        call = _bump(workspace.id, suite, str(uuid.uuid4()), certificate=certificate)
        assert (await refused(call)).reason == "PEER_NOT_ALLOWED"
    assert await workspace.revision() == 1
