"""What one person may do in a day, in all workspaces together: the last one fits, and one more does not."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest
from guildhall.membership.v1 import invitation_service_pb2 as invitations
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspace_rpc

from services.membership import daily_limits, tasks
from services.membership.__main__ import build
from services.membership.settings import MembershipSettings
from tests.service.test_membership_deletion import delete
from tests.service.test_membership_erasure import rows
from tests.service.test_membership_invitation_batches import address, invite_each, item
from tests.service.test_membership_invitation_ends import resend, stub_of
from tests.service.test_membership_limits import DOCUMENT, retry_after
from tests.service.test_membership_workspaces import Workspace, new_workspace
from tests.support.suite import DAILY, Person, Suite, answered, refused

LIMITS = dict(zip(DAILY, (3, 5, 2), strict=True))


@pytest.fixture
async def ada(suite: Suite) -> AsyncIterator[Person]:
    """Somebody new, while membership lets people do little in a day."""
    person = await suite.person("Ada")
    await suite.stop("membership")
    settings = suite.settings("membership", **LIMITS)
    assert isinstance(settings, MembershipSettings)
    suite.frames["membership"] = build(settings)
    await suite.frames["membership"].start()
    stub = suite.stub(workspace_rpc.WorkspaceServiceStub)
    await answered(lambda: person.call(stub.ListWorkspaces, workspaces.ListWorkspacesRequest()))
    yield person
    await suite.stop("membership")
    await suite.start("membership")
    await answered(lambda: person.call(stub.ListWorkspaces, workspaces.ListWorkspacesRequest()))


async def invite(workspace: Workspace, email: str) -> str:
    """An invitation, whose id is returned."""
    request = invitations.CreateInvitationRequest(workspace_id=workspace.id, email=email, role=2)
    made = await workspace.admin.call(stub_of(workspace.suite).CreateInvitation, request)
    return str(made.invitation.invitation_id)


async def refused_by(limit: str, call: Awaitable[Any]) -> None:
    """The call is refused by this limit."""
    refusal = await refused(call)
    assert (refusal.reason, refusal.metadata) == ("LIMIT_REACHED", {"limit": limit, "most": str(LIMITS[limit])})
    assert retry_after(refusal) == daily_limits.RETRY_AFTER_SECONDS


async def test_who_made_as_many_workspaces_as_a_day_allows_makes_no_other_though_they_deleted_one(
    ada: Person, suite: Suite
) -> None:
    made = [await new_workspace(suite, ada) for _ in range(LIMITS["workspaces_a_day"])]
    await delete(made[0])

    await refused_by("workspaces_a_day", new_workspace(suite, ada))

    await new_workspace(suite, await suite.person("Eve"))


async def test_ten_workspaces_made_at_once_are_counted_one_after_the_other(ada: Person, suite: Suite) -> None:
    made = await asyncio.gather(*(new_workspace(suite, ada) for _ in range(10)), return_exceptions=True)

    assert sum(isinstance(each, Workspace) for each in made) == LIMITS["workspaces_a_day"]


async def test_mails_of_a_sender_count_in_all_workspaces_together_and_resent_ones_too(
    ada: Person, suite: Suite
) -> None:
    one, other = [await new_workspace(suite, ada) for _ in range(2)]
    first = await invite(one, address())
    await resend(one, first)
    await invite(other, address())

    results = await invite_each(other, item(address()), item(address()), item(address()))

    assert [each.WhichOneof("result") for each in results] == ["invitation", "invitation", "refusal"]
    assert "invitation mails of user" in results[2].refusal.message
    await refused_by("invitation_mails_of_user", invite(one, address()))
    eves = await new_workspace(suite, await suite.person("Eve"))
    await invite(eves, address())


async def test_mails_to_an_address_count_whoever_sends_them(ada: Person, suite: Suite) -> None:
    place = await new_workspace(suite, ada)
    eves = await new_workspace(suite, await suite.person("Eve"))
    victim = address()
    await invite(place, victim)
    invitation_id = await invite(eves, victim.upper())

    await refused_by("invitation_mails_to_address", invite(place, victim))
    await refused_by("invitation_mails_to_address", resend(eves, invitation_id))

    await invite(place, address())


async def test_what_was_done_more_than_a_day_ago_no_longer_counts_and_is_forgotten(ada: Person, suite: Suite) -> None:
    place, victim = await new_workspace(suite, ada), address()
    for _ in range(2):
        await invite(place, victim)
    subject = daily_limits.subject_of(daily_limits.MAILS_TO_ADDRESS, victim)
    age = "UPDATE daily_uses SET used_at = used_at - interval '24 hours' WHERE subject = %s RETURNING id"
    assert len(rows(suite, age, subject)) == 2

    await invite(place, victim)
    await tasks.forget(suite.frames["membership"].database)

    assert rows(suite, "SELECT count(*) FROM daily_uses WHERE subject = %s", subject) == [(1,)]


def test_the_documents_name_these_limits_as_they_are() -> None:
    row = re.compile(r"^\| `(\w+)` \| `GUILDHALL_(\w+)` \| ([\d  ]+) \|", re.MULTILINE)
    documented = {
        (name, variable.lower(), int(re.sub(r"\s", "", most)))
        for name, variable, most in row.findall(DOCUMENT.read_text())
    }
    fields = MembershipSettings.model_fields
    assert documented == {(name, name, fields[name].default) for name in DAILY}
