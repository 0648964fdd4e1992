"""What guest and messaging ask of membership: guests removed and promoted, members and groups read in batches."""

import uuid
from typing import Any

import grpc
import pytest
from guildhall.events.v1 import event_sink_pb2 as events
from guildhall.membership.v1 import group_member_service_pb2 as group_members
from guildhall.membership.v1 import group_member_service_pb2_grpc as group_member_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as member_rpc

from services.membership import peer_reads
from tests.service.test_membership_erasure import roles, rows
from tests.service.test_membership_groups import Place, new_place
from tests.service.test_membership_workspaces import Workspace, new_workspace, somebody
from tests.support.deliveries import deliver
from tests.support.suite import Person, Suite, refused

NOBODY = "00000000-0000-0000-0000-000000000000"


async def ask(workspace: Workspace, rpc: str, *, certificate: str = "guest", **fields: Any) -> Any:
    """A PEER RPC of MemberService."""
    stub = workspace.suite.stub(member_rpc.MemberServiceStub, certificate=certificate)
    request = getattr(members, f"{rpc}Request")(workspace_id=fields.pop("workspace_id", workspace.id), **fields)
    return await getattr(stub, rpc)(request, timeout=10)


async def change(workspace: Workspace, rpc: str, **fields: Any) -> Any:
    """An RPC of MemberService by the admin."""
    stub = workspace.suite.stub(member_rpc.MemberServiceStub)
    request = getattr(members, f"{rpc}Request")(workspace_id=workspace.id, **fields)
    return await workspace.admin.call(getattr(stub, rpc), request)


async def guest_of(workspace: Workspace, name: str = "Gil") -> tuple[Person, str]:
    """Somebody who is a guest by now, and their member id."""
    person = await somebody(workspace.suite, name)
    return person, (await workspace.confirm_guest((await workspace.add_guest(person)).member_id)).member_id


def newest(workspace: Workspace) -> Any:
    """Action, actor, target and metadata of the newest activity."""
    query = """
        SELECT a.action, actor.user_id::text, target.user_id::text, a.metadata FROM activities a
        LEFT JOIN activity_people actor ON actor.ref = a.actor_ref
        LEFT JOIN activity_people target ON target.ref = a.target_ref
        WHERE a.workspace_id = %s ORDER BY a.number DESC LIMIT 1
    """
    return rows(workspace.suite, query, workspace.id)[0]


async def test_a_confirmed_guest_is_in_the_log_once(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil, member_id = await guest_of(workspace)
    number = rows(suite, "SELECT max(number) FROM activities WHERE workspace_id = %s", workspace.id)

    await workspace.confirm_guest(member_id)
    redeemed = events.GuestRedeemed(workspace_id=workspace.id, member_id=member_id)
    await deliver(suite, events.Event(guest_redeemed=redeemed), source="guest")

    assert newest(workspace) == ("member.joined", gil.user_id, gil.user_id, {"way": "guest"})
    assert rows(suite, "SELECT max(number) FROM activities WHERE workspace_id = %s", workspace.id) == number


async def test_a_removed_guest_sees_nothing_more_and_removing_again_changes_nothing(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil, member_id = await guest_of(workspace)

    removed = await ask(workspace, "RemoveGuestMember", member_id=member_id, actor_user_id=workspace.admin.user_id)
    again = await ask(workspace, "RemoveGuestMember", member_id=member_id)

    assert removed.access_revision == again.access_revision == await workspace.revision() == 2
    assert (await refused(workspace.page(gil))).reason == "NOT_FOUND"
    assert newest(workspace) == ("member.removed", workspace.admin.user_id, gil.user_id, {})


async def test_whose_time_ran_out_is_removed_by_nobody(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil, member_id = await guest_of(workspace)

    await ask(workspace, "RemoveGuestMember", member_id=member_id)

    assert newest(workspace) == ("member.removed", None, gil.user_id, {})


async def test_full_members_and_unknown_ones_are_not_removed_as_guests(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    bob_id = await workspace.join(bob)

    for member_id in (bob_id, str(uuid.uuid4())):
        assert (await ask(workspace, "RemoveGuestMember", member_id=member_id)).access_revision == 1
    unknown = await ask(workspace, "RemoveGuestMember", workspace_id=str(uuid.uuid4()), member_id=bob_id)

    assert unknown.access_revision == 0
    assert bob.user_id in roles(workspace)


async def test_a_pending_guest_who_is_removed_is_never_confirmed(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil = await somebody(suite, "Gil")
    pending = await workspace.add_guest(gil)

    await ask(workspace, "RemoveGuestMember", member_id=pending.member_id)

    assert gil.user_id not in roles(workspace)
    assert (await refused(workspace.confirm_guest(pending.member_id))).reason == "NOT_FOUND"


async def test_a_promoted_guest_keeps_the_member_id_and_gets_the_rights_of_the_role(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil, member_id = await guest_of(workspace)
    promote: dict[str, Any] = {
        "member_id": member_id,
        "kind": members.MEMBER_KIND_FULL,
        "actor_user_id": workspace.admin.user_id,
    }

    promoted = await ask(workspace, "ChangeMemberKind", role=members.ROLE_VIEWER, **promote)
    again = await ask(workspace, "ChangeMemberKind", role=members.ROLE_MEMBER, **promote)

    assert promoted == again
    assert (promoted.member.member_id, promoted.access_revision) == (member_id, 2)
    assert (promoted.member.kind, promoted.member.role) == (members.MEMBER_KIND_FULL, members.ROLE_VIEWER)
    assert len(await workspace.member_ids(gil)) == 2
    told = {"before": {"kind": "guest"}, "after": {"kind": "full", "role": "viewer"}}
    assert newest(workspace) == ("member.promoted", workspace.admin.user_id, gil.user_id, told)


async def test_who_is_gone_pending_or_in_another_workspace_is_not_promoted(suite: Suite) -> None:
    workspace, other = await new_workspace(suite), await new_workspace(suite)
    _gil, member_id = await guest_of(workspace)
    pending = await workspace.add_guest(await somebody(suite, "Hal"))
    promote: dict[str, Any] = {
        "kind": members.MEMBER_KIND_FULL,
        "role": members.ROLE_MEMBER,
        "actor_user_id": workspace.admin.user_id,
    }

    for call in (
        ask(workspace, "ChangeMemberKind", member_id=str(uuid.uuid4()), **promote),
        ask(workspace, "ChangeMemberKind", member_id=pending.member_id, **promote),
        ask(other, "ChangeMemberKind", member_id=member_id, **promote),
    ):
        assert (await refused(call)).reason == "NOT_FOUND"
    wrongs: tuple[dict[str, Any], ...] = ({"kind": members.MEMBER_KIND_GUEST}, {"role": members.ROLE_ADMIN})
    for wrong in wrongs:
        call = ask(workspace, "ChangeMemberKind", **{"member_id": member_id, **promote, **wrong})
        assert (await refused(call)).reason == "INVALID_REQUEST"


async def test_a_banned_person_or_address_is_not_added_as_a_guest(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    gil, hal = await somebody(suite, "Gil"), await somebody(suite, "Hal")
    await change(workspace, "BanMember", user_id=gil.user_id)
    await change(workspace, "BanMember", email=hal.email)
    stub = suite.stub(member_rpc.MemberServiceStub, certificate="guest")

    def request(person: Person, address: str) -> members.AddGuestMemberRequest:
        return members.AddGuestMemberRequest(
            workspace_id=workspace.id,
            user_id=person.user_id,
            redemption_id=str(uuid.uuid4()),
            normalized_email=address,
        )

    for person in (gil, hal):
        refusal = await refused(person.call(stub.AddGuestMember, request(person, person.email)))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "BANNED")
    ida = await somebody(suite, "Ida")
    assert (await ida.call(stub.AddGuestMember, request(ida, ida.email))).member.user_id == ida.user_id


async def test_a_suspended_member_is_not_found_as_a_guest(suite: Suite) -> None:
    workspace, bob = await new_workspace(suite), await somebody(suite, "Bob")
    member_id = await workspace.join(bob)
    await change(workspace, "SuspendMember", member_id=member_id)

    assert (await refused(workspace.add_guest(bob))).reason == "NOT_FOUND"

    await change(workspace, "ReinstateMember", member_id=member_id)
    assert (await workspace.add_guest(bob)).member_id == member_id


async def test_a_batch_of_members_holds_suspended_ones_and_leaves_out_who_is_pending_or_gone(suite: Suite) -> None:
    workspace, other = await new_workspace(suite), await new_workspace(suite)
    bob_id = await workspace.join(await somebody(suite, "Bob"))
    gone_id = await workspace.join(await somebody(suite, "Cy"))
    pending = await workspace.add_guest(await somebody(suite, "Gil"))
    await change(workspace, "SuspendMember", member_id=bob_id)
    await workspace.remove(gone_id)
    ids = [bob_id, workspace.admin_member_id.upper(), gone_id, pending.member_id, other.admin_member_id, bob_id]

    for certificate in ("guest", "messaging"):
        found = (await ask(workspace, "BatchGetMembers", certificate=certificate, member_ids=ids)).members
        states = {member.member_id: member.state for member in found}
        assert states == {
            bob_id: members.MEMBER_STATE_SUSPENDED,
            workspace.admin_member_id: members.MEMBER_STATE_ACTIVE,
        }
        assert not any(member.name for member in found)


async def _listed(place: Place, *group_ids: str, **fields: Any) -> Any:
    stub = place.suite.stub(group_member_rpc.GroupMemberServiceStub, certificate="messaging")
    request = group_members.BatchListGroupMembersRequest(workspace_id=place.id, group_ids=group_ids, **fields)
    return (await stub.BatchListGroupMembers(request, timeout=10)).groups


async def test_groups_are_listed_in_order_with_unknown_and_empty_ones(suite: Suite) -> None:
    place, other = await new_place(suite), await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    _cy, cy_id = await place.newcomer("Cy")
    first, below = await place.create("First"), None
    below = await place.create("Below", parent_group_id=first.group_id)
    elsewhere = await other.create("Elsewhere")
    for member_id in (bob_id, cy_id):
        await place.add(first, member_id, "member")
    unknown = str(uuid.uuid4())

    listed = await _listed(place, below.group_id, unknown, first.group_id, elsewhere.group_id, first.group_id)

    assert [group.exists for group in listed] == [True, False, True, False, True]
    assert [group.group_id for group in listed] == [
        below.group_id,
        unknown,
        first.group_id,
        elsewhere.group_id,
        first.group_id,
    ]
    ids = [sorted(one.member_id for one in group.group_members) for group in listed]
    everybody = sorted([place.workspace.admin_member_id, bob_id, cy_id])
    assert ids == [[place.workspace.admin_member_id], [], everybody, [], everybody]
    assert {one.user_id for one in listed[2].group_members} >= {bob.user_id}
    assert not any(one.user_name for one in listed[2].group_members)


async def test_suspended_and_banned_people_are_not_listed_in_groups(suite: Suite) -> None:
    place = await new_place(suite)
    top = await place.create("Top")
    below = await place.create("Below", parent_group_id=top.group_id)
    bob, bob_id = await place.newcomer("Bob")
    _cy, cy_id = await place.newcomer("Cy")
    for member_id in (bob_id, cy_id):
        await place.add(below, member_id, "member")
    assert len((await _listed(place, below.group_id))[0].group_members) == 3

    await change(place.workspace, "SuspendMember", member_id=cy_id)
    await place.bans("BanUser", group_id=top.group_id, user_id=bob.user_id)

    (group,) = await _listed(place, below.group_id)
    assert [one.member_id for one in group.group_members] == [place.workspace.admin_member_id]


async def test_a_large_group_is_listed_in_parts(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_reads, "MOST", 4)
    place = await new_place(suite)
    group, other = await place.create("Large"), await place.create("Small")
    for name in ("Bob", "Cy", "Dee", "Eve"):
        await place.add(group, (await place.newcomer(name))[1], "member")

    (first,) = await _listed(place, group.group_id)
    (rest,) = await _listed(place, group.group_id, after_member_id=first.group_members[-1].member_id)
    both = await _listed(place, group.group_id, other.group_id)

    assert (len(first.group_members), first.has_more) == (4, True)
    assert (len(rest.group_members), rest.has_more) == (1, False)
    assert len({one.member_id for one in (*first.group_members, *rest.group_members)}) == 5
    assert [(len(each.group_members), each.has_more) for each in both] == [(2, True), (1, False)]
    refusal = await refused(_listed(place, group.group_id, other.group_id, after_member_id=NOBODY))
    assert list(refusal.fields) == ["after_member_id"]


@pytest.mark.parametrize(
    ("rpc", "fields", "allowed"),
    [
        ("RemoveGuestMember", {"member_id": NOBODY}, {"guest"}),
        (
            "ChangeMemberKind",
            {"member_id": NOBODY, "kind": members.MEMBER_KIND_FULL, "role": 1, "actor_user_id": NOBODY},
            {"guest"},
        ),
        ("BatchGetMembers", {"member_ids": [NOBODY]}, {"guest", "messaging"}),
    ],
)
async def test_only_the_peers_on_the_list_ask(
    rpc: str, fields: dict[str, Any], allowed: set[str], suite: Suite
) -> None:
    workspace = await new_workspace(suite)
    for certificate in {"gateway", "identity", "guest", "messaging"} - allowed:
        call = ask(workspace, rpc, certificate=certificate, **fields)
        assert (await refused(call)).reason == "PEER_NOT_ALLOWED"
