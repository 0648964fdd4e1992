"""Who is disabled runs nothing, inherits nothing and does not count, until they are enabled."""

from typing import Any

from guildhall.events.v1 import event_sink_pb2 as events
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc as user_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as member_rpc

from services.membership import erasures
from tests.service.test_membership_bans import add
from tests.service.test_membership_continuity import actions_of, group_of, is_archived, leaves, put_in, roles_in
from tests.service.test_membership_erasure import erased, roles, rows, verified, worked_off
from tests.service.test_membership_group_invites import new_code, preview, redeem
from tests.service.test_membership_groups import Place, new_place
from tests.service.test_membership_members import guest_in
from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.administrators import administrator
from tests.support.deliveries import deliver, until
from tests.support.suite import Person, Suite, refused


async def disabled(suite: Suite, person: Person, revision: int = 2) -> None:
    """identity says that somebody is kept out."""
    told = events.UserDisabled(user_id=person.user_id, revision=revision)
    await deliver(suite, events.Event(user_disabled=told), source="identity")
    await worked_off(suite)


async def enabled(suite: Suite, person: Person, revision: int = 3) -> None:
    """identity says that they are let in again."""
    told = events.UserEnabled(user_id=person.user_id, revision=revision)
    await deliver(suite, events.Event(user_enabled=told), source="identity")


async def makes_admin(workspace: Workspace, member_id: str) -> None:
    """The admin makes somebody else one."""
    request = members.UpdateMemberRoleRequest(workspace_id=workspace.id, member_id=member_id, role=members.ROLE_ADMIN)
    await workspace.admin.call(workspace.suite.stub(member_rpc.MemberServiceStub).UpdateMemberRole, request)


async def test_a_disabled_member_does_not_inherit_a_workspace_and_an_enabled_one_does(suite: Suite) -> None:
    for is_enabled in (False, True):
        ada, bob, eve = [await suite.person(name) for name in ("Ada", "Bob", "Eve")]
        workspace = await new_workspace(suite, ada)
        for person in (bob, eve):
            await put_in(workspace, "member", user_id=person.user_id)
        await disabled(suite, bob)
        if is_enabled:
            await enabled(suite, bob)

        await erased(suite, ada)

        heir, other = (bob, eve) if is_enabled else (eve, bob)
        assert roles(workspace) == {heir.user_id: "admin", other.user_id: "member"}


async def test_a_workspace_in_which_only_disabled_people_are_left_is_archived(suite: Suite) -> None:
    ada, bob = await suite.person("Ada"), await suite.person("Bob")
    workspace = await new_workspace(suite, ada)
    await put_in(workspace, "member", user_id=bob.user_id)
    await disabled(suite, bob)

    await erased(suite, ada)

    assert roles(workspace) == {bob.user_id: "member"}
    assert is_archived(suite, "workspaces", workspace.id)


async def test_an_only_admin_who_was_disabled_is_put_in_charge_again_once_they_are_enabled(suite: Suite) -> None:
    ada = await suite.person("Ada")
    workspace = await new_workspace(suite, ada)
    await disabled(suite, ada)
    assert is_archived(suite, "workspaces", workspace.id)

    # Who cannot sign in runs nothing: neither they nor the workspace are changed.
    assert (await add(workspace, ada, members.ROLE_ADMIN)).role == members.ROLE_MEMBER
    assert is_archived(suite, "workspaces", workspace.id)
    await enabled(suite, ada)
    assert (await add(workspace, ada, members.ROLE_MEMBER)).role == members.ROLE_MEMBER
    assert is_archived(suite, "workspaces", workspace.id)

    again = await add(workspace, ada, members.ROLE_ADMIN)

    assert (again.member_id, again.role) == (workspace.admin_member_id, members.ROLE_ADMIN)
    assert not is_archived(suite, "workspaces", workspace.id)
    assert actions_of(workspace)[-2:] == ["member.role_updated", "workspace.updated"]
    assert (await verified(workspace)).intact


async def test_a_guest_is_not_put_in_charge_of_an_archived_workspace(suite: Suite) -> None:
    ada, gil = await suite.person("Ada"), await somebody(suite, "Gil")
    workspace = await new_workspace(suite, ada)
    await guest_in(workspace, gil)
    await disabled(suite, ada)
    assert is_archived(suite, "workspaces", workspace.id)

    assert (await add(workspace, gil, members.ROLE_ADMIN)).kind == members.MEMBER_KIND_GUEST
    assert is_archived(suite, "workspaces", workspace.id)


async def test_a_disabled_admin_does_not_let_the_last_other_one_go(suite: Suite) -> None:
    ada, bob = await suite.person("Ada"), await suite.person("Bob")
    workspace = await new_workspace(suite, ada)
    bob_id = await put_in(workspace, "member", user_id=bob.user_id)
    await disabled(suite, bob)
    await makes_admin(workspace, bob_id)

    assert (await refused(leaves(workspace, ada, ""))).reason == "LAST_ADMIN"

    await enabled(suite, bob)
    await leaves(workspace, ada, "")
    assert roles(workspace) == {bob.user_id: "admin"}


async def test_a_disabled_member_does_not_inherit_a_group(suite: Suite) -> None:
    workspace, bob = await new_workspace(suite), await suite.person("Bob")
    owner, bob_id, eve_id = [await put_in(workspace, "member", user_id=user_id) for user_id in ("", bob.user_id, "")]
    group_id = group_of(workspace, (owner, "owner"), (bob_id, "admin"), (eve_id, "member"))
    alone = group_of(workspace, (owner, "owner"), (bob_id, "admin"))
    await disabled(suite, bob)

    await workspace.remove(owner)

    assert roles_in(suite, group_id) == {bob_id: "admin", eve_id: "owner"}
    assert roles_in(suite, alone) == {bob_id: "admin"}
    assert is_archived(suite, "groups", alone)


async def _owned_with_bob(suite: Suite) -> tuple[Place, Any, Person, str]:
    place, bob = await new_place(suite), await suite.person("Bob")
    bob_id = await put_in(place.workspace, "member", user_id=bob.user_id)
    group = await place.create("Ours")
    await disabled(suite, bob)
    return place, group, bob, bob_id


async def test_a_disabled_owner_does_not_let_the_last_other_one_go(suite: Suite) -> None:
    place, group, bob, bob_id = await _owned_with_bob(suite)
    await place.add(group, bob_id, "owner")

    assert (await refused(place.people("LeaveGroup", group_id=group.group_id))).reason == "LAST_OWNER"

    await enabled(suite, bob)
    await place.people("LeaveGroup", group_id=group.group_id)
    assert roles_in(suite, group.group_id) == {bob_id: "owner"}


async def test_a_group_is_not_given_to_somebody_who_is_disabled(suite: Suite) -> None:
    place, group, bob, bob_id = await _owned_with_bob(suite)
    await place.add(group, bob_id, "member")
    give = {"group_id": group.group_id, "member_id": bob_id}

    assert (await refused(place.group("TransferOwnership", **give))).reason == "LAST_OWNER"

    await enabled(suite, bob)
    await place.group("TransferOwnership", **give)
    assert roles_in(suite, group.group_id)[bob_id] == "owner"


async def test_a_code_of_somebody_who_is_disabled_lets_nobody_in_until_they_are_enabled(suite: Suite) -> None:
    place, ann = await new_place(suite), await suite.person("Ann")
    ann_id = await put_in(place.workspace, "member", user_id=ann.user_id)
    bob, _bob_id = await place.newcomer("Bob")
    group = await place.create("Ours")
    await place.add(group, ann_id, "moderator")
    code = (await new_code(place, group, by=ann)).code
    await disabled(suite, ann)

    assert (await refused(preview(suite, code))).reason == "CODE_INVALID"
    assert (await refused(redeem(place, bob, code))).reason == "CODE_INVALID"

    await enabled(suite, ann)
    assert (await redeem(place, bob, code)).group_member.group_id == group.group_id


async def test_an_invitation_of_somebody_who_is_disabled_is_of_no_use_until_they_are_enabled(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    ann, bob = await suite.person("Ann"), await suite.person("Bob")
    ann_id = await put_in(workspace, "admin", user_id=ann.user_id)
    token = await workspace.invite(bob.email, by=ann)
    await disabled(suite, ann)
    # The right to invite is theirs again; that they are disabled is all that stands in the way.
    await makes_admin(workspace, ann_id)

    assert (await refused(workspace.accept(bob, token))).reason == "INVITATION_INVALID"
    assert bob.user_id not in roles(workspace)

    await enabled(suite, ann)
    await workspace.accept(bob, token)
    assert roles(workspace)[bob.user_id] == "member"


async def test_news_of_a_disabling_that_comes_after_the_enabling_takes_nothing(suite: Suite) -> None:
    ada, eve = await suite.person("Ada"), await suite.person("Eve")
    workspace = await new_workspace(suite, ada)
    await put_in(workspace, "member", user_id=eve.user_id)

    await enabled(suite, ada, revision=8)
    await disabled(suite, ada, revision=7)
    assert roles(workspace) == {ada.user_id: "admin", eve.user_id: "member"}

    await disabled(suite, ada, revision=9)
    assert roles(workspace) == {ada.user_id: "member", eve.user_id: "admin"}


async def test_who_is_enabled_before_the_worker_came_to_them_keeps_what_they_have(suite: Suite) -> None:
    ada = await suite.person("Ada")
    workspace = await new_workspace(suite, ada)
    await put_in(workspace, "member")
    await enabled(suite, ada)

    await suite.frames["membership"].database.transaction(lambda tx: erasures.disable(tx, workspace.admin_member_id))

    assert roles(workspace)[ada.user_id] == "admin"


async def test_what_identity_does_to_a_user_is_known_here_and_forgotten_with_them(suite: Suite) -> None:
    root, bob = await administrator(suite), await suite.person("Bob")
    stub = suite.stub(user_rpc.UserServiceStub)
    known = "SELECT is_disabled FROM disabled_users WHERE user_id = %s"

    await root.call(stub.DisableUser, users.DisableUserRequest(user_id=bob.user_id))
    await until(lambda: rows(suite, known, bob.user_id) == [(True,)])
    await root.call(stub.EnableUser, users.EnableUserRequest(user_id=bob.user_id))
    await until(lambda: rows(suite, known, bob.user_id) == [(False,)])
    await root.call(stub.DisableUser, users.DisableUserRequest(user_id=bob.user_id))
    await until(lambda: rows(suite, known, bob.user_id) == [(True,)])

    await erased(suite, bob)
    await disabled(suite, bob, revision=99)

    assert rows(suite, known, bob.user_id) == []
