"""May X do Y, asked by the other services: in one batch, in order, with the revision."""

import uuid

import grpc
import pytest
from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.membership.v1 import access_service_pb2_grpc as access_rpc
from guildhall.membership.v1 import member_service_pb2 as members

from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.suite import Suite, refused

CAPABILITIES = {
    "workspace.read": {members.ROLE_VIEWER, members.ROLE_MEMBER, members.ROLE_ADMIN},
    "conversations.create": {members.ROLE_MEMBER, members.ROLE_ADMIN},
    "conversations.manage": {members.ROLE_ADMIN},
    "messages.send": {members.ROLE_MEMBER, members.ROLE_ADMIN},
    "messages.moderate": {members.ROLE_ADMIN},
    "members.invite": {members.ROLE_ADMIN},
    "members.remove": {members.ROLE_ADMIN},
    "guests.invite": {members.ROLE_ADMIN},
    "guests.manage": {members.ROLE_ADMIN},
    "made.up": set(),
}


async def test_each_role_may_what_the_table_says(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    roles = {workspace.admin_member_id: members.ROLE_ADMIN}
    for name, role in {"Bob": members.ROLE_MEMBER, "Cy": members.ROLE_VIEWER}.items():
        roles[await workspace.join(await somebody(suite, name), role)] = role

    for capability, allowed in CAPABILITIES.items():
        verdicts = await workspace.check(*({"member_id": one} for one in roles), capability=capability)
        for verdict, (member_id, role) in zip(verdicts, roles.items(), strict=True):
            assert (verdict.member_id, verdict.role) == (member_id, role)
            assert verdict.allowed == (role in allowed), capability
            may, lacks = access.ACCESS_REASON_ROLE, access.ACCESS_REASON_ROLE_LACKS_CAPABILITY
            assert verdict.reason == (may if role in allowed else lacks)


async def test_a_batch_is_answered_in_order_with_duplicates_and_strangers(suite: Suite) -> None:
    workspace, other = await new_workspace(suite), await new_workspace(suite, await somebody(suite, "Cy"))
    by_user = {"user_id": workspace.admin.user_id}
    by_member = {"member_id": workspace.admin_member_id.upper()}
    elsewhere = {"workspace_id": other.id}
    nowhere = {"workspace_id": str(uuid.uuid4())}

    verdicts = await workspace.check(
        by_user,
        {"user_id": str(uuid.uuid4())},
        by_member,
        by_user,
        {**by_user, **elsewhere},
        {**by_member, **elsewhere},
        {**by_user, **nowhere},
        {"user_id": other.admin.user_id, **elsewhere},
    )

    assert [verdict.allowed for verdict in verdicts] == [True, False, True, True, False, False, False, True]
    assert [verdict.access_revision for verdict in verdicts] == [1, 1, 1, 1, 1, 1, 0, 1]
    assert verdicts[0] == verdicts[2] == verdicts[3]
    stranger = access.AccessVerdict(reason=access.ACCESS_REASON_NOT_A_MEMBER, access_revision=1)
    assert verdicts[1] == verdicts[4] == verdicts[5] == stranger
    assert (verdicts[7].user_id, verdicts[7].member_id) == (other.admin.user_id, other.admin_member_id)


async def test_a_batch_of_a_thousand_is_answered_and_a_larger_one_refused(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    subject = {"user_id": workspace.admin.user_id}

    assert len(await workspace.check(*[subject] * 1000)) == 1000
    assert (await refused(workspace.check(*[subject] * 1001))).reason == "INVALID_REQUEST"
    assert (await refused(workspace.check())).reason == "INVALID_REQUEST"


async def test_a_question_names_its_subject(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    refusal = await refused(workspace.check({}))
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT


async def test_revisions_are_answered_in_order_with_duplicates_and_unknown_ones(suite: Suite) -> None:
    raised, fresh = await new_workspace(suite), await new_workspace(suite)
    await raised.remove(await raised.join(await somebody(suite, "Bob")))
    ids = [fresh.id, raised.id, str(uuid.uuid4()), raised.id.upper()]

    stub = suite.stub(access_rpc.AccessServiceStub, certificate="guest")
    answer = await stub.GetAccessRevisions(access.GetAccessRevisionsRequest(workspace_ids=ids), timeout=10)

    assert list(answer.access_revisions) == [1, 2, 0, 2]


@pytest.mark.parametrize("certificate", ["gateway", "identity"])
async def test_only_guest_and_messaging_ask(suite: Suite, certificate: str) -> None:
    workspace: Workspace = await new_workspace(suite)
    stub = suite.stub(access_rpc.AccessServiceStub, certificate=certificate)
    question = access.AccessQuestion(
        workspace_id=workspace.id, user_id=workspace.admin.user_id, capability="workspace.read"
    )

    check = stub.BatchCheckAccess(access.BatchCheckAccessRequest(questions=[question]), timeout=10)
    read = stub.GetAccessRevisions(access.GetAccessRevisionsRequest(workspace_ids=[workspace.id]), timeout=10)

    assert (await refused(check)).reason == "PEER_NOT_ALLOWED"
    assert (await refused(read)).reason == "PEER_NOT_ALLOWED"
