"""Workspaces and the lists of their members; also how the other membership tests get theirs."""

import time
import uuid
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.membership.v1 import access_service_pb2_grpc as access_rpc
from guildhall.membership.v1 import invitation_service_pb2 as invitations
from guildhall.membership.v1 import invitation_service_pb2_grpc as invitation_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as member_rpc
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspace_rpc

from services.chassis.database import Database
from services.membership import workspaces as membership
from services.membership.__main__ import build
from services.membership.settings import MembershipSettings
from tests.support import guest_rows
from tests.support.suite import Person, Suite, answered, refused


@dataclass
class Workspace:
    """A workspace, seen by its first admin."""

    suite: Suite
    admin: Person
    id: str
    admin_member_id: str

    async def invite(self, address: str, role: Any = members.ROLE_MEMBER, *, by: Person | None = None) -> str:
        """Invites an address; returns the token of the mail that came next."""
        count = self.count_mails(address) + 1
        request = invitations.CreateInvitationRequest(workspace_id=self.id, email=address, role=role)
        stub = self.suite.stub(invitation_rpc.InvitationServiceStub)
        await (by or self.admin).call(stub.CreateInvitation, request)
        return await self.suite.mailed_token(address, count=count)

    def count_mails(self, address: str) -> int:
        """How many mails an address has had by now."""
        return len(self.suite.mail_folder.to(address))

    async def accept(self, person: Person, token: str, *, request_id: str = "") -> Any:
        """Has somebody accept an invitation."""
        stub = self.suite.stub(invitation_rpc.InvitationServiceStub)
        return await person.call(
            stub.AcceptInvitation, invitations.AcceptInvitationRequest(token=token, request_id=request_id)
        )

    async def join(self, person: Person, role: Any = members.ROLE_MEMBER) -> str:
        """Makes somebody a member by invitation; returns the member id."""
        answer = await self.accept(person, await self.invite(person.email, role))
        return str(answer.member.member_id)

    async def remove(self, member_id: str, *, by: Person | None = None, request_id: str = "") -> None:
        """Has an admin remove somebody."""
        stub = self.suite.stub(member_rpc.MemberServiceStub)
        request = members.RemoveMemberRequest(workspace_id=self.id, member_id=member_id, request_id=request_id)
        await (by or self.admin).call(stub.RemoveMember, request)

    async def page(self, person: Person, **page: Any) -> Any:
        """What ListMembers answers to somebody."""
        stub = self.suite.stub(member_rpc.MemberServiceStub)
        return await person.call(stub.ListMembers, members.ListMembersRequest(workspace_id=self.id, **page))

    async def member_ids(self, person: Person) -> list[str]:
        """The member ids that somebody is shown."""
        return [member.member_id for member in (await self.page(person)).members]

    async def add_guest(self, person: Person, redemption_id: str | None = None) -> Any:
        """What guest does first with a redemption: a pending member."""
        stub = self.suite.stub(member_rpc.MemberServiceStub, certificate="guest")
        request = members.AddGuestMemberRequest(
            workspace_id=self.id, user_id=person.user_id, redemption_id=redemption_id or str(uuid.uuid4())
        )
        return (await person.call(stub.AddGuestMember, request)).member

    async def confirm_guest(self, member_id: str) -> Any:
        """What guest does last with a redemption: the member is in force."""
        stub = self.suite.stub(member_rpc.MemberServiceStub, certificate="guest")
        request = members.ConfirmGuestMemberRequest(workspace_id=self.id, member_id=member_id)
        member = (await stub.ConfirmGuestMember(request, timeout=10)).member
        guest_rows.decide(self.suite, member, sponsor_member_id=self.admin_member_id)
        return member

    async def check(self, *subjects: dict[str, str], capability: str = "workspace.read") -> Any:
        """The verdicts about people or members of this workspace."""
        questions = [
            access.AccessQuestion(**{"workspace_id": self.id, "capability": capability, **subject})
            for subject in subjects
        ]
        stub = self.suite.stub(access_rpc.AccessServiceStub, certificate="messaging")
        return (await stub.BatchCheckAccess(access.BatchCheckAccessRequest(questions=questions), timeout=10)).verdicts

    async def revision(self) -> int:
        """The access revision."""
        stub = self.suite.stub(access_rpc.AccessServiceStub, certificate="messaging")
        request = access.GetAccessRevisionsRequest(workspace_ids=[self.id])
        return int((await stub.GetAccessRevisions(request, timeout=10)).access_revisions[0])


_KNOWN: dict[tuple[int, str], tuple[float, Person]] = {}
_KNOWN_SECONDS = 120
"""Well below the life of an access token."""


async def somebody(suite: Suite, name: str) -> Person:
    """The same person again for some time: workspaces keep tests apart."""
    since, person = _KNOWN.get((id(suite), name), (float("-inf"), None))
    if person is None or time.monotonic() - since > _KNOWN_SECONDS:
        person = await suite.known(name)
        _KNOWN[id(suite), name] = (time.monotonic(), person)
    return person


async def new_workspace(suite: Suite, admin: Person | None = None) -> Workspace:
    """A workspace of `admin`, or of whoever is called Admin."""
    admin = admin or await somebody(suite, "Admin")
    stub = suite.stub(workspace_rpc.WorkspaceServiceStub)
    answer = await admin.call(stub.CreateWorkspace, workspaces.CreateWorkspaceRequest(name="Engineering"))
    return Workspace(suite, admin, answer.workspace.workspace_id, answer.member.member_id)


async def test_who_creates_a_workspace_becomes_its_admin(suite: Suite) -> None:
    ada = await somebody(suite, "Ada")
    stub = suite.stub(workspace_rpc.WorkspaceServiceStub)

    answer = await ada.call(stub.CreateWorkspace, workspaces.CreateWorkspaceRequest(name="Ateliér 9"))

    assert answer.workspace.name == "Ateliér 9"
    assert answer.workspace.etag
    assert answer.workspace.HasField("create_time")
    member = answer.member
    assert (member.user_id, member.name, member.role) == (ada.user_id, "Ada", members.ROLE_ADMIN)
    assert (member.kind, member.state) == (members.MEMBER_KIND_FULL, members.MEMBER_STATE_ACTIVE)
    assert member.workspace_id == answer.workspace.workspace_id
    assert member.HasField("join_time")


async def test_creating_again_with_the_same_key_makes_one_workspace(suite: Suite) -> None:
    ada = await somebody(suite, "Ada")
    stub = suite.stub(workspace_rpc.WorkspaceServiceStub)
    request = workspaces.CreateWorkspaceRequest(name="Once", request_id=str(uuid.uuid4()))

    first = await ada.call(stub.CreateWorkspace, request)
    second = await ada.call(stub.CreateWorkspace, request)
    request.name = "Twice"
    other_body = await refused(ada.call(stub.CreateWorkspace, request))

    assert first == second
    assert (other_body.code, other_body.reason) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_MISMATCH")


@pytest.mark.parametrize(("name", "length"), [("n" * 100, 100), ("𝕏" * 100, 100)])
async def test_the_longest_name_is_taken(suite: Suite, name: str, length: int) -> None:
    ada = await somebody(suite, "Ada")
    stub = suite.stub(workspace_rpc.WorkspaceServiceStub)
    answer = await ada.call(stub.CreateWorkspace, workspaces.CreateWorkspaceRequest(name=name))
    assert len(answer.workspace.name) == length


@pytest.mark.parametrize("name", ["", "n" * 101, "nul\0"])
async def test_a_name_that_breaks_its_rule_is_named(suite: Suite, name: str) -> None:
    ada = await somebody(suite, "Ada")
    stub = suite.stub(workspace_rpc.WorkspaceServiceStub)
    refusal = await refused(ada.call(stub.CreateWorkspace, workspaces.CreateWorkspaceRequest(name=name)))
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
    assert list(refusal.fields) == ["name"]


async def test_members_are_listed_page_by_page_in_the_order_of_joining(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    people = [await somebody(suite, name) for name in ("Bob", "Cy")]
    ids = [workspace.admin_member_id, *[await workspace.join(person) for person in people]]

    first = await workspace.page(people[0], page_size=2)
    second = await workspace.page(people[0], page_size=2, page_token=first.next_page_token)

    assert [member.member_id for member in [*first.members, *second.members]] == ids
    assert [member.name for member in [*first.members, *second.members]] == ["Admin", "Bob", "Cy"]
    assert first.next_page_token
    assert not second.next_page_token


async def test_a_page_after_which_everybody_left_is_empty(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    member_id = await workspace.join(bob)
    first = await workspace.page(workspace.admin, page_size=1)
    await workspace.remove(member_id)

    second = await workspace.page(workspace.admin, page_size=1, page_token=first.next_page_token)

    assert not second.members
    assert not second.next_page_token


async def test_a_page_token_is_good_for_its_own_list_and_caller_only(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    await workspace.join(bob)
    other = await new_workspace(suite, workspace.admin)
    token = (await workspace.page(workspace.admin, page_size=1)).next_page_token

    upper = Workspace(suite, workspace.admin, workspace.id.upper(), workspace.admin_member_id)
    assert len((await upper.page(workspace.admin, page_size=1, page_token=token)).members) == 1
    for refusal in (
        await refused(other.page(workspace.admin, page_token=token)),
        await refused(workspace.page(bob, page_token=token)),
        await refused(workspace.page(workspace.admin, page_token=token[:-4] + "AAAA")),
    ):
        assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
        assert list(refusal.fields) == ["page_token"]


async def test_a_hidden_workspace_and_an_unknown_one_give_the_same_bytes(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    stranger = await somebody(suite, "Eve")
    unknown = Workspace(suite, stranger, str(uuid.uuid4()), str(uuid.uuid4()))

    for call in (
        lambda place: place.page(stranger),
        lambda place: place.remove(place.admin_member_id, by=stranger),
        lambda place: place.invite("x@example.com", by=stranger),
    ):
        hidden, never_issued = await refused(call(workspace)), await refused(call(unknown))
        assert (hidden.code, hidden.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        assert hidden.raw == never_issued.raw
    assert await workspace.member_ids(workspace.admin) == [workspace.admin_member_id]


async def test_a_member_gets_the_workspace_and_themselves_in_it(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob = await somebody(suite, "Bob")
    member_id = await workspace.join(bob)
    stub = suite.stub(workspace_rpc.WorkspaceServiceStub)
    request = workspaces.GetWorkspaceRequest(workspace_id=workspace.id)

    answer = await bob.call(stub.GetWorkspace, request)

    assert (answer.workspace.name, answer.member.member_id, answer.member.name) == ("Engineering", member_id, "Bob")
    assert not answer.workspace.HasField("archive_time")
    stranger = await somebody(suite, "Eve")
    hidden = await refused(stranger.call(stub.GetWorkspace, request))
    unknown = workspaces.GetWorkspaceRequest(workspace_id=str(uuid.uuid4()))
    assert hidden.raw == (await refused(stranger.call(stub.GetWorkspace, unknown))).raw


async def test_workspaces_are_listed_in_the_order_in_which_they_were_made(suite: Suite) -> None:
    dee = await suite.person("Dee")
    stub = suite.stub(workspace_rpc.WorkspaceServiceStub)
    made = [(await new_workspace(suite, dee)).id for _ in range(3)]
    foreign = await new_workspace(suite)
    pending = await new_workspace(suite)
    await pending.add_guest(dee)

    first = await dee.call(stub.ListWorkspaces, workspaces.ListWorkspacesRequest(page_size=2))
    rest = workspaces.ListWorkspacesRequest(page_size=2, page_token=first.next_page_token)
    second = await dee.call(stub.ListWorkspaces, rest)

    assert [each.workspace_id for each in (*first.workspaces, *second.workspaces)] == made
    assert not second.next_page_token
    assert (await refused(foreign.admin.call(stub.ListWorkspaces, rest))).fields.keys() == {"page_token"}


async def test_the_archived_ones_are_for_system_administrators(suite: Suite) -> None:
    ada = await somebody(suite, "Ada")
    stub = suite.stub(workspace_rpc.WorkspaceServiceStub)
    refusal = await refused(ada.call(stub.ListWorkspaces, workspaces.ListWorkspacesRequest(only_archived=True)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    await ada.call(stub.ListWorkspaces, workspaces.ListWorkspacesRequest())


async def test_archived_workspaces_are_found_until_they_are_deleted(suite: Suite) -> None:
    archived, kept = await new_workspace(suite), await new_workspace(suite)
    database: Database = suite.frames["membership"].database
    with suite.database("membership") as direct:
        direct.execute("UPDATE workspaces SET archived_at = statement_timestamp() WHERE id = %s", (archived.id,))

    async def ids() -> list[str]:
        rows = await database.read(lambda tx: membership.list_archived(tx, after=None, size=10_000))
        return [str(row.id) for row in rows]

    assert archived.id in await ids()
    assert kept.id not in await ids()
    stub = suite.stub(workspace_rpc.WorkspaceServiceStub)
    shown = await archived.admin.call(stub.GetWorkspace, workspaces.GetWorkspaceRequest(workspace_id=archived.id))
    assert shown.workspace.HasField("archive_time")
    await archived.admin.call(stub.DeleteWorkspace, workspaces.DeleteWorkspaceRequest(workspace_id=archived.id))
    assert archived.id not in await ids()


async def rename(workspace: Workspace, name: str, *, by: Person | None = None, etag: str = "", **request: Any) -> Any:
    """Has somebody rename a workspace."""
    stub = workspace.suite.stub(workspace_rpc.WorkspaceServiceStub)
    named = workspaces.Workspace(workspace_id=workspace.id, name=name, etag=etag)
    asked = workspaces.UpdateWorkspaceRequest(
        **{"workspace": named, "update_mask": FieldMask(paths=["name"]), **request}
    )
    return (await (by or workspace.admin).call(stub.UpdateWorkspace, asked)).workspace


async def test_an_admin_renames_and_an_etag_is_good_once(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    first = await rename(workspace, "Research")

    second = await rename(workspace, "Development", etag=first.etag)
    refusal = await refused(rename(workspace, "Marketing", etag=first.etag))

    assert (second.name, second.etag != first.etag) == ("Development", True)
    assert second.update_time.ToDatetime() > second.create_time.ToDatetime()
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert (await rename(workspace, "Sales")).name == "Sales"


async def test_only_an_admin_renames(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    bob, eve = await somebody(suite, "Bob"), await somebody(suite, "Eve")
    await workspace.join(bob)

    assert (await refused(rename(workspace, "Bobs", by=bob))).reason == "PERMISSION_DENIED"
    assert (await refused(rename(workspace, "Eves", by=eve))).reason == "NOT_FOUND"


@pytest.mark.parametrize("mask", [[], ["*"], ["etag"], ["name", "archive_time"]])
async def test_a_mask_that_names_what_nobody_changes_is_refused(suite: Suite, mask: list[str]) -> None:
    workspace = await new_workspace(suite)
    refusal = await refused(rename(workspace, "Research", update_mask=FieldMask(paths=mask)))
    assert (refusal.code, list(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["update_mask"])


async def test_a_workspace_is_not_renamed_to_nothing(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    refusal = await refused(rename(workspace, ""))
    assert (refusal.code, list(refusal.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["workspace.name"])


async def test_where_only_administrators_make_workspaces_nobody_else_does(suite: Suite) -> None:
    ada = await somebody(suite, "Ada")
    stub = suite.stub(workspace_rpc.WorkspaceServiceStub)
    request = workspaces.CreateWorkspaceRequest(name="Mine")
    await suite.stop("membership")
    try:
        settings = suite.settings("membership", workspace_creation="administrators")
        assert isinstance(settings, MembershipSettings)
        suite.frames["membership"] = build(settings)
        await suite.frames["membership"].start()
        refusal = await refused(answered(lambda: ada.call(stub.CreateWorkspace, request)))
    finally:
        await suite.stop("membership")
        await suite.start("membership")

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert (await answered(lambda: ada.call(stub.CreateWorkspace, request))).workspace.name == "Mine"


async def test_making_a_workspace_begins_its_log(suite: Suite) -> None:
    workspace = await new_workspace(suite)
    with suite.database("membership") as database:
        query = "SELECT number, action, metadata FROM activities WHERE workspace_id = %s ORDER BY number"
        rows = database.execute(query, (workspace.id,)).fetchall()
    assert rows == [
        (1, "workspace.created", {"after": {"name": "Engineering"}}),
        (2, "member.joined", {"way": "created", "after": {"role": "admin"}}),
    ]
